"""One number of a table: found by its row and column, and computed again from saved predictions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from carot_lib.calibration.bootstrap import mean_over_sets
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import measure, temperature_of
from carot_lib.evaluation import COLUMNS, VALIDATION, EvaluationParams
from carot_lib.layout import Layout
from carot_lib.report.claims import paper_claims
from carot_lib.report.inference import Statistic
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.tables import TABLES


class MetricKey(NamedTuple):
    """Key of one number in metrics.csv."""

    run: str
    seed: int
    dataset: str
    calibration: str
    metric: str

    @property
    def fitted(self) -> "MetricKey":
        """Key of the temperature of its calibration, on the set on which that is fitted."""
        dataset = self.dataset if self.calibration == "oracle" else VALIDATION
        return self._replace(dataset=dataset, metric="temperature")


ROW_KEYS = {  # by table: the columns that name a row
    **{name: (table.key,) for name, table in TABLES.items()},
    "metrics": MetricKey._fields,
    "replication": ("claim", "part"),
    "differences": ("run", "dataset", "metric", "calibration"),
}


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    row: dict[str, str]  # values of the columns that name its row
    column: str
    printed: float  # the number in the file
    interval: tuple[float, float] | None  # None where the table has none
    meaning: str  # description
    compute: Statistic  # computes it from the metrics of runs
    seed: int | None  # training seed it belongs to; None for a mean over all

    def value(self, lookup: Callable[[MetricKey], float], seeds: Sequence[int]) -> float:
        """The number, computed from those of runs for each seed; the mean over the seeds."""
        return fmean(
            float(self.compute(lambda run, *key, s=s: lookup(MetricKey(run, s, *key))))
            for s in seeds
        )

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
            and table2 the column; the other tables have one. A part of a claim may also be given by
            its position, from 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table, or a row or column of it, is unknown; the message lists those known.
    """
    if path.stem not in ROW_KEYS or path.suffix != ".csv":
        tables = ", ".join(f"{name}.csv" for name in ROW_KEYS)
        raise ValueError(f"{path}: no table that can be explained; there are: {tables}")
    keys, remaining = ROW_KEYS[path.stem], list(words)
    table = pd.read_csv(path, dtype=str)
    if missing := [key for key in keys if key not in table]:
        raise ValueError(f"{path}: no column {missing[0]!r}: run stage `tables` again")
    columns = [name for name in table if name in COLUMNS] if path.stem in TABLES else ["value"]
    for key in keys:
        known = list(dict.fromkeys(table[key]))
        table = table[table[key] == _next(remaining, known, path, key)]
    column = _next(remaining, columns, path, "column")
    if remaining:
        raise ValueError(f"{path}: {remaining[0]!r} is one word too many after {' '.join(keys)}")
    (record,) = table.to_dict("records")
    row, printed = {key: record[key] for key in keys}, float(record[column])
    low, high = (float(record.get(end, "nan")) for end in ("low", "high"))
    interval = None if math.isnan(low) else (low, high)
    seed = int(row["seed"]) if "seed" in row else None
    return Cell(row, column, printed, interval, *_source(path, row, column), seed)


def recompute_from_predictions(
    layout: Layout, params: EvaluationParams
) -> Callable[[MetricKey], float]:
    """A function that computes numbers of metrics.csv again, not rounded.

    It reads saved predictions alone, remembers what it has chosen and measured, and raises
    FileNotFoundError, naming the stage to run, where predictions are missing.
    """

    def load(key: MetricKey) -> Predictions:
        return Predictions.load(layout.predictions(key.run, key.seed, key.dataset))

    @cache
    def temperature(fitted: MetricKey) -> float:
        return temperature_of(fitted.calibration, load(fitted), params)

    @cache
    def metrics(key: MetricKey) -> dict[str, float]:
        predictions = load(key)
        divisor = 1.0 if key.calibration == "none" else temperature(key.fitted)
        return measure(predictions, divisor, params)

    def value(key: MetricKey) -> float:
        if key.dataset == "ood":
            of_sets = [{key.metric: value(key._replace(dataset=name))} for name in params.ood]
            return mean_over_sets(of_sets)[key.metric]
        if key.metric == "temperature":
            return temperature(key.fitted)
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


def _source(path: Path, row: dict[str, str], column: str) -> tuple[str, Statistic]:
    """What a number is, and how it is computed from the metrics of runs."""
    table = path.stem
    if table == "replication":  # one claim has a part for each of the profile's shifted sets
        metrics = pd.read_csv(path.with_name("metrics.csv"), usecols=["dataset"])
        claims = paper_claims(metrics["dataset"].unique().tolist())
        parts = {(c.number, part.statistic): (c, part) for c in claims for part in c.parts}
        if (row["claim"], row["part"]) not in parts:
            raise ValueError(f"claim {row['claim']} has other parts today: run stage `tables`")
        claim, part = parts[row["claim"], row["part"]]
        return f"{part.statistic} (claim {claim.number}: {claim.text})", part.compute
    if table in TABLES:
        run, key = TABLES[table].runs[row[TABLES[table].key]], COLUMNS[column]
    else:
        run, key = row["run"], (row["dataset"], row["calibration"], row["metric"])
    meaning = "{2} on {0}, calibration {1}: ".format(*key) + RUN_NAMES.get(run, run)
    if table == "differences":
        meaning = f"{meaning} - {RUN_NAMES['carot']}"
        return meaning, lambda lookup: lookup(run, *key) - lookup("carot", *key)
    return meaning, lambda lookup: lookup(run, *key)
