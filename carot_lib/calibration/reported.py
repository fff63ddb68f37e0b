"""The metrics and calibrations that are reported of each run on each set, by name."""

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.calibrators import (
    Calibrator,
    HistogramBinning,
    Isotonic,
    Temperature,
    VectorScaling,
)
from carot_lib.calibration.metrics import aurc, brier, ece_batch_mean, nll
from carot_lib.calibration.predictions import Calibrated, Predictions
from carot_lib.calibration.temperature import (
    TemperatureChoice,
    select_temperature,
    temperature_of_least_nll,
)
from carot_lib.evaluation import EvaluationParams

CALIBRATIONS = ("temperature", "temperature_nll", "vector", "histogram", "isotonic")


def measure(
    calibrated: Calibrated, predictions: Predictions, params: EvaluationParams
) -> dict[str, float]:
    """Every metric of one run on one set; those of logits only where the calibration keeps them."""
    n_bins = params.n_bins
    stats = BinStats.from_confidences(calibrated.confidences, calibrated.correct, n_bins)
    values = {
        "accuracy": stats.mean_accuracy(),
        "ece": stats.ece(),
        "ece_debiased": stats.ece_debiased(),
        "ece_noise_floor": stats.noise_floor(),
        "ece_p_value": stats.p_value(params.bootstrap.seed),
        "mce": stats.mce(),
        "signed_gap": stats.signed_gap(),
        "mean_confidence": stats.mean_confidence(),
    }
    if calibrated.logits is not None:
        both, size = (calibrated.logits, predictions.labels), params.batch_mean_size
        values["ece_batch_mean"] = ece_batch_mean(*both, batch_size=size, n_bins=n_bins)
        values |= {"nll": nll(*both), "brier": brier(*both), "aurc": aurc(*both)}
    return values


def choose_temperature(predictions: Predictions, params: EvaluationParams) -> TemperatureChoice:
    """The temperature with the least ECE on a set, as in the paper (Section A.1)."""
    grid = params.temperature.model_dump()
    return select_temperature(predictions.logits, predictions.labels, **grid, n_bins=params.n_bins)


def fit_calibrator(
    calibration: str, predictions: Predictions, params: EvaluationParams
) -> Calibrator:
    """Fit one of `CALIBRATIONS` on a set.

    `temperature` is the paper's, chosen by ECE, `temperature_nll` that of Guo et al. 2017, chosen
    by NLL.

    Raises:
        ValueError: there is no such calibration.
    """
    match calibration:
        case "temperature":
            return Temperature(choose_temperature(predictions, params).temperature)
        case "temperature_nll":
            low, high = params.temperature.low, params.temperature.high
            logits, labels = predictions.logits, predictions.labels
            return Temperature(temperature_of_least_nll(logits, labels, low, high))
        case "vector":
            return VectorScaling.fit(predictions)
        case "histogram":
            return HistogramBinning.fit(predictions, params.n_bins)
        case "isotonic":
            return Isotonic.fit(predictions)
    raise ValueError(f"no calibration {calibration!r}; there are: {', '.join(CALIBRATIONS)}")
