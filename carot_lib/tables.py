"""Tables 1 and 2 from the long table of metrics, alone and beside the paper's."""

from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

TABLE1_RUNS = ("zs", "ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls", "carot")
TABLE2_RUNS = {
    "every_step": "carot_every_step",
    "default": "carot",
    "double": "carot_double",
    "never": "carot_never",
}
# column: (dataset, calibration, metric, title, better); better: +1 more, -1 less
COLUMNS = {
    "id_acc": ("id_test", "none", "accuracy", "ID Acc.", +1),
    "ood_acc": ("ood", "none", "accuracy", "OOD Acc.", +1),
    "id_ece": ("id_test", "none", "ece", "ID ECE", -1),
    "ood_ece": ("ood", "none", "ece", "OOD ECE", -1),
    "id_ece_ts": ("id_test", "temperature", "ece", "ID ECE w/ TS", -1),
    "ood_ece_ts": ("ood", "temperature", "ece", "OOD ECE w/ TS", -1),
    "temperature": ("id_val", "temperature", "temperature", "T", 0),
}
TABLE1 = list(COLUMNS)
TABLE2 = ["id_acc", "ood_acc", "id_ece", "ood_ece"]


def table1(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every row of Table 1: `run` and the columns of TABLE1, means over the seeds.

    Args:
        metrics: columns run, seed, dataset, calibration, metric, value.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    return _table(metrics, "run", {run: run for run in TABLE1_RUNS}, TABLE1)


def table2(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every row of Table 2: `ema_update` and the columns of TABLE2, means over the seeds.

    Args and raises: as `table1`.
    """
    return _table(metrics, "ema_update", TABLE2_RUNS, TABLE2)


def beside_paper(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
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
    competes = table.iloc[:, 0] != "zs"
    for column in table.columns[1:]:
        better = COLUMNS[column][-1]
        if better:
            values = (-better * table.loc[competes, column]).rank(method="min")
            result.loc[values.index[values <= 2], column] = values[values <= 2].astype(int)
    return result


def to_markdown(table: pd.DataFrame, names: Mapping[str, str]) -> str:
    """A Markdown table: best value of each column in bold, second in italics."""
    marks = {0: "{}", 1: "**{}**", 2: "*{}*"}
    body = [[_mark(cell, marks) for cell in row] for row in _cells(table, names)]
    head = [_title(table.columns[0]), *(COLUMNS[c][3] + _arrow(c, "↑↓") for c in table.columns[1:])]
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body]) + "\n"


def to_latex(table: pd.DataFrame, names: Mapping[str, str], caption: str, label: str) -> str:
    """A LaTeX table in booktabs style: best value of each column in bold, second underlined."""
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    body = [[_mark(cell, marks) for cell in row] for row in _cells(table, names)]
    arrows = (r"($\uparrow$)", r"($\downarrow$)")
    head = [
        _title(table.columns[0]),
        *(COLUMNS[c][3] + _arrow(c, arrows) for c in table.columns[1:]),
    ]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(head)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def styled(table: pd.DataFrame, names: Mapping[str, str]) -> Styler:
    """A table for a notebook's page: best value of each column bold, second underlined."""
    shown = table.copy()
    key = shown.columns[0]
    shown[key] = [names.get(name, name) for name in shown[key]]
    rank = ranks(table).drop(columns=key).to_numpy()
    shown = shown.set_index(key)
    css = {0: "", 1: "font-weight: bold", 2: "text-decoration: underline"}
    formats = {column: _format(column) for column in shown.columns}
    titles = [COLUMNS[column][3] + _arrow(column, "↑↓") for column in shown.columns]
    marks = pd.DataFrame([[css[r] for r in row] for row in rank], shown.index, shown.columns)
    return (
        shown.style.format(formats)
        .apply(lambda frame: marks, axis=None)
        .relabel_index(titles, axis="columns")
    )


def _table(
    metrics: pd.DataFrame, key: str, runs: Mapping[str, str], columns: Sequence[str]
) -> pd.DataFrame:
    index = ["run", "dataset", "calibration", "metric"]
    places = metrics.groupby(index)
    # one seed without a number makes the mean no number: it must not shrink to the other seeds
    means = places["value"].agg(lambda values: values.mean(skipna=False))
    seeds = places["seed"].agg(frozenset)
    expected = frozenset(metrics["seed"])
    rows = []
    for name, run in runs.items():
        row: dict[str, str | float] = {key: name}
        for column in columns:
            place = (run, *COLUMNS[column][:3])
            if place not in means.index or pd.isna(means[place]):
                raise ValueError(f"no value for {dict(zip(index, place, strict=True))}")
            if missing := sorted(expected - seeds[place]):
                where = dict(zip(index, place, strict=True))
                raise ValueError(f"no value of seeds {missing} for {where}")
            row[column] = float(means[place])
        rows.append(row)
    return pd.DataFrame(rows)


def _cells(table: pd.DataFrame, names: Mapping[str, str]) -> list[list[tuple[str, int]]]:
    """Text and rank of every cell."""
    rank = ranks(table)
    rows = []
    for i in table.index:
        name = table.iloc[:, 0][i]
        cells = [(names.get(name, name), 0)]
        cells += [(_format(c).format(table[c][i]), int(rank[c][i])) for c in table.columns[1:]]
        rows.append(cells)
    return rows


def _mark(cell: tuple[str, int], marks: Mapping[int, str]) -> str:
    text, rank = cell
    return marks[rank].format(text)


def _format(column: str) -> str:
    return "{:.2f}" if column == "temperature" else "{:.4f}"


def _arrow(column: str, arrows: Sequence[str]) -> str:
    better = COLUMNS[column][-1]
    return "" if better == 0 else f" {arrows[0]}" if better > 0 else f" {arrows[1]}"


def _title(key: str) -> str:
    return {"run": "Method", "ema_update": "EMA update"}[key]
