"""Metrics of logits and labels, one function each.

All take `logits` [N, K] (numpy array or torch tensor, any device) and integer `labels` [N], and
raise as `carot_lib.bin_stats.BinStats.from_logits`. An optional `label_space` is applied before
the softmax. A mean over several sets is a mean of their metrics; sets are never pooled.

Example:
    >>> import numpy as np
    >>> logits = np.log([[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.9, 0.1]])
    >>> labels = np.array([0, 0, 1, 0])
    >>> round(ece(logits, labels, n_bins=10), 3)  # (.4 + .2 + .7 + .1) / 4
    0.35
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from carot_lib.bin_stats import Array, BinStats, check_scores, top_confidences
from carot_lib.label_space import LabelSpace


def accuracy(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Share of samples whose largest logit is the label's; ties go to the lower class."""
    scores, labels = check_scores(logits, labels, "logits", label_space)
    return float((scores.argmax(axis=1) == labels).mean())


def ece(
    logits: Array,
    labels: Array,
    *,
    n_bins: int = 10,
    norm: Literal["l1", "l2", "max"] = "l1",
    binning: Literal["width", "mass"] = "width",
    label_space: LabelSpace | None = None,
) -> float:
    """Calibration error of the top class over the whole set, in [0, 1].

    Args:
        logits: unnormalised scores.
        labels: of the samples.
        n_bins: number of bins.
        norm: "l1" ECE, "l2" RMSCE, "max" MCE.
        binning: bins of equal "width", or of equal "mass" in which equal confidences stay
            together.
        label_space: applied before the softmax.

    Source: Guo et al. 2017, Eq. 3 (l1, width); Nixon et al. 2019 (mass).
    """
    if norm not in ("l1", "l2", "max") or binning not in ("width", "mass"):
        raise ValueError(f"norm {norm!r} must be l1, l2 or max; binning {binning!r} width or mass")
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


def ece_batch_mean(
    logits: Array, labels: Array, *, batch_size: int = 512, n_bins: int = 10
) -> float:
    """Mean of the ECEs of batches in the order of the classes, as the public code computes it.

    Not an estimate of the ECE: at 512 samples a batch, noise alone makes it large. It stands in
    the tables to be compared with published numbers only.

    Source: the evaluation of CaRot's public code: batches of an image folder, which is sorted by
    class, each ECE weighted by the size of its batch.
    """
    confidences, correct = top_confidences(logits, labels)
    _, labels = check_scores(logits, labels, "logits")
    order = np.argsort(labels, kind="stable")
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        stats = BinStats.from_confidences(confidences[rows], correct[rows], n_bins)
        total += len(rows) * stats.ece()
    return total / len(order)


def classwise_ece(
    logits: Array, labels: Array, *, n_bins: int = 10, label_space: LabelSpace | None = None
) -> float:
    """Mean over classes of the calibration error of that class's probability, in [0, 1].

    Source: Kull et al. 2019, Eq. 4 (static calibration error).
    """
    probabilities, labels = _probabilities(logits, labels, label_space)
    errors = [
        BinStats.from_confidences(np.minimum(column, 1), labels == k, n_bins).ece()
        for k, column in enumerate(probabilities.T)
    ]
    return float(np.mean(errors))


def nll(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Mean negative log-likelihood in nats, >= 0."""
    return float(nll_of_samples(logits, labels, label_space=label_space).mean())


def nll_of_samples(
    logits: Array, labels: Array, *, label_space: LabelSpace | None = None
) -> Float[np.ndarray, " samples"]:
    """Negative log-likelihood of each sample in nats, >= 0."""
    scores, labels = check_scores(logits, labels, "logits", label_space)
    scores = scores.astype(np.float64)
    top = scores.max(axis=1)
    log_sum = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
    return log_sum - scores[np.arange(len(labels)), labels]


def brier(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Brier score over all classes: mean squared distance to the one-hot label, in [0, 2]."""
    return float(brier_of_samples(logits, labels, label_space=label_space).mean())


def brier_of_samples(
    logits: Array, labels: Array, *, label_space: LabelSpace | None = None
) -> Float[np.ndarray, " samples"]:
    """Squared distance of each sample's probabilities to its one-hot label, in [0, 2]."""
    probabilities, labels = _probabilities(logits, labels, label_space)
    of_label = probabilities[np.arange(len(labels)), labels]
    return (probabilities**2).sum(axis=1) - 2 * of_label + 1


def brier_parts(stats: BinStats) -> dict[str, float]:
    """Murphy's split of the top class's Brier score, from its bins.

    Returns:
        `reliability` (0 is calibrated) - `resolution` (more is better) + `uncertainty` (of the
        accuracy alone): the score of predictions that are replaced by their bin's mean.

    Source: Murphy 1973.
    """
    filled = stats.count > 0
    n, accuracy = stats.count[filled], stats.accuracy[filled]
    mean = stats.mean_accuracy()
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

    0 if no share is.
    """
    risks = _risks(*top_confidences(logits, labels, label_space=label_space))
    good = np.flatnonzero(1 - risks >= wanted - 1e-12)
    return float((good[-1] + 1) / len(risks)) if len(good) else 0.0


def _risks(confidences: np.ndarray, correct: np.ndarray) -> Float[np.ndarray, " samples"]:
    """Error rate among the k most confident samples, for k = 1 ... N."""
    _, block = np.unique(-confidences, return_inverse=True)
    error = np.bincount(block, weights=~correct) / np.bincount(block)
    errors = np.sort(block, kind="stable")
    return np.cumsum(error[errors]) / np.arange(1, len(block) + 1)


def _gaps_of_equal_mass(
    confidences: np.ndarray, correct: np.ndarray, n_bins: int
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Sum of confidence minus right samples, and samples, of bins of about N / bins samples.

    A block of equal confidences goes whole where its middle falls.
    """
    if not isinstance(n_bins, int) or n_bins < 1:
        raise ValueError(f"n_bins must be a positive integer, got {n_bins!r}")
    _, block, size = np.unique(confidences, return_inverse=True, return_counts=True)
    middle = np.cumsum(size) - size / 2
    bins = np.minimum((middle * n_bins / len(block)).astype(int), n_bins - 1)[block]
    counts = np.bincount(bins)
    gaps = np.bincount(bins, weights=confidences - correct)
    return gaps[counts > 0], counts[counts > 0].astype(float)


def _probabilities(
    logits: Array, labels: Array, label_space: LabelSpace | None
) -> tuple[Float[np.ndarray, "samples classes"], np.ndarray]:
    scores, labels = check_scores(logits, labels, "logits", label_space)
    scores = scores.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores, labels
