"""Tables 1 and 2 from hand-made metrics."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carot_lib.evaluation import COLUMNS, TABLE1_COLUMNS
from carot_lib.report.inference import Estimate, Statistic
from carot_lib.report.names import RUN_NAMES, UPDATE_NAMES
from carot_lib.report.tables import (
    APPENDIX,
    TABLE1_RUNS,
    TABLE2_RUNS,
    TITLES,
    appendix_markdown,
    compare_with_paper,
    intervals_markdown,
    make_table,
    mark_bounds,
    ranks,
    styled,
    to_latex,
    to_markdown,
)

PAPER = Path(__file__).parents[2] / "data" / "paper"


def long_metrics(seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Every number of the tables: 0.1 * column + 0.01 * run + 0.001 * seed."""
    runs = dict.fromkeys((*TABLE1_RUNS, *TABLE2_RUNS.values()))
    rows = [
        (run, seed, *key, 0.1 * c + 0.01 * r + 0.001 * seed)
        for r, run in enumerate(runs)
        for c, key in enumerate(COLUMNS.values())
        for seed in seeds
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "dataset", "calibration", "metric", "value"])


def test_table1_takes_each_number_from_its_set_and_calibration_as_the_mean_over_the_seeds():
    table = make_table("table1", long_metrics(seeds=(0, 1, 5))).set_index("run")
    assert list(table)[::2] == list(TABLE1_COLUMNS)
    assert list(table)[1::2] == [f"{column}_sd" for column in TABLE1_COLUMNS]
    assert list(table.index) == list(TABLE1_RUNS)
    # ft is run 1, ood_ece_ts column 5: 0.5 + 0.01 + 0.001 * mean(0, 1, 5)
    assert table.loc["ft", "ood_ece_ts"] == pytest.approx(0.512)
    # (4 + 1 + 9) / 2 = 7
    assert table.loc["ft", "ood_ece_ts_sd"] == pytest.approx(0.001 * 7**0.5)


def test_one_seed_has_no_deviation():
    assert list(make_table("table1", long_metrics())) == ["run", *TABLE1_COLUMNS]


def test_tables_have_the_rows_that_were_run():
    metrics = long_metrics()
    metrics = metrics[metrics["run"].isin(["zs", "carot", "ft"])]
    assert list(make_table("table1", metrics)["run"]) == ["zs", "ft", "carot"]
    assert list(make_table("table2", metrics)["ema_update"]) == ["default"]
    assert make_table("table2", metrics[metrics["run"] == "ft"]).empty


def test_table2_names_rows_by_the_teachers_update():
    table = make_table("table2", long_metrics())
    assert list(table["ema_update"]) == ["every_step", "default", "double", "never"]
    # the default row is the run `carot`, run 7, and ood_ece is column 3
    assert table.set_index("ema_update").loc["default", "ood_ece"] == pytest.approx(0.37)
    page = styled(table, UPDATE_NAMES).to_html()
    assert "twice the default" in page
    assert "EMA update" in page


def test_a_missing_number_is_named():
    metrics = long_metrics(seeds=(0, 1))
    is_carot = metrics["run"] == "carot"
    with pytest.raises(ValueError, match=r"accuracy on id_test .* for run carot, seed 0"):
        make_table("table1", metrics[~is_carot | (metrics["metric"] != "accuracy")])
    with pytest.raises(ValueError, match="no value of accuracy on ood"):
        make_table("table1", metrics[metrics["dataset"] != "ood"])
    # one seed without a number must not shrink the mean to the other seeds
    with pytest.raises(ValueError, match="for run carot, seed 1"):
        make_table("table1", metrics[~(is_carot & (metrics["seed"] == 1))])
    metrics.loc[is_carot & (metrics["seed"] == 1) & (metrics["metric"] == "ece"), "value"] = np.nan
    with pytest.raises(ValueError, match=r"no value of ece .* for run carot, seed 1"):
        make_table("table1", metrics)


def test_difference_is_ours_minus_papers():
    ours = pd.DataFrame({"run": ["zs", "ft"], "id_acc": [0.7, 0.8], "temperature": [1.0, 2.0]})
    paper = pd.DataFrame({"run": ["zs", "ft"], "id_acc": [0.6832, 0.8153]})
    table = compare_with_paper(ours, paper)
    assert list(table.columns) == ["run", "id_acc_paper", "id_acc_ours", "id_acc_difference"]
    # 0.7 - 0.6832 = 0.0168; 0.8 - 0.8153 = -0.0153
    assert table["id_acc_difference"].tolist() == [0.0168, -0.0153]
    # in our order, whatever the paper's, and without its other rows
    assert compare_with_paper(ours, paper.iloc[::-1]).equals(table)
    assert compare_with_paper(ours[1:], paper)["run"].tolist() == ["ft"]
    # a method that the paper does not have
    other = compare_with_paper(ours, paper[1:]).set_index("run").loc["zs"]
    assert other["id_acc_ours"] == 0.7
    assert other[["id_acc_paper", "id_acc_difference"]].isna().all()


def small() -> pd.DataFrame:
    """ZS has the lowest ECE but does not compete; flyp and carot share the best accuracy."""
    return pd.DataFrame(
        {
            "run": ["zs", "ft", "flyp", "carot"],
            "id_acc": [0.6, 0.7, 0.8, 0.8],
            "id_ece": [0.01, 0.09, 0.06, 0.04],
        }
    )


def test_ranks_of_the_best_and_the_second():
    table = ranks(small().assign(temperature=[1.0, 2.0, 3.0, 4.0]))
    assert table["id_ece"].tolist() == [0, 0, 2, 1]  # less is better; ZS does not compete
    assert table["id_acc"].tolist() == [0, 0, 1, 1]  # equals share a rank and leave no second
    assert table["temperature"].tolist() == [0, 0, 0, 0]  # no temperature is better


def test_markdown_is_a_table_with_marks_arrows_and_four_digits():
    lines = to_markdown(small(), RUN_NAMES).splitlines()
    assert lines == [
        "| Method | ID Acc. ↑ | ID ECE ↓ |",
        "| :-- | --: | --: |",
        "| ZS | 0.6000 | 0.0100 |",
        "| FT | 0.7000 | 0.0900 |",
        "| FLYP | **0.8000** | *0.0600* |",
        "| CaRot | **0.8000** | **0.0400** |",
    ]


def with_deviations() -> pd.DataFrame:
    return small().assign(id_acc_sd=[0.0, 0.0012, 0.01, 0.0], temperature=1.5, temperature_sd=1.25)


def test_several_seeds_are_printed_with_their_deviation():
    lines = to_markdown(with_deviations(), RUN_NAMES).splitlines()
    assert lines[0] == "| Method | ID Acc. ↑ | ID ECE ↓ | T |"
    assert lines[3] == "| FT | 0.7000 ± .0012 | 0.0900 | 1.50 ± 1.25 |"
    assert lines[4] == "| FLYP | **0.8000** ± .0100 | *0.0600* | 1.50 ± 1.25 |"
    text = to_latex(with_deviations(), RUN_NAMES, "A caption.", "tab:small")
    assert r"FLYP & \textbf{0.8000}{\scriptsize $\pm$ .0100} & \underline{0.0600} & 1.50" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert "<td" in (page := styled(with_deviations(), RUN_NAMES).to_html())
    assert "<strong>0.8000</strong> ± .0100" in page


def test_a_temperature_at_a_bound_is_marked_for_any_seed():
    chosen = {
        (run, seed): {
            "at_bound": (run, seed) == ("ft", 1),
            "at_bound_nll": run == "zs",
        }
        for run, seed in product(TABLE1_RUNS, (0, 1))
    }
    table = mark_bounds(make_table("table1_appendix", long_metrics(seeds=(0, 1))), chosen)
    assert [c for c in table if c in TITLES] == ["run", *APPENDIX]
    assert table.loc[table["temperature_at_bound"], "run"].tolist() == ["ft"]
    assert table.loc[table["temperature_nll_at_bound"], "run"].tolist() == ["zs"]
    lines = appendix_markdown(table, RUN_NAMES, 512).splitlines()
    # column 6 (temperature), run 0 and 1, mean of the seeds .0005
    assert lines[2].startswith("| ZS | 0.60 ± .00 | ")
    assert lines[3].startswith("| FT | 0.61 ± .00 ‡ | ")
    assert [line.count("‡") for line in lines] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert "batches of 512 images" in lines[-1]
    assert lines[-1].endswith("that was searched, for one seed at least.")


def test_latex_has_booktabs_rules_and_balanced_marks():
    text = to_latex(small(), RUN_NAMES, "A caption.", "tab:small")
    assert r"CaRot & \textbf{0.8000} & \textbf{0.0400} \\" in text
    assert r"FLYP & \textbf{0.8000} & \underline{0.0600} \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"Method & ID & ID \\" in text
    assert [text.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert text.count("{") == text.count("}")
    assert r"\caption{A caption.}" in text
    assert r"\label{tab:small}" in text


def test_latex_heads_stand_over_the_columns_of_one_quantity():
    table = make_table("table1", long_metrics())
    lines = to_latex(table, RUN_NAMES, "A caption.", "tab:1").splitlines()
    start = lines.index(r"\toprule") + 1
    heads, sets, rule, *rows = lines[start : start + 11]
    assert heads == (
        r" & \multicolumn{2}{c}{Acc. ($\uparrow$)} & \multicolumn{2}{c}{ECE ($\downarrow$)}"
        r" & \multicolumn{2}{c}{ECE w/ TS ($\downarrow$)} &  \\"
    )
    assert (sets, rule) == (r"Method & ID & OOD & ID & OOD & ID & OOD & T \\", r"\midrule")
    # every row has a cell for each of the eight columns, the head row spans them
    assert {line.count(" & ") for line in rows} == {7}


def test_notebook_table_marks_best_and_second_where_they_are():
    page = styled(small(), RUN_NAMES).to_html()
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in page.split("</tr>")]
    assert rows[1:5] == [
        ["ZS", "0.6000", "0.0100"],
        ["FT", "0.7000", "0.0900"],
        ["FLYP", "<strong>0.8000</strong>", "<u>0.0600</u>"],
        ["CaRot", "<strong>0.8000</strong>", "<strong>0.0400</strong>"],
    ]
    # an arrow stays with its word
    assert re.findall(r"<th[^>]*>(.*?)</th>", page) == ["Method", "ID Acc.\xa0↑", "ID ECE\xa0↓"]


def test_published_tables_hold_the_papers_numbers():
    table = pd.read_csv(PAPER / "table1.csv", dtype=str).set_index("run")
    assert list(table.index) == list(TABLE1_RUNS)
    assert list(table.columns) == [column for column in TABLE1_COLUMNS if column != "temperature"]
    # three rows typed from the page: first, the one with the outliers, last
    assert " ".join(table.loc["zs"]) == "0.6832 0.5840 0.0571 0.0836 0.0561 0.0748"
    assert " ".join(table.loc["wise_ft_ls"]) == "0.8068 0.6405 0.5231 0.3601 0.3382 0.2425"
    assert " ".join(table.loc["carot"]) == "0.8319 0.6197 0.0395 0.1093 0.0380 0.0980"


def test_the_default_row_of_table2_is_carots_row_of_table1():
    first = pd.read_csv(PAPER / "table1.csv").set_index("run")
    second = pd.read_csv(PAPER / "table2.csv").set_index("ema_update")
    assert list(second.index) == list(TABLE2_RUNS)
    assert second.loc["default"].tolist() == first.loc["carot", list(second.columns)].tolist()


def floors(p_values: tuple[float, ...] = (0.001,)) -> pd.DataFrame:
    """Floors .01, .02, ... by seed, and a p-value of each seed."""
    numbers = {"ece_noise_floor": 0.01 * np.arange(1, 9), "ece_p_value": p_values}
    keys = product(
        TABLE1_RUNS, range(len(p_values)), ("id_test", "ood"), ("none", "temperature"), numbers
    )
    head = ["run", "seed", "dataset", "calibration", "metric", "value"]
    return pd.DataFrame([(*key, numbers[key[-1]][key[1]]) for key in keys], columns=head)


def estimate(statistic: Statistic) -> Estimate:
    """ECE .05, and one more for each row after ZS; standard error .005."""
    value = statistic(lambda run, *key: TABLE1_RUNS.index(run) + 0.05)
    return Estimate(float(value), 0.005, np.inf)


def test_every_ece_of_table1_has_its_interval_and_its_floor():
    lines = intervals_markdown(floors(), RUN_NAMES, estimate, 0.95).splitlines()
    assert lines[0] == (
        "| Method | ID ECE ↓ | floor | OOD ECE ↓ | floor | ID ECE w/ TS ↓ | floor "
        "| OOD ECE w/ TS ↓ | floor |"
    )
    assert lines[1] == "| :-- |" + " --: |" * 8
    # .05 +- 1.96 * .005
    assert lines[2] == "| ZS |" + " 0.0500 [0.0402, 0.0598] | 0.0100 |" * 4
    assert lines[3].startswith("| FT | 1.0500 [1.0402, 1.0598] | 0.0100 |")
    assert len(lines) == 2 + len(TABLE1_RUNS) + 2
    assert "95 % interval over test images, of one training" in lines[-1]
    assert "at 5 % does not reject" in lines[-1]


def test_floors_are_means_over_the_seeds():
    lines = intervals_markdown(floors((0.001, 0.001)), RUN_NAMES, estimate, 0.95).splitlines()
    assert lines[2] == "| ZS |" + " 0.0500 [0.0402, 0.0598] | 0.0150 |" * 4
    assert len(lines) == 2 + len(TABLE1_RUNS) + 2
    assert "over test images and 2 training seeds" in lines[-1]


@pytest.mark.parametrize(
    ("p_values", "level", "marked"),
    [((0.04,), 0.95, 0), ((0.04,), 0.99, 4), ((0.04, 0.2), 0.95, 0), ((0.06, 0.2), 0.95, 4)],
)
def test_an_ece_that_the_test_rejects_for_no_seed_is_marked(p_values, level, marked):
    lines = intervals_markdown(floors(p_values), RUN_NAMES, estimate, level).splitlines()
    assert lines[2].count("] †") == marked


def test_a_floor_that_is_missing_is_named():
    metrics = floors()
    gone = (metrics["run"] == "carot") & (metrics["metric"] == "ece_noise_floor")
    with pytest.raises(ValueError, match=r"ece_noise_floor on id_test .* for run carot, seed 0"):
        intervals_markdown(metrics[~gone], RUN_NAMES, estimate, 0.95)


def test_intervals_are_of_the_rows_that_were_run():
    metrics = floors()
    metrics = metrics[metrics["run"].isin(["ft", "carot"])]
    lines = intervals_markdown(metrics, RUN_NAMES, estimate, 0.95).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| FT", "| CaRot"]
