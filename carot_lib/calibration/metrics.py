"""Metrics of logits and labels, one function each.

All take `logits` [N, K] (nested lists, numpy array or torch tensor, any device) and integer
`labels` [N], never change them, and raise as `BinStats.from_logits`. An optional `label_space` is
applied before the softmax. A mean over several sets is a mean of their metrics; sets are never
pooled.

Example:
    >>> import numpy as np
    >>> logits = np.log([[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.9, 0.1]])
    >>> labels = np.array([0, 0, 1, 0])
    >>> round(ece(logits, labels, n_bins=10), 3)  # (.4 + .2 + .7 + .1) / 4
    0.35
"""

from typing import Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float

from carot_lib.calibration.bin_stats import FIXED_POINT, BinStats, bin_of
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.scores import (
    Array,
    Scores,
    as_array,
    check_choice,
    check_fraction,
    check_integer,
    top_confidences,
)


def accuracy(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Share of samples whose largest logit is the label's, in [0, 1]; ties: the lower class."""
    scores = Scores(logits, labels, label_space=label_space)
    (correct,) = scores.per_sample(lambda part, truth: (part.argmax(axis=1) == truth,))
    return float(correct.mean())


def ece(
    logits: Array,
    labels: Array,
    *,
    n_bins: SupportsIndex = 10,
    norm: Literal["l1", "l2", "max"] = "l1",
    binning: Literal["width", "mass"] = "width",
    label_space: LabelSpace | None = None,
) -> float:
    """Calibration error of the top class over the whole set, in [0, 1].

    Args:
        logits: unnormalised scores.
        labels: of the samples.
        n_bins: number of bins, any; those without samples count nothing.
        norm: "l1" ECE, "l2" RMSCE, "max" MCE.
        binning: bins of equal "width", or of equal "mass" in which equal confidences stay
            together.
        label_space: applied before the softmax.

    Raises:
        ValueError: an unknown norm or binning, or as for all metrics.

    Source: Guo et al. 2017, Eq. 3 (l1, width) and 5 (max); Kumar et al. 2019 (l2); Nixon et al.
    2019 (mass).
    """
    check_choice(norm, "norm", ("l1", "l2", "max"))
    check_choice(binning, "binning", ("width", "mass"))
    confidences, correct = top_confidences(logits, labels, label_space=label_space)
    if binning == "width":
        stats = BinStats.from_confidences(confidences, correct, n_bins)
        return {"l1": stats.ece, "l2": stats.rmsce, "max": stats.mce}[norm]()
    gaps, counts = _gaps_of_equal_mass(confidences, correct, n_bins)
    if norm == "l1":
        return float(np.abs(gaps).sum() / len(correct))
    if norm == "l2":
        return float(np.sqrt((gaps**2 / counts).sum() / len(correct)))
    return float(np.abs(gaps / counts).max())


def rmsce(
    logits: Array,
    labels: Array,
    *,
    n_bins: SupportsIndex = 10,
    label_space: LabelSpace | None = None,
) -> float:
    """Root mean squared calibration error, in [ECE, 1]: see `BinStats.rmsce`."""
    return BinStats.from_logits(logits, labels, n_bins, label_space=label_space).rmsce()


def mce(
    logits: Array,
    labels: Array,
    *,
    n_bins: SupportsIndex = 10,
    min_count: SupportsIndex = 1,
    label_space: LabelSpace | None = None,
) -> float:
    """Largest gap of a bin of at least `min_count` samples, in [0, 1]: see `BinStats.mce`."""
    return BinStats.from_logits(logits, labels, n_bins, label_space=label_space).mce(min_count)


def ece_debiased(
    logits: Array,
    labels: Array,
    *,
    n_bins: SupportsIndex = 10,
    label_space: LabelSpace | None = None,
) -> float:
    """Debiased root mean squared error, in [0, 1]: see `BinStats.ece_debiased`."""
    return BinStats.from_logits(logits, labels, n_bins, label_space=label_space).ece_debiased()


def signed_gap(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Mean confidence minus accuracy, in [-1, 1]: see `BinStats.signed_gap`."""
    return BinStats.from_logits(logits, labels, 1, label_space=label_space).signed_gap()


def ece_batch_mean(
    logits: Array,
    labels: Array,
    *,
    batch_size: SupportsIndex = 512,
    n_bins: SupportsIndex = 10,
    label_space: LabelSpace | None = None,
) -> float:
    """Mean of the ECEs of batches in the order of the classes, as the public code computes it.

    In [ECE, 1]. Not an estimate of the ECE: at 512 samples a batch, noise alone makes it large. It
    stands in the tables to be compared with published numbers only.

    Source: the evaluation of CaRot's public code: batches of an image folder, which is sorted by
    class, each ECE weighted by the size of its batch.
    """
    batch_size = check_integer(batch_size, "batch_size", most=2**62)
    confidences, correct = top_confidences(logits, labels, label_space=label_space)
    order = np.argsort(as_array(labels, "labels"), kind="stable")
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        stats = BinStats.from_confidences(confidences[rows], correct[rows], n_bins)
        total += len(rows) * stats.ece()
    return total / len(order)


def classwise_ece(
    logits: Array,
    labels: Array,
    *,
    n_bins: SupportsIndex = 10,
    label_space: LabelSpace | None = None,
) -> float:
    """Mean over classes of the calibration error of that class's probability, in [0, 1].

    Source: Kull et al. 2019, Eq. 4 (static calibration error).
    """
    n_bins = check_integer(n_bins, "n_bins")
    scores = Scores(logits, labels, label_space=label_space)
    first = np.arange(scores.n_classes) * n_bins
    # confidence minus hits of each bin of each class, in fixed point as `BinStats`: so exact
    gaps = np.zeros(scores.n_classes * n_bins, dtype=np.int64)
    for part, truth in scores:
        probabilities = _softmax(part)
        cells = first + bin_of(probabilities, n_bins)
        over = np.round(probabilities * FIXED_POINT)
        over[np.arange(len(truth)), truth] -= FIXED_POINT
        gaps += np.bincount(cells.ravel(), over.ravel(), len(gaps)).astype(np.int64)
    return float(np.abs(gaps).sum() / FIXED_POINT / len(scores) / scores.n_classes)


def nll(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Mean negative log-likelihood in nats, >= 0; log K where all logits are equal.

    Source: the log score of Good 1952.
    """
    return float(nll_of_samples(logits, labels, label_space=label_space).mean())


def nll_of_samples(
    logits: Array, labels: Array, *, label_space: LabelSpace | None = None
) -> Float[np.ndarray, " samples"]:
    """Negative log-likelihood of each sample in nats, >= 0."""

    def reduce(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray]:
        mass = part.astype(np.float64)
        top, of_label = mass.max(axis=1), mass[np.arange(len(truth)), truth]
        mass -= top[:, None]
        np.exp(mass, out=mass)
        return (top + np.log(mass.sum(axis=1)) - of_label,)

    return Scores(logits, labels, label_space=label_space).per_sample(reduce)[0]


def brier(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Brier score over all classes: mean squared distance to the one-hot label, in [0, 2].

    Source: Brier 1950.
    """
    return float(brier_of_samples(logits, labels, label_space=label_space).mean())


def brier_of_samples(
    logits: Array, labels: Array, *, label_space: LabelSpace | None = None
) -> Float[np.ndarray, " samples"]:
    """Squared distance of each sample's probabilities to its one-hot label, in [0, 2]."""

    def reduce(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray]:
        distance = _softmax(part)
        distance[np.arange(len(truth)), truth] -= 1
        return (np.square(distance, out=distance).sum(axis=1),)

    return Scores(logits, labels, label_space=label_space).per_sample(reduce)[0]


def brier_parts(stats: BinStats) -> dict[str, float]:
    """Murphy's split of the top class's Brier score, from its bins.

    Returns:
        `reliability` (0 is calibrated) - `resolution` (more is better) + `uncertainty` (of the
        accuracy alone): the score of predictions that are replaced by their bin's mean.

    Each is in [0, 1].

    Raises:
        ValueError: there are no samples.
        TypeError: `stats` are no BinStats.

    Source: Murphy 1973.
    """
    if not isinstance(stats, BinStats):
        raise TypeError(f"stats must be BinStats, got {type(stats).__name__}")
    mean, filled = stats.mean_accuracy(), stats.count > 0
    n, accuracy = stats.count[filled], stats.accuracy[filled]
    return {
        "reliability": float((n * (stats.confidence[filled] - accuracy) ** 2).sum() / stats.n),
        "resolution": float((n * (accuracy - mean) ** 2).sum() / stats.n),
        "uncertainty": mean * (1 - mean),
    }


def aurc(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Area under the risk-coverage curve: mean error rate over all thresholds, in [0, 1].

    Samples of equal confidence are ranked at random: each takes the block's mean error.

    Source: Geifman and El-Yaniv 2017.
    """
    risks = _risks(*top_confidences(logits, labels, label_space=label_space))
    return float(risks.mean())


def coverage_at_accuracy(
    logits: Array, labels: Array, wanted: float, *, label_space: LabelSpace | None = None
) -> float:
    """Largest share of samples, most confident first, that is right at least `wanted` often.

    In [0, 1]; 0 if no share is. Samples of equal confidence are ranked at random, as in `aurc`.

    Args:
        logits: unnormalised scores.
        labels: of the samples.
        wanted: accuracy, in [0, 1].
        label_space: applied before the softmax.

    Raises:
        ValueError: `wanted` is outside [0, 1], or as for all metrics.

    Source: El-Yaniv and Wiener 2010 (selective classification).
    """
    wanted = check_fraction(wanted, "wanted")
    risks = _risks(*top_confidences(logits, labels, label_space=label_space))
    good = np.flatnonzero(1 - risks >= wanted - 1e-12)
    return float((good[-1] + 1) / len(risks)) if len(good) else 0.0


def _risks(
    confidences: Float[np.ndarray, " samples"], correct: Bool[np.ndarray, " samples"]
) -> Float[np.ndarray, " samples"]:
    """Error rate among the k most confident samples, for k = 1 ... N."""
    _, block = np.unique(-confidences, return_inverse=True)
    error = np.bincount(block, weights=~correct) / np.bincount(block)
    errors = np.sort(block, kind="stable")
    return np.cumsum(error[errors]) / np.arange(1, len(block) + 1)


def _gaps_of_equal_mass(
    confidences: Float[np.ndarray, " samples"],
    correct: Bool[np.ndarray, " samples"],
    n_bins: SupportsIndex,
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Sum of confidence minus right samples, and samples, of bins of about N / bins samples.

    A block of equal confidences goes whole where its middle falls.
    """
    n_bins = check_integer(n_bins, "n_bins")
    _, block, size = np.unique(confidences, return_inverse=True, return_counts=True)
    middle = np.cumsum(size) - size / 2
    bins = np.minimum((middle * n_bins / len(block)).astype(int), n_bins - 1)[block]
    counts = np.bincount(bins)
    gaps = np.bincount(bins, weights=confidences - correct)
    return gaps[counts > 0], counts[counts > 0].astype(float)


def _softmax(
    logits: Float[np.ndarray, "rows classes"],
) -> Float[np.ndarray, "rows classes"]:
    """Probabilities, float64; above 1 by a rounding at most, which `bin_of` clamps."""
    mass = logits.astype(np.float64)
    mass -= mass.max(axis=1, keepdims=True)
    np.exp(mass, out=mass)
    mass /= mass.sum(axis=1, keepdims=True)
    return mass
