"""Binned calibration statistics that merge exactly: the one source of every binned number.

A state of four integers a bin says all that is needed for calibration errors, their noise, their
test and the reliability diagram, so a figure and a table made from it cannot disagree. Sums are
kept in fixed point: integers add up to the same bits whatever the batches, their order or the
number of processes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binom, norm

from carot_lib.label_space import LabelSpace

FIXED_POINT = 2**40  # one unit of confidence; exact for 8 million samples a bin
ROWS = 4096  # of logits at a time: bounds the memory
FEW = 30  # samples in a bin below which a normal approximation is too coarse

Array = Any  # a numpy array or a torch tensor


@dataclass(frozen=True)
class BinStats:
    """Predictions grouped by confidence into bins of equal width.

    Bin b of B holds confidences in (b/B, (b+1)/B], the first one 0 as well: right-closed as in Guo
    et al. 2017, and no confidence falls outside.

    Attributes:
        state: rows: samples, right samples, sum of confidences and of their squares, the last two
            in units of 1/FIXED_POINT; one column a bin.
    """

    state: Int[np.ndarray, "4 bins"]

    @classmethod
    def from_confidences(cls, confidences: Array, correct: Array, n_bins: int = 10) -> "BinStats":
        """From the confidence of each prediction in [0, 1] and whether it was right.

        Raises:
            ValueError: nothing is given, lengths differ, or a confidence is outside [0, 1] (logits
                go through `from_logits`).
            TypeError: `correct` holds something else than truth values.
        """
        if not isinstance(n_bins, int) or n_bins < 1:
            raise ValueError(f"n_bins must be a positive integer, got {n_bins!r}")
        confidences, correct = check_confidences(confidences, correct)
        bins = bin_of(confidences, n_bins)
        fixed = np.round(confidences * FIXED_POINT).astype(np.int64)
        squares = np.round(confidences**2 * FIXED_POINT).astype(np.int64)
        state = np.zeros((4, n_bins), dtype=np.int64)
        for row, values in enumerate((np.ones_like(fixed), correct.astype(int), fixed, squares)):
            np.add.at(state[row], bins, values)
        return cls(state)

    @classmethod
    def from_probabilities(
        cls, probabilities: Array, labels: Array, n_bins: int = 10
    ) -> "BinStats":
        """From class probabilities, [N, K], whose rows sum to 1, and labels.

        Raises:
            ValueError: a value outside [0, 1], a row that does not sum to 1 within 1e-3, or as
                for `from_logits`.
        """
        probabilities, labels = check_scores(probabilities, labels, "probabilities")
        if probabilities.min() < 0 or probabilities.max() > 1 + 1e-6:
            raise ValueError("probabilities must be in [0, 1]; did you pass logits?")
        if (off := np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1).max()) > 1e-3:
            raise ValueError(f"rows of probabilities must sum to 1, one is off by {off:.3g}")
        confidences = np.minimum(probabilities.max(axis=1), 1)
        return cls.from_confidences(confidences, probabilities.argmax(axis=1) == labels, n_bins)

    @classmethod
    def from_logits(
        cls,
        logits: Array,
        labels: Array,
        n_bins: int = 10,
        temperature: float = 1.0,
        label_space: LabelSpace | None = None,
    ) -> "BinStats":
        """From logits, [N, K], and labels.

        Args:
            logits: unnormalised scores; a softmax is always taken, whatever their range.
            labels: in [0, K), or in the label space's own classes.
            n_bins: bins of equal width.
            temperature: divides the logits; positive.
            label_space: applied before the softmax; labels are then in its classes.

        Raises:
            ValueError: empty, of the wrong shape, not finite, or a label out of range.
            TypeError: labels that are no integers.
        """
        confidences, correct = top_confidences(logits, labels, temperature, label_space)
        return cls.from_confidences(confidences, correct, n_bins)

    def __add__(self, other: "BinStats") -> "BinStats":
        """Statistics of both samples together, bit by bit as if computed at once."""
        if self.n_bins != other.n_bins:
            raise ValueError(f"cannot add {self.n_bins} bins and {other.n_bins} bins")
        return BinStats(self.state + other.state)

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return self.state.shape[1]

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.state[0].sum())

    @property
    def count(self) -> Int[np.ndarray, " bins"]:
        """Samples in each bin."""
        return self.state[0]

    @property
    def accuracy(self) -> Float[np.ndarray, " bins"]:
        """Accuracy in each bin; NaN where it is empty."""
        return self._per_sample(self.state[1])

    @property
    def confidence(self) -> Float[np.ndarray, " bins"]:
        """Mean confidence in each bin; NaN where it is empty."""
        return self._per_sample(self.state[2] / FIXED_POINT)

    def mean_accuracy(self) -> float:
        """Share of right predictions."""
        return float(self.state[1].sum() / self.n)

    def mean_confidence(self) -> float:
        """Mean confidence of all predictions."""
        return float(self.state[2].sum() / FIXED_POINT / self.n)

    def signed_gap(self) -> float:
        """Mean confidence minus accuracy: above 0 is over-confident, below 0 under-confident."""
        return self.mean_confidence() - self.mean_accuracy()

    def ece(self) -> float:
        """Expected calibration error: mean gap between accuracy and confidence, by samples.

        In [0, 1]. Source: Naeini et al. 2015; Guo et al. 2017, Eq. 3; CaRot, Eq. 3.
        """
        return float(np.abs(self._gaps()).sum() / self.n)

    def rmsce(self) -> float:
        """Root mean squared calibration error, in [ECE, 1]."""
        filled = self.count > 0
        squares = self._gaps()[filled] ** 2 / self.count[filled]
        return float(np.sqrt(squares.sum() / self.n))

    def mce(self) -> float:
        """Maximum calibration error: the largest gap of a bin that is not empty, in [ECE, 1]."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))

    def ece_debiased(self) -> float:
        """Root of the squared calibration error without its upward bias; 0 if that is negative.

        Bins of a single sample cannot be corrected and count 0.

        Source: Kumar et al. 2019, "Verified Uncertainty Calibration", Definition 6.1 (debiased
        estimator of the squared error).
        """
        many = self.count > 1
        n, accuracy, confidence = self.count[many], self.accuracy[many], self.confidence[many]
        squares = (confidence - accuracy) ** 2 - accuracy * (1 - accuracy) / (n - 1)
        return float(np.sqrt(max(0.0, (n * squares).sum() / self.n)))

    def noise_floor(self) -> float:
        """ECE that a perfectly calibrated model with these confidences has on average.

        Each bin's gap is then close to normal with variance sum c (1 - c), whose mean absolute
        value is sqrt(2 / pi) standard deviations.
        """
        return float(np.sqrt(2 / np.pi) * np.sqrt(self._variance()).sum() / self.n)

    def test(self, seed: int = 0, resamples: int = 20_000) -> float:
        """p-value of "perfectly calibrated": how often chance alone gives so large an ECE.

        Normal approximation of each bin's sum, so it costs milliseconds; in (0, 1].
        """
        generator = np.random.default_rng(seed)
        gaps = generator.normal(size=(resamples, self.n_bins)) * np.sqrt(self._variance())
        null = np.abs(gaps).sum(axis=1) / self.n
        return float((1 + (null >= self.ece()).sum()) / (1 + resamples))

    def consistency(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """Range of each bin's accuracy that chance alone explains, if it is calibrated.

        NaN where a bin is empty. Exact binomial quantiles at the mean confidence for bins of fewer
        than 30 samples. Source: Bröcker and Smith 2007.
        """
        tail = (1 - level) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt(self._variance()) / self.count
        width = norm.ppf(1 - tail) * spread
        low, high = np.clip(self.confidence - width, 0, 1), np.clip(self.confidence + width, 0, 1)
        few = (self.count > 0) & (self.count < FEW)
        low[few] = binom.ppf(tail, self.count[few], self.confidence[few]) / self.count[few]
        high[few] = binom.ppf(1 - tail, self.count[few], self.confidence[few]) / self.count[few]
        return low, high

    def _gaps(self) -> Float[np.ndarray, " bins"]:
        """Sum of confidences minus right samples, in each bin."""
        return self.state[2] / FIXED_POINT - self.state[1]

    def _variance(self) -> Float[np.ndarray, " bins"]:
        """Variance of the number of right samples in each bin, if calibrated: sum c (1 - c)."""
        return np.maximum(self.state[2] - self.state[3], 0) / FIXED_POINT

    def _per_sample(self, sums: np.ndarray) -> Float[np.ndarray, " bins"]:
        empty = self.count == 0
        return np.where(empty, np.nan, sums / np.where(empty, 1, self.count))


def bin_of(confidences: Float[np.ndarray, "..."], n_bins: int) -> Int[np.ndarray, "..."]:
    """Which right-closed bin each confidence falls into; both ends are clamped."""
    edges = np.arange(1, n_bins) / n_bins
    return np.searchsorted(edges, confidences, side="left")


def top_confidences(
    logits: Array, labels: Array, temperature: float = 1.0, label_space: LabelSpace | None = None
) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
    """Largest softmax probability of each sample, float64, and whether that class was right.

    Ties go to the lower class. Raises as `BinStats.from_logits`.
    """
    if not temperature > 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    logits, labels = check_scores(logits, labels, "logits", label_space)
    confidences = np.empty(len(logits))
    for start in range(0, len(logits), ROWS):
        part = np.ascontiguousarray(logits[start : start + ROWS])  # one order of summation
        differences = (part - part.max(axis=1, keepdims=True)) / np.asarray(temperature, part.dtype)
        confidences[start : start + ROWS] = 1 / np.exp(differences).sum(axis=1, dtype=np.float64)
    return confidences, logits.argmax(axis=1) == labels


def check_scores(
    scores: Array, labels: Array, name: str, label_space: LabelSpace | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits or probabilities and their labels as numpy arrays that fit together.

    Raises:
        ValueError: empty, of the wrong shape, not finite, or a label out of range.
        TypeError: labels that are no integers, or scores that are no real numbers.
    """
    scores, labels = _as_array(scores), _as_array(labels)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"{name} must be [N, K] with N, K >= 1, got shape {list(scores.shape)}")
    if scores.dtype.kind != "f":
        raise TypeError(f"{name} must be floating-point numbers, got {scores.dtype}")
    if scores.dtype == np.float16:
        warnings.warn(
            f"{name} have 16 bits: their rounding shows in the calibration error", stacklevel=4
        )
        scores = scores.astype(np.float32)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != scores.shape[:1]:
        raise ValueError(f"labels {list(labels.shape)} do not fit {name} {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} must be finite; a masked class belongs in `label_space`")
    if label_space is not None:
        scores = label_space.project(scores)
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        found = f"got {labels.min()} to {labels.max()}"
        raise ValueError(f"labels must be in [0, {scores.shape[1]}), {found}")
    return scores, labels


def check_confidences(confidences: Array, correct: Array) -> tuple[np.ndarray, np.ndarray]:
    """Confidences as float64 and truth values as bool, of one length.

    Raises:
        ValueError: empty, of different lengths, or a confidence outside [0, 1].
        TypeError: `correct` holds something else than truth values.
    """
    confidences = _as_array(confidences).astype(np.float64)
    correct = _as_array(correct)
    if confidences.ndim != 1 or not len(confidences):
        raise ValueError(f"confidences must be [N] with N >= 1, got {list(confidences.shape)}")
    if correct.shape != confidences.shape:
        raise ValueError(f"correct {list(correct.shape)} does not fit {list(confidences.shape)}")
    if correct.dtype != bool and not np.isin(correct, (0, 1)).all():
        raise TypeError("correct must hold truth values")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("confidences must be in [0, 1]; did you pass logits?")
    return confidences, correct.astype(bool)


def _as_array(values: Array | Sequence) -> np.ndarray:
    """A numpy array of whatever holds numbers; tensors leave their device and their graph."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # numpy does not know it; say so as for 16-bit floats
            values = values.float()
            warnings.warn("16-bit input: its rounding shows in the calibration error", stacklevel=5)
        values = values.numpy()
    return np.asarray(values)
