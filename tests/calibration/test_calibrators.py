"""Post-hoc calibrators: by hand, as properties, against other libraries, and on bad input."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_logits import sharpened_logits
from scipy.optimize import approx_fprime
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from carot_lib.calibration import metrics
from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.calibrators import (
    Calibrator,
    HistogramBinning,
    Isotonic,
    Temperature,
    VectorScaling,
    vector_nll,
)
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.metrics import nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import CALIBRATIONS, fit_calibrator, measure
from carot_lib.evaluation import EvaluationParams

PARAMS = EvaluationParams.model_validate(
    {
        "n_bins": 10,
        "ood": ["v2"],
        "extra": [],
        "temperature": {"low": 0.5, "high": 10.0, "step": 0.25},
        "bootstrap": {"resamples": 10, "level": 0.95, "seed": 0},
        "batch_mean_size": 2,
        "equivalence_margin": 0.01,
    }
)
SEEDS = st.integers(0, 2**32 - 1)


def of(logits: np.ndarray, labels: np.ndarray, space: LabelSpace | None = None) -> Predictions:
    space = space or LabelSpace.identity(logits.shape[1])
    return Predictions(logits, labels, space, "id_val", "abc")


def two_class(confidences: list[float], right: list[int]) -> Predictions:
    """Class 0 always predicted, with these confidences, and whether it was right."""
    first = np.array(confidences)
    return of(np.log(np.stack([first, 1 - first], axis=1)), 1 - np.array(right))


def sample(n: int = 300, classes: int = 5, seed: int = 0, sharpness: float = 2.0) -> Predictions:
    """An over-confident classifier that also likes some classes too much."""
    logits, labels = sharpened_logits(n, classes, seed, sharpness)
    return of(logits + np.linspace(-1, 1, classes), labels)


def all_fitted(predictions: Predictions) -> dict[str, Calibrator]:
    return {name: fit_calibrator(name, predictions, PARAMS) for name in CALIBRATIONS}


# By hand


@pytest.mark.parametrize("name", ["temperature", "temperature_nll"])
def test_a_temperature_moves_the_confidence_to_the_accuracy(name: str):
    # .9 for all, three of four right; at temperature 2: 1 / (1 + sqrt(1 / 9)) = .75
    calibrator = fit_calibrator(name, two_class([0.9] * 4, [1, 1, 1, 0]), PARAMS)
    assert calibrator.temperature == pytest.approx(2)
    calibrated = calibrator.apply(two_class([0.9, 0.5], [0, 1]))
    assert calibrated.confidences == pytest.approx([0.75, 0.5])
    assert calibrated.correct.tolist() == [False, True]


def test_bins_of_equal_mass_give_their_accuracy_and_equal_confidences_stay_together():
    # (.6 right, .7 wrong): 1/2; (.8 right, .9 right): 1; the edge .7 belongs to the lower bin
    calibrator = HistogramBinning.fit(two_class([0.9, 0.6, 0.8, 0.7], [1, 1, 1, 0]), 2)
    assert calibrator.edges == pytest.approx([0.7])
    assert calibrator.accuracies.tolist() == [0.5, 1.0]
    calibrated = calibrator.apply(two_class([0.51, 0.69, 0.71, 0.99], [0, 1, 0, 1]))
    assert calibrated.confidences.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert calibrated.correct.tolist() == [False, True, False, True]
    assert calibrated.logits is None
    # two bins of four samples would cut the block of three .6; it goes whole into the lower one
    for right in ([1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]):
        calibrator = HistogramBinning.fit(two_class([0.6, 0.6, 0.6, 0.9], right), 2)
        assert calibrator.accuracies == pytest.approx([1 / 3, 1])


def test_rising_function_pools_what_falls_and_is_linear_between_samples():
    # .6 right and .7 wrong fall, so both get 1/2; .8 right: 1; half way from .7 to .8: 3/4
    calibrator = Isotonic.fit(two_class([0.6, 0.7, 0.8], [1, 0, 1]))
    calibrated = calibrator.apply(two_class([0.55, 0.65, 0.7, 0.75, 0.8, 0.95], [1] * 6))
    assert calibrated.confidences == pytest.approx([0.5, 0.5, 0.5, 0.75, 1, 1])
    assert calibrated.logits is None


def test_vector_scaling_can_change_the_prediction():
    # (2 * 1 + 0, 1 * 0 + 3) = (2, 3): class 1, with 1 / (1 + exp(-1)) = .7311
    calibrator = VectorScaling(np.array([2.0, 1.0]), np.array([0.0, 3.0]))
    calibrated = calibrator.apply(of(np.array([[1.0, 0.0]]), np.array([1])))
    assert calibrated.confidences == pytest.approx([0.7311], abs=5e-5)
    assert calibrated.correct.tolist() == [True]
    assert calibrated.logits.tolist() == [[2.0, 3.0]]


def test_vector_scaling_comes_before_the_label_space():
    # own class 0 is 0 or 2: scaled logits (1, 5, 3 - 4) give max(1, -1) = 1 and 5; the label
    # space first would give 3 - 4 = -1, for class 2 has the larger logit as it is
    space = LabelSpace(3, ((0, 2), (1,)))
    calibrator = VectorScaling(np.ones(3), np.array([0.0, 0.0, -4.0]))
    calibrated = calibrator.apply(of(np.array([[1.0, 5.0, 3.0]]), np.array([1]), space))
    assert calibrated.logits.tolist() == [[1.0, 5.0]]


def test_vector_nll_by_hand():
    # scores (log 3, 0): probabilities 3/4 and 1/4; label 1: NLL log 4. Gradient of the scores
    # (3/4, 1/4 - 1); of the factors times the logits (log 3, 0), of the offsets as it is.
    logits, labels = np.array([[np.log(3), 0.0]]), np.array([1])
    value, gradient = vector_nll(np.array([1.0, 1.0, 0.0, 0.0]), logits, labels)
    assert value == pytest.approx(np.log(4))
    assert gradient == pytest.approx([0.75 * np.log(3), 0, 0.75, -0.75])


# Properties


@given(SEEDS, st.integers(1, 80), st.integers(2, 6), st.floats(0.1, 5))
def test_all_but_vector_scaling_keep_the_class(seed: int, n: int, classes: int, sharpness: float):
    fitted = all_fitted(sample(n, classes, seed, sharpness))
    others = sample(50, classes, seed + 1, sharpness)
    for name in ("temperature", "temperature_nll", "histogram", "isotonic"):
        calibrated = fitted[name].apply(others)
        np.testing.assert_array_equal(calibrated.correct, others.confidences()[1])


@given(SEEDS, st.integers(1, 80), st.integers(1, 6), st.floats(0.05, 30))
def test_confidences_stay_between_zero_and_one(seed: int, n: int, classes: int, sharpness: float):
    for calibrator in all_fitted(sample(n, classes, seed, sharpness)).values():
        confidences = calibrator.apply(sample(50, classes, seed + 1, sharpness)).confidences
        assert ((confidences >= 0) & (confidences <= 1)).all()


@given(SEEDS, st.integers(10, 200), st.integers(1, 10))
def test_bins_hold_equally_many_distinct_samples(seed: int, n: int, n_bins: int):
    predictions = sample(n, seed=seed)
    calibrator = HistogramBinning.fit(predictions, n_bins)
    counts = np.bincount(np.searchsorted(calibrator.edges, predictions.confidences()[0]))
    assert len(counts) == n_bins
    assert counts.max() - counts.min() <= 1


@given(SEEDS, st.integers(1, 80))
def test_isotonic_rises_and_keeps_the_mean_on_its_own_samples(seed: int, n: int):
    predictions = sample(n, seed=seed)
    calibrated = Isotonic.fit(predictions).apply(predictions)
    rising = calibrated.confidences[np.argsort(predictions.confidences()[0])]
    assert (np.diff(rising) >= -1e-12).all()
    assert calibrated.confidences.mean() == pytest.approx(calibrated.correct.mean(), abs=1e-9)


@given(SEEDS, st.integers(5, 200), st.integers(2, 6), st.floats(0.2, 5))
def test_vector_scaling_fits_at_least_as_well_as_a_temperature(
    seed: int, n: int, classes: int, sharpness: float
):
    predictions = sample(n, classes, seed, sharpness)
    scaled = VectorScaling.fit(predictions).apply(predictions).logits
    cooled = fit_calibrator("temperature_nll", predictions, PARAMS).apply(predictions).logits
    assert nll(scaled, predictions.labels) <= nll(cooled, predictions.labels) + 1e-6


@pytest.mark.parametrize("name", ["temperature", "vector", "histogram", "isotonic"])
def test_each_removes_most_of_the_error_of_an_over_confident_classifier(name: str):
    calibrator, others = all_fitted(sample(5000))[name], sample(5000, seed=1)
    before = BinStats.from_confidences(*others.confidences()).ece()
    calibrated = calibrator.apply(others)
    after = BinStats.from_confidences(calibrated.confidences, calibrated.correct)
    assert before > 0.1
    assert after.ece() < 0.3 * before
    if calibrated.logits is not None:
        assert nll(calibrated.logits, others.labels) < nll(others.logits, others.labels)


def test_nothing_given_is_changed():
    predictions = sample()
    before = predictions.class_logits.copy(), predictions.labels.copy()
    for calibrator in all_fitted(predictions).values():
        calibrator.apply(predictions)
    np.testing.assert_array_equal(predictions.class_logits, before[0])
    np.testing.assert_array_equal(predictions.labels, before[1])


# Other libraries


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose input are its logits."""

    def __init__(self, classes: int = 5):
        self.classes_ = np.arange(classes)

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Given":
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_temperature_by_nll_agrees_with_scikit_learn(seed: int):
    predictions, others = sample(seed=seed), sample(seed=seed + 10)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given()), method="temperature")
    theirs.fit(predictions.logits, predictions.labels)
    ours = fit_calibrator("temperature_nll", predictions, PARAMS).apply(others)
    expected = theirs.predict_proba(others.logits).max(axis=1)
    np.testing.assert_allclose(ours.confidences, expected, atol=1e-4)


def evenly(n: int, seed: int) -> Predictions:
    """Confidences .5 / n, 1.5 / n, ...: bins of equal mass are those of equal width."""
    generator = np.random.default_rng(seed)
    confidences = (generator.permutation(n) + 0.5) / n
    classes = 2 * n + 1  # so many that even the least confidence is that of the largest logit
    logits = np.log(np.repeat((1 - confidences[:, None]) / (classes - 1), classes, axis=1))
    logits[:, 0] = np.log(confidences)
    return of(logits, (generator.random(n) > confidences**2).astype(int))


@pytest.mark.parametrize("seed", range(3))
def test_histogram_agrees_with_netcal(netcal_binning, seed: int):
    # theirs has bins of equal width only
    predictions, others = evenly(200, seed), evenly(200, seed + 10)
    confidences, correct = predictions.confidences()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # netcal's own
        theirs = netcal_binning.HistogramBinning(bins=10).fit(confidences, correct.astype(int))
        expected = theirs.transform(others.confidences()[0])
    ours = HistogramBinning.fit(predictions, 10).apply(others)
    np.testing.assert_allclose(ours.confidences, expected, atol=1e-12)


@given(SEEDS, st.integers(1, 20), st.integers(1, 4))
def test_gradient_agrees_with_finite_differences(seed: int, n: int, classes: int):
    predictions = sample(n, classes, seed)
    logits, labels = predictions.class_logits, predictions.labels
    at = np.random.default_rng(seed).normal(size=2 * classes)
    _, gradient = vector_nll(at, logits, labels)
    numeric = approx_fprime(at, lambda x: vector_nll(x, logits, labels)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_of_vector_scaling_agrees_with_torch(seed: int):
    predictions = sample(2000, seed=seed)
    logits, labels = torch.tensor(predictions.class_logits), torch.tensor(predictions.labels)
    scale = torch.ones(5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scale, bias],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(logits * scale + bias, labels)
        value.backward()
        return value

    optimiser.step(loss)
    ours = VectorScaling.fit(predictions)
    np.testing.assert_allclose(ours.scale, scale.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.bias, bias.detach().numpy(), atol=1e-5)
    with torch.no_grad():  # and autograd finds no slope where we stopped
        scale.copy_(torch.tensor(ours.scale))
        bias.copy_(torch.tensor(ours.bias))
    loss()
    assert max(scale.grad.abs().max(), bias.grad.abs().max()) < 1e-6


# By name


def test_each_name_is_the_metric_of_that_name_by_hand():
    four = two_class([0.6, 0.8, 0.7, 0.9], [1, 1, 0, 1])
    values = measure(four.calibrated(), four, PARAMS)
    expected = {
        "accuracy": 0.75,
        "ece": (0.4 + 0.2 + 0.7 + 0.1) / 4,  # right but for the third
        "ece_debiased": 0.0,  # no bin has two samples
        # sqrt(2 / pi) of the deviations sqrt(.24), sqrt(.16), sqrt(.21), sqrt(.09)
        "ece_noise_floor": (2 / np.pi) ** 0.5 * np.sqrt([0.24, 0.16, 0.21, 0.09]).mean(),
        "mce": 0.7,
        "signed_gap": 0.0,
        "mean_confidence": 0.75,
        # in the order of classes the batches are (.6, .8), both right, and (.9, right; .7, wrong)
        "ece_batch_mean": ((0.4 + 0.2) / 2 + (0.1 + 0.7) / 2) / 2,
        "nll": -np.log([0.6, 0.8, 0.3, 0.9]).mean(),
        "brier": 2 * (0.4**2 + 0.2**2 + 0.7**2 + 0.1**2) / 4,  # twice what the label lacks, squared
        "aurc": (0 + 0 + 1 / 3 + 1 / 4)
        / 4,  # most sure first: 0 of 1 wrong, 0 of 2, 1 of 3, 1 of 4
    }
    assert 0 < values.pop("ece_p_value") <= 1
    assert values == pytest.approx(expected, abs=1e-9)
    alone = measure(HistogramBinning.fit(four, 2).apply(four), four, PARAMS)
    assert set(values) - set(alone) == {"ece_batch_mean", "nll", "brier", "aurc"}


def test_every_calibration_is_the_calibrator_of_its_name():
    predictions = sample(200, seed=2)
    fitted = all_fitted(predictions)
    kinds = [Temperature, Temperature, VectorScaling, HistogramBinning, Isotonic]
    assert [type(one) for one in fitted.values()] == kinds
    for name, metric in (("temperature", "ece"), ("temperature_nll", "nll")):
        logits, labels = predictions.logits, predictions.labels
        values = {t: getattr(metrics, metric)(logits / t, labels) for t in np.arange(2, 41) / 4}
        assert fitted[name].temperature == pytest.approx(min(values, key=values.get), abs=0.25)
    with pytest.raises(ValueError, match="no calibration 'platt'; there are: temperature, "):
        fit_calibrator("platt", predictions, PARAMS)


# Bad input


@pytest.mark.parametrize("right", [0, 1], ids=["all wrong", "all right"])
def test_all_right_or_all_wrong_gives_the_ends(right: int):
    predictions = two_class([0.6, 0.7, 0.8, 0.9], [right] * 4)
    for name, calibrator in all_fitted(predictions).items():
        confidences = calibrator.apply(predictions).confidences
        if name in ("histogram", "isotonic"):
            assert confidences.tolist() == [right] * 4
        elif name == "vector":  # learns that it is always class 0, or class 1
            assert (confidences > 0.99).all()
            assert calibrator.apply(predictions).correct.all()
        else:
            assert calibrator.temperature == pytest.approx(0.5 if right else 10.0)


def test_a_constant_confidence_becomes_the_accuracy():
    predictions = two_class([0.9] * 6, [1, 1, 1, 0, 0, 0])
    for name, calibrator in all_fitted(predictions).items():
        confidences = calibrator.apply(predictions).confidences
        # no temperature of the range reaches 1/2: 9 ** (1 / 10) = 1.246, 1.246 / 2.246 = .555
        expected = 0.555 if name.startswith("temperature") else 0.5
        assert confidences == pytest.approx([expected] * 6, abs=1e-3), name


@pytest.mark.parametrize("n", [1, 3])
def test_fewer_samples_than_bins_have_a_bin_each(n: int):
    predictions = two_class([0.6, 0.7, 0.8][:n], [1, 0, 1][:n])
    calibrator = HistogramBinning.fit(predictions, 10)
    assert calibrator.apply(predictions).confidences.tolist() == [1.0, 0.0, 1.0][:n]
    assert len(calibrator.accuracies) == n


def test_a_classifier_of_one_class_is_always_right_and_sure():
    predictions = of(np.array([[1.0], [2.0]]), np.array([0, 0]))
    for calibrator in all_fitted(predictions).values():
        assert calibrator.apply(predictions).confidences.tolist() == [1.0, 1.0]


def test_a_class_without_samples_becomes_unlikely_and_nothing_overflows():
    predictions = sample(200)
    few = of(predictions.logits, np.where(predictions.labels == 4, 0, predictions.labels))
    calibrated = VectorScaling.fit(few).apply(few)
    assert np.isfinite(calibrated.logits).all()
    assert (calibrated.logits.argmax(axis=1) != 4).all()


def test_logits_of_any_size_are_fitted():
    for factor in (1e-3, 1e3):
        predictions = of(factor * sample().logits, sample().labels)
        scaled = VectorScaling.fit(predictions).apply(predictions)
        usual = VectorScaling.fit(sample()).apply(sample())
        np.testing.assert_allclose(scaled.confidences, usual.confidences, atol=1e-3)


def test_vector_scaling_is_not_fitted_on_some_of_the_classes():
    predictions = of(np.zeros((2, 3)), np.array([0, 1]), LabelSpace(3, ((0,), (2,))))
    with pytest.raises(ValueError, match="needs all classes, but id_val has a label space"):
        VectorScaling.fit(predictions)


def test_vector_scaling_refuses_another_classifier():
    with pytest.raises(ValueError, match="on id_val have 5 classes, not 3"):
        VectorScaling(np.ones(3), np.zeros(3)).apply(sample())
