"""Tables 1 and 2 from the long table of metrics, alone, beside the paper's, and with intervals."""

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

TABLE1_RUNS = ("zs", "ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls", "carot")
TABLE2_RUNS = {
    "every_step": "carot_every_step",
    "default": "carot",
    "double": "carot_update_2x",
    "never": "carot_frozen",
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
ECES = ("id_ece", "ood_ece", "id_ece_ts", "ood_ece_ts")
TABLE1 = list(COLUMNS)
POSTHOC_LEGEND = (
    "Change: from no calibration, on the same resampled images; within noise: its interval holds "
    "zero. All calibrators are fitted on the ID validation set, but for the oracle, whose "
    "temperature is the best on each reported set itself: no result, but it shows how much of an "
    "error one temperature could remove."
)
TABLE2 = ["id_acc", "ood_acc", "id_ece", "ood_ece"]

Place = tuple[str, int, str, str]  # run, seed, dataset, calibration


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
    return _markdown(head, body)


def intervals_markdown(metrics: pd.DataFrame, names: Mapping[str, str], level: float) -> str:
    """The ECEs of Table 1, each with its interval and its noise floor, as Markdown.

    Args:
        metrics: the long table, with columns low and high.
        names: of the runs.
        level: of the intervals.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    places, columns = _places(metrics), [COLUMNS[column] for column in ECES]
    head = ["Method"]
    for column in columns:
        head += [f"{column[3]} ↓", "floor"]
    body = []
    for run, seed in itertools.product(TABLE1_RUNS, metrics["seed"].unique().tolist()):
        row = [_row_name(run, seed, names, metrics)]
        for dataset, calibration, *_ in columns:
            row += _ece_cells(places, (run, seed, dataset, calibration), level)
        body.append(row)
    return f"{_markdown(head, body)}\n{_legend(level)}\n"


def posthoc_markdown(
    posthoc: pd.DataFrame, names: Mapping[str, str], calibrations: Mapping[str, str], level: float
) -> str:
    """ID and OOD ECE of each run after each calibration, and what changed, as Markdown.

    Args:
        posthoc: a long table as of stage `posthoc`.
        names: of the runs.
        calibrations: names of the calibrations, in the order of the rows.
        level: of the intervals.

    Raises:
        ValueError: a number is missing; the message names it.
    """
    places, body = _places(posthoc), []
    for run, seed in dict.fromkeys(zip(posthoc["run"], posthoc["seed"], strict=True)):
        for calibration, title in calibrations.items():
            row = [_row_name(run, seed, names, posthoc), title]
            for dataset in ("id_test", "ood"):
                place = (run, seed, dataset, calibration)
                row += [*_ece_cells(places, place, level), _change(places, place)]
            body.append(row)
    ends = ["floor", "change"]
    head = ["Method", "Calibration", "ID ECE ↓", *ends, "OOD ECE ↓", *ends]
    return f"{_markdown(head, body, texts=2)}\n{_legend(level)} {POSTHOC_LEGEND}\n"


def to_latex(table: pd.DataFrame, names: Mapping[str, str], caption: str, label: str) -> str:
    """A LaTeX table in booktabs style: best value of each column in bold, second underlined.

    Columns of one quantity stand under one head, so that Table 1 fits the width of a page.
    """
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    body = [[_mark(cell, marks) for cell in row] for row in _cells(table, names)]
    heads, rules, low = [""], [], [_title(table.columns[0])]
    arrows = (r"($\uparrow$)", r"($\downarrow$)")
    quantities = [_quantity(column, arrows) for column in table.columns[1:]]
    for quantity, group in itertools.groupby(quantities, key=lambda pair: pair[0]):
        sets = [dataset for _, dataset in group]
        start, low = len(low) + 1, low + sets
        heads.append(rf"\multicolumn{{{len(sets)}}}{{c}}{{{quantity}}}" if quantity else "")
        rules += [rf"\cmidrule(lr){{{start}-{len(low)}}}"] if quantity else []
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(low) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        f"    {' '.join(rules)}",
        f"    {' & '.join(low)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def styled(table: pd.DataFrame, names: Mapping[str, str]) -> Styler:
    """A table for a notebook's page: best value of each column bold, second underlined."""
    marks = {0: "{}", 1: "<strong>{}</strong>", 2: "<u>{}</u>"}
    body = [[_mark(cell, marks) for cell in row] for row in _cells(table, names)]
    head = [
        _title(table.columns[0]),
        *(
            COLUMNS[c][3] + _arrow(c, "↑↓").replace(" ", "\N{NO-BREAK SPACE}")
            for c in table.columns[1:]
        ),
    ]
    return pd.DataFrame(body, columns=head).style.hide(axis="index")


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


def _places(metrics: pd.DataFrame) -> dict[Place, pd.DataFrame]:
    """Value, low and high by metric, of each run, seed, set and calibration."""
    keys = ["run", "seed", "dataset", "calibration"]
    return {place: rows.set_index("metric") for place, rows in metrics.groupby(keys)}


def _ece_cells(places: Mapping[Place, pd.DataFrame], place: Place, level: float) -> list[str]:
    """ECE with its interval, marked if it is within noise of its floor, and the floor."""
    value, low, high = _numbers(places, place, "ece")
    p_value, floor = (_numbers(places, place, m)[0] for m in ("ece_p_value", "ece_noise_floor"))
    mark = " †" if p_value > 1 - level else ""
    return [f"{value:.4f} [{low:.4f}, {high:.4f}]{mark}", f"{floor:.4f}"]


def _change(places: Mapping[Place, pd.DataFrame], place: Place) -> str:
    """What a calibration changes in the ECE, or that this is noise."""
    if place[-1] == "none":
        return "–"
    value, low, high = _numbers(places, place, "ece_difference")
    return "within noise" if low <= 0 <= high else f"{value:+.4f}"


def _numbers(places: Mapping[Place, pd.DataFrame], place: Place, metric: str) -> list[float]:
    """Value, low and high of a metric."""
    if place not in places or metric not in places[place].index:
        raise ValueError(f"no value of {metric} for {place}")
    return places[place].loc[metric, ["value", "low", "high"]].tolist()


def _row_name(run: str, seed: int, names: Mapping[str, str], metrics: pd.DataFrame) -> str:
    """A run's name, with its seed where there are several."""
    name = names.get(run, run)
    return name if metrics["seed"].nunique() == 1 else f"{name}, seed {seed}"


def _legend(level: float) -> str:
    return (
        f"In brackets: {100 * level:g} % bootstrap interval over test images, of one training; "
        "resampling adds noise, so a value near its floor can lie below its interval. Floor: the "
        "ECE that a perfectly calibrated model with the same confidences has on average. †: within "
        "noise of the floor, for the test of perfect calibration does not reject at "
        f"{100 * (1 - level):g} %."
    )


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table whose first columns are text and whose others are numbers."""
    rule = [":--"] * texts + ["--:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body]) + "\n"


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


def _quantity(column: str, arrows: Sequence[str]) -> tuple[str, str]:
    """What a column holds and of which sets: `ECE w/ TS` and `OOD`; no quantity for `T`."""
    dataset, _, quantity = COLUMNS[column][3].partition(" ")
    return quantity + _arrow(column, arrows), dataset


def _title(key: str) -> str:
    return {"run": "Method", "ema_update": "EMA update"}[key]
