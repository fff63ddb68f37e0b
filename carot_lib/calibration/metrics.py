"""Metrics of logits and labels, one function each.

All take `logits` [N, K] (nested lists, numpy array or torch tensor, any device) and integer
`labels` [N], never change them, and raise as `top_confidences`. For a set of some of the
classifier's classes, or of coarser ones, project the logits by its `LabelSpace` first. A mean over
several sets is a mean of their metrics; sets are never pooled.

Example:
    >>> import numpy as np
    >>> logits = np.log([[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.9, 0.1]])
    >>> labels = np.array([0, 0, 1, 0])
    >>> round(ece(logits, labels, n_bins=10), 3)  # (.4 + .2 + .7 + .1) / 4
    0.35
"""

import numpy as np
from jaxtyping import Float

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.scores import Array, as_array, check_integer, map_rows, top_confidences


def ece(logits: Array, labels: Array, *, n_bins: int = 10) -> float:
    """Expected calibration error over the whole set, in [0, 1]: see `BinStats.ece`."""
    return BinStats.from_logits(logits, labels, n_bins).ece()


def ece_batch_mean(
    logits: Array, labels: Array, *, batch_size: int = 512, n_bins: int = 10
) -> float:
    """Mean of the ECEs of batches in the order of the classes, in [ECE, 1].

    Only for comparison with published numbers: at 512 samples a batch, noise alone makes it large.

    Source: the evaluation of CaRot's public code, on batches of an image folder sorted by class.
    """
    batch_size = check_integer(batch_size, "batch_size", maximum=2**62)
    confidences, correct = top_confidences(logits, labels)
    order = np.argsort(as_array(labels, "labels"), kind="stable")
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        stats = BinStats.from_confidences(confidences[rows], correct[rows], n_bins)
        total += len(rows) * stats.ece()
    return total / len(order)


def nll(logits: Array, labels: Array) -> float:
    """Mean negative log-likelihood in nats, >= 0; log K where all logits are equal.

    Source: the log score of Good 1952.
    """
    return float(proper_scores(logits, labels)[0].mean())


def brier(logits: Array, labels: Array) -> float:
    """Brier score over all classes: mean squared distance to the one-hot label, in [0, 2].

    Source: Brier 1950.
    """
    return float(proper_scores(logits, labels)[1].mean())


def proper_scores(
    logits: Array, labels: Array
) -> tuple[Float[np.ndarray, " samples"], Float[np.ndarray, " samples"]]:
    """Negative log-likelihood of each sample in nats, and its Brier score."""

    def of_rows(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mass, rows = part.astype(np.float64), np.arange(len(truth))
        top, of_label = mass.max(axis=1, keepdims=True), mass[rows, truth]
        mass -= top
        np.exp(mass, out=mass)
        total = mass.sum(axis=1, keepdims=True)
        losses = (top + np.log(total))[:, 0] - of_label
        mass /= total
        mass[rows, truth] -= 1
        return losses, np.square(mass, out=mass).sum(axis=1)

    return map_rows(of_rows, logits, labels)


def aurc(logits: Array, labels: Array) -> float:
    """Area under the risk-coverage curve: mean error rate over all thresholds, in [0, 1].

    Samples of equal confidence are ranked at random: each counts as the mean error of its block.

    Source: Geifman and El-Yaniv 2017.
    """
    confidences, correct = top_confidences(logits, labels)
    _, block = np.unique(-confidences, return_inverse=True)  # 0: the most confident samples
    block_errors = np.bincount(block, weights=~correct) / np.bincount(block)
    errors = block_errors[np.sort(block)]
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())
