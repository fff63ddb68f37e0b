"""Intervals by resampling images, paired across runs.

The weights of a resample depend only on the seed, the name of the set and its number of images. So
all runs on one set are evaluated on the same resamples, and the difference of their replicates is a
paired bootstrap, which is sharper than two separate intervals. It needs the same images in the same
order: see `carot_lib.calibration.predictions.check_same_images`. A temperature is chosen anew in
each resample of the validation set, so what its choice adds to the variance is counted.

Near its noise floor an ECE is biased upwards, and each resample adds more noise: the replicates lie
above the estimate. So an interval takes only their spread, and is centred on the estimate.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import chdtrc, ndtri

from carot_lib.calibration.bin_stats import MIN_BIN_COUNT, bin_of
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.scores import check_level
from carot_lib.calibration.softmax import SoftmaxCurves, interpolation
from carot_lib.calibration.temperature import TemperatureChoice

MAX_WEIGHTS = 2**23  # weights of images in memory at a time
BOUND_MARGIN = 1e-4  # more than the interpolation of a mean confidence is off
TEMPERATURES_AT_ONCE = 16  # of the grid: one large matrix product is faster than many
FINER = 10  # steps into which a step of the grid is divided for the temperature of least NLL

Replicates = Float[np.ndarray, " resamples"]
Values = Mapping[str, float | Replicates]  # by metric


def replicates(
    predictions: Predictions,
    temperatures: Mapping[str, Replicates],
    n_bins: int,
    batch_size: int,
    seed: int,
) -> dict[str, dict[str, Replicates]]:
    """Metrics on resampled images, for several calibrations of one run on one set.

    Args:
        predictions: one run on one set, whose images are resampled.
        temperatures: by name of the calibration, the temperature of each resample; as long as one
            another.
        n_bins: number of bins of the calibration errors.
        batch_size: images per batch of `ece_batch_mean`.
        seed: must be the same for all runs that are to be compared.

    Returns:
        Replicates by name and metric, those of `mce` NaN where no bin has MIN_BIN_COUNT samples.
    """
    labels, n = predictions.labels, len(predictions.labels)
    every = np.concatenate(list(temperatures.values()))
    samples = SoftmaxCurves.from_logits(predictions.logits, labels, every.min(), every.max())
    in_class_order = np.argsort(labels, kind="stable")
    sums: dict[str, dict[str, Replicates]] = {name: {} for name in temperatures}
    for rows, weights in _resamples(predictions.dataset, n, len(every) // len(temperatures), seed):
        batches = list(_batches(weights, in_class_order, batch_size))
        for name, of_each in temperatures.items():
            distinct, which = np.unique(of_each[rows], return_inverse=True)
            for i, sample in enumerate(samples.at(distinct)):
                table, same = _columns(samples.correct, *sample, n_bins), which == i
                parts = [part[same] @ table[images] for images, part in batches]
                for metric, values in _metrics(np.stack(parts), n_bins).items():
                    into = sums[name].setdefault(metric, np.empty(len(of_each)))
                    into[rows][same] = values
    return sums


def resampled_temperatures(
    predictions: Predictions, choice: TemperatureChoice, n_bins: int, resamples: int, seed: int
) -> dict[str, Replicates]:
    """The temperatures of least ECE and least NLL on resampled images.

    That of least ECE lies on the grid of the choice, that of least NLL on one ten times as fine.

    Args:
        predictions: the validation set.
        choice: its temperature of least ECE on all images: the grid, and where the search starts.
        n_bins: number of bins of the ECE.
        resamples: number of resamples, each as large as the set.
        seed: as of `replicates`.

    Returns:
        Replicates of `temperature` and `temperature_nll`.
    """
    grid = _nearest_to_one_first(choice.temperatures)
    low, high, step = grid.min(), grid.max(), float(np.diff(choice.temperatures[:2])[0])
    labels, n, start = predictions.labels, len(predictions.labels), np.array([choice.temperature])
    samples = SoftmaxCurves.from_logits(predictions.logits, labels, low, high)
    to_grid = interpolation(samples.nodes, grid)
    losses = samples.label_distance[:, None] / 2.0**samples.nodes + samples.log_sums
    by_ece, by_nll = np.empty(resamples), np.empty(resamples)
    for rows, weights in _resamples(predictions.dataset, n, resamples, seed):
        # interpolation is linear, so means are taken at the nodes
        nll = weights @ losses
        near = grid[(nll @ to_grid).argmin(axis=1)]
        fine = np.arange(near.min() - step, near.max() + 1.5 * step, step / FINER).clip(low, high)
        fine = _nearest_to_one_first(fine)
        by_nll[rows] = fine[(nll @ interpolation(samples.nodes, fine)).argmin(axis=1)]
        confidence = weights @ np.exp(-samples.log_sums) @ to_grid
        least = np.abs(confidence - (weights @ samples.correct)[:, None]) / n  # no ECE is below it
        bound = _eces(samples, start, weights, n_bins) + BOUND_MARGIN
        possible = grid[(least <= bound).any(axis=0)]
        parts = np.split(possible, range(TEMPERATURES_AT_ONCE, len(possible), TEMPERATURES_AT_ONCE))
        eces = np.hstack([_eces(samples, part, weights, n_bins) for part in parts])
        by_ece[rows] = possible[eces.argmin(axis=1)]
    return {"temperature": by_ece, "temperature_nll": by_nll}


def mean_over_sets(sets: Sequence[Values]) -> dict[str, float | Replicates]:
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

    Its columns are dataset, calibration, metric, value, low and high: see `normal_interval`.
    """
    rows = []
    for place, metrics in values.items():
        for metric, value in metrics.items():
            low, high = np.nan, np.nan
            if metric in resampled.get(place, {}):
                low, high = normal_interval(value, resampled[place][metric], level)
            rows.append((*place, metric, value, low, high))
    return pd.DataFrame(rows, columns=["dataset", "calibration", "metric", "value", "low", "high"])


def normal_interval(value: float, resampled: Replicates, level: float) -> tuple[float, float]:
    """Interval of an estimate over test images, of one training: value -+ z standard errors.

    The standard error is the standard deviation of the replicates, and z the quantile of the normal
    distribution for a level in (0, 1). It is an interval for the expected value of the metric at
    this number of images: for an ECE that includes its bias near the noise floor. It always holds
    its estimate and may reach beyond the range of the metric. NaN if a replicate is.
    """
    width = float(ndtri((1 + check_level(level)) / 2) * np.std(resampled, ddof=1))
    return value - width, value + width


def _resamples(
    dataset: str, n: int, resamples: int, seed: int
) -> Iterator[tuple[slice, Float[np.ndarray, "chunk images"]]]:
    """How often each image occurs in each resample, some resamples at a time."""
    rng = np.random.default_rng([seed, zlib.crc32(dataset.encode())])
    chunk = max(1, MAX_WEIGHTS // n)
    for start in range(0, resamples, chunk):
        rows = slice(start, min(start + chunk, resamples))
        drawn = rng.integers(n, size=(rows.stop - start, n))
        yield rows, np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)


def _batches(
    weights: Float[np.ndarray, "chunk images"], order: Int[np.ndarray, " images"], size: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Float[np.ndarray, "chunk some"]]]:
    """Images that occur in each batch of the resamples, and how often in each resample.

    The images drawn stand in an order, each as often as it was drawn, and are cut into batches.
    """
    ends = np.cumsum(weights[:, order], axis=1)  # place after the last copy of each image
    starts = ends - weights[:, order]
    latest, earliest = ends.max(axis=0), starts.min(axis=0)
    for first in range(0, len(order), size):
        last = first + size
        some = slice(np.searchsorted(latest, first, "right"), np.searchsorted(earliest, last))
        inside = ends[:, some].clip(first, last) - starts[:, some].clip(first, last)
        yield order[some], inside


def _nearest_to_one_first(temperatures: np.ndarray) -> np.ndarray:
    """Temperatures in the order in which equally good ones are preferred."""
    return temperatures[np.abs(np.log(temperatures)).argsort(kind="stable")]


def _columns(
    correct: np.ndarray, confidences: np.ndarray, nll: np.ndarray, brier: np.ndarray, n_bins: int
) -> Float[np.ndarray, "images columns"]:
    """Numbers of each image whose weighted sums `_metrics` takes."""
    in_bin = np.eye(n_bins)[bin_of(confidences, n_bins)]
    gaps = in_bin * (confidences - correct)[:, None]
    return np.column_stack([gaps, in_bin, correct, confidences, nll, brier])


def _metrics(
    sums: Float[np.ndarray, "batches chunk columns"], n_bins: int
) -> dict[str, Replicates]:
    """Every metric of the resamples, from the sums of `_columns` over each batch."""
    total = sums.sum(axis=0)
    gaps, counts = np.abs(total[:, :n_bins]), total[:, n_bins : 2 * n_bins]
    n = counts.sum(axis=1)
    accuracy, confidence, nll, brier = total[:, 2 * n_bins :].T / n
    enough = counts >= MIN_BIN_COUNT
    of_bins = np.divide(gaps, counts, where=enough, out=np.full_like(gaps, np.nan))
    return {
        "accuracy": accuracy,
        "ece": gaps.sum(axis=1) / n,
        "ece_batch_mean": np.abs(sums[:, :, :n_bins]).sum(axis=(0, 2)) / n,
        "mce": np.fmax.reduce(of_bins, axis=1),
        "signed_gap": confidence - accuracy,
        "mean_confidence": confidence,
        "nll": nll,
        "brier": brier,
    }


def _eces(
    samples: SoftmaxCurves,
    temperatures: Float[np.ndarray, " some"],
    weights: Float[np.ndarray, "chunk images"],
    n_bins: int,
) -> Float[np.ndarray, "chunk some"]:
    """ECE of each resample at each temperature."""
    images, first = np.arange(len(samples.correct)), np.arange(len(temperatures)) * n_bins
    confidences = np.exp(
        -np.maximum(samples.log_sums @ interpolation(samples.nodes, temperatures), 0)
    )
    gaps = np.zeros((len(images), len(first) * n_bins))
    cells = first + bin_of(confidences, n_bins)
    gaps[images[:, None], cells] = confidences - samples.correct[:, None]
    sums = np.abs(weights @ gaps).reshape(len(weights), len(first), n_bins)
    return sums.sum(axis=2) / len(images)
