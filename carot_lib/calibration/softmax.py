"""The softmax of every sample at any temperature, by interpolation between a few.

With d the distance of each logit to the largest one, all that is reported follows from
g(T) = log sum exp(-d / T), a smooth function of log T: the confidence is exp(-g(T)), the NLL
d_label / T + g(T), and the sum of the squared probabilities exp(g(T / 2) - 2 g(T)). It is computed
at nodes that are evenly spaced in log T and interpolated by one small matrix product. Half the
temperature squares every exp(-d / T), so one octave of exponentials gives all others. The predicted
class never changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import make_interp_spline
from threadpoolctl import threadpool_limits

from carot_lib.calibration.scores import Array, map_rows

NODES_PER_OCTAVE = 8  # nodes of the interpolation between a temperature and its double
MARGIN_NODES = 4  # nodes outside the range at either end, where a spline is least exact
DEGREE = 7  # of the spline; 2e-6 off in the confidence of the worst logits tried
TINY = 2e-19  # its square is a normal number in single precision; others are slow


@dataclass(frozen=True)
class SoftmaxCurves:
    """What is needed of the softmax of each sample, as functions of the temperature.

    Attributes:
        correct: whether the predicted class is the label; ties go to the lower class.
        label_distance: largest logit minus that of the label, >= 0.
        nodes: logarithms to base 2 of the temperatures of `log_sums`.
        log_sums: g of the module's docstring, in [0, log K].
    """

    correct: Bool[np.ndarray, " samples"]
    label_distance: Float[np.ndarray, " samples"]
    nodes: Float[np.ndarray, " nodes"]
    log_sums: Float[np.ndarray, "samples nodes"]

    @classmethod
    def from_logits(cls, logits: Array, labels: Array, low: float, high: float) -> "SoftmaxCurves":
        """From logits [N, K] and labels [N], for temperatures in [low, high].

        Raises as `map_rows`.
        """
        nodes = nodes_between(low / 2, high)  # the Brier score needs half the temperature

        def of_rows(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, ...]:
            distance = part.max(axis=1, keepdims=True) - part.astype(np.float64)
            of_label = distance[np.arange(len(truth)), truth]
            return distance.argmin(axis=1) == truth, of_label, log_sums(distance, nodes)

        with threadpool_limits(1, user_api="blas"):  # the rows are spread over threads
            correct, of_label, sums = map_rows(of_rows, logits, labels)
        return cls(correct, of_label, nodes, sums)

    def at(
        self, temperatures: Float[np.ndarray, " temperatures"]
    ) -> Iterator[
        tuple[
            Float[np.ndarray, " samples"],
            Float[np.ndarray, " samples"],
            Float[np.ndarray, " samples"],
        ]
    ]:
        """Confidence, NLL and Brier score of each sample at one temperature after another."""
        plain, half = (interpolation(self.nodes, t) for t in (temperatures, temperatures / 2))
        for i, temperature in enumerate(temperatures):
            g = np.maximum(self.log_sums @ plain[:, i], 0)
            nll = self.label_distance / temperature + g
            squares = np.exp(self.log_sums @ half[:, i] - 2 * g)
            yield np.exp(-g), nll, 1 - 2 * np.exp(-nll) + squares


def nodes_between(low: float, high: float) -> Float[np.ndarray, " nodes"]:
    """Logarithms to base 2 of the nodes for temperatures in [low, high], the hottest first."""
    hottest, coldest = np.log2(high), np.log2(low)
    steps = int(np.ceil((hottest - coldest) * NODES_PER_OCTAVE)) + 2 * MARGIN_NODES
    return hottest + (MARGIN_NODES - np.arange(steps + 1)) / NODES_PER_OCTAVE


def interpolation(
    nodes: Float[np.ndarray, " nodes"], temperatures: Float[np.ndarray, " temperatures"]
) -> Float[np.ndarray, "nodes temperatures"]:
    """The matrix that takes values at the nodes to those at other temperatures."""
    spline = make_interp_spline(nodes[::-1], np.eye(len(nodes))[::-1], k=DEGREE)
    return np.ascontiguousarray(spline(np.log2(temperatures)).T)


def log_sums(
    distance: Float[np.ndarray, "rows classes"], nodes: Float[np.ndarray, " nodes"]
) -> Float[np.ndarray, "rows nodes"]:
    """Log sum exp(-distance / T) of each row at the temperature of every node."""
    sums, temperatures = np.empty((len(distance), len(nodes))), 2.0**nodes
    ones = np.ones(distance.shape[1], distance.dtype)
    tiny = np.asarray(TINY, distance.dtype)
    for phase in range(NODES_PER_OCTAVE):
        with np.errstate(over="ignore"):  # to -inf, which has no mass
            mass = distance * np.asarray(-1 / temperatures[phase], distance.dtype)
        np.exp(mass, out=mass)
        sums[:, phase] = mass @ ones
        for node in range(phase + NODES_PER_OCTAVE, len(nodes), NODES_PER_OCTAVE):
            mass += tiny
            np.square(mass, out=mass)
            sums[:, node] = mass @ ones
    return np.log(sums)
