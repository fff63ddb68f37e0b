"""The metrics and temperatures that are reported of each run on each set, by name."""

import numpy as np

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.metrics import aurc, brier, ece_batch_mean, nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.temperature import (
    TemperatureChoice,
    select_temperature,
    temperature_of_least_nll,
)
from carot_lib.evaluation import EvaluationParams

CHOSEN = ("temperature", "temperature_nll")  # calibrations chosen on the validation set


def measure(
    predictions: Predictions, temperature: float, params: EvaluationParams
) -> dict[str, float]:
    """Every metric of one run on one set, its logits divided by a temperature."""
    n_bins, labels = params.n_bins, predictions.labels
    logits = predictions.logits.astype(np.float64) / temperature
    stats = BinStats.from_logits(logits, labels, n_bins)
    size = params.batch_mean_size
    return {
        "accuracy": stats.mean_accuracy(),
        "ece": stats.ece(),
        "rmsce_debiased": stats.rmsce_debiased(),
        "ece_noise_floor": stats.noise_floor(),
        "ece_p_value": stats.p_value(params.bootstrap.seed),
        "mce": stats.mce(),
        "signed_gap": stats.signed_gap(),
        "mean_confidence": stats.mean_confidence(),
        "ece_batch_mean": ece_batch_mean(logits, labels, batch_size=size, n_bins=n_bins),
        "nll": nll(logits, labels),
        "brier": brier(logits, labels),
        "aurc": aurc(logits, labels),
    }


def choose_temperature(predictions: Predictions, params: EvaluationParams) -> TemperatureChoice:
    """The temperature with the least ECE on a set, as in the paper (Section A.1)."""
    grid = params.temperature.model_dump()
    return select_temperature(predictions.logits, predictions.labels, **grid, n_bins=params.n_bins)


def temperature_of(calibration: str, predictions: Predictions, params: EvaluationParams) -> float:
    """The temperature of a calibration, chosen on a set.

    It is 1 for `none`, that of least ECE for `temperature` (the paper's) and `oracle`, and that of
    least NLL for `temperature_nll` (Guo et al. 2017). The oracle's set is the reported one itself.

    Raises:
        ValueError: there is no such calibration.
    """
    match calibration:
        case "none":
            return 1.0
        case "temperature" | "oracle":
            return choose_temperature(predictions, params).temperature
        case "temperature_nll":
            low, high = params.temperature.low, params.temperature.high
            return temperature_of_least_nll(predictions.logits, predictions.labels, low, high)
    known = ", ".join(("none", *CHOSEN, "oracle"))
    raise ValueError(f"no calibration {calibration!r}; there are: {known}")
