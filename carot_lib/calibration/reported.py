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
from carot_lib.evaluation import EvaluationParams

CALIBRATIONS = ("temperature", "temperature_nll", "vector", "histogram", "isotonic")


def measure(
    calibrated: Calibrated, predictions: Predictions, params: EvaluationParams
) -> dict[str, float]:
    """Every metric of one run on one set; those of logits only where the calibration keeps them."""
    stats = BinStats.from_confidences(calibrated.confidences, calibrated.correct, params.n_bins)
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
        logits, labels = calibrated.logits, predictions.labels
        size, n_bins = params.batch_mean_size, params.n_bins
        values |= {
            "ece_batch_mean": ece_batch_mean(logits, labels, batch_size=size, n_bins=n_bins),
            "nll": nll(logits, labels),
            "brier": brier(logits, labels),
            "aurc": aurc(logits, labels),
        }
    return values


def fit_calibrator(
    calibration: str, predictions: Predictions, params: EvaluationParams
) -> Calibrator:
    """Fit one of `CALIBRATIONS` on a set.

    `temperature` is the paper's, chosen by ECE (Section A.1), `temperature_nll` that of Guo et al.
    2017, chosen by NLL.

    Raises:
        KeyError: there is no such calibration.
    """
    grid = {**params.temperature.model_dump(), "n_bins": params.n_bins}
    return {
        "temperature": lambda: Temperature.fit(predictions, criterion="ece", **grid),
        "temperature_nll": lambda: Temperature.fit(predictions, criterion="nll", **grid),
        "vector": lambda: VectorScaling.fit(predictions),
        "histogram": lambda: HistogramBinning.fit(predictions, params.n_bins),
        "isotonic": lambda: Isotonic.fit(predictions),
    }[calibration]()
