"""Temperature scaling: one number that divides all logits, chosen on held-out predictions.

Source: Guo et al. 2017, Section 4.2; CaRot, Section A.1: by the ECE of the ID validation set over
[0.5, 10].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from carot_lib.bin_stats import Array, BinStats, bin_of, check_scores

NODES = 40  # of the Chebyshev interpolation; 6e-8 off in ECE on 3,000 x 1,000 logits
RECHECK = 2e-5  # temperatures whose interpolated ECE is this near the least one are recomputed
ROWS = 128  # of logits at a time: 1,000 classes of them stay in the cache


@dataclass(frozen=True)
class TemperatureChoice:
    """A temperature and how it was found.

    Attributes:
        temperature: the choice; of equal ones the nearest to 1, by ratio.
        criterion: what was minimised: "ece" or "nll".
        at_bound: the choice is the least or the greatest allowed: a better one may lie beyond.
        value_before: the criterion at temperature 1.
        value_after: the criterion at the choice, by the direct formula.
        temperatures: the grid.
        values: the criterion on it.
        n: samples it was chosen on.
    """

    temperature: float
    criterion: str
    at_bound: bool
    value_before: float
    value_after: float
    temperatures: Float[np.ndarray, " grid"]
    values: Float[np.ndarray, " grid"]
    n: int


def select_temperature(
    logits: Array,
    labels: Array,
    criterion: Literal["ece", "nll"] = "ece",
    low: float = 0.5,
    high: float = 10.0,
    step: float = 0.01,
    n_bins: int = 10,
) -> TemperatureChoice:
    """The temperature in [low, high] that minimises the ECE (on a grid) or the NLL (exactly).

    Choose it on other samples than those whose calibration is reported.

    Args:
        logits: [N, K], array or tensor.
        labels: [N], integers in [0, K).
        criterion: "ece" as in the paper, or "nll", which is smooth and has one minimum.
        low: least temperature.
        high: greatest temperature.
        step: of the grid, from `low` on; `high` always belongs to it.
        n_bins: of the ECE.

    Raises:
        ValueError: a bad grid or criterion, or as `carot_lib.bin_stats.BinStats.from_logits`.
    """
    if criterion not in ("ece", "nll"):
        raise ValueError(f"criterion must be 'ece' or 'nll', got {criterion!r}")
    if not (0 < low < high < np.inf and step > 0):
        raise ValueError(f"need 0 < low < high and step > 0, got {low}, {high}, {step}")
    scores, labels = check_scores(logits, labels, "logits")
    grid = low + step * np.arange(int(np.floor((high - low) / step + 1e-9)) + 1)
    grid = np.append(grid, high) if grid[-1] < high - 1e-9 else grid
    grid = np.round(grid, 10)
    eces, nlls = sweep(scores, labels, grid, n_bins)
    if criterion == "ece":
        near = np.flatnonzero(eces <= eces.min() + RECHECK)
        eces[near] = [direct_ece(scores, labels, grid[i], n_bins) for i in near]
        best = min(near, key=lambda i: (eces[i], abs(np.log(grid[i]))))
        temperature, after = float(grid[best]), float(eces[best])
        before, values = direct_ece(scores, labels, 1.0, n_bins), eces
    else:
        temperature = 1 / _minimise_nll(scores, labels, 1 / high, 1 / low)
        before, after = (_nll(scores, labels, 1 / t)[0] for t in (1.0, temperature))
        values = nlls
    at_bound = bool(np.isclose(temperature, low) or np.isclose(temperature, high))
    return TemperatureChoice(
        temperature, criterion, at_bound, before, after, grid, values, len(labels)
    )


def direct_ece(
    logits: Float[np.ndarray, "samples classes"],
    labels: np.ndarray,
    temperature: float,
    n_bins: int,
) -> float:
    """ECE at one temperature, by the formula."""
    return BinStats.from_logits(logits, labels, n_bins, temperature).ece()


def sweep(
    logits: Float[np.ndarray, "samples classes"],
    labels: np.ndarray,
    temperatures: Float[np.ndarray, " grid"],
    n_bins: int,
) -> tuple[Float[np.ndarray, " grid"], Float[np.ndarray, " grid"]]:
    """ECE and NLL at every temperature of a grid, by interpolation.

    With d the distance of each logit to the largest, the confidence at temperature T is exp(-g),
    g = log sum exp(-d / T): a smooth function of log T. It is computed at a few Chebyshev nodes in
    log T and interpolated to the whole grid by one small matrix product. The predicted class never
    changes, so correctness is computed once.
    """
    centre = np.log(temperatures[[0, -1]]).mean()
    radius = np.log(temperatures[-1]) - centre
    angles = (np.arange(NODES) + 0.5) * np.pi / NODES
    nodes = np.exp(centre + radius * np.cos(angles))
    to_grid = _interpolation(np.cos(angles), (np.log(temperatures) - centre) / radius)
    gaps = np.zeros(len(temperatures) * n_bins)
    log_likelihood = np.zeros(len(temperatures))
    first = np.arange(len(temperatures)) * n_bins
    for distance, of_label, correct in _chunks(logits, labels):
        at_nodes = np.empty((len(distance), NODES))
        for column, node in enumerate(nodes):
            scaled = distance * np.asarray(-1 / node, distance.dtype)
            at_nodes[:, column] = np.log(np.exp(scaled).sum(axis=1, dtype=np.float64))
        g = np.maximum(at_nodes @ to_grid, 0)
        confidences = np.exp(-g)
        cells = (first + bin_of(confidences, n_bins)).ravel()
        weights = (confidences - correct[:, None]).ravel()
        gaps += np.bincount(cells, weights, minlength=len(gaps))
        log_likelihood += g.sum(axis=0) + of_label.sum() / temperatures
    n = len(labels)
    return np.abs(gaps.reshape(-1, n_bins)).sum(axis=1) / n, log_likelihood / n


def _chunks(
    logits: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Distances to the largest logit, that of the label, and whether the largest is the label's."""
    for start in range(0, len(logits), ROWS):
        part, truth = logits[start : start + ROWS], labels[start : start + ROWS]
        distance = part.max(axis=1, keepdims=True) - part
        of_label = distance[np.arange(len(part)), truth].astype(np.float64)
        yield distance, of_label, part.argmax(axis=1) == truth


def _interpolation(nodes: np.ndarray, points: np.ndarray) -> Float[np.ndarray, "nodes points"]:
    """Matrix from values at Chebyshev nodes to values at points in [-1, 1], barycentric."""
    order = np.arange(len(nodes))
    weights = (-1.0) ** order * np.sin((order + 0.5) * np.pi / len(nodes))
    difference = points[None, :] - nodes[:, None]
    exact = np.abs(difference) < 1e-14
    terms = weights[:, None] / np.where(exact, 1, difference)
    matrix = terms / terms.sum(axis=0)
    hit = exact.any(axis=0)
    matrix[:, hit] = exact[:, hit]
    return matrix


def _minimise_nll(logits: np.ndarray, labels: np.ndarray, low: float, high: float) -> float:
    """The inverse temperature in [low, high] of the least NLL: Newton, kept in a bracket.

    The NLL is convex in the inverse temperature, so the sign of its slope says on which side the
    minimum lies.
    """
    beta = min(max(1.0, low), high)
    if _nll(logits, labels, beta)[1] == 0:  # as with equal logits, where all are as good
        return beta
    if _nll(logits, labels, low)[1] >= 0:
        return low
    if _nll(logits, labels, high)[1] <= 0:
        return high
    for _ in range(100):
        _, slope, curvature = _nll(logits, labels, beta)
        if abs(slope) < 1e-10:
            break
        low, high = (beta, high) if slope < 0 else (low, beta)
        newton = beta - slope / curvature if curvature > 0 else low
        beta = newton if low < newton < high else (low * high) ** 0.5
    return beta


def _nll(logits: np.ndarray, labels: np.ndarray, beta: float) -> tuple[float, float, float]:
    """Mean NLL at an inverse temperature, and its first and second derivative."""
    sums = np.zeros(3)
    for distance, of_label, _ in _chunks(logits, labels):
        distance = distance.astype(np.float64)
        mass = np.exp(-beta * distance)
        total = mass.sum(axis=1)
        mean = (mass * distance).sum(axis=1) / total
        square = (mass * distance**2).sum(axis=1) / total
        sums += (
            (np.log(total) + beta * of_label).sum(),
            (of_label - mean).sum(),
            (square - mean**2).sum(),
        )
    value, slope, curvature = sums / len(labels)
    return float(value), float(slope), float(curvature)
