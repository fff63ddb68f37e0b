"""One number of a result, found by its row and column, and how it comes from those of the runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from carot_lib.report.claims import CLAIMS
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.tables import COLUMNS, TABLE2_RUNS
from carot_lib.report.verdicts import Value


class Place(NamedTuple):
    """What names a number of one run in metrics.csv and posthoc.csv."""

    run: str
    seed: int
    dataset: str
    calibration: str
    metric: str


KEYS = {  # by table: the columns that name a row
    "table1": ("run",),
    "table2": ("ema_update",),
    "metrics": Place._fields,
    "posthoc": Place._fields,
    "replication": ("claim", "part"),
    "differences": ("run", "dataset", "metric", "calibration"),
}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        row: the columns that name its row, and what stands there.
        column: its own.
        printed: the number in the file.
        interval: its bootstrap interval; None where the table has none.
        meaning: what it is, in words.
        of: computes it from the numbers of runs.
        seed: the only seed it is of; None: of all.
    """

    row: dict[str, str]
    column: str
    printed: float
    interval: tuple[float, float] | None
    meaning: str
    of: Callable[[Value], float]
    seed: int | None = None

    def value(self, look: Callable[[Place], float], seeds: Sequence[int]) -> float:
        """The number from those of runs, of which means over the seeds are taken."""

        def mean(run: str, dataset: str, metric: str, calibration: str) -> float:
            return fmean(look(Place(run, seed, dataset, calibration, metric)) for seed in seeds)

        return float(self.of(mean))

    def places(self, seeds: Sequence[int]) -> list[Place]:
        """The numbers of runs that it is computed from, in the order of their first use."""
        seen: dict[Place, None] = {}
        self.value(lambda place: seen.setdefault(place, None) or 0.0, seeds)
        return list(seen)


def find_cell(path: Path, words: Sequence[str]) -> Cell:
    """The number that a row and a column name.

    Args:
        path: a CSV file of results/<profile>.
        words: what stands in the columns that name the row (KEYS), one after the other, and for
            table1 and table2 the column; the other tables have one column of numbers, `value`. A
            part of a claim may also be named by its position, from 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table, or a row or column of it, is unknown; the message says what there is.
    """
    if path.stem not in KEYS or path.suffix != ".csv":
        tables = ", ".join(f"{name}.csv" for name in KEYS)
        raise ValueError(f"{path}: no table that can be explained; there are: {tables}")
    keys = KEYS[path.stem]
    wide = path.stem.startswith("table")
    table = pd.read_csv(path, dtype=str)
    if missing := [key for key in keys if key not in table]:
        raise ValueError(f"{path}: no column {missing[0]!r}: run stage `tables` again")
    left = list(words)
    for key in keys:
        there = list(dict.fromkeys(table[key]))
        word = _next(left, there, path, key, by_position=key == "part")
        table = table[table[key] == word]
    column = _next(left, list(table)[len(keys) :], path, "column") if wide else "value"
    if left:
        raise ValueError(f"{path}: {left[0]!r} is one word too many after {' '.join(keys)}")
    (row,) = table.to_dict("records")
    words_of_row = {key: row[key] for key in keys}
    interval = None
    if not wide and not pd.isna(row["low"]):
        interval = float(row["low"]), float(row["high"])
    meaning, of = _source(path.stem, words_of_row, column)
    seed = int(row["seed"]) if "seed" in keys else None
    return Cell(words_of_row, column, float(row[column]), interval, meaning, of, seed)


def _next(
    left: list[str], there: list[str], path: Path, what: str, by_position: bool = False
) -> str:
    """The next word, taken off `left`; or the only one there is, where no word is left."""
    if not left and len(there) == 1:
        return there[0]
    listed = "; ".join(there) if by_position else ", ".join(there)
    if not left:
        raise ValueError(f"{path}: name a {what}; there are: {listed}")
    word = left.pop(0)
    if by_position and word.isdigit() and 1 <= int(word) <= len(there):
        return there[int(word) - 1]
    if word not in there:
        raise ValueError(f"{path}: no {what} {word!r}; there are: {listed}")
    return word


def _source(table: str, row: dict[str, str], column: str) -> tuple[str, Callable[[Value], float]]:
    """What a number is, and how it is computed from the numbers of runs."""
    if table in ("table1", "table2"):
        run = row["run"] if table == "table1" else TABLE2_RUNS[row["ema_update"]]
        dataset, calibration, metric, title, _ = COLUMNS[column]
        name = "temperature" if metric == "temperature" else title
        return f"{name} of {RUN_NAMES.get(run, run)}", lambda v: v(
            run, dataset, metric, calibration
        )
    if table == "replication":
        parts = {(c.number, part.statistic): (c, part) for c in CLAIMS for part in c.parts}
        if (row["claim"], row["part"]) not in parts:
            raise ValueError(f"claim {row['claim']} has other parts today: run stage `replicate`")
        claim, part = parts[row["claim"], row["part"]]
        return f"{part.statistic} (claim {claim.number}: {claim.text})", part.of
    run, place = row["run"], (row["dataset"], row["metric"], row["calibration"])
    name = RUN_NAMES.get(run, run)
    words = f"{row['metric']} on {row['dataset']}, calibration {row['calibration']}"
    if table == "differences":
        return (
            f"{words}: {name} - {RUN_NAMES['carot']}",
            lambda v: v(run, *place) - v("carot", *place),
        )
    return f"{words}: {name}", lambda v: v(run, *place)
