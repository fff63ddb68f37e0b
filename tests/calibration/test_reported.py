"""The metrics and temperatures that are reported, by name."""

from pathlib import Path

import numpy as np
import pytest
from random_logits import sharpened_logits
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from carot_lib.calibration.bin_stats import MIN_BIN_COUNT
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import CHOSEN, measure, temperature_of
from carot_lib.evaluation import TemperatureParams, load_evaluation
from carot_lib.layout import Layout

PARAMS = load_evaluation(Layout(Path(__file__).parents[2], "miniature")).model_copy(
    update={
        "temperature": TemperatureParams(low=0.5, high=10.0, step=0.25),
        "batch_mean_size": 2,
    }
)


def of(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    return Predictions(logits, labels, LabelSpace.identity(logits.shape[1]), "id_val", "abc")


def two_class(confidences: list[float], right: list[int]) -> Predictions:
    """Class 0 always predicted, with these confidences, and whether it was right."""
    first = np.array(confidences)
    return of(np.log(np.stack([first, 1 - first], axis=1)), 1 - np.array(right))


def sample(n: int = 300, seed: int = 0) -> Predictions:
    """An over-confident classifier that also likes some classes too much."""
    logits, labels = sharpened_logits(n, 5, seed)
    return of(logits + np.linspace(-1, 1, 5), labels)


def test_each_name_is_the_metric_of_that_name_by_hand():
    four = two_class([0.6, 0.8, 0.7, 0.9], [1, 1, 0, 1])
    values = measure(four, 1.0, PARAMS)
    expected = {
        "accuracy": 0.75,
        "ece": (0.4 + 0.2 + 0.7 + 0.1) / 4,  # right but for the third
        "rmsce_debiased": 0.0,  # no bin has two samples
        # sqrt(2 / pi) of the deviations sqrt(.24), sqrt(.16), sqrt(.21), sqrt(.09)
        "ece_noise_floor": (2 / np.pi) ** 0.5 * np.sqrt([0.24, 0.16, 0.21, 0.09]).mean(),
        "mce": np.nan,  # no bin has enough samples
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
    assert values == pytest.approx(expected, abs=1e-9, nan_ok=True)
    many = two_class([0.6, 0.8, 0.7, 0.9] * MIN_BIN_COUNT, [1, 1, 0, 1] * MIN_BIN_COUNT)
    assert measure(many, 1.0, PARAMS)["mce"] == pytest.approx(0.7)


def test_a_temperature_divides_the_logits_of_every_metric():
    predictions = sample()
    scaled = of(predictions.class_logits / 2.5, predictions.labels)
    assert measure(predictions, 2.5, PARAMS) == pytest.approx(measure(scaled, 1.0, PARAMS))


@pytest.mark.parametrize("name", [*CHOSEN, "oracle"])
def test_a_temperature_moves_the_confidence_to_the_accuracy(name: str):
    # .9 for all, three of four right; at temperature 2: 1 / (1 + sqrt(1 / 9)) = .75
    assert temperature_of(name, two_class([0.9] * 4, [1, 1, 1, 0]), PARAMS) == pytest.approx(2)


def test_every_calibration_has_the_least_of_its_criterion():
    predictions = sample(200, seed=2)
    assert temperature_of("none", predictions, PARAMS) == 1
    measured = {t: measure(predictions, t, PARAMS) for t in np.arange(2, 41) / 4}
    for name, metric in (("temperature", "ece"), ("oracle", "ece"), ("temperature_nll", "nll")):
        least = min(measured, key=lambda t: measured[t][metric])
        assert temperature_of(name, predictions, PARAMS) == pytest.approx(least, abs=0.25)
    with pytest.raises(ValueError, match="no calibration 'platt'; there are: none, temperature, "):
        temperature_of("platt", predictions, PARAMS)


@pytest.mark.parametrize("name", CHOSEN)
def test_it_removes_most_of_the_error_of_an_over_confident_classifier(name: str):
    temperature, others = temperature_of(name, sample(5000), PARAMS), sample(5000, seed=1)
    before, after = (measure(others, t, PARAMS) for t in (1.0, temperature))
    assert before["ece"] > 0.1
    assert after["ece"] < 0.3 * before["ece"]
    assert after["nll"] < before["nll"]


@pytest.mark.parametrize(("right", "expected"), [(0, 10.0), (1, 0.5)], ids=["wrong", "right"])
@pytest.mark.parametrize("name", CHOSEN)
def test_all_right_or_all_wrong_gives_the_ends(name: str, right: int, expected: float):
    predictions = two_class([0.6, 0.7, 0.8, 0.9], [right] * 4)
    assert temperature_of(name, predictions, PARAMS) == pytest.approx(expected)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_classifier_of_one_class_keeps_its_temperature(name: str):
    assert temperature_of(name, of(np.array([[1.0], [2.0]]), np.array([0, 0])), PARAMS) == 1


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
    temperature = temperature_of("temperature_nll", predictions, PARAMS)
    expected = theirs.predict_proba(others.logits).max(axis=1)
    np.testing.assert_allclose(others.confidences(temperature)[0], expected, atol=1e-4)
