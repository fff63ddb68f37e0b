"""What notebooks read: numbers by their names, from any folder, or what to run first."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.layout import Layout
from carot_lib.report.results import Report, open_report

ROOT = Path(__file__).parents[2]
RUNS, SETS = ("zs", "ft"), ("id_test", "v2")


def number(run: str, seed: int, dataset: str, calibration: str, metric: str) -> float:
    """A different value for every row of the long table."""
    return (
        RUNS.index(run) / 2
        + seed / 100
        + SETS.index(dataset) / 10
        + (calibration == "temperature") / 50
        + (metric == "ece") / 1000
    )


def long_table() -> pd.DataFrame:
    rows = list(product(RUNS, (4, 7), SETS, ("none", "temperature"), ("accuracy", "ece")))
    values = np.array([number(*row) for row in rows])
    table = pd.DataFrame(rows, columns=["run", "seed", "dataset", "calibration", "metric"])
    return table.assign(value=values, low=values - 0.01, high=values + 0.02)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A project with two runs, two seeds and a long table."""
    (tmp_path / "carot_lib").mkdir()
    (tmp_path / "notebooks").mkdir()
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree |= {"rows": list(RUNS), "seeds": [4, 7]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path / "notebooks")  # where a kernel starts
    layout = Layout(tmp_path, "miniature")
    layout.tables.mkdir(parents=True)
    long_table().to_csv(layout.tables / "metrics.csv", index=False)
    return layout


@pytest.fixture
def report(layout: Layout) -> Report:
    return open_report("miniature")


def test_a_report_opens_from_the_folder_of_the_notebooks(layout: Layout, report: Report):
    assert report.layout == layout
    assert report.rows.rows == list(RUNS)
    assert report.seed == 4  # the first one
    assert report.evaluation.n_bins == 10
    pd.testing.assert_frame_equal(report.metrics, long_table())


def test_an_unknown_profile_or_one_without_results_is_reported(layout: Layout):
    with pytest.raises(FileNotFoundError, match=r"tiny/tables/metrics\.csv is missing: run"):
        open_report("tiny")
    other = Layout(layout.root, "tiny").tables
    other.mkdir(parents=True)
    long_table().to_csv(other / "metrics.csv", index=False)
    with pytest.raises(ValueError, match=r"params\.yaml: tiny: missing"):
        open_report("tiny")


def test_a_table_is_read_by_its_name(layout: Layout, report: Report):
    table = pd.DataFrame({"run": ["zs"], "id_acc": [0.5]})
    table.to_csv(layout.tables / "table1.csv", index=False)
    pd.testing.assert_frame_equal(report.table("table1"), table)
    with pytest.raises(FileNotFoundError, match=r"table2\.csv is missing: run `make repro` first"):
        report.table("table2")


def test_the_names_are_those_of_the_sets_of_the_profile(layout: Layout, report: Report):
    assert report.names["ood"] == "OOD, mean of five"
    folders = Layout(layout.root, "folders").tables
    folders.mkdir(parents=True)
    long_table().to_csv(folders / "metrics.csv", index=False)
    names = open_report("folders").names
    assert (names["shifted"], names["ood"]) == ("Shifted", "OOD")


def save(layout: Layout, run: str, seed: int) -> Predictions:
    generator = np.random.default_rng(seed)
    logits = (3 * generator.normal(size=(50, 3))).astype(np.float32)
    labels = generator.integers(0, 3, size=50)
    one = Predictions(logits, labels, LabelSpace.identity(3), "v2", "0" * 16)
    one.save(layout.predictions(run, seed, "v2"))
    folder = layout.evaluation(run, seed)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {"temperature": 2.5 + seed, "temperature_nll": 3.5 + seed}
    (folder / "temperature.json").write_text(json.dumps(chosen))
    curve = pd.DataFrame({"temperature": [1.0, 2.5 + seed], "ece": [0.2, 0.1]})
    curve.to_csv(folder / "temperature_curve.csv", index=False)
    history = pd.DataFrame({"step": [1, 2], "contrastive": [3.0, 2.0 + seed]})
    layout.model(run, seed).mkdir(parents=True, exist_ok=True)
    history.to_csv(layout.model(run, seed) / "history.csv", index=False)
    return one


def test_temperatures_curves_and_histories_are_those_of_every_seed(layout: Layout, report: Report):
    for run, seed in (("ft", 4), ("ft", 7), ("zs", 7)):
        save(layout, run, seed)
    assert report.temperature("ft") == 6.5  # of the first seed
    chosen = report.temperatures(["ft"])
    assert chosen.to_numpy().tolist() == [["ft", 4, 6.5, 7.5], ["ft", 7, 9.5, 10.5]]
    curves = report.temperature_curves(["ft"])
    assert list(curves) == ["run", "seed", "temperature", "ece"]
    assert curves["seed"].tolist() == [4, 4, 7, 7]
    assert curves["temperature"].tolist() == [1.0, 6.5, 1.0, 9.5]
    histories = report.histories(["ft"])
    assert histories["seed"].tolist() == [4, 4, 7, 7]
    assert histories["contrastive"].tolist() == [3.0, 6.0, 3.0, 9.0]
    missing = r"temperature_curve\.csv is missing: run `make rep"
    with pytest.raises(FileNotFoundError, match=missing):
        report.temperature_curves(["ft", "zs"])  # seed 4 of zs is not there


def test_histories_of_several_trainings_keep_the_terms_that_only_some_have(
    layout: Layout, report: Report
):
    for run, seed in (("ft", 4), ("ft", 7), ("zs", 4), ("zs", 7)):
        save(layout, run, seed)
    path = layout.model("ft", 4) / "history.csv"
    pd.read_csv(path).assign(distillation=0.5).to_csv(path, index=False)
    histories = report.histories(["zs", "ft"])
    assert histories["run"].tolist() == ["zs"] * 4 + ["ft"] * 4
    assert histories["distillation"].notna().tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_statistics_are_of_the_saved_predictions_with_or_without_the_temperature(
    layout: Layout, report: Report
):
    one = save(layout, "ft", 4)
    plain = BinStats.from_logits(one.logits, one.labels, 10, 1.0)
    scaled = BinStats.from_logits(one.logits, one.labels, 10, 6.5)
    assert report.stats("ft", "v2").ece() == pytest.approx(plain.ece())
    assert report.stats("ft", "v2", "temperature").ece() == pytest.approx(scaled.ece())
    assert abs(plain.ece() - scaled.ece()) > 0.05  # so that the two can be told apart
    with pytest.raises(FileNotFoundError, match="run stage `predict`"):
        report.stats("zs", "v2")


def test_a_selection_holds_one_metric_of_one_calibration_for_every_seed(report: Report):
    chosen = report.select("ece", "temperature")
    assert list(chosen) == ["value", "low", "high"]
    assert set(chosen.index) == set(product(RUNS, SETS, (4, 7)))
    # .5 + .07 + .1 + .02 + .001
    assert chosen.loc[("ft", "v2", 7)].tolist() == pytest.approx([0.691, 0.681, 0.711])


def test_the_grid_bears_the_names_of_the_paper(layout: Layout, report: Report):
    one = save(layout, "ft", 4)
    stats, intervals, level = report.grid(["ft"], ["v2"])
    assert {name: list(row) for name, row in stats.items()} == {"V2": ["FT"]}
    assert level == report.evaluation.bootstrap.level
    expected = BinStats.from_logits(one.logits, one.labels, 10, 1.0)
    assert stats["V2"]["FT"].ece() == pytest.approx(expected.ece())
    assert intervals["V2"]["FT"] == pytest.approx((0.631, 0.661))
    scaled = report.grid(["ft"], ["v2"], "temperature")
    assert scaled[1]["V2"]["FT"] == pytest.approx((0.651, 0.681))


def test_a_plane_has_both_metrics_with_intervals_in_the_order_asked_for(report: Report):
    plane = report.plane(["ft", "zs"], "v2")
    assert list(plane.index) == [("ft", 4), ("ft", 7), ("zs", 4), ("zs", 7)]
    assert list(plane) == [(m, end) for m in ("acc", "ece") for end in ("value", "low", "high")]
    # accuracy .5 + .04 + .1; ECE one thousandth more
    expected = [0.64, 0.63, 0.66, 0.641, 0.631, 0.661]
    assert plane.loc[("ft", 4)].tolist() == pytest.approx(expected)
    assert plane.loc[("zs", 4)].tolist() == pytest.approx([x - 0.5 for x in expected])


def test_a_profile_of_shifts_names_the_sets_and_has_every_seed(report: Report):
    table = report.profile_of_shifts(["ft", "zs"], ["v2", "id_test"], "accuracy")
    assert table[["run", "dataset", "seed"]].to_numpy().tolist() == [
        ["ft", "V2", 4],
        ["ft", "V2", 7],
        ["ft", "ID test", 4],
        ["ft", "ID test", 7],
        ["zs", "V2", 4],
        ["zs", "V2", 7],
        ["zs", "ID test", 4],
        ["zs", "ID test", 7],
    ]
    assert table["value"].tolist()[::2] == pytest.approx([0.64, 0.54, 0.14, 0.04])
    with pytest.raises(KeyError):
        report.profile_of_shifts(["ft"], ["sketch"], "accuracy")
