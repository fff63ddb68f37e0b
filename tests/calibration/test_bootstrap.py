"""Resampling images: replicates against the plain formulas, pairing, intervals."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_logits import sharpened_logits

from carot_lib.calibration import bootstrap
from carot_lib.calibration.bin_stats import MIN_BIN_COUNT, BinStats
from carot_lib.calibration.bootstrap import (
    mean_over_sets,
    normal_interval,
    replicates,
    resampled_temperatures,
    table_with_intervals,
)
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.metrics import brier, ece_batch_mean, nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.temperature import (
    TemperatureChoice,
    select_temperature,
    temperature_of_least_nll,
)


def resampled(
    one: Predictions, temperature: float, n_bins: int, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Replicates of one run at one temperature."""
    of_each = {"only": np.full(resamples, temperature)}
    return replicates(one, of_each, n_bins, 512, seed)["only"]


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


@cache
def drawn(n: int, resamples: int, seed: int, dataset: str) -> np.ndarray:
    """Which images stand in each resample, found out from the replicates themselves.

    With image i alone right, the replicate of accuracy is how often i was drawn, over n.
    """
    counts = [
        resampled(of_each_sample([i == j for j in range(n)], 0.8, dataset), 1.0, 1, resamples, seed)
        for i in range(n)
    ]
    return np.round(np.array([one["accuracy"] for one in counts]).T * n).astype(int)


def images_of(one: Predictions, resamples: int, seed: int) -> list[np.ndarray]:
    """The images of each resample, in their order, each as often as it was drawn."""
    counts = drawn(len(one.labels), resamples, seed, one.dataset)
    return [np.repeat(np.arange(len(row)), row) for row in counts]


@pytest.mark.parametrize("batch_size", [1, 7, 32, 80, 512])
def test_replicates_are_the_plain_formulas_on_the_images_drawn(batch_size: int):
    n, resamples = 80, 8
    one = predictions(n)
    # each resample has its temperature, and other calibrations beside it change nothing
    temperatures = np.array([0.7, 1.0, 2.5, 1.0, 0.7, 3.33, 10.0, 0.5])
    calibrations = {"cold": np.full(resamples, 0.6), "this": temperatures}
    result = replicates(one, calibrations, 10, batch_size, seed=4)["this"]
    # the same images for another run on the set, drawn with replacement: some twice, some never
    images = drawn(n, resamples, seed=4, dataset="r")
    assert set(images.sum(axis=1)) == {n}
    assert images.max() > 1
    assert images.min() == 0
    for r, rows in enumerate(images_of(one, resamples, seed=4)):
        logits, labels = one.logits[rows] / temperatures[r], one.labels[rows]
        stats = BinStats.from_logits(logits, labels, 10)
        expected = {
            "accuracy": stats.mean_accuracy(),
            "ece": stats.ece(),
            "ece_batch_mean": ece_batch_mean(logits, labels, batch_size=batch_size, n_bins=10),
            "mce": stats.mce(),
            "signed_gap": stats.signed_gap(),
            "mean_confidence": stats.mean_confidence(),
            "nll": nll(logits, labels),
            "brier": brier(logits, labels),
        }
        assert set(result) == set(expected)
        for metric, value in expected.items():
            assert result[metric][r] == pytest.approx(value, abs=1e-6, nan_ok=True), metric


def test_a_maximum_error_needs_a_bin_of_enough_samples():
    alike = of_each_sample([True] * (MIN_BIN_COUNT - 1), 0.75)
    assert np.isnan(resampled(alike, 1.0, 10, 5, seed=0)["mce"]).all()
    alike = of_each_sample([True] * MIN_BIN_COUNT, 0.75)
    np.testing.assert_allclose(resampled(alike, 1.0, 10, 5, seed=0)["mce"], 0.25, atol=1e-6)


# Temperatures


def chosen(one: Predictions, step: float = 0.05) -> TemperatureChoice:
    return select_temperature(one.logits, one.labels, step=step)


@pytest.mark.parametrize("sharpness", [0.6, 1.0, 2.0])
def test_a_temperature_is_chosen_anew_in_each_resample(sharpness: float):
    one = whole(*sharpened_logits(120, 5, 1, sharpness), "id_val")
    result = resampled_temperatures(one, chosen(one), 10, 8, seed=3)
    for r, rows in enumerate(images_of(one, 8, seed=3)):
        logits, labels = one.logits[rows], one.labels[rows]
        # by brute force: every temperature of the grid by the direct formula
        best = select_temperature(logits, labels, step=0.05)
        assert result["temperature"][r] == pytest.approx(best.temperature)
        coolest = temperature_of_least_nll(logits, labels)
        assert result["temperature_nll"][r] == pytest.approx(coolest, abs=0.6 * 0.05 / 10)


def test_the_search_does_not_depend_on_where_it_starts():
    one = predictions(300, dataset="id_val")
    usual = chosen(one)
    far = TemperatureChoice(9.0, False, 0.0, 0.0, usual.temperatures, usual.values)
    for other in (usual, far):
        result = resampled_temperatures(one, other, 10, 30, seed=0)
        np.testing.assert_array_equal(
            result["temperature"], resampled_temperatures(one, usual, 10, 30, 0)["temperature"]
        )


def test_of_equally_good_temperatures_the_nearest_to_one_is_chosen():
    # a classifier of one class: every temperature gives confidence 1
    one = whole(np.zeros((4, 1)), np.zeros(4, dtype=int), "id_val")
    result = resampled_temperatures(one, chosen(one), 10, 3, seed=0)
    assert result["temperature"].tolist() == [1, 1, 1]
    assert result["temperature_nll"] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(("right", "end"), [(True, 0.5), (False, 10.0)])
def test_all_right_or_all_wrong_gives_the_ends_of_the_range(right: bool, end: float):
    one = of_each_sample([right] * 50, 0.8, "id_val")
    result = resampled_temperatures(one, chosen(one), 10, 3, seed=0)
    assert result["temperature"].tolist() == result["temperature_nll"].tolist() == [end] * 3


def test_the_temperatures_scatter_about_the_choice_as_those_of_new_samples_do():
    # the standard deviation of the temperature by NLL over new samples, against the bootstrap's
    fresh = [temperature_of_least_nll(*sharpened_logits(500, 5, seed)) for seed in range(200)]
    one = predictions(500, dataset="id_val")
    again = resampled_temperatures(one, chosen(one), 10, 200, seed=0)["temperature_nll"]
    # 200 draws each: a standard deviation is 5 % off, their ratio 7 %
    assert again.std() == pytest.approx(np.std(fresh), rel=0.25)


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


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_nothing_depends_on_how_many_resamples_are_in_memory(
    monkeypatch: pytest.MonkeyPatch, rows: int
):
    one = predictions(201, dataset="id_val")  # odd, as the generator buffers half a draw
    choice, temperatures = chosen(one), {"only": np.linspace(0.5, 2, 130)}
    computations: list[Callable[[], dict]] = [
        lambda: replicates(one, temperatures, 10, 512, seed=0)["only"],
        lambda: resampled_temperatures(one, choice, 10, 130, seed=0),
    ]
    at_once = [compute() for compute in computations]
    monkeypatch.setattr(bootstrap, "MAX_WEIGHTS", 201 * rows)
    for expected, compute in zip(at_once, computations, strict=True):
        for key, values in compute().items():
            np.testing.assert_allclose(values, expected[key], rtol=1e-9, atol=1e-12)


def test_more_resamples_begin_with_those_of_fewer():
    few = resampled(predictions(), 1.0, 10, 100, seed=0)
    many = resampled(predictions(), 1.0, 10, 130, seed=0)
    assert len(many["nll"]) == 130
    np.testing.assert_allclose(many["nll"][:100], few["nll"], rtol=1e-12)
    # the second part is not the first again
    assert (many["nll"][100:] != few["nll"][:30]).any()


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32 - 1), st.floats(0.2, 10))
def test_replicates_stay_in_the_range_of_their_metric(
    n: int, n_bins: int, seed: int, temperature: float
):
    result = resampled(predictions(n, seed=seed), temperature, n_bins, 15, seed)
    slack = 1e-9
    for metric in ("accuracy", "ece", "ece_batch_mean", "mce", "mean_confidence"):
        assert not (result[metric] < -slack).any(), metric  # an MCE may be NaN
        assert not (result[metric] > 1 + slack).any(), metric
    # |signed gap| <= ECE <= mean of batches
    assert (np.abs(result["signed_gap"]) <= result["ece"] + slack).all()
    assert (result["ece"] <= result["ece_batch_mean"] + slack).all()
    assert (result["nll"] >= 0).all()
    assert (result["brier"] <= 2 + slack).all()


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95.0, float("nan")])
def test_a_level_outside_zero_and_one_is_refused(level: float):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got"):
        normal_interval(0.0, np.zeros(3), level)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    st.floats(0.01, 0.5),
    st.floats(0.5, 0.99),
)
def test_a_higher_level_gives_a_wider_interval(values: list[float], less: float, more: float):
    low, high = normal_interval(0.0, np.array(values), less)
    lower, higher = normal_interval(0.0, np.array(values), more)
    assert lower <= low <= high <= higher


def test_intervals_of_an_accuracy_cover_it_about_as_often_as_their_level_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        one = of_each_sample(list(generator.random(200) < 0.7), 0.8)
        accuracy = resampled(one, 1.0, 10, 200, seed=trial)["accuracy"]
        low, high = normal_interval(one.confidences()[1].mean(), accuracy, 0.9)
        covered += low <= 0.7 <= high
    # 90 % of 200 = 180, standard deviation sqrt(200 * .9 * .1) = 4.2
    assert 165 <= covered <= 195


def test_a_normal_interval_by_hand():
    # standard deviation of 0, .1, .2: .1; 1.6449 of them to either side cover 90 %
    assert normal_interval(0.5, np.array([0.0, 0.1, 0.2]), 0.9) == pytest.approx(
        (0.5 - 0.16449, 0.5 + 0.16449), abs=1e-5
    )
    assert np.isnan(normal_interval(0.5, np.array([0.0, np.nan]), 0.9)).all()


def test_an_interval_of_an_ece_at_its_floor_holds_it_though_no_replicate_is_below():
    resamples = resampled(of_each_sample([True] * 300 + [False] * 100, 0.75), 1.0, 10, 300, seed=0)
    low, high = normal_interval(0.0, resamples["ece"], 0.95)
    assert resamples["ece"].min() > 0
    assert low < 0 < high


def miscalibrated(n: int, seed: int) -> Predictions:
    """Five classes; a mean confidence .08 above the accuracy."""
    return whole(*sharpened_logits(n, 5, seed, 1.6), "r")


@pytest.mark.parametrize("n", [60, 500, 5000])
def test_intervals_of_an_ece_cover_its_expected_value(n: int):
    eces, intervals = [], []
    for trial in range(200):
        one = miscalibrated(n, trial)
        ece = BinStats.from_logits(one.logits, one.labels, 10).ece()
        eces.append(ece)
        intervals.append(normal_interval(ece, resampled(one, 1.0, 10, 60, trial)["ece"], 0.95))
    low, high = np.array(intervals).T
    covered = ((low <= np.mean(eces)) & (np.mean(eces) <= high)).mean()
    # 95 % of 200 trials, standard deviation 1.5 %: within three of them
    assert 0.905 <= covered <= 0.995


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
    again = {("r", "none"): {"ece": np.array([0.0, 0.1, 0.2]), "mce": np.zeros(3)}}
    table = table_with_intervals(values, again, 0.9)
    interval = normal_interval(0.5, again["r", "none"]["ece"], 0.9)
    assert list(table) == ["dataset", "calibration", "metric", "value", "low", "high"]
    assert table.iloc[0].tolist() == ["r", "none", "ece", 0.5, *interval]
    assert table["metric"].tolist() == ["ece", "p", "ece"]
    assert table[["low", "high"]].isna().all(axis=1).tolist() == [False, True, True]
