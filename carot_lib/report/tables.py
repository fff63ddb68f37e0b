"""Tables 1 and 2 from the long table of metrics: alone, against the paper's, and with intervals.

A table has a column that names its rows, and numbers, which are means over the training seeds. With
several seeds a column <name>_sd follows each: the standard deviation over them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from carot_lib.evaluation import COLUMNS, TABLE1_COLUMNS
from carot_lib.report.inference import Estimator

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


TEMPERATURES = ("temperature", "temperature_nll")
APPENDIX = [
    *TEMPERATURES,
    *(
        f"{dataset}_{quantity}"
        for dataset in ("id", "ood")
        for quantity in ("ece", "ece_batch_mean", "ece_ts", "ece_ts_nll", "nll", "brier")
    ),
]
TABLES = {
    "table1": Table("run", {run: run for run in TABLE1_RUNS}, list(TABLE1_COLUMNS)),
    "table2": Table("ema_update", TABLE2_RUNS, ["id_acc", "ood_acc", "id_ece", "ood_ece"]),
    "table1_appendix": Table("run", {run: run for run in TABLE1_RUNS}, APPENDIX),
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
    "temperature_nll": "T by NLL",
    "id_ece_ts_nll": "ID ECE w/ TS by NLL",
    "ood_ece_ts_nll": "OOD ECE w/ TS by NLL",
    "id_ece_batch_mean": "ID ECE, mean of batches",
    "ood_ece_batch_mean": "OOD ECE, mean of batches",
    "id_nll": "ID NLL",
    "ood_nll": "OOD NLL",
    "id_brier": "ID Brier",
    "ood_brier": "OOD Brier",
}
# +1: more is better, -1: less is; others have no best
BETTER = {
    column: +1 if column.endswith("acc") else -1
    for column in TITLES
    if column.startswith(("id_", "ood_"))
}
KEY = ["run", "seed", "dataset", "calibration", "metric"]  # of the long tables
LEGEND = (
    "In brackets: {level:g} % interval over {source}. Floor: the ECE that a perfectly calibrated "
    "model with the same confidences has on average. †: within noise of the floor, for the test of "
    "perfect calibration at {alpha:g} % {rejects}."
)
APPENDIX_LEGEND = (
    "TS: temperature of least ECE on the ID validation set, as in the paper; TS by NLL: of least "
    "NLL. Mean of batches: of the ECEs of batches of {size} images in the order of the classes, as "
    "in the public code. ‡: at the end of the range that was searched{seeds}."
)


def make_table(name: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """One of TABLES, of those of its rows whose runs are in the long table of metrics.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    key, runs, columns = TABLES[name]
    numbers, seeds = metrics.set_index(KEY)["value"], _seeds(metrics)
    rows = []
    for row, run in runs.items():
        if run not in numbers.index.unique("run"):
            continue
        rows.append({key: row})
        for column in columns:
            of_seeds = [_number(numbers, run, seed, *COLUMNS[column]) for seed in seeds]
            rows[-1][column] = np.mean(of_seeds)
            if len(seeds) > 1:
                rows[-1][f"{column}_sd"] = np.std(of_seeds, ddof=1)
    return pd.DataFrame(rows)


def mark_bounds(
    table: pd.DataFrame, chosen: Mapping[tuple[str, int], Mapping[str, Any]]
) -> pd.DataFrame:
    """Add whether a temperature, of any seed, lies at the end of the range that was searched.

    Args:
        table: has a column `run`, and temperatures.
        chosen: content of temperature.json by run and seed.
    """
    table = table.copy()
    for column, flag in zip(TEMPERATURES, ("at_bound", "at_bound_nll"), strict=True):
        bound = {run for (run, _), content in chosen.items() if content[flag]}
        table.insert(
            table.columns.get_loc(column) + 1, f"{column}_at_bound", table["run"].isin(bound)
        )
    return table


def compare_with_paper(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The published numbers, ours, and the difference ours - paper, for our rows.

    A row that the paper does not have, such as another method, has our numbers only.
    """
    key = ours.columns[0]
    paper = paper.set_index(key).reindex(ours[key]).reset_index()
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
    marks = (r"\textbf{{{}}}", r"\underline{{{}}}")
    cells = _formatted(table, names, marks, r"{{\scriptsize $\pm$ {}}}")
    cells.columns = pd.MultiIndex.from_tuples([_latex_head(column) for column in cells])
    return cells.style.hide(axis="index").to_latex(
        caption=caption,
        label=label,
        column_format="l" + "r" * (len(cells.columns) - 1),
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


def intervals_markdown(
    metrics: pd.DataFrame, names: Mapping[str, str], estimate: Estimator, level: float
) -> str:
    """The ECEs of Table 1 as Markdown, each with its noise floor and its interval of a level.

    Floors are means over the seeds; an ECE is marked if the test rejects for no seed.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    numbers, seeds, rows = metrics.set_index(KEY)["value"], _seeds(metrics), []
    for run in TABLES["table1"].runs:
        if run not in numbers.index.unique("run"):
            continue
        rows.append([names.get(run, run)])
        for column in ECES:
            place = COLUMNS[column][:2]
            floors, p = (
                [_number(numbers, run, seed, *place, metric) for seed in seeds]
                for metric in ("ece_noise_floor", "ece_p_value")
            )
            found = estimate(lambda lookup, key=(run, *COLUMNS[column]): lookup(*key))
            low, high = found.interval(level)
            mark = " †" if min(p) > 1 - level else ""
            text = f"{found.value:.4f} [{low:.4f}, {high:.4f}]{mark}"
            rows[-1] += [text, f"{np.mean(floors):.4f}"]
    head = ["Method", *(title for column in ECES for title in (_head(column), "floor"))]
    several = len(seeds) > 1
    legend = LEGEND.format(
        level=100 * level,
        source=f"test images and {len(seeds)} training seeds"
        if several
        else "test images, of one training",
        alpha=100 * (1 - level),
        rejects="rejects for no seed" if several else "does not reject",
    )
    return f"{_markdown(head, rows)}\n{legend}\n"


def appendix_markdown(table: pd.DataFrame, names: Mapping[str, str], batch_size: int) -> str:
    """The table `table1_appendix` as Markdown, with its legend."""
    seeds = ", for one seed at least" if "temperature_sd" in table else ""
    return f"{to_markdown(table, names)}\n{APPENDIX_LEGEND.format(size=batch_size, seeds=seeds)}\n"


def _seeds(metrics: pd.DataFrame) -> list[int]:
    return metrics["seed"].unique().tolist()


def _formatted(
    table: pd.DataFrame, names: Mapping[str, str], marks: tuple[str, str], deviation: str = " ± {}"
) -> pd.DataFrame:
    """The table as text: names of its rows, standard deviations, and marks.

    Around best and second-best values stand `marks`; behind a temperature at a bound stands ‡.
    """
    key, *columns = table.columns
    rank, cells = ranks(table), {key: [names.get(name, name) for name in table[key]]}
    for column in (column for column in columns if column in TITLES):
        digits = 2 if column in TEMPERATURES else 4
        texts = table[column].map(f"{{:.{digits}f}}".format)
        texts = [
            ("{}", *marks)[place].format(text)
            for text, place in zip(texts, rank[column], strict=True)
        ]
        if f"{column}_sd" in table:  # .0031 for 0.0031
            spread = table[f"{column}_sd"].map(f"{{:.{digits}f}}".format).str.removeprefix("0")
            texts = [text + deviation.format(sd) for text, sd in zip(texts, spread, strict=True)]
        if f"{column}_at_bound" in table:
            bound = table[f"{column}_at_bound"]
            texts = [text + " ‡" * at for text, at in zip(texts, bound, strict=True)]
        cells[column] = texts
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


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    rule = [":--"] + ["--:"] * (len(head) - 1)
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, rule, *rows))


def _number(numbers: pd.Series, run: str, seed: int, *key: str) -> float:
    """A number of the long table, which is indexed by KEY."""
    value = numbers.get((run, seed, *key), np.nan)
    if np.isnan(value):
        dataset, calibration, metric = key
        where = f"{metric} on {dataset} (calibration {calibration}) for run {run}, seed {seed}"
        raise ValueError(f"no value of {where}")
    return float(value)
