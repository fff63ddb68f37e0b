"""Intervals by resampling images, paired across runs.

The weights of a resample depend on the seed, the set's name and the number of its images only. So
two runs judged on one set are judged on the same resamples, and the difference of their replicates
is a paired bootstrap, which is sharper than two separate intervals.

Near its noise floor an ECE is biased upwards, and each resample adds noise of its own: there a
percentile interval covers the true value less often than its level says (88 % instead of 95 % at a
true gap of .02 and 7,500 images). Read it beside the noise floor.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from carot_lib.bin_stats import bin_of
from carot_lib.metrics import brier_of_samples, nll_of_samples
from carot_lib.predictions import Predictions

AT_ONCE = 100  # resamples in memory at a time
METRICS = ("accuracy", "ece", "mce", "signed_gap", "mean_confidence", "nll", "brier")


def replicates(
    predictions: Predictions, temperature: float, n_bins: int, resamples: int, seed: int
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Each metric of METRICS on resampled images.

    Args:
        predictions: of one run on one set.
        temperature: divides the logits.
        n_bins: bins of the calibration errors.
        resamples: number of resamples, each as large as the set.
        seed: the same for all runs that are to be compared.
    """
    confidences, correct = predictions.confidences(temperature)
    logits, labels = predictions.logits / np.float32(temperature), predictions.labels
    columns = _columns(
        confidences,
        correct,
        nll_of_samples(logits, labels),
        brier_of_samples(logits, labels),
        n_bins,
    )
    sums = np.concatenate(
        [
            weights @ columns
            for weights in _weights(len(labels), resamples, seed, predictions.dataset)
        ]
    )
    means = sums[:, :4].T / len(labels)
    gaps, counts = sums[:, 4 : 4 + n_bins], sums[:, 4 + n_bins :]
    return {
        "accuracy": means[0],
        "ece": np.abs(gaps).sum(axis=1) / len(labels),
        "mce": (np.abs(gaps) / np.maximum(counts, 1)).max(axis=1),
        "signed_gap": means[1] - means[0],
        "mean_confidence": means[1],
        "nll": means[2],
        "brier": means[3],
    }


def percentile_interval(
    values: Float[np.ndarray, " resamples"], level: float
) -> tuple[float, float]:
    """Middle part of the replicates that holds `level` of them.

    Raises:
        ValueError: level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _columns(
    confidences: Float[np.ndarray, " samples"],
    correct: Bool[np.ndarray, " samples"],
    nll: Float[np.ndarray, " samples"],
    brier: Float[np.ndarray, " samples"],
    n_bins: int,
) -> Float[np.ndarray, "samples columns"]:
    """What a weighted sum over samples turns into every metric: means, then gaps, then counts."""
    in_bin = np.eye(n_bins)[bin_of(confidences, n_bins)]
    gaps = in_bin * (confidences - correct)[:, None]
    return np.column_stack([correct, confidences, nll, brier, gaps, in_bin])


def _weights(
    n: int, resamples: int, seed: int, dataset: str
) -> Iterator[Float[np.ndarray, "part samples"]]:
    """How often each image stands in each resample, some resamples at a time."""
    generator = np.random.default_rng([seed, zlib.crc32(dataset.encode())])
    for start in range(0, resamples, AT_ONCE):
        part = min(AT_ONCE, resamples - start)
        drawn = generator.integers(n, size=(part, n))
        yield np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
