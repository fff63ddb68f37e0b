"""One number of a table: found by its row and column, and computed again from saved predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from carot_lib.calibration.bootstrap import mean_over_sets
from carot_lib.calibration.calibrators import Calibrator
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import fit_calibrator, measure
from carot_lib.evaluation import TABLE1_COLUMNS, VALIDATION, EvaluationParams
from carot_lib.layout import Layout
from carot_lib.report.claims import CLAIMS
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.tables import TABLES, TITLES, MetricLookup


class MetricKey(NamedTuple):
    """Key of one number in metrics.csv and posthoc.csv."""

    run: str
    seed: int
    dataset: str
    calibration: str
    metric: str

    @property
    def fitted_on(self) -> str:
        """Name of the set on which the calibration is fitted."""
        return self.dataset if self.calibration == "oracle" else VALIDATION


ROW_KEYS = {  # by table: the columns that name a row
    **{name: (table.key,) for name, table in TABLES.items()},
    "metrics": MetricKey._fields,
    "posthoc": MetricKey._fields,
    "replication": ("claim", "part"),
    "differences": ("run", "dataset", "metric", "calibration"),
}


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    row: dict[str, str]  # values of the columns that name its row
    column: str
    printed: float  # the number in the file
    interval: tuple[float, float] | None  # bootstrap interval; None where the table has none
    meaning: str  # description
    compute: Callable[[MetricLookup], float]  # computes it from the metrics of runs
    seed: int | None = None  # training seed it belongs to; None for a mean over all

    def value(self, lookup: Callable[[MetricKey], float], seeds: Sequence[int]) -> float:
        """The number, computed from those of runs, of which means over the seeds are taken."""

        def mean(run: str, *key: str) -> float:
            return fmean(lookup(MetricKey(run, seed, *key)) for seed in seeds)

        return float(self.compute(mean))

    def keys(self, seeds: Sequence[int]) -> list[MetricKey]:
        """The numbers of runs that it is computed from, in the order of their first use."""
        seen: dict[MetricKey, None] = {}
        self.value(lambda key: seen.setdefault(key) or 0.0, seeds)
        return list(seen)


def find_cell(path: Path, words: Sequence[str]) -> Cell:
    """Find a number by its row and column.

    Args:
        path: a CSV file of results/<profile>/tables.
        words: values of the columns that name the row (ROW_KEYS), in their order, and for table1
            and table2 the column; the numbers of the other tables are in column `value`. A part of
            a claim may also be given by its position, from 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table, or a row or column of it, is unknown; the message lists those known.
    """
    if path.stem not in ROW_KEYS or path.suffix != ".csv":
        tables = ", ".join(f"{name}.csv" for name in ROW_KEYS)
        raise ValueError(f"{path}: no table that can be explained; there are: {tables}")
    keys, wide = ROW_KEYS[path.stem], path.stem in TABLES
    table, remaining = pd.read_csv(path, dtype=str), list(words)
    if missing := [key for key in keys if key not in table]:
        raise ValueError(f"{path}: no column {missing[0]!r}: run stage `tables` again")
    for key in keys:
        known = list(dict.fromkeys(table[key]))
        table = table[table[key] == _next(remaining, known, path, key)]
    column = _next(remaining, list(table)[len(keys) :], path, "column") if wide else "value"
    if remaining:
        raise ValueError(f"{path}: {remaining[0]!r} is one word too many after {' '.join(keys)}")
    (record,) = table.to_dict("records")
    row = {key: record[key] for key in keys}
    has_interval = not wide and not pd.isna(record["low"])
    interval = (float(record["low"]), float(record["high"])) if has_interval else None
    meaning, compute = _source(path.stem, row, column)
    seed = int(row["seed"]) if "seed" in row else None
    return Cell(row, column, float(record[column]), interval, meaning, compute, seed)


def recompute_from_predictions(
    layout: Layout, params: EvaluationParams
) -> Callable[[MetricKey], float]:
    """A function that computes numbers of metrics.csv and posthoc.csv again, not rounded.

    It reads saved predictions alone, remembers what it has fitted and measured, and raises
    FileNotFoundError, naming the stage to run, where predictions are missing.
    """

    def load(key: MetricKey, dataset: str) -> Predictions:
        return Predictions.load(layout.predictions(key.run, key.seed, dataset))

    @cache
    def calibrator(key: MetricKey) -> Calibrator:
        name = "temperature" if key.calibration == "oracle" else key.calibration
        return fit_calibrator(name, load(key, key.fitted_on), params)

    def fitted(key: MetricKey) -> Calibrator:
        return calibrator(key._replace(dataset=key.fitted_on, metric=""))

    @cache
    def metrics(key: MetricKey) -> dict[str, float]:
        predictions = load(key, key.dataset)
        if key.calibration == "none":
            return measure(predictions.calibrated(), predictions, params)
        return measure(fitted(key).apply(predictions), predictions, params)

    def value(key: MetricKey) -> float:
        if key.dataset == "ood":
            of_sets = [{key.metric: value(key._replace(dataset=name))} for name in params.ood]
            return mean_over_sets(of_sets)[key.metric]
        if key.metric == "temperature":
            return fitted(key).temperature
        if key.metric == "ece_difference":
            after = key._replace(metric="ece")
            return value(after) - value(after._replace(calibration="none"))
        return metrics(key._replace(metric=""))[key.metric]

    return value


def _next(remaining: list[str], known: Sequence[str], path: Path, what: str) -> str:
    """Take the next word off `remaining`; if none remains, the only known one."""
    if not remaining and len(known) == 1:
        return known[0]
    listed = ("; " if what == "part" else ", ").join(known)
    if not remaining:
        raise ValueError(f"{path}: name a {what}; there are: {listed}")
    word = remaining.pop(0)
    if what == "part" and word.isdigit() and 1 <= int(word) <= len(known):
        return known[int(word) - 1]
    if word not in known:
        raise ValueError(f"{path}: no {what} {word!r}; there are: {listed}")
    return word


def _source(
    table: str, row: dict[str, str], column: str
) -> tuple[str, Callable[[MetricLookup], float]]:
    """What a number is, and how it is computed from the metrics of runs."""
    if table == "replication":
        parts = {(c.number, part.statistic): (c, part) for c in CLAIMS for part in c.parts}
        if (row["claim"], row["part"]) not in parts:
            raise ValueError(f"claim {row['claim']} has other parts today: run stage `tables`")
        claim, part = parts[row["claim"], row["part"]]
        return f"{part.statistic} (claim {claim.number}: {claim.text})", part.compute
    if table in TABLES:
        run, key = TABLES[table].runs[next(iter(row.values()))], TABLE1_COLUMNS[column]
        words = "temperature" if column == "temperature" else TITLES[column]
        return f"{words} of {RUN_NAMES.get(run, run)}", lambda lookup: lookup(run, *key)
    run, key = row["run"], (row["dataset"], row["calibration"], row["metric"])
    name = RUN_NAMES.get(run, run)
    words = f"{row['metric']} on {row['dataset']}, calibration {row['calibration']}"
    if table == "differences":
        return (
            f"{words}: {name} - {RUN_NAMES['carot']}",
            lambda lookup: lookup(run, *key) - lookup("carot", *key),
        )
    return f"{words}: {name}", lambda lookup: lookup(run, *key)
