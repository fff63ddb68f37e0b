"""Binned calibration statistics that merge exactly: the one source of every binned number.

A state of four integers a bin says all that is needed for calibration errors, their noise, their
test and the reliability diagram, so a figure and a table made from it cannot disagree. Sums are
kept in fixed point: integers add up to the same bits whatever the batches, their order or the
number of processes.
"""

from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binom, norm

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.scores import (
    Array,
    Scores,
    as_array,
    check_confidences,
    check_fraction,
    check_integer,
    top_confidences,
)

FIXED_POINT = 2**40  # one unit of confidence
FULL = 2**23  # samples in a bin whose sum of confidences might no longer fit into int64
FEW = 30  # samples in a bin below which a normal approximation is too coarse
DRAWS = 2**20  # of the null distribution at a time: bounds the memory


@dataclass(frozen=True, eq=False)
class BinStats:
    """Predictions grouped by confidence into bins of equal width.

    Bin b of B holds confidences in (b/B, (b+1)/B], the first one 0 as well: right-closed as in Guo
    et al. 2017, and no confidence falls outside.

    Attributes:
        state: rows: samples, right samples, sum of confidences and of their squares, the last two
            in units of 1/FIXED_POINT; one column a bin.
    """

    state: Int[np.ndarray, "4 bins"]

    def __post_init__(self) -> None:
        state = self.state
        if not isinstance(state, np.ndarray) or state.dtype != np.int64:
            raise TypeError(f"state must be an int64 array, got {type(state).__name__}")
        if state.ndim != 2 or len(state) != 4 or not state.size:
            raise ValueError(f"state must be [4, bins], got {list(state.shape)}")
        if state[0].max() >= FULL:
            raise ValueError(f"state: a bin holds {FULL} samples or more, too many for exact sums")

    @classmethod
    def empty(cls, n_bins: SupportsIndex = 10) -> "BinStats":
        """No samples yet: the neutral element, to which batches are added in a loop."""
        return cls(np.zeros((4, check_integer(n_bins, "n_bins")), dtype=np.int64))

    @classmethod
    def from_confidences(
        cls, confidences: Array, correct: Array, n_bins: SupportsIndex = 10
    ) -> "BinStats":
        """From the confidence of each prediction in [0, 1] and whether it was right.

        Raises:
            ValueError: none are given, lengths differ, or a confidence is outside [0, 1].
            TypeError: `correct` holds something else than truth values.
        """
        state = cls.empty(n_bins).state
        confidences, correct = check_confidences(confidences, correct)
        bins = bin_of(confidences, n_bins)
        fixed = np.round(confidences * FIXED_POINT).astype(np.int64)
        squares = np.round(confidences**2 * FIXED_POINT).astype(np.int64)
        for row, values in enumerate((np.ones_like(fixed), correct.astype(int), fixed, squares)):
            np.add.at(state[row], bins, values)
        return cls(state)

    @classmethod
    def from_probabilities(
        cls, probabilities: Array, labels: Array, n_bins: SupportsIndex = 10
    ) -> "BinStats":
        """From class probabilities, [N, K], whose rows sum to 1, and labels.

        Raises:
            ValueError: a value outside [0, 1], a row that does not sum to 1 within 1e-3, or as
                for `from_logits`.
        """

        def reduce(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if part.min() < 0 or part.max() > 1 + 1e-6:
                raise ValueError("probabilities must be in [0, 1]; did you pass logits?")
            if (off := np.abs(part.sum(axis=1, dtype=np.float64) - 1).max()) > 1e-3:
                raise ValueError(f"rows of probabilities must sum to 1, one is off by {off:.3g}")
            return np.minimum(part.max(axis=1), 1), part.argmax(axis=1) == truth

        found = Scores(probabilities, labels, "probabilities").per_sample(reduce)
        return cls.from_confidences(*found, n_bins)

    @classmethod
    def from_logits(
        cls,
        logits: Array,
        labels: Array,
        n_bins: SupportsIndex = 10,
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
            ValueError: empty, of the wrong shape, not finite, a label out of range, or a
                temperature that is not positive.
            TypeError: labels that are no integers, or logits that are no real numbers.
        """
        confidences, correct = top_confidences(logits, labels, temperature, label_space)
        return cls.from_confidences(confidences, correct, n_bins)

    def __add__(self, other: "BinStats") -> "BinStats":
        """Statistics of both samples together, bit by bit as if computed at once."""
        if not isinstance(other, BinStats):
            return NotImplemented
        if self.n_bins != other.n_bins:
            raise ValueError(f"n_bins: cannot add {self.n_bins} bins and {other.n_bins} bins")
        return BinStats(self.state + other.state)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same bits."""
        return isinstance(other, BinStats) and np.array_equal(self.state, other.state)

    def all_reduce(self, group: Any = None) -> "BinStats":
        """Statistics of all processes of a `torch.distributed` group together, on each of them.

        Bit by bit as if one process had seen all samples. Every process has to call it; one
        without samples brings `BinStats.empty`. Where no group is initialised: itself.

        Args:
            group: a process group, on CPU (gloo) or GPU (nccl); None: all processes.

        Raises:
            ValueError: the processes do not have the same number of bins.
        """
        # not above: the stages that judge saved predictions start without torch, in a moment
        import torch
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return self
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        bins = torch.tensor([self.n_bins, -self.n_bins], device=device)
        dist.all_reduce(bins, dist.ReduceOp.MAX, group)  # most bins, and minus the fewest
        if bins.sum() != 0:
            raise ValueError("n_bins differs between the processes of the group")
        state = torch.tensor(self.state, device=device)
        dist.all_reduce(state, dist.ReduceOp.SUM, group)
        return BinStats(state.cpu().numpy())

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

    # what follows raises ValueError if there are no samples

    @property
    def accuracy(self) -> Float[np.ndarray, " bins"]:
        """Accuracy in each bin; NaN where it is empty."""
        return self._per_sample(self.state[1])

    @property
    def confidence(self) -> Float[np.ndarray, " bins"]:
        """Mean confidence in each bin; NaN where it is empty."""
        return self._per_sample(self.state[2] / FIXED_POINT)

    def mean_accuracy(self) -> float:
        """Share of right predictions, in [0, 1]."""
        return float(self.state[1].sum() / self._some())

    def mean_confidence(self) -> float:
        """Mean confidence of all predictions, in [0, 1]."""
        return float(self.state[2].sum() / FIXED_POINT / self._some())

    def signed_gap(self) -> float:
        """Mean confidence minus accuracy, in [-1, 1]: above 0 over-confident, below 0 under.

        Source: the gap of Guo et al. 2017, Figure 1.
        """
        return self.mean_confidence() - self.mean_accuracy()

    def ece(self) -> float:
        """Expected calibration error: mean gap between accuracy and confidence, by samples.

        In [0, 1]. Source: Naeini et al. 2015; Guo et al. 2017, Eq. 3; CaRot, Eq. 3.
        """
        return float(np.abs(self._gaps()).sum() / self._some())

    def rmsce(self) -> float:
        """Root mean squared calibration error, in [ECE, 1].

        Source: Hendrycks et al. 2019, "Deep Anomaly Detection with Outlier Exposure".
        """
        n, filled = self._some(), self.count > 0
        squares = self._gaps()[filled] ** 2 / self.count[filled]
        return float(np.sqrt(squares.sum() / n))

    def mce(self, min_count: SupportsIndex = 1) -> float:
        """Maximum calibration error: the largest gap of a bin, in [0, 1]; of all bins, >= ECE.

        Args:
            min_count: bins of fewer samples are left out: their gap is mostly noise.

        Raises:
            ValueError: no bin holds so many.

        Source: Naeini et al. 2015; Guo et al. 2017, Eq. 5.
        """
        self._some()
        large = self.count >= check_integer(min_count, "min_count", most=FULL)
        if not large.any():
            raise ValueError(f"no bin holds min_count = {min_count} samples")
        return float(np.abs(self.accuracy - self.confidence)[large].max())

    def ece_debiased(self) -> float:
        """Root of the squared calibration error without its upward bias, in [0, 1].

        0 where the unbiased square is negative. Bins of one sample cannot be corrected: they count
        0. Source: Kumar et al. 2019, "Verified Uncertainty Calibration", Definition 6.1.
        """
        total, many = self._some(), self.count > 1
        n, accuracy, confidence = self.count[many], self.accuracy[many], self.confidence[many]
        squares = (confidence - accuracy) ** 2 - accuracy * (1 - accuracy) / (n - 1)
        return float(np.sqrt(max(0.0, (n * squares).sum() / total)))

    def noise_floor(self) -> float:
        """ECE that a perfectly calibrated model with these confidences has on average, in [0, 1].

        Each bin's gap is then close to normal with variance sum c (1 - c), whose mean absolute
        value is sqrt(2 / pi) standard deviations.
        """
        return float(np.sqrt(2 / np.pi) * np.sqrt(self._variance()).sum() / self._some())

    def p_value(self, seed: SupportsIndex = 0, resamples: SupportsIndex = 20_000) -> float:
        """p-value of "perfectly calibrated": how often chance alone gives so large an ECE.

        Normal approximation of each bin's sum, so it costs milliseconds; in (0, 1], and at least
        1 / (1 + resamples).
        """
        generator = np.random.default_rng(check_integer(seed, "seed", least=0, most=2**63))
        resamples, ece = check_integer(resamples, "resamples", most=10**6), self.ece()
        spread, at_once = np.sqrt(self._variance()), max(1, DRAWS // self.n_bins)
        as_large = 0
        for start in range(0, resamples, at_once):
            gaps = generator.normal(size=(min(at_once, resamples - start), self.n_bins))
            gaps *= spread
            as_large += (np.abs(gaps, out=gaps).sum(axis=1) / self.n >= ece).sum()
        return float((1 + as_large) / (1 + resamples))

    def consistency(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """Range of each bin's accuracy, in [0, 1], that chance alone explains, if it is calibrated.

        NaN where a bin is empty. `level` is the share of calibrated models that fall into it, in
        (0, 1). Exact binomial quantiles at the mean confidence for bins of fewer than 30 samples.

        Source: Bröcker and Smith 2007.
        """
        if check_fraction(level, "level") in (0, 1):
            raise ValueError(f"level must be inside (0, 1), got {level}")
        tail = (1 - level) / 2
        centre = self.confidence
        width = norm.ppf(1 - tail) * self._per_sample(np.sqrt(self._variance()))
        low, high = np.clip(centre - width, 0, 1), np.clip(centre + width, 0, 1)
        few = (self.count > 0) & (self.count < FEW)
        low[few] = binom.ppf(tail, self.count[few], centre[few]) / self.count[few]
        high[few] = binom.ppf(1 - tail, self.count[few], centre[few]) / self.count[few]
        return low, high

    def _some(self) -> int:
        """Number of samples, of which there must be some."""
        if not self.n:
            raise ValueError("no samples: an empty state has no statistics")
        return self.n

    def _gaps(self) -> Float[np.ndarray, " bins"]:
        """Sum of confidences minus right samples, in each bin."""
        return self.state[2] / FIXED_POINT - self.state[1]

    def _variance(self) -> Float[np.ndarray, " bins"]:
        """Variance of the number of right samples in each bin, if calibrated: sum c (1 - c)."""
        return np.maximum(self.state[2] - self.state[3], 0) / FIXED_POINT

    def _per_sample(self, sums: np.ndarray) -> Float[np.ndarray, " bins"]:
        self._some()
        empty = self.count == 0
        return np.where(empty, np.nan, sums / np.where(empty, 1, self.count))


def bin_of(confidences: Float[np.ndarray, "..."], n_bins: SupportsIndex) -> Int[np.ndarray, "..."]:
    """Which right-closed bin each confidence falls into; both ends are clamped.

    Raises:
        ValueError: a confidence is NaN, or `n_bins` is no positive integer.
    """
    confidences = as_array(confidences, "confidences")
    if confidences.dtype.kind != "f":
        raise TypeError(f"confidences must be floating-point numbers, got {confidences.dtype}")
    if confidences.size and np.isnan(confidences.min()):
        raise ValueError("confidences must be numbers, some are NaN")
    n_bins = check_integer(n_bins, "n_bins")
    return np.searchsorted(np.arange(1, n_bins) / n_bins, confidences, side="left")
