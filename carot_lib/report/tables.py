"""Tables 1 and 2 from the long table of metrics: alone, against the paper's, and with intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from carot_lib.evaluation import TABLE1_COLUMNS

# (run, dataset, calibration, metric) -> a number, or an array of its bootstrap replicates
MetricLookup = Callable[[str, str, str, str], float | np.ndarray]
Key = tuple[str, int, str, str]  # run, seed, dataset, calibration

TABLE1_RUNS = ("zs", "ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls", "carot")
TABLE2_RUNS = {
    "every_step": "carot_every_step",
    "default": "carot",
    "double": "carot_update_2x",
    "never": "carot_frozen",
}


class Table(NamedTuple):
    """The column that names the rows of a table, the run of each row, and the other columns."""

    key: str
    runs: Mapping[str, str]
    columns: Sequence[str]


TABLES = {
    "table1": Table("run", {run: run for run in TABLE1_RUNS}, list(TABLE1_COLUMNS)),
    "table2": Table("ema_update", TABLE2_RUNS, ["id_acc", "ood_acc", "id_ece", "ood_ece"]),
}
ECES = ("id_ece", "ood_ece", "id_ece_ts", "ood_ece_ts")
TITLES = {
    "run": "Method",
    "ema_update": "EMA update",
    "id_acc": "ID Acc.",
    "ood_acc": "OOD Acc.",
    "id_ece": "ID ECE",
    "ood_ece": "OOD ECE",
    "id_ece_ts": "ID ECE w/ TS",
    "ood_ece_ts": "OOD ECE w/ TS",
    "temperature": "T",
}
# +1: more is better, -1: less is; others have no best
BETTER = {"id_acc": +1, "ood_acc": +1, **dict.fromkeys(ECES, -1)}
KEY = ["run", "seed", "dataset", "calibration", "metric"]  # of the long tables
LEGEND = (
    "In brackets: {level:g} % bootstrap interval over test images, of one training; "
    "resampling adds noise, so a value near its floor can lie below its interval. Floor: the "
    "ECE that a perfectly calibrated model with the same confidences has on average. †: within "
    "noise of the floor, for the test of perfect calibration does not reject at {alpha:g} %."
)
POSTHOC_LEGEND = (
    "Change: from no calibration, on the same resampled images; within noise: its interval holds "
    "zero. All calibrators are fitted on the ID validation set, but for the oracle, whose "
    "temperature is the best on each reported set itself: no result, but it shows how much of an "
    "error one temperature could remove."
)


def mean_over_seeds(metrics: pd.DataFrame) -> MetricLookup:
    """Look numbers up in the long table of metrics; each is the mean over all training seeds.

    The function raises ValueError, naming the number, where that of any seed is missing.
    """
    numbers, seeds = metrics.set_index(KEY), metrics["seed"].unique().tolist()

    def lookup(run: str, *key: str) -> float:
        return float(np.mean([_number(numbers, run, seed, *key)["value"] for seed in seeds]))

    return lookup


def make_table(name: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """`table1` or `table2`: a column that names its rows, and numbers, means over the seeds.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    key, runs, columns = TABLES[name]
    lookup = mean_over_seeds(metrics)
    return pd.DataFrame(
        {key: row} | {column: lookup(run, *TABLE1_COLUMNS[column]) for column in columns}
        for row, run in runs.items()
    )


def compare_with_paper(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The published numbers, ours, and the difference ours - paper, for each shared column.

    Raises:
        ValueError: the two tables do not have the same rows.
    """
    key = ours.columns[0]
    if list(ours[key]) != list(paper[key]):
        raise ValueError(f"rows differ: {list(ours[key])} and {list(paper[key])}")
    table = ours[[key]].copy()
    for column in paper.columns[1:]:
        table[f"{column}_paper"] = paper[column].to_numpy()
        table[f"{column}_ours"] = ours[column].to_numpy()
        table[f"{column}_difference"] = (ours[column] - paper[column].to_numpy()).round(6)
    return table


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """1 for the best of each column and 2 for the second, 0 otherwise; equals share a rank.

    The row ZS does not compete: it is not fine-tuned.
    """
    result = pd.DataFrame(0, index=table.index, columns=table.columns)
    competing = table[table.iloc[:, 0] != "zs"]
    for column in table.columns.intersection(list(BETTER)):
        rank = competing[column].rank(method="min", ascending=BETTER[column] < 0)
        result.loc[rank.index[rank <= 2], column] = rank[rank <= 2].astype(int)
    return result


def to_markdown(table: pd.DataFrame, names: Mapping[str, str]) -> str:
    """A Markdown table: best value of each column in bold, second in italics."""
    cells = _formatted(table, names, ("**{}**", "*{}*")).rename(columns=_head)
    return _markdown(list(cells), cells.to_numpy().tolist())


def to_latex(table: pd.DataFrame, names: Mapping[str, str], caption: str, label: str) -> str:
    """A LaTeX table in booktabs style: best value of each column in bold, second underlined.

    Columns of one quantity stand under one head, so that Table 1 fits the width of a page.
    """
    cells = _formatted(table, names, (r"\textbf{{{}}}", r"\underline{{{}}}"))
    cells.columns = pd.MultiIndex.from_tuples([_latex_head(column) for column in cells])
    return cells.style.hide(axis="index").to_latex(
        caption=caption,
        label=label,
        column_format="l" + "r" * (len(table.columns) - 1),
        hrules=True,
        multicol_align="c",
        position_float="centering",
    )


def styled(table: pd.DataFrame, names: Mapping[str, str]) -> Styler:
    """A table for a notebook's page: best value of each column in bold, second underlined."""
    cells = _formatted(table, names, ("<strong>{}</strong>", "<u>{}</u>")).rename(columns=_head)
    # no line break before an arrow
    cells.columns = cells.columns.str.replace(" (?=[↑↓])", "\N{NO-BREAK SPACE}", regex=True)
    return cells.style.hide(axis="index")


def intervals_markdown(metrics: pd.DataFrame, names: Mapping[str, str], level: float) -> str:
    """The ECEs of Table 1 as Markdown, each with its noise floor and its interval of a level.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    numbers, rows = metrics.set_index(KEY), []
    for run, seed in product(TABLE1_RUNS, metrics["seed"].unique().tolist()):
        rows.append([_row_name(run, seed, names, metrics)])
        for column in ECES:
            rows[-1] += _ece_cells(numbers, (run, seed, *TABLE1_COLUMNS[column][:2]), level)
    head = ["Method", *(title for column in ECES for title in (_head(column), "floor"))]
    return f"{_markdown(head, rows)}\n{_legend(level)}\n"


def posthoc_markdown(
    posthoc: pd.DataFrame, names: Mapping[str, str], calibrations: Mapping[str, str], level: float
) -> str:
    """ID and OOD ECE of each run after each calibration, and what changed, as Markdown.

    Args and errors as of `intervals_markdown`; `calibrations` are their names, in order.
    """
    numbers, rows = posthoc.set_index(KEY), []
    trained = posthoc[["run", "seed"]].drop_duplicates().itertuples(index=False)
    for (run, seed), calibration in product(trained, calibrations):
        rows.append([_row_name(run, seed, names, posthoc), calibrations[calibration]])
        for dataset in ("id_test", "ood"):
            key = (run, seed, dataset, calibration)
            rows[-1] += [*_ece_cells(numbers, key, level), _change(numbers, key)]
    ends = ["floor", "change"]
    head = ["Method", "Calibration", "ID ECE ↓", *ends, "OOD ECE ↓", *ends]
    return f"{_markdown(head, rows, text_columns=2)}\n{_legend(level)} {POSTHOC_LEGEND}\n"


def _formatted(
    table: pd.DataFrame, names: Mapping[str, str], marks: tuple[str, str]
) -> pd.DataFrame:
    """The table as text, with names of its rows, and marks around best and second-best values."""
    key, *columns = table.columns
    rank, cells = ranks(table), {key: [names.get(name, name) for name in table[key]]}
    for column in columns:
        digits = 2 if column == "temperature" else 4
        cells[column] = [
            ("{}", *marks)[place].format(f"{value:.{digits}f}")
            for value, place in zip(table[column], rank[column], strict=True)
        ]
    return pd.DataFrame(cells)


def _head(column: str) -> str:
    """`ID ECE ↓`: title of a column, and which numbers are better."""
    return TITLES[column] + {1: " ↑", -1: " ↓"}.get(BETTER.get(column), "")


def _latex_head(column: str) -> tuple[str, str]:
    r"""`ECE ($\downarrow$)` and `ID`: quantity, which columns may share, and name of the set."""
    if column not in BETTER:
        return "", TITLES[column]
    dataset, _, quantity = TITLES[column].partition(" ")
    return quantity + {1: r" ($\uparrow$)", -1: r" ($\downarrow$)"}[BETTER[column]], dataset


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table whose first columns are text and whose others are numbers."""
    rule = [":--"] * text_columns + ["--:"] * (len(head) - text_columns)
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, rule, *rows))


def _legend(level: float) -> str:
    return LEGEND.format(level=100 * level, alpha=100 * (1 - level))


def _number(numbers: pd.DataFrame, run: str, seed: int, *key: str) -> pd.Series:
    """The row of a metric in the long table, which is indexed by KEY."""
    row = (run, seed, *key)
    if row not in numbers.index or pd.isna(numbers.loc[row, "value"]):
        dataset, calibration, metric = key
        where = f"{metric} on {dataset} (calibration {calibration}) for run {run}, seed {seed}"
        raise ValueError(f"no value of {where}")
    return numbers.loc[row]


def _ece_cells(numbers: pd.DataFrame, key: Key, level: float) -> tuple[str, str]:
    """ECE with its interval, marked if it is within noise of its floor, and the floor."""
    value, low, high = _number(numbers, *key, "ece")[["value", "low", "high"]]
    mark = " †" if _number(numbers, *key, "ece_p_value")["value"] > 1 - level else ""
    floor = _number(numbers, *key, "ece_noise_floor")["value"]
    return f"{value:.4f} [{low:.4f}, {high:.4f}]{mark}", f"{floor:.4f}"


def _change(numbers: pd.DataFrame, key: Key) -> str:
    """What a calibration changes in the ECE, or that this is noise."""
    if key[-1] == "none":
        return "–"
    value, low, high = _number(numbers, *key, "ece_difference")[["value", "low", "high"]]
    return "within noise" if low <= 0 <= high else f"{value:+.4f}"


def _row_name(run: str, seed: int, names: Mapping[str, str], metrics: pd.DataFrame) -> str:
    """A run's name, with its seed where there are several."""
    name = names.get(run, run)
    return name if metrics["seed"].nunique() == 1 else f"{name}, seed {seed}"
