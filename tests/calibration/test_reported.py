"""What is reported, by name: against a hand computation and the metrics' own functions."""

import numpy as np
import pytest

from carot_lib.calibration import metrics
from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.calibrators import HistogramBinning, Isotonic, Temperature, VectorScaling
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import CALIBRATIONS, fit_calibrator, measure
from carot_lib.evaluation import EvaluationParams

PARAMS = EvaluationParams.model_validate(
    {
        "n_bins": 10,
        "ood": ["v2"],
        "extra": [],
        "temperature": {"low": 0.5, "high": 2.0, "step": 0.1},
        "bootstrap": {"resamples": 10, "level": 0.95, "seed": 0},
        "batch_mean_size": 2,
        "equivalence_margin": 0.01,
    }
)
LOGITS = np.log([[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.9, 0.1]])
FOUR = Predictions(LOGITS, np.array([0, 0, 1, 0]), LabelSpace.identity(2), "v2", "four")


def many(seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(200, 5)) * 3
    labels = np.where(rng.random(200) < 0.6, logits.argmax(axis=1), rng.integers(5, size=200))
    return Predictions(logits, labels, LabelSpace.identity(5), "v2", "many")


def test_four_samples_by_hand():
    values = measure(FOUR.calibrated(), FOUR, PARAMS)
    # right but for the third; gaps of the bins .4, .2, .7 (wrong) and .1
    assert values["accuracy"] == 0.75
    assert values["ece"] == pytest.approx((0.4 + 0.2 + 0.7 + 0.1) / 4)
    assert values["mce"] == pytest.approx(0.7)
    assert values["mean_confidence"] == pytest.approx(0.75)
    assert values["signed_gap"] == pytest.approx(0, abs=1e-9)
    # in the order of classes the batches are (.6, .8), both right, and (.9, right; .7, wrong)
    assert values["ece_batch_mean"] == pytest.approx(((0.4 + 0.2) / 2 + (0.1 + 0.7) / 2) / 2)
    assert values["nll"] == pytest.approx(-np.log([0.6, 0.8, 0.3, 0.9]).mean())
    # twice the square of what the label lacks
    assert values["brier"] == pytest.approx(2 * (0.4**2 + 0.2**2 + 0.7**2 + 0.1**2) / 4)
    # most sure first: 0 of 1 wrong, 0 of 2, 1 of 3, 1 of 4
    assert values["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_each_name_is_the_metric_of_that_name(temperature: float):
    predictions = many(0)
    values = measure(predictions.calibrated(temperature), predictions, PARAMS)
    logits, labels = predictions.logits / temperature, predictions.labels
    for name in ("accuracy", "ece", "nll", "brier", "aurc"):
        assert values[name] == pytest.approx(getattr(metrics, name)(logits, labels)), name
    stats = BinStats.from_logits(logits, labels)
    for name in ("ece_debiased", "mce", "signed_gap"):
        assert values[name] == pytest.approx(getattr(stats, name)()), name
    assert 0 <= values["ece_p_value"] <= 1
    assert values["ece_noise_floor"] > 0


def test_a_confidence_alone_has_no_metric_of_logits():
    predictions = many(1)
    with_logits = measure(
        fit_calibrator("vector", predictions, PARAMS).apply(predictions), predictions, PARAMS
    )
    without = measure(
        fit_calibrator("isotonic", predictions, PARAMS).apply(predictions), predictions, PARAMS
    )
    assert set(with_logits) - set(without) == {"ece_batch_mean", "nll", "brier", "aurc"}


def test_every_calibration_is_the_calibrator_of_its_name():
    fitted = {name: fit_calibrator(name, many(2), PARAMS) for name in CALIBRATIONS}
    kinds = [Temperature, Temperature, VectorScaling, HistogramBinning, Isotonic]
    assert [type(one) for one in fitted.values()] == kinds
    predictions = many(2)
    for name, metric in (("temperature", "ece"), ("temperature_nll", "nll")):
        chosen = fitted[name].temperature
        values = {
            t: measure(predictions.calibrated(t), predictions, PARAMS)[metric]
            for t in np.arange(5, 21) / 10
        }
        assert chosen == pytest.approx(min(values, key=values.get)), name
    with pytest.raises(KeyError, match="platt"):
        fit_calibrator("platt", many(2), PARAMS)
