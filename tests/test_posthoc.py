"""Stages that judge predictions: evaluate, posthoc, tables and replicate in a made-up project."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.calibrators import Temperature
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.metrics import brier, nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.evaluation import load_evaluation
from carot_lib.layout import Layout
from carot_lib.report.names import CALIBRATION_NAMES
from carot_lib.report.tables import TABLE1_RUNS, TABLE2_RUNS
from carot_lib.stages.calibrate import calibrate
from carot_lib.stages.evaluate import evaluate
from carot_lib.stages.posthoc import posthoc
from carot_lib.stages.replicate import replicate
from carot_lib.stages.tables import tables

ROOT = Path(__file__).parents[1]
RUNS = list(dict.fromkeys([*TABLE1_RUNS, *TABLE2_RUNS.values()]))
SETS = ["id_val", "id_test", "v2", "r", "a", "sketch", "objectnet", "handwritten"]
SPACES = {"r": ((3,), (1,)), "objectnet": ((0, 2), (1,), (4, 3))}
HEAD = ["run", "seed", "dataset", "calibration", "metric", "value", "low", "high"]


def save(layout: Layout, run: str, name: str, fingerprint: str = "") -> None:
    """Predictions of 60 images: over-confident, and on shifted sets more so."""
    images, chance = SETS.index(name), np.random.default_rng([SETS.index(name), RUNS.index(run)])
    space = LabelSpace(5, SPACES.get(name, tuple((i,) for i in range(5))))
    labels = np.random.default_rng(images).integers(0, len(space.columns), size=60)
    logits = chance.normal(0, 2, size=(60, 5))
    signal = 3 if name.startswith("id_") else 1.5
    logits[np.arange(60), [space.columns[label][0] for label in labels]] += signal
    predictions = Predictions(2 * logits, labels, space, name, fingerprint or f"images of {name}")
    predictions.save(layout.predictions(run, 0, name))


def project(folder: Path) -> Layout:
    """A project with the predictions of FT and its temperature, and few resamples."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["miniature"]["evaluation"]["bootstrap"]["resamples"] = 40
    tree["miniature"]["evaluation"]["temperature"]["step"] = 0.1
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    (folder / "data").mkdir()
    (folder / "data" / "paper").symlink_to(ROOT / "data" / "paper")
    layout = Layout(folder, "miniature")
    for name in SETS:
        save(layout, "ft", name)
    calibrate(layout, "ft", 0)
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return project(tmp_path)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, pd.DataFrame]:
    """A project that nobody changes, and what stage `posthoc` finds in it."""
    layout = project(tmp_path_factory.mktemp("judged"))
    return layout, posthoc(layout, "ft", 0)


def value(table: pd.DataFrame, *place: str) -> float:
    (row,) = table.set_index(["dataset", "calibration", "metric"]).loc[[place], "value"]
    return row


# Evaluate


def test_every_reported_set_is_judged_with_and_without_the_temperature(layout: Layout):
    table = evaluate(layout, "ft", 0)
    assert list(table) == HEAD
    places = set(zip(table["dataset"], table["calibration"], strict=True))
    reported = [*SETS[1:], "ood"]
    assert places == {("id_val", "none"), ("id_val", "temperature")} | {
        (name, calibration) for name in reported for calibration in ("none", "temperature")
    }
    stored = pd.read_csv(layout.evaluation("ft", 0) / "metrics.csv")
    pd.testing.assert_frame_equal(stored, table, atol=1e-6)


def test_nothing_is_reported_of_the_temperature_where_it_was_selected(layout: Layout):
    table = evaluate(layout, "ft", 0)
    chosen = json.loads((layout.evaluation("ft", 0) / "temperature.json").read_text())
    rows = table[(table["dataset"] == "id_val") & (table["calibration"] == "temperature")]
    assert rows[["metric", "value"]].to_numpy().tolist() == [["temperature", chosen["temperature"]]]


@pytest.mark.parametrize("name", ["id_test", "sketch", "handwritten"])
def test_a_reported_set_with_the_images_that_chose_the_temperature_is_refused(
    layout: Layout, name: str
):
    save(layout, "ft", name, fingerprint="images of id_val")
    with pytest.raises(ValueError, match=f"set {name} holds the images of id_val"):
        evaluate(layout, "ft", 0)
    assert not (layout.evaluation("ft", 0) / "metrics.csv").exists()


def test_a_temperature_selected_on_the_test_set_is_refused(layout: Layout):
    path = layout.evaluation("ft", 0) / "temperature.json"
    chosen = json.loads(path.read_text())
    chosen["selected_on"] = {"dataset": "id_test", "fingerprint": "images of id_test", "n": 60}
    path.write_text(json.dumps(chosen))
    with pytest.raises(ValueError, match="set id_test holds the images of id_test"):
        evaluate(layout, "ft", 0)


def test_the_mean_of_five_is_the_mean_of_their_numbers(layout: Layout):
    table = evaluate(layout, "ft", 0)
    for metric in ("accuracy", "ece", "ece_noise_floor", "nll"):
        of_sets = [value(table, name, "temperature", metric) for name in SETS[2:7]]
        assert value(table, "ood", "temperature", metric) == pytest.approx(np.mean(of_sets))
    # that all five are calibrated is less likely than that the least calibrated one is, times five
    p_values = [value(table, name, "none", "ece_p_value") for name in SETS[2:7]]
    assert 0 <= value(table, "ood", "none", "ece_p_value") <= 5 * max(p_values)


# Posthoc


def test_every_calibrator_is_reported_on_every_set_but_the_validation_set(
    judged: tuple[Layout, pd.DataFrame],
):
    _, table = judged
    assert list(table) == HEAD
    rows = table[table["dataset"] != "id_val"]
    assert set(rows["dataset"]) == {*SETS[1:], "ood"}
    for _, part in rows.groupby("dataset"):
        assert set(part["calibration"]) == set(CALIBRATION_NAMES)
    metrics = {
        *("accuracy", "ece", "ece_debiased", "ece_noise_floor", "ece_p_value", "signed_gap"),
        *("mean_confidence", "mce", "ece_difference"),
    }
    of_logits = {"nll", "brier", "aurc", "ece_batch_mean"}
    logits_left = set(CALIBRATION_NAMES) - {"histogram", "isotonic"}
    for calibration, part in rows.groupby("calibration"):
        expected = metrics | (of_logits if calibration in logits_left else set())
        assert set(part["metric"]) - {"temperature"} == expected
    with_interval = table[table["low"].notna()]
    assert {"accuracy", "ece", "ece_difference"} <= set(with_interval["metric"])
    assert "ece_p_value" not in set(with_interval["metric"])


def test_on_the_validation_set_stand_its_temperatures_alone(judged: tuple[Layout, pd.DataFrame]):
    _, table = judged
    rows = table[table["dataset"] == "id_val"]
    assert rows["calibration"].tolist() == ["temperature", "temperature_nll"]
    assert set(rows["metric"]) == {"temperature"}


def test_without_calibration_and_with_the_papers_it_says_what_evaluate_says(
    judged: tuple[Layout, pd.DataFrame],
):
    keys = ["dataset", "calibration", "metric"]
    layout, table = judged
    ours = table.set_index(keys)[["value", "low", "high"]]
    theirs = evaluate(layout, "ft", 0).set_index(keys)[["value", "low", "high"]]
    shared = ours.index.intersection(theirs.index)
    # 2 calibrations, 8 sets with `ood`, 12 metrics; and the temperature
    assert len(shared) == 2 * 8 * 12 + 1
    pd.testing.assert_frame_equal(ours.loc[shared], theirs.loc[shared])


def test_the_oracle_is_the_best_temperature_of_each_set_itself(judged: tuple[Layout, pd.DataFrame]):
    layout, table = judged
    params = load_evaluation(layout)
    grid = params.temperature
    for name in SETS[1:]:
        predictions = Predictions.load(layout.predictions("ft", 0, name))
        eces = {
            t: BinStats.from_confidences(*predictions.confidences(t)).ece()
            for t in np.round(np.arange(5, 101) / 10, 10)
        }
        assert value(table, name, "oracle", "ece") == pytest.approx(min(eces.values()), abs=1e-6)
        best = Temperature.fit(predictions, "ece", grid.low, grid.high, grid.step, params.n_bins)
        assert value(table, name, "oracle", "temperature") == best.temperature
        for calibration in ("none", "temperature"):  # both on the grid
            other = value(table, name, calibration, "ece")
            assert value(table, name, "oracle", "ece") <= other + 1e-9


def test_changes_are_paired_with_no_calibration(judged: tuple[Layout, pd.DataFrame]):
    table = judged[1].set_index(["dataset", "calibration", "metric"])
    for name in ("id_test", "ood"):
        none = table.loc[(name, "none", "ece_difference"), ["value", "low", "high"]]
        assert none.tolist() == [0, 0, 0]
        for calibration in CALIBRATION_NAMES:
            ece, before = (table.loc[(name, c, "ece"), "value"] for c in (calibration, "none"))
            change = table.loc[(name, calibration, "ece_difference")]
            assert change["value"] == pytest.approx(ece - before)
            assert change["low"] <= change["high"]


def test_a_set_with_the_images_of_the_validation_set_is_refused(layout: Layout):
    save(layout, "ft", "a", fingerprint="images of id_val")
    with pytest.raises(ValueError, match="set a holds the images of id_val"):
        posthoc(layout, "ft", 0)


def test_scores_are_those_of_the_calibrated_logits(judged: tuple[Layout, pd.DataFrame]):
    layout, table = judged
    predictions = Predictions.load(layout.predictions("ft", 0, "objectnet"))
    temperature = value(table, "id_val", "temperature_nll", "temperature")
    logits = predictions.logits.astype(float) / temperature
    for metric, score in (("nll", nll), ("brier", brier)):
        expected = score(logits, predictions.labels)
        assert value(table, "objectnet", "temperature_nll", metric) == pytest.approx(expected)


# Tables and replicate


@pytest.fixture
def all_runs(layout: Layout) -> Layout:
    """The project with the predictions and temperatures of every row."""
    for run in RUNS:
        for name in SETS:
            save(layout, run, name)
        calibrate(layout, run, 0)
    return layout


def test_tables_hold_every_calibrator_of_every_run(
    all_runs: Layout, judged: tuple[Layout, pd.DataFrame]
):
    for run in RUNS:
        evaluate(all_runs, run, 0)
        path = all_runs.evaluation(run, 0) / "posthoc.csv"
        judged[1].assign(run=run).to_csv(path, index=False)
    tables(all_runs)
    table = pd.read_csv(all_runs.results / "posthoc.csv")
    assert list(table) == HEAD
    assert set(table["run"]) == set(RUNS)
    lines = (all_runs.results / "posthoc.md").read_text().splitlines()
    assert len(lines) == 2 + len(RUNS) * len(CALIBRATION_NAMES) + 2
    intervals = (all_runs.results / "table1_intervals.md").read_text().splitlines()
    assert len(intervals) == 2 + len(TABLE1_RUNS) + 2
    # the numbers of Table 1, in its order
    first = pd.read_csv(all_runs.results / "table1.csv").set_index("run").loc["zs"]
    cells = intervals[2].split(" | ")[1::2]
    columns = ["id_ece", "ood_ece", "id_ece_ts", "ood_ece_ts"]
    assert [float(cell.split()[0]) for cell in cells] == pytest.approx(
        first[columns].tolist(), abs=5.1e-5
    )


def test_runs_on_the_same_images_are_compared(all_runs: Layout):
    report = replicate(all_runs)
    assert report["value"].notna().all()
    assert len(pd.read_csv(all_runs.results / "differences.csv")) == (len(RUNS) - 1) * 2 * 3


def test_runs_on_other_images_are_refused_by_set_and_run(all_runs: Layout):
    save(all_runs, "flyp", "sketch", fingerprint="another draw")
    with pytest.raises(ValueError, match=r"set sketch .*zs, seed 0 .*flyp, seed 0 \(another"):
        replicate(all_runs)
    assert not (all_runs.results / "replication.csv").exists()
