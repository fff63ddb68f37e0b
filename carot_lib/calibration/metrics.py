"""Metrics of logits and labels, one function each.

All take `logits` [N, K] (nested lists, numpy array or torch tensor, any device) and integer
`labels` [N], never change them, and raise as `top_confidences`. An optional `label_space` is
applied before the softmax. A mean over several sets is a mean of their metrics; sets are never
pooled.

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
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.scores import (
    Array,
    as_array,
    check_integer,
    map_rows,
    softmax,
    top_confidences,
)


def accuracy(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Share of samples whose largest logit is the label's, in [0, 1]; ties: the lower class."""
    _, correct = top_confidences(logits, labels, label_space=label_space)
    return float(correct.mean())


def ece(
    logits: Array, labels: Array, *, n_bins: int = 10, label_space: LabelSpace | None = None
) -> float:
    """Expected calibration error over the whole set, in [0, 1]: see `BinStats.ece`."""
    return BinStats.from_logits(logits, labels, n_bins, label_space=label_space).ece()


def ece_batch_mean(
    logits: Array,
    labels: Array,
    *,
    batch_size: int = 512,
    n_bins: int = 10,
    label_space: LabelSpace | None = None,
) -> float:
    """Mean of the ECEs of batches in the order of the classes, in [ECE, 1].

    Only for comparison with published numbers: at 512 samples a batch, noise alone makes it large.

    Source: the evaluation of CaRot's public code, on batches of an image folder sorted by class.
    """
    batch_size = check_integer(batch_size, "batch_size", maximum=2**62)
    confidences, correct = top_confidences(logits, labels, label_space=label_space)
    order = np.argsort(as_array(labels, "labels"), kind="stable")
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        total += (
            len(rows) * BinStats.from_confidences(confidences[rows], correct[rows], n_bins).ece()
        )
    return total / len(order)


def nll(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Mean negative log-likelihood in nats, >= 0; log K where all logits are equal.

    Source: the log score of Good 1952.
    """
    return float(nll_of_samples(logits, labels, label_space=label_space).mean())


def nll_of_samples(
    logits: Array, labels: Array, *, label_space: LabelSpace | None = None
) -> Float[np.ndarray, " samples"]:
    """Negative log-likelihood of each sample in nats, >= 0."""

    def loss(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray]:
        mass = part.astype(np.float64)
        top, of_label = mass.max(axis=1), mass[np.arange(len(truth)), truth]
        mass -= top[:, None]
        np.exp(mass, out=mass)
        return (top + np.log(mass.sum(axis=1)) - of_label,)

    return map_rows(loss, logits, labels, label_space)[0]


def brier(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Brier score over all classes: mean squared distance to the one-hot label, in [0, 2].

    Source: Brier 1950.
    """
    return float(brier_of_samples(logits, labels, label_space=label_space).mean())


def brier_of_samples(
    logits: Array, labels: Array, *, label_space: LabelSpace | None = None
) -> Float[np.ndarray, " samples"]:
    """Squared distance of each sample's probabilities to its one-hot label, in [0, 2]."""

    def loss(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray]:
        distance = softmax(part)
        distance[np.arange(len(truth)), truth] -= 1
        return (np.square(distance, out=distance).sum(axis=1),)

    return map_rows(loss, logits, labels, label_space)[0]


def aurc(logits: Array, labels: Array, *, label_space: LabelSpace | None = None) -> float:
    """Area under the risk-coverage curve: mean error rate over all thresholds, in [0, 1].

    Samples of equal confidence are ranked at random: each counts as the mean error of its block.

    Source: Geifman and El-Yaniv 2017.
    """
    confidences, correct = top_confidences(logits, labels, label_space=label_space)
    _, block = np.unique(-confidences, return_inverse=True)  # 0: the most confident samples
    block_errors = np.bincount(block, weights=~correct) / np.bincount(block)
    errors = block_errors[np.sort(block)]
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())
