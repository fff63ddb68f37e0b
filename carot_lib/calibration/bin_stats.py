"""Binned calibration statistics that merge exactly: the one source of every binned number.

Four integers a bin suffice for calibration errors, their noise, their test and the reliability
diagram, so a figure and a table made from them cannot disagree. Sums are kept in fixed point:
integers add up to the same bits whatever the batches, their order or the number of processes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from carot_lib.calibration.scores import (
    Array,
    as_array,
    check_integer,
    check_level,
    top_confidences,
)

FIXED_POINT = 2**40  # one unit of confidence
MAX_BIN_COUNT = 2**23  # samples in a bin from which on their confidences may overflow int64
MIN_BIN_COUNT = 30  # samples in a bin below which its gap is mostly noise, and not yet normal
MAX_DRAWS = 2**20  # draws of the null distribution at a time: bounds the memory


@dataclass(frozen=True, eq=False)
class BinStats:
    """Predictions grouped by confidence into bins of equal width.

    Bin b of B holds confidences in (b/B, (b+1)/B], the first one 0 as well: right-closed as in Guo
    et al. 2017. All statistics, and `accuracy` and `confidence`, raise ValueError if there are no
    samples.

    Attributes:
        state: one column a bin; rows: number of samples, number of correct ones, and sums of
            confidences and of their squares in units of 1/FIXED_POINT.
    """

    state: Int[np.ndarray, "4 bins"]

    def __post_init__(self) -> None:
        if self.state[0].max() >= MAX_BIN_COUNT:
            raise ValueError(f"state: {MAX_BIN_COUNT} samples in a bin are too many for exact sums")

    @classmethod
    def empty(cls, n_bins: int = 10) -> "BinStats":
        """No samples yet: the neutral element, to which batches are added in a loop."""
        return cls(np.zeros((4, check_integer(n_bins, "n_bins")), dtype=np.int64))

    @classmethod
    def from_confidences(cls, confidences: Array, correct: Array, n_bins: int = 10) -> "BinStats":
        """From confidences [N] in [0, 1] and whether each prediction is correct.

        Raises:
            ValueError: empty, of different lengths, or a confidence outside [0, 1].
            TypeError: confidences that are not numbers, or `correct` that is not truth values.
        """
        confidences, correct = as_array(confidences, "confidences"), as_array(correct, "correct")
        if confidences.ndim != 1 or not len(confidences):
            raise ValueError(f"confidences must be [N] with N >= 1, got {list(confidences.shape)}")
        if correct.shape != confidences.shape:
            raise ValueError(f"correct {correct.shape} does not fit {confidences.shape}")
        if confidences.dtype.kind not in "fiu":  # truth values: the arguments are swapped
            raise TypeError(f"confidences must be real numbers, got {confidences.dtype}")
        if correct.dtype.kind not in "biuf" or not np.isin(correct, (0, 1)).all():
            raise TypeError("correct must hold truth values")
        if not ((confidences >= 0) & (confidences <= 1)).all():
            raise ValueError("confidences must be in [0, 1]; did you pass logits?")
        state = cls.empty(n_bins).state
        confidences = confidences.astype(np.float64)
        bins = bin_of(confidences, n_bins)
        fixed = np.round(confidences * FIXED_POINT).astype(np.int64)
        squares = np.round(confidences**2 * FIXED_POINT).astype(np.int64)
        for row, values in enumerate((np.ones_like(fixed), correct.astype(int), fixed, squares)):
            np.add.at(state[row], bins, values)
        return cls(state)

    @classmethod
    def from_logits(
        cls, logits: Array, labels: Array, n_bins: int = 10, temperature: float = 1.0
    ) -> "BinStats":
        """From logits [N, K] and labels [N]; args and raises as `top_confidences`."""
        return cls.from_confidences(*top_confidences(logits, labels, temperature), n_bins)

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
        """Number of samples in each bin."""
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
        """Share of correct predictions, in [0, 1]."""
        return float(self.state[1].sum() / self._nonzero_n())

    def mean_confidence(self) -> float:
        """Mean confidence of all predictions, in [0, 1]."""
        return float(self.state[2].sum() / FIXED_POINT / self._nonzero_n())

    def signed_gap(self) -> float:
        """Mean confidence minus accuracy, in [-1, 1]: above 0 over-confident, below 0 under.

        Source: the gap of Guo et al. 2017, Figure 1.
        """
        return self.mean_confidence() - self.mean_accuracy()

    def ece(self) -> float:
        """Expected calibration error, in [0, 1]: mean gap of a bin, weighted by its samples.

        Source: Naeini et al. 2015; Guo et al. 2017, Eq. 3; CaRot, Section 2.1.
        """
        return float(np.abs(self._gaps()).sum() / self._nonzero_n())

    def mce(self) -> float:
        """Maximum calibration error: the largest gap of a bin, in [0, 1].

        Only bins of at least MIN_BIN_COUNT samples count, as the gap of fewer is mostly noise; NaN
        if there is none.

        Source: Naeini et al. 2015; Guo et al. 2017, Eq. 5.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.fmax.reduce(np.where(self.count >= MIN_BIN_COUNT, gaps, np.nan)))

    def rmsce_debiased(self) -> float:
        """Root mean squared calibration error, debiased, in [0, 1].

        The mean of the squared gaps of the bins, weighted by their samples, has an upward bias,
        which is subtracted before the root is taken; 0 if less than nothing is left. Bins of one
        sample cannot be corrected and count 0. Not an ECE, which is a mean of absolute gaps and at
        most as large as the root before the correction.

        Source: Kumar et al. 2019, "Verified Uncertainty Calibration", Definition 6.1.
        """
        total, many = self._nonzero_n(), self.count > 1
        n, accuracy, confidence = self.count[many], self.accuracy[many], self.confidence[many]
        squares = (confidence - accuracy) ** 2 - accuracy * (1 - accuracy) / (n - 1)
        return float(np.sqrt(max(0.0, (n * squares).sum() / total)))

    def noise_floor(self) -> float:
        """ECE that a perfectly calibrated model with these confidences has on average, in [0, 1].

        Each bin's gap is then close to normal with variance sum c (1 - c), whose mean absolute
        value is sqrt(2 / pi) standard deviations.
        """
        return float(np.sqrt(2 / np.pi) * np.sqrt(self._variance()).sum() / self._nonzero_n())

    def p_value(self, seed: int = 0, resamples: int = 20_000) -> float:
        """p-value of "perfectly calibrated": how often chance alone gives so large an ECE.

        Normal approximation of each bin's sum, so it takes milliseconds; in (0, 1], and at least
        1 / (1 + resamples).
        """
        rng = np.random.default_rng(check_integer(seed, "seed", minimum=0, maximum=2**63))
        resamples, ece = check_integer(resamples, "resamples", maximum=10**6), self.ece()
        spread, chunk = np.sqrt(self._variance()), max(1, MAX_DRAWS // self.n_bins)
        as_large = 0
        for start in range(0, resamples, chunk):
            gaps = rng.normal(size=(min(chunk, resamples - start), self.n_bins))
            gaps *= spread
            as_large += (np.abs(gaps, out=gaps).sum(axis=1) / self.n >= ece).sum()
        return float((1 + as_large) / (1 + resamples))

    def consistency(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """Range of each bin's accuracy, in [0, 1], that chance alone explains, if it is calibrated.

        A share `level`, in (0, 1), of calibrated models falls into it; NaN where a bin is empty.
        Exact binomial quantiles at the mean confidence for bins of fewer than MIN_BIN_COUNT
        samples, else a normal approximation.

        Source: Bröcker and Smith 2007.
        """
        from scipy.stats import binom, norm  # half a second, and training never needs it

        tail = (1 - check_level(level)) / 2
        centre = self.confidence
        width = norm.ppf(1 - tail) * self._per_sample(np.sqrt(self._variance()))
        low, high = np.clip(centre - width, 0, 1), np.clip(centre + width, 0, 1)
        few = (self.count > 0) & (self.count < MIN_BIN_COUNT)
        low[few] = binom.ppf(tail, self.count[few], centre[few]) / self.count[few]
        high[few] = binom.ppf(1 - tail, self.count[few], centre[few]) / self.count[few]
        return low, high

    def _nonzero_n(self) -> int:
        if not self.n:
            raise ValueError("no samples: an empty state has no statistics")
        return self.n

    def _gaps(self) -> Float[np.ndarray, " bins"]:
        """Sum of confidences minus number of correct samples, in each bin."""
        return self.state[2] / FIXED_POINT - self.state[1]

    def _variance(self) -> Float[np.ndarray, " bins"]:
        """Variance of the number of correct samples in each bin, if calibrated: sum c (1 - c)."""
        return np.maximum(self.state[2] - self.state[3], 0) / FIXED_POINT

    def _per_sample(self, sums: np.ndarray) -> Float[np.ndarray, " bins"]:
        self._nonzero_n()
        empty = self.count == 0
        return np.where(empty, np.nan, sums / np.where(empty, 1, self.count))


def bin_of(confidences: Float[np.ndarray, "..."], n_bins: int) -> Int[np.ndarray, "..."]:
    """Index of the right-closed bin of each confidence in [0, 1]."""
    return np.searchsorted(np.arange(1, n_bins) / n_bins, confidences, side="left")
