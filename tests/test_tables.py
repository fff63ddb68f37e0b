"""Tables 1 and 2 from hand-made metrics."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carot_lib.styles import RUN_NAMES, UPDATE_NAMES
from carot_lib.tables import (
    COLUMNS,
    TABLE1,
    TABLE1_RUNS,
    TABLE2_RUNS,
    beside_paper,
    ranks,
    styled,
    table1,
    table2,
    to_latex,
    to_markdown,
)

PAPER = Path(__file__).parents[1] / "data" / "paper"


def long_metrics(seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Every number of both tables: 0.1 * column + 0.01 * run + 0.001 * seed."""
    runs = dict.fromkeys((*TABLE1_RUNS, *TABLE2_RUNS.values()))
    rows = [
        (run, seed, *place[:3], 0.1 * c + 0.01 * r + 0.001 * seed)
        for r, run in enumerate(runs)
        for c, place in enumerate(COLUMNS.values())
        for seed in seeds
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "dataset", "calibration", "metric", "value"])


def test_table1_takes_each_number_from_its_set_and_calibration():
    table = table1(long_metrics())
    assert list(table.columns) == ["run", *TABLE1]
    assert list(table["run"]) == list(TABLE1_RUNS)
    # ft is run 1; ood_ece_ts is column 5: 0.5 + 0.01
    assert table.set_index("run").loc["ft", "ood_ece_ts"] == pytest.approx(0.51)


def test_numbers_are_means_over_the_seeds():
    # flyp is run 5, id_acc column 0: 0.05 + 0.001 * mean(0, 1, 5) = 0.05 + 0.002
    table = table1(long_metrics(seeds=(0, 1, 5))).set_index("run")
    assert table.loc["flyp", "id_acc"] == pytest.approx(0.052)


def test_table2_names_rows_by_the_teachers_update():
    table = table2(long_metrics())
    assert list(table["ema_update"]) == ["every_step", "default", "double", "never"]
    # the default row is the run `carot`, run 7, and ood_ece is column 3
    assert table.set_index("ema_update").loc["default", "ood_ece"] == pytest.approx(0.37)


def test_a_missing_run_is_named():
    metrics = long_metrics()
    with pytest.raises(ValueError, match=r"'run': 'flyp_ls', 'dataset': 'id_test'"):
        table1(metrics[metrics["run"] != "flyp_ls"])


def test_a_missing_set_is_named():
    metrics = long_metrics()
    with pytest.raises(ValueError, match="'dataset': 'ood'"):
        table1(metrics[metrics["dataset"] != "ood"])


def test_nan_is_refused_and_named():
    metrics = long_metrics()
    metrics.loc[(metrics["run"] == "carot") & (metrics["metric"] == "ece"), "value"] = np.nan
    with pytest.raises(ValueError, match=r"'carot'.*'ece'"):
        table1(metrics)


def test_difference_is_ours_minus_papers():
    ours = pd.DataFrame({"run": ["zs", "ft"], "id_acc": [0.7, 0.8], "temperature": [1.0, 2.0]})
    paper = pd.DataFrame({"run": ["zs", "ft"], "id_acc": [0.6832, 0.8153]})
    table = beside_paper(ours, paper)
    assert list(table.columns) == ["run", "id_acc_paper", "id_acc_ours", "id_acc_difference"]
    # 0.7 - 0.6832 = 0.0168; 0.8 - 0.8153 = -0.0153
    assert table["id_acc_difference"].tolist() == [0.0168, -0.0153]


def test_tables_with_other_rows_cannot_stand_beside_each_other():
    ours = pd.DataFrame({"run": ["zs"], "id_acc": [0.7]})
    paper = pd.DataFrame({"run": ["ft"], "id_acc": [0.7]})
    with pytest.raises(ValueError, match="rows differ"):
        beside_paper(ours, paper)


def small() -> pd.DataFrame:
    """ZS has the lowest ECE but does not compete; flyp and carot share the best accuracy."""
    return pd.DataFrame(
        {
            "run": ["zs", "ft", "flyp", "carot"],
            "id_acc": [0.6, 0.7, 0.8, 0.8],
            "id_ece": [0.01, 0.09, 0.06, 0.04],
        }
    )


def test_more_accuracy_and_less_ece_are_better_and_zs_does_not_compete():
    table = ranks(small())
    assert table["id_ece"].tolist() == [0, 0, 2, 1]


def test_equals_share_the_best_rank_and_leave_no_second():
    assert ranks(small())["id_acc"].tolist() == [0, 0, 1, 1]


def test_temperature_has_no_best():
    table = pd.DataFrame({"run": ["ft", "flyp"], "temperature": [1.0, 2.0]})
    assert ranks(table)["temperature"].tolist() == [0, 0]


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
    assert [text.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert text.count("{") == text.count("}")
    assert r"\caption{A caption.}" in text
    assert r"\label{tab:small}" in text


def test_notebook_table_marks_best_and_second():
    table = table2(long_metrics())
    page = styled(table, UPDATE_NAMES).to_html()
    assert "twice the default" in page
    assert "ID ECE ↓" in page
    assert "font-weight: bold" in page
    assert "text-decoration: underline" in page


def test_published_tables_hold_the_papers_numbers():
    table = pd.read_csv(PAPER / "table1.csv", dtype=str).set_index("run")
    assert list(table.index) == list(TABLE1_RUNS)
    assert list(table.columns) == [column for column in TABLE1 if column != "temperature"]
    # three rows typed from the page: first, the one with the outliers, last
    assert " ".join(table.loc["zs"]) == "0.6832 0.5840 0.0571 0.0836 0.0561 0.0748"
    assert " ".join(table.loc["wise_ft_ls"]) == "0.8068 0.6405 0.5231 0.3601 0.3382 0.2425"
    assert " ".join(table.loc["carot"]) == "0.8319 0.6197 0.0395 0.1093 0.0380 0.0980"


def test_the_default_row_of_table2_is_carots_row_of_table1():
    first = pd.read_csv(PAPER / "table1.csv").set_index("run")
    second = pd.read_csv(PAPER / "table2.csv").set_index("ema_update")
    assert list(second.index) == list(TABLE2_RUNS)
    assert second.loc["default"].tolist() == first.loc["carot", list(second.columns)].tolist()


def test_one_seed_without_a_number_does_not_shrink_the_mean():
    metrics = long_metrics(seeds=(0, 1))
    bad = (metrics["run"] == "carot") & (metrics["seed"] == 1) & (metrics["metric"] == "accuracy")
    metrics.loc[bad, "value"] = np.nan
    with pytest.raises(ValueError, match=r"'carot'.*'accuracy'"):
        table1(metrics)


def test_a_run_with_fewer_seeds_than_the_others_is_refused():
    metrics = long_metrics(seeds=(0, 1))
    fewer = metrics[~((metrics["run"] == "carot") & (metrics["seed"] == 1))]
    with pytest.raises(ValueError, match=r"no value of seeds \[1\] for .*'carot'"):
        table1(fewer)
