"""Resampling images: replicates against the plain formulas, pairing, intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_logits import sharpened_logits

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.bootstrap import (
    CHUNK_SIZE,
    mean_over_sets,
    percentile_interval,
    replicates,
    table_with_intervals,
)
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.metrics import brier, nll
from carot_lib.calibration.predictions import Calibrated, Predictions


def resampled(
    one: Predictions, temperature: float, n_bins: int, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Replicates of one run at one temperature."""
    calibrated = {"only": one.calibrated(temperature)}
    return replicates(one, calibrated, n_bins, resamples, seed)["only"]


def whole(logits: np.ndarray, labels: np.ndarray, dataset: str) -> Predictions:
    """Predictions on a set of all the classifier's classes."""
    return Predictions(logits, labels, LabelSpace.identity(logits.shape[1]), dataset, "f")


def predictions(n: int = 200, seed: int = 0, dataset: str = "r") -> Predictions:
    """Random logits of five classes, over-confident."""
    return whole(*sharpened_logits(n, 5, seed), dataset)


def of_each_sample(right: list[bool], confidence: float, dataset: str = "r") -> Predictions:
    """Two classes, class 0 always predicted with one confidence."""
    row = np.log([confidence, 1 - confidence])
    labels = np.where(right, 0, 1)
    return whole(np.tile(row, (len(right), 1)), labels, dataset)


def test_gaps_of_two_bins_do_not_cancel():
    # as many at .95 of which none is right as at .55 of which all are: gaps +.95 and -.45
    logits = np.log([[0.95, 0.05]] * 200 + [[0.55, 0.45]] * 200)
    labels = np.repeat([1, 0], 200)
    result = resampled(whole(logits, labels, "r"), 1.0, 10, 200, seed=0)
    # (.95 + .45) / 2 = .7 on average; the signed gap (.95 - .45) / 2 = .25
    assert result["ece"].mean() == pytest.approx(0.7, abs=0.01)
    assert result["signed_gap"].mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(result["mce"], 0.95)


def drawn(n: int, resamples: int, seed: int, dataset: str) -> np.ndarray:
    """Which images stand in each resample, found out from the replicates themselves.

    With image i alone right, the replicate of accuracy is how often i was drawn, over n.
    """
    counts = [
        resampled(of_each_sample([i == j for j in range(n)], 0.8, dataset), 1.0, 1, resamples, seed)
        for i in range(n)
    ]
    return np.round(np.array([one["accuracy"] for one in counts]).T * n).astype(int)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_replicates_are_the_plain_formulas_on_the_images_drawn(temperature: float):
    n, resamples = 30, 8
    one = predictions(n)
    # other calibrations beside it change nothing
    calibrated = {"cold": one.calibrated(0.5), "this": one.calibrated(temperature)}
    result = replicates(one, calibrated, 10, resamples, seed=4)["this"]
    # the same images for another run on the set, drawn with replacement: some twice, some never
    images = drawn(n, resamples, seed=4, dataset="r")
    assert set(images.sum(axis=1)) == {n}
    assert images.max() > 1
    assert images.min() == 0
    for r, counts in enumerate(images):
        rows = np.repeat(np.arange(n), counts)
        logits, labels = one.logits[rows] / temperature, one.labels[rows]
        stats = BinStats.from_logits(logits, labels, 10)
        expected = {
            "accuracy": stats.mean_accuracy(),
            "ece": stats.ece(),
            "mce": stats.mce(),
            "signed_gap": stats.signed_gap(),
            "mean_confidence": stats.mean_confidence(),
            "nll": nll(logits, labels),
            "brier": brier(logits, labels),
        }
        for metric, value in expected.items():
            assert result[metric][r] == pytest.approx(value, abs=1e-6), metric


def test_replicates_of_an_ece_near_zero_are_biased_upwards():
    # 300 right of 400 at .75: ECE 0, but none of its resamples can be below
    result = resampled(of_each_sample([True] * 300 + [False] * 100, 0.75), 1.0, 10, 300, seed=0)
    # mean of |N(0, .75 * .25 / 400)|: sqrt(2 / pi) * .02165 = .0173
    assert result["ece"].mean() == pytest.approx(0.0173, abs=0.003)


@pytest.mark.parametrize(
    ("dataset", "seed"), [("a", 0), ("r", 1), ("a", 1)], ids=["set", "seed", "both"]
)
def test_another_set_or_another_seed_draws_other_images(dataset: str, seed: int):
    usual = resampled(predictions(dataset="r"), 1.0, 10, 50, seed=0)
    other = resampled(predictions(dataset=dataset), 1.0, 10, 50, seed=seed)
    assert (usual["accuracy"] != other["accuracy"]).mean() > 0.5


def test_more_resamples_begin_with_those_of_fewer():
    few = resampled(predictions(), 1.0, 10, CHUNK_SIZE, seed=0)
    many = resampled(predictions(), 1.0, 10, CHUNK_SIZE + 30, seed=0)
    assert len(many["nll"]) == CHUNK_SIZE + 30
    np.testing.assert_allclose(many["nll"][:CHUNK_SIZE], few["nll"], rtol=1e-12)
    # the second part is not the first again
    assert (many["nll"][CHUNK_SIZE:] != few["nll"][:30]).any()


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32 - 1), st.floats(0.2, 10))
def test_replicates_stay_in_the_range_of_their_metric(
    n: int, n_bins: int, seed: int, temperature: float
):
    result = resampled(predictions(n, seed=seed), temperature, n_bins, 15, seed)
    slack = 1e-9
    for metric in ("accuracy", "ece", "mce", "mean_confidence"):
        assert (result[metric] >= -slack).all(), metric
        assert (result[metric] <= 1 + slack).all(), metric
    # |signed gap| <= ECE <= MCE
    assert (np.abs(result["signed_gap"]) <= result["ece"] + slack).all()
    assert (result["ece"] <= result["mce"] + slack).all()
    assert (result["nll"] >= 0).all()
    assert (result["brier"] <= 2 + slack).all()


def test_percentile_interval_is_the_middle_of_the_values():
    # 0, .01, ..., 1: the middle 90 % run from .05 to .95, in whatever order they come
    values = np.random.default_rng(0).permutation(np.arange(101) / 100)
    assert percentile_interval(values, 0.9) == pytest.approx((0.05, 0.95))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95.0, float("nan")])
def test_a_level_outside_zero_and_one_is_refused(level: float):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got"):
        percentile_interval(np.zeros(3), level)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.floats(0.01, 0.5),
    st.floats(0.5, 0.99),
)
def test_a_higher_level_gives_a_wider_interval_within_the_values(
    values: list[float], less: float, more: float
):
    array = np.array(values)
    low, high = percentile_interval(array, less)
    lower, higher = percentile_interval(array, more)
    slack = 1e-9 * max(1, np.abs(array).max())
    assert array.min() - slack <= lower <= low + slack
    assert high - slack <= higher <= array.max() + slack


def test_intervals_of_an_accuracy_cover_it_about_as_often_as_their_level_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        one = of_each_sample(list(generator.random(200) < 0.7), 0.8)
        accuracy = resampled(one, 1.0, 10, 200, seed=trial)["accuracy"]
        low, high = percentile_interval(accuracy, 0.9)
        covered += low <= 0.7 <= high
    # 90 % of 200 = 180, standard deviation sqrt(200 * .9 * .1) = 4.2
    assert 165 <= covered <= 195


def test_without_logits_there_is_neither_nll_nor_brier_score():
    one = predictions()
    confidences, correct = one.confidences()
    calibrated = {"binned": Calibrated(confidences, correct), "plain": one.calibrated()}
    result = replicates(one, calibrated, 10, 30, seed=0)
    assert set(result["plain"]) - set(result["binned"]) == {"nll", "brier"}
    for metric, values in result["binned"].items():
        np.testing.assert_array_equal(values, result["plain"][metric])


def test_a_mean_over_sets_weighs_them_alike_whatever_their_size():
    # (.1 + .4) / 2 = .25; arrays element by element
    mean = mean_over_sets(
        [{"ece": 0.1, "nll": np.array([1.0, 2.0])}, {"ece": 0.4, "nll": np.array([3.0, 0.0])}]
    )
    assert mean["ece"] == pytest.approx(0.25)
    assert mean["nll"].tolist() == [2.0, 1.0]


def test_p_values_of_sets_combine_by_fisher():
    # -2 log(.1 * .2) = 7.824, chi-squared with 4 degrees of freedom: p = (1 + 3.912) * .02 = .0982
    mean = mean_over_sets([{"ece_p_value": 0.1}, {"ece_p_value": 0.2}])
    assert mean["ece_p_value"] == pytest.approx(0.0982, abs=5e-5)
    assert mean_over_sets([{"ece_p_value": 1.0}] * 5)["ece_p_value"] == pytest.approx(1)


def test_the_long_table_has_an_interval_where_there_are_replicates():
    values = {("r", "none"): {"ece": 0.5, "p": 0.1}, ("id_val", "none"): {"ece": 0.2}}
    again = {("r", "none"): {"ece": np.arange(101) / 100, "mce": np.zeros(3)}}
    table = table_with_intervals(values, again, 0.9)
    assert list(table) == ["dataset", "calibration", "metric", "value", "low", "high"]
    assert table.iloc[0].tolist() == pytest.approx(["r", "none", "ece", 0.5, 0.05, 0.95])
    assert table["metric"].tolist() == ["ece", "p", "ece"]
    assert table[["low", "high"]].isna().all(axis=1).tolist() == [False, True, True]
