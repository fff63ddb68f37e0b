"""Intervals by resampling images, paired across runs.

The weights of a resample depend only on the seed, the name of the set and its number of images. So
all runs on one set are evaluated on the same resamples, and the difference of their replicates is a
paired bootstrap, which is sharper than two separate intervals. It needs the same images in the same
order: see `carot_lib.calibration.predictions.check_same_images`.

Near its noise floor an ECE is biased upwards, and each resample adds more noise: there a percentile
interval covers the true value less often than its level says (88 % instead of 95 % at a true gap of
.02 and 7,500 images). Read it together with the noise floor.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import chdtrc

from carot_lib.calibration.bin_stats import bin_of
from carot_lib.calibration.metrics import proper_scores
from carot_lib.calibration.predictions import Calibrated, Predictions
from carot_lib.calibration.scores import check_level

CHUNK_SIZE = 100  # resamples in memory at a time

Values = Mapping[str, float | Float[np.ndarray, " resamples"]]  # by metric


def replicates(
    predictions: Predictions,
    calibrated: Mapping[str, Calibrated],
    n_bins: int,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Float[np.ndarray, " resamples"]]]:
    """Metrics on resampled images, for several calibrations of one run on one set.

    Args:
        predictions: one run on one set, whose images are resampled.
        calibrated: the predictions after each calibration, by name.
        n_bins: number of bins of the calibration errors.
        resamples: number of resamples, each as large as the set.
        seed: must be the same for all runs that are to be compared.

    Returns:
        Replicates by name and metric; without `nll` and `brier` where there are no logits.
    """
    labels, n = predictions.labels, len(predictions.labels)
    columns = {name: _columns(one, labels, n_bins) for name, one in calibrated.items()}
    table = np.column_stack(list(columns.values()))
    rng = np.random.default_rng([seed, zlib.crc32(predictions.dataset.encode())])
    means = []
    for start in range(0, resamples, CHUNK_SIZE):
        drawn = rng.integers(n, size=(min(CHUNK_SIZE, resamples - start), n))
        # how often each image occurs in each resample
        weights = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
        means.append(weights @ table / n)
    ends = np.cumsum([part.shape[1] for part in columns.values()])
    parts = np.split(np.concatenate(means), ends[:-1], axis=1)
    return {name: _metrics(part, n_bins) for name, part in zip(columns, parts, strict=True)}


def mean_over_sets(sets: Sequence[Values]) -> dict[str, float | Float[np.ndarray, " resamples"]]:
    """Unweighted mean over sets of each metric; sets are never pooled.

    A p-value has no mean: `ece_p_value` becomes that of "calibrated on every one of the sets", by
    Fisher's method, as the sets are independent: -2 sum log p has 2 * sets degrees of freedom.
    """
    means = {key: sum(one[key] for one in sets) / len(sets) for key in sets[0]}
    if "ece_p_value" in means:
        statistic = -2 * np.log([one["ece_p_value"] for one in sets]).sum()
        means["ece_p_value"] = float(chdtrc(2 * len(sets), statistic))  # chi-squared, upper tail
    return means


def table_with_intervals(
    values: Mapping[tuple[str, str], Values],
    resampled: Mapping[tuple[str, str], Values],
    level: float,
) -> pd.DataFrame:
    """The long table of metrics by set and calibration; without replicates an interval is NaN.

    Its columns are dataset, calibration, metric, value, low and high; the share `level` of the
    replicates lies between the last two.
    """
    rows = []
    for place, metrics in values.items():
        for metric, value in metrics.items():
            low, high = np.nan, np.nan
            if metric in resampled.get(place, {}):
                low, high = percentile_interval(resampled[place][metric], level)
            rows.append((*place, metric, value, low, high))
    return pd.DataFrame(rows, columns=["dataset", "calibration", "metric", "value", "low", "high"])


def percentile_interval(
    values: Float[np.ndarray, " resamples"], level: float
) -> tuple[float, float]:
    """Ends of the middle part of the replicates, which holds the share `level`, in (0, 1)."""
    level = check_level(level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _columns(calibrated: Calibrated, labels: np.ndarray, n_bins: int) -> np.ndarray:
    """Numbers of each sample, [samples, columns], whose weighted means `_metrics` takes."""
    confidences, correct = calibrated.confidences, calibrated.correct
    in_bin = np.eye(n_bins)[bin_of(confidences, n_bins)]
    columns = [in_bin * (confidences - correct)[:, None], in_bin, correct, confidences]
    if calibrated.logits is not None:
        columns += proper_scores(calibrated.logits, labels)
    return np.column_stack(columns)


def _metrics(means: np.ndarray, n_bins: int) -> dict[str, np.ndarray]:
    """Every metric of the resamples, from the means of `_columns`, [resamples, columns]."""
    gaps, shares = np.abs(means[:, :n_bins]), means[:, n_bins : 2 * n_bins]
    accuracy, confidence, *losses = means[:, 2 * n_bins :].T
    return {
        "accuracy": accuracy,
        "ece": gaps.sum(axis=1),
        "mce": (gaps / np.where(shares > 0, shares, 1)).max(axis=1),
        "signed_gap": confidence - accuracy,
        "mean_confidence": confidence,
        **dict(zip(("nll", "brier"), losses, strict=False)),
    }
