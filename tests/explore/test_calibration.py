"""The temperature explorer: its numbers are those of the metrics, its picture follows."""

import io
import time

import numpy as np
import pytest
from carot_lib.explore.calibration import (
    LiveDiagram,
    Point,
    explore_calibration,
    points,
    slider_temperatures,
)

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.metrics import ece, nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.report.results import Report

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(200, 6)).astype(np.float32) * 3
LABELS = rng.integers(0, 3, size=200)
SUBSET = LabelSpace(6, ((0,), (2, 5), (4,)))
PREDICTIONS = Predictions(LOGITS, LABELS, SUBSET, "r", "0" * 16)


def test_a_points_numbers_are_those_of_the_metrics():
    for point in points(PREDICTIONS, [0.5, 1.0, 3.0], 10):
        scaled = LOGITS.astype(np.float64) / point.temperature
        assert point.nll == pytest.approx(nll(scaled, LABELS, label_space=SUBSET), abs=1e-6)
        assert point.stats.ece() == pytest.approx(ece(scaled, LABELS, label_space=SUBSET), abs=1e-6)


def test_a_point_by_hand():
    # two images, logits (2, 0) and labels 0 and 1: at T = 2 the first class has 1 / (1 + e^-1)
    logits, space = np.array([[2.0, 0.0], [2.0, 0.0]], np.float32), LabelSpace.identity(2)
    (point,) = points(Predictions(logits, np.array([0, 1]), space, "x", "0"), [2.0], 10)
    assert point.stats.mean_confidence() == pytest.approx(0.7310586, abs=1e-7)
    assert point.nll == pytest.approx((0.3132617 + 1.3132617) / 2, abs=1e-6)


def test_the_slider_stops_at_one_at_both_ends_and_where_a_temperature_was_chosen():
    found = slider_temperatures(0.5, 10.0, 0.777, 20.0)
    assert found == sorted(set(found))
    assert {0.5, 0.777, 1.0, 10.0} <= set(found)
    assert 20.0 not in found
    steps = np.diff(np.log(found))
    assert steps.max() < 0.08  # no two neighbours are further apart than 8 %


def stats(confidence: float, correct: list[bool]) -> BinStats:
    return BinStats.from_confidences(np.full(len(correct), confidence), np.array(correct), 10)


def test_a_bar_ends_at_the_accuracy_and_its_gap_at_the_confidence():
    diagram = LiveDiagram(10)
    # 20 images at confidence .75, 8 of them right: over-confident from 40 to 75 %
    diagram.show("a title", Point(1.0, stats(0.75, [True] * 8 + [False] * 12), 0.5))
    assert bounds(diagram.bars) == [pytest.approx((70.3, 0, 79.7, 40))]
    assert bounds(diagram.over) == [pytest.approx((70.3, 40, 79.7, 75))]
    assert bounds(diagram.under) == []
    assert bounds(diagram.shares)[7] == pytest.approx((70.3, 0, 79.7, 100))
    assert diagram.numbers["ECE"].get_text() == "0.3500"
    assert diagram.numbers["images"].get_text() == "20"
    # 19 of 20 right: under-confident; what was drawn before is gone
    diagram.show("a title", Point(1.0, stats(0.75, [True] * 19 + [False]), 0.5))
    assert bounds(diagram.over) == []
    assert bounds(diagram.under) == [pytest.approx((70.3, 75, 79.7, 95))]


def test_a_bin_of_few_images_is_in_the_histogram_only():
    diagram = LiveDiagram(10)
    diagram.show("a title", Point(1.0, stats(0.75, [True] * 9), 0.5))
    assert bounds(diagram.bars) == []
    assert bounds(diagram.shares)[7][3] == pytest.approx(100)


def bounds(collection) -> list[tuple[float, ...]]:
    return [path.get_extents().extents for path in collection.get_paths()]


def test_the_picture_follows_every_control(report: Report):
    exhibit = explore_calibration(report, run="ft")
    (which_set, run, seed), (temperature, plain, chosen) = (
        row.children for row in exhibit.widget.children[:2]
    )
    assert [name for name, _ in which_set.options] == ["ID validation", "ID test", "Rotated"]
    seen = [exhibit.picture.value]
    for control, value in ((temperature, 0.5), (which_set, "rotated"), (run, "zs"), (seed, 1)):
        control.value = value
        seen.append(exhibit.picture.value)
    chosen.click()
    assert temperature.value == 0.77  # of zs
    run.value = "ft"
    chosen.click()
    assert temperature.value == 1.5
    seen.append(exhibit.picture.value)
    plain.click()
    assert temperature.value == 1.0
    assert len(set(seen)) == len(seen)
    which_set.value, seed.value = "id_test", 0
    assert exhibit.picture.value == seen[0]  # the same state, the same picture


def test_missing_predictions_are_named_with_their_stage(report: Report):
    report.layout.predictions("ft", 0, "id_test").unlink()
    with pytest.raises(FileNotFoundError, match="run stage `predict`"):
        explore_calibration(report, run="ft")


def test_a_slider_takes_little_processor_time_at_fifty_thousand_images():
    # what 100 ms on the clock need; the clock itself depends on who else computes
    logits = rng.normal(size=(50_000, 10)).astype(np.float32)
    made = Predictions(logits, np.arange(50_000) % 10, LabelSpace.identity(10), "x", "0")
    first, second = points(made, [0.8, 1.2], 10)
    diagram, spent = LiveDiagram(10), []
    for point in (first, second) * 3:
        start = time.process_time()
        diagram.show("a title", point).save(
            io.BytesIO(), "webp", lossless=True, quality=0, method=0
        )
        spent.append(time.process_time() - start)
    assert min(spent) < 0.1
