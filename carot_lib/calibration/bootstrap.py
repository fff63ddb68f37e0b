"""Intervals by resampling images, paired across runs.

The weights of a resample depend on the seed, the set's name and the number of its images only. So
two runs judged on one set are judged on the same resamples, and the difference of their replicates
is a paired bootstrap, which is sharper than two separate intervals. That needs the same images in
the same order: `carot_lib.calibration.predictions.check_same_images` refuses others.

Near its noise floor an ECE is biased upwards, and each resample adds noise of its own: there a
percentile interval covers the true value less often than its level says (88 % instead of 95 % at a
true gap of .02 and 7,500 images). Read it beside the noise floor.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import combine_pvalues

from carot_lib.calibration.bin_stats import bin_of
from carot_lib.calibration.metrics import brier_of_samples, nll_of_samples
from carot_lib.calibration.predictions import Calibrated, Predictions

AT_ONCE = 100  # resamples in memory at a time
METRICS = ("accuracy", "ece", "mce", "signed_gap", "mean_confidence", "nll", "brier")

Values = Mapping[str, float | Float[np.ndarray, " resamples"]]  # by metric


def replicates(
    predictions: Predictions,
    calibrated: Mapping[str, Calibrated],
    n_bins: int,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Float[np.ndarray, " resamples"]]]:
    """Each metric of METRICS on resampled images, for several calibrations of one run on one set.

    Args:
        predictions: whose images are resampled.
        calibrated: what became of them, by name.
        n_bins: bins of the calibration errors.
        resamples: number of resamples, each as large as the set.
        seed: the same for all runs that are to be compared.

    Returns:
        By name and metric; without `nll` and `brier` where there are no logits.
    """
    labels = predictions.labels
    columns = {name: _columns(one, labels, n_bins) for name, one in calibrated.items()}
    table = np.column_stack(list(columns.values()))
    weights = _weights(len(labels), resamples, seed, predictions.dataset)
    means = np.concatenate([part @ table for part in weights]) / len(labels)
    ends = np.cumsum([part.shape[1] for part in columns.values()])
    parts = np.split(means, ends[:-1], axis=1)
    return {name: _metrics(part, n_bins) for name, part in zip(columns, parts, strict=True)}


def mean_over_sets(sets: Sequence[Values]) -> dict[str, float | Float[np.ndarray, " resamples"]]:
    """Unweighted mean over sets of each metric; sets are never pooled.

    A p-value has no mean: `ece_p_value` becomes that of "calibrated on every one of the sets", by
    Fisher's method, as the sets are independent.
    """
    means = {key: sum(one[key] for one in sets) / len(sets) for key in sets[0]}
    if "ece_p_value" in means:
        means["ece_p_value"] = float(combine_pvalues([one["ece_p_value"] for one in sets]).pvalue)
    return means


def table_with_intervals(
    values: Mapping[tuple[str, str], Values],
    resampled: Mapping[tuple[str, str], Values],
    level: float,
) -> pd.DataFrame:
    """The long table of metrics: columns dataset, calibration, metric, value, low, high.

    Args:
        values: of each metric, by set and calibration.
        resampled: the replicates of those that have an interval, NaN for the others.
        level: of the intervals.
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
    """Middle part of the replicates that holds `level` of them.

    Raises:
        ValueError: level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _columns(
    calibrated: Calibrated, labels: np.ndarray, n_bins: int
) -> Float[np.ndarray, "samples columns"]:
    """What a weighted mean over samples turns into every metric."""
    confidences, correct = calibrated.confidences, calibrated.correct
    in_bin = np.eye(n_bins)[bin_of(confidences, n_bins)]
    columns = [in_bin * (confidences - correct)[:, None], in_bin, correct, confidences]
    if calibrated.logits is not None:
        columns.append(nll_of_samples(calibrated.logits, labels))
        columns.append(brier_of_samples(calibrated.logits, labels))
    return np.column_stack(columns)


def _metrics(
    means: Float[np.ndarray, "resamples columns"], n_bins: int
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Every metric of resamples, from the means of `_columns`."""
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


def _weights(
    n: int, resamples: int, seed: int, dataset: str
) -> Iterator[Float[np.ndarray, "part samples"]]:
    """How often each image stands in each resample, some resamples at a time."""
    generator = np.random.default_rng([seed, zlib.crc32(dataset.encode())])
    for start in range(0, resamples, AT_ONCE):
        part = min(AT_ONCE, resamples - start)
        drawn = generator.integers(n, size=(part, n))
        yield np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
