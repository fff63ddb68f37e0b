"""Stages `evaluate` and `tables` on made-up predictions."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.bootstrap import replicates
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.layout import Layout
from carot_lib.report.names import CALIBRATION_NAMES
from carot_lib.report.tables import TABLE1_RUNS, TABLE2_RUNS
from carot_lib.stages.evaluate import evaluate
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
    """A project with the predictions of FT, and few resamples."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["seeds"] = [0]
    tree["miniature"]["evaluation"]["bootstrap"]["resamples"] = 40
    tree["miniature"]["evaluation"]["temperature"]["step"] = 0.1
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    (folder / "data").mkdir()
    (folder / "data" / "paper").symlink_to(ROOT / "data" / "paper")
    layout = Layout(folder, "miniature")
    for name in SETS:
        save(layout, "ft", name)
    return layout


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A project that nobody changes, with the evaluation of FT."""
    layout = project(tmp_path_factory.mktemp("evaluated"))
    evaluate(layout, "ft", 0)
    return layout


@pytest.fixture(scope="module")
def metrics(evaluated: Layout) -> pd.DataFrame:
    return pd.read_csv(evaluated.evaluation("ft", 0) / "metrics.csv")


def value(table: pd.DataFrame, *place: str) -> float:
    (row,) = table.set_index(["dataset", "calibration", "metric"]).loc[[place], "value"]
    return row


def test_every_reported_set_has_metrics_and_only_the_validation_set_has_the_temperatures(
    evaluated: Layout, metrics: pd.DataFrame
):
    assert list(metrics) == HEAD
    reported = metrics[metrics["dataset"] != "id_val"]
    places = set(zip(reported["dataset"], reported["calibration"], strict=True))
    assert places == set(itertools.product([*SETS[1:], "ood"], CALIBRATION_NAMES))
    names = {
        *("accuracy", "ece", "rmsce_debiased", "ece_noise_floor", "ece_p_value", "signed_gap"),
        *("mean_confidence", "mce", "nll", "brier", "aurc", "ece_batch_mean"),
    }
    for (_, calibration), part in reported.groupby(["dataset", "calibration"]):
        assert set(part["metric"]) == names | (
            {"temperature"} if calibration == "oracle" else set()
        )
    folder = evaluated.evaluation("ft", 0)
    chosen = json.loads((folder / "temperature.json").read_text())
    curve = pd.read_csv(folder / "temperature_curve.csv")
    assert len(curve) == 96  # from 0.5 to 10 by 0.1
    assert curve["ece"].min() == pytest.approx(chosen["ece_after"], abs=1e-6)
    rows = metrics[(metrics["dataset"] == "id_val") & (metrics["calibration"] != "none")]
    assert rows[["calibration", "metric"]].to_numpy().tolist() == [
        ["temperature", "temperature"],
        ["temperature_nll", "temperature"],
    ]
    assert rows["value"].tolist() == pytest.approx(
        [chosen["temperature"], chosen["temperature_nll"]], abs=1e-6
    )
    assert (chosen["at_bound"], chosen["at_bound_nll"]) == (False, False)
    assert chosen["selected_on"] == {
        "dataset": "id_val",
        "fingerprint": "images of id_val",
        "n": 60,
    }
    assert chosen["fingerprints"] == {name: f"images of {name}" for name in SETS}


def test_a_temperature_at_the_end_of_the_range_is_marked_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    layout = project(tmp_path)
    one = Predictions.load(layout.predictions("ft", 0, "id_val"))
    labels = one.class_logits.argmax(axis=1)  # all right: no confidence is high enough
    right = Predictions(one.class_logits, labels, one.label_space, "id_val", one.fingerprint)
    right.save(layout.predictions("ft", 0, "id_val"))
    evaluate(layout, "ft", 0)
    said = capsys.readouterr().err
    chosen = json.loads((layout.evaluation("ft", 0) / "temperature.json").read_text())
    assert (chosen["temperature"], chosen["temperature_nll"]) == pytest.approx((0.5, 0.5))
    assert (chosen["at_bound"], chosen["at_bound_nll"]) == (True, True)
    for key in ("temperature", "temperature_nll"):
        assert f"{key} of ft, seed 0: 0.5 is at the end of the range" in said


@pytest.mark.parametrize("name", ["id_test", "a", "handwritten"])
def test_a_reported_set_with_the_images_that_chose_the_temperature_is_refused(
    tmp_path: Path, name: str
):
    layout = project(tmp_path)
    save(layout, "ft", name, fingerprint="images of id_val")
    with pytest.raises(ValueError, match=f"set {name} holds the images of id_val"):
        evaluate(layout, "ft", 0)
    assert not layout.evaluation("ft", 0).exists()


def test_the_replicates_are_those_of_the_intervals(evaluated: Layout, metrics: pd.DataFrame):
    table = metrics.set_index(["dataset", "calibration", "metric"])
    with np.load(evaluated.evaluation("ft", 0) / "replicates.npz") as arrays:
        keys = [key for key in arrays.files if not key.endswith("|value")]
        paired = ["accuracy", "ece", "ece_batch_mean", "nll", "brier"]
        places = itertools.product(SETS[1:], ["none", "temperature", "temperature_nll"], paired)
        chosen = [f"id_val|{key}|temperature" for key in ("temperature", "temperature_nll")]
        assert sorted(keys) == sorted([*map("|".join, places), *chosen])
        for key in keys:
            assert arrays[key].shape == (40,)
            value = arrays[f"{key}|value"]
            width = 1.959964 * arrays[key].std(ddof=1)
            row = table.loc[tuple(key.split("|"))]
            assert row["value"] == pytest.approx(value, abs=1e-6)
            assert (row["low"], row["high"]) == pytest.approx(
                (value - width, value + width), abs=2e-6
            )


def test_each_replicate_has_the_temperature_chosen_on_its_resample(evaluated: Layout):
    # temperatures chosen anew scatter, and the NLL does so with them: more than at a fixed one
    with np.load(evaluated.evaluation("ft", 0) / "replicates.npz") as arrays:
        for key in ("temperature", "temperature_nll"):
            assert len(np.unique(arrays[f"id_val|{key}|temperature"])) > 3
    predictions = Predictions.load(evaluated.predictions("ft", 0, "v2"))
    with np.load(evaluated.evaluation("ft", 0) / "replicates.npz") as arrays:
        of_each = {"this": arrays["id_val|temperature|temperature"]}
        again = replicates(predictions, of_each, 10, 512, 0)["this"]
        np.testing.assert_allclose(arrays["v2|temperature|ece"], again["ece"], rtol=1e-9)
        # no temperature changes a prediction
        np.testing.assert_array_equal(arrays["v2|temperature|accuracy"], arrays["v2|none|accuracy"])


def test_an_interval_holds_its_value_and_the_oracle_has_none(metrics: pd.DataFrame):
    unmeasured = {"rmsce_debiased", "ece_noise_floor", "ece_p_value", "aurc"}
    bare = metrics["metric"].isin(unmeasured) | (metrics["calibration"] == "oracle")
    assert metrics.loc[bare, ["low", "high"]].isna().all(axis=None)
    rest = metrics[~bare & (metrics["metric"] != "mce")]  # no bin of 60 images need have 30
    assert ((rest["low"] <= rest["value"]) & (rest["value"] <= rest["high"])).all()


def test_the_mean_over_the_shifts_is_the_mean_of_their_numbers(metrics: pd.DataFrame):
    for metric in ("accuracy", "ece", "ece_noise_floor", "nll"):
        of_sets = [value(metrics, name, "temperature", metric) for name in SETS[2:7]]
        assert value(metrics, "ood", "temperature", metric) == pytest.approx(
            np.mean(of_sets), abs=1e-6
        )
    # that all five are calibrated is less likely than that the least calibrated one is, times five
    p_values = [value(metrics, name, "none", "ece_p_value") for name in SETS[2:7]]
    assert 0 <= value(metrics, "ood", "none", "ece_p_value") <= 5 * max(p_values)


def test_the_oracle_is_the_best_temperature_of_each_set_itself(
    evaluated: Layout, metrics: pd.DataFrame
):
    for name in SETS[1:]:
        predictions = Predictions.load(evaluated.predictions("ft", 0, name))
        eces = {
            t: BinStats.from_confidences(*predictions.confidences(t)).ece()
            for t in np.round(np.arange(5, 101) / 10, 10)
        }
        least = min(eces.values())
        assert value(metrics, name, "oracle", "ece") == pytest.approx(least, abs=1e-6)
        chosen = value(metrics, name, "oracle", "temperature")
        assert eces[chosen] == pytest.approx(least, abs=1e-6)


# Tables


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A project with the evaluation of every row."""
    layout = project(tmp_path_factory.mktemp("all_runs"))
    for run in RUNS:
        for name in SETS:
            save(layout, run, name)
        evaluate(layout, run, 0)
    return layout


def test_tables_hold_every_calibration_of_every_row(all_runs: Layout):
    tables(all_runs)
    table = pd.read_csv(all_runs.tables / "metrics.csv")
    assert list(table) == HEAD
    assert set(table["run"]) == set(RUNS)
    assert set(table["calibration"]) == set(CALIBRATION_NAMES)
    intervals = (all_runs.tables / "table1_intervals.md").read_text().splitlines()
    assert len(intervals) == 2 + len(TABLE1_RUNS) + 2
    # the numbers of Table 1, in its order
    first = pd.read_csv(all_runs.tables / "table1.csv").set_index("run").loc["zs"]
    cells = intervals[2].split(" | ")[1::2]
    columns = ["id_ece", "ood_ece", "id_ece_ts", "ood_ece_ts"]
    assert [float(cell.split()[0]) for cell in cells] == pytest.approx(
        first[columns].tolist(), abs=5.1e-5
    )
    claims = pd.read_csv(all_runs.tables / "replication.csv")
    assert claims["value"].notna().all()
    assert len(pd.read_csv(all_runs.tables / "differences.csv")) == (len(RUNS) - 1) * 2 * 3
