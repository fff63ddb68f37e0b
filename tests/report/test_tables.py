"""Tables 1 and 2 from hand-made metrics."""

import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carot_lib.evaluation import TABLE1_COLUMNS
from carot_lib.report.names import CALIBRATION_NAMES, RUN_NAMES, UPDATE_NAMES
from carot_lib.report.tables import (
    TABLE1_RUNS,
    TABLE2_RUNS,
    compare_with_paper,
    intervals_markdown,
    make_table,
    posthoc_markdown,
    ranks,
    styled,
    to_latex,
    to_markdown,
)

PAPER = Path(__file__).parents[2] / "data" / "paper"


def long_metrics(seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Every number of both tables: 0.1 * column + 0.01 * run + 0.001 * seed."""
    runs = dict.fromkeys((*TABLE1_RUNS, *TABLE2_RUNS.values()))
    rows = [
        (run, seed, *key, 0.1 * c + 0.01 * r + 0.001 * seed)
        for r, run in enumerate(runs)
        for c, key in enumerate(TABLE1_COLUMNS.values())
        for seed in seeds
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "dataset", "calibration", "metric", "value"])


def test_table1_takes_each_number_from_its_set_and_calibration_as_the_mean_over_the_seeds():
    table = make_table("table1", long_metrics(seeds=(0, 1, 5))).set_index("run")
    assert list(table) == list(TABLE1_COLUMNS)
    assert list(table.index) == list(TABLE1_RUNS)
    # ft is run 1, ood_ece_ts column 5: 0.5 + 0.01 + 0.001 * mean(0, 1, 5)
    assert table.loc["ft", "ood_ece_ts"] == pytest.approx(0.512)


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
        make_table("table1", metrics[~is_carot])
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
    with pytest.raises(ValueError, match="rows differ"):
        compare_with_paper(ours, paper.iloc[::-1])


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


def with_intervals(
    runs: Sequence[str] = TABLE1_RUNS,
    calibrations: Iterable[str] = ("none", "temperature"),
    p_value: float = 0.001,
    seeds: tuple[int, ...] = (0,),
) -> pd.DataFrame:
    """ECE .05 from .04 to .06 with floor .01; calibration changes it by -.02 from -.03 to -.01."""
    numbers = {
        "ece": (0.05, 0.04, 0.06),
        "ece_p_value": (p_value, np.nan, np.nan),
        "ece_noise_floor": (0.01, np.nan, np.nan),
        "ece_difference": (-0.02, -0.03, -0.01),
    }
    keys = product(runs, seeds, ("id_test", "ood"), calibrations, numbers)
    head = ["run", "seed", "dataset", "calibration", "metric", "value", "low", "high"]
    return pd.DataFrame([(*key, *numbers[key[-1]]) for key in keys], columns=head)


def test_every_ece_of_table1_has_its_interval_and_its_floor():
    lines = intervals_markdown(with_intervals(), RUN_NAMES, 0.95).splitlines()
    assert lines[0] == (
        "| Method | ID ECE ↓ | floor | OOD ECE ↓ | floor | ID ECE w/ TS ↓ | floor "
        "| OOD ECE w/ TS ↓ | floor |"
    )
    assert lines[1] == "| :-- |" + " --: |" * 8
    assert lines[2] == "| ZS |" + " 0.0500 [0.0400, 0.0600] | 0.0100 |" * 4
    assert len(lines) == 2 + len(TABLE1_RUNS) + 2
    assert "95 % bootstrap interval" in lines[-1]
    assert "does not reject at 5 %" in lines[-1]


@pytest.mark.parametrize(("p_value", "level", "marked"), [(0.04, 0.95, 0), (0.04, 0.99, 4)])
def test_an_ece_that_the_test_does_not_reject_is_marked(p_value: float, level: float, marked: int):
    lines = intervals_markdown(with_intervals(p_value=p_value), RUN_NAMES, level).splitlines()
    assert lines[2].count("[0.0400, 0.0600] †") == marked


def test_several_seeds_have_a_row_each_for_their_intervals_have_no_mean():
    lines = intervals_markdown(with_intervals(seeds=(0, 4)), RUN_NAMES, 0.95).splitlines()
    names = [line.split(" | ")[0] for line in lines[2:6]]
    assert names == ["| ZS, seed 0", "| ZS, seed 4", "| FT, seed 0", "| FT, seed 4"]


def test_an_interval_that_is_missing_is_named():
    metrics = with_intervals()
    gone = (metrics["run"] == "carot") & (metrics["metric"] == "ece_noise_floor")
    with pytest.raises(ValueError, match=r"ece_noise_floor on id_test .* for run carot, seed 0"):
        intervals_markdown(metrics[~gone], RUN_NAMES, 0.95)
    with pytest.raises(ValueError, match=r"no value of ece on id_test .* for run flyp, seed 0"):
        intervals_markdown(metrics[metrics["run"] != "flyp"], RUN_NAMES, 0.95)


def test_every_calibration_of_every_run_has_its_change():
    table = with_intervals(["ft", "carot"], CALIBRATION_NAMES)
    lines = posthoc_markdown(table, RUN_NAMES, CALIBRATION_NAMES, 0.95).splitlines()
    assert lines[0] == (
        "| Method | Calibration | ID ECE ↓ | floor | change | OOD ECE ↓ | floor | change |"
    )
    assert lines[1] == "| :-- | :-- |" + " --: |" * 6
    assert lines[2] == "| FT | none |" + " 0.0500 [0.0400, 0.0600] | 0.0100 | – |" * 2
    assert lines[3] == (
        "| FT | temperature, by ECE |" + " 0.0500 [0.0400, 0.0600] | 0.0100 | -0.0200 |" * 2
    )
    assert [line.split(" | ")[0] for line in lines[2:16]] == ["| FT"] * 7 + ["| CaRot"] * 7
    assert "oracle" in lines[8]
    assert "best on each reported set itself" in lines[-1]


def test_a_change_whose_interval_holds_zero_is_called_noise():
    table = with_intervals(["ft"], CALIBRATION_NAMES)
    changed = {"metric": "ece_difference", "dataset": "ood", "calibration": "vector"}
    table.loc[(table[list(changed)] == list(changed.values())).all(axis=1), "high"] = 0.001
    lines = posthoc_markdown(table, RUN_NAMES, CALIBRATION_NAMES, 0.95).splitlines()
    row = next(line for line in lines if "vector scaling" in line)
    assert row.endswith("| 0.0100 | -0.0200 | 0.0500 [0.0400, 0.0600] | 0.0100 | within noise |")
    assert sum("within noise |" in line for line in lines) == 1


def test_a_calibration_that_is_missing_is_named():
    table = with_intervals(["ft"], ["none", "vector"])
    with pytest.raises(ValueError, match=r"no value of ece .*\(calibration isotonic\)"):
        posthoc_markdown(table, RUN_NAMES, {"none": "none", "isotonic": "isotonic"}, 0.95)
