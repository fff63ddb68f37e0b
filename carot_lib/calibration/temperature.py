"""Temperature scaling: one number that divides all logits, chosen on held-out predictions.

Source: Guo et al. 2017, Section 4.2; CaRot, Section A.1: by the ECE of the ID validation set over
[0.5, 10].
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import make_interp_spline
from threadpoolctl import threadpool_limits

from carot_lib.calibration.bin_stats import BinStats, bin_of
from carot_lib.calibration.scores import (
    MOST,
    Array,
    check_choice,
    check_integer,
    check_scores,
    check_temperature,
)

PER_OCTAVE = 8  # nodes of the interpolation between a temperature and its double
BEYOND = 4  # nodes outside the range at either end, where a spline is least exact
DEGREE = 7  # of the spline; 2e-6 off in the confidence of the worst logits tried
RECHECK = 2e-5  # temperatures whose interpolated ECE is this near the least one are recomputed
TINY = 2e-19  # its square is a normal number in single precision; others are slow
ROWS = 64  # of logits at a time: 1,000 classes of them stay in the cache
TASK = 1024  # rows that a thread takes at once


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
        selected_on: name of the samples it was chosen on, as given.
    """

    temperature: float
    criterion: str
    at_bound: bool
    value_before: float
    value_after: float
    temperatures: Float[np.ndarray, " grid"]
    values: Float[np.ndarray, " grid"]
    n: int
    selected_on: str


def select_temperature(
    logits: Array,
    labels: Array,
    criterion: Literal["ece", "nll"] = "ece",
    low: float = 0.5,
    high: float = 10.0,
    step: float = 0.01,
    n_bins: int = 10,
    selected_on: str = "unnamed",
) -> TemperatureChoice:
    """The temperature in [low, high] that minimises the ECE (on a grid) or the NLL (exactly).

    Choose it on other samples than those whose calibration is reported. The least ECE of the grid
    is the least by the direct formula: every temperature near it is recomputed.

    Args:
        logits: [N, K], array or tensor.
        labels: [N], integers in [0, K).
        criterion: "ece" as in the paper, or "nll", which is smooth and has one minimum.
        low: least temperature.
        high: greatest temperature.
        step: of the grid, from `low` on; `high` always belongs to it.
        n_bins: of the ECE.
        selected_on: name of these samples; kept with the choice.

    Raises:
        TypeError: `selected_on` is no text.
        ValueError: a bad grid or criterion, or as `BinStats.from_logits`.
    """
    check_choice(criterion, "criterion", ("ece", "nll"))
    low, high, step = (
        check_temperature(value, name)
        for value, name in ((low, "low"), (high, "high"), (step, "step"))
    )
    n_bins = check_integer(n_bins, "n_bins")
    if not isinstance(selected_on, str):
        raise TypeError(f"selected_on must be a name, got {selected_on!r}")
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    if (high - low) / step > MOST:
        raise ValueError(f"step: {step} makes more than {MOST} temperatures of {low} to {high}")
    scores, labels = check_scores(logits, labels, "logits")
    grid = low + step * np.arange(int(np.floor((high - low) / step + 1e-9)) + 1)
    grid = np.append(grid, high) if grid[-1] < high - 1e-9 else grid
    grid = np.array([float(f"{value:.10g}") for value in grid])  # 0.57, not 0.5700000000000001
    eces, nlls = sweep(scores, labels, grid, n_bins)
    if criterion == "ece":
        eces = _recompute_least(eces, scores, labels, grid, n_bins)
        near = np.flatnonzero(eces == eces.min())
        best = near[np.abs(np.log(grid[near])).argmin()]
        temperature, after = float(grid[best]), float(eces[best])
        before, values = direct_ece(scores, labels, 1.0, n_bins), eces
    else:
        temperature = 1 / _minimise_nll(scores, labels, 1 / high, 1 / low, 1 / grid[nlls.argmin()])
        before, after = (_nll(scores, labels, 1 / t)[0] for t in (1.0, temperature))
        values = nlls
    at_bound = bool(np.isclose(temperature, low) or np.isclose(temperature, high))
    return TemperatureChoice(
        temperature, criterion, at_bound, before, after, grid, values, len(labels), selected_on
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
    """ECE and NLL at every temperature of an increasing grid, by interpolation.

    With d the distance of each logit to the largest, the confidence at temperature T is exp(-g),
    g = log sum exp(-d / T): a smooth function of log T. It is computed at nodes that are evenly
    spaced in log T and interpolated to the whole grid by one small matrix product. Half the
    temperature squares every exp(-d / T), so one octave of exponentials gives all others. The
    predicted class never changes, so correctness is computed once.
    """
    nodes, to_grid = _plan(temperatures)
    first = np.arange(len(temperatures)) * n_bins

    def task(start: int) -> tuple[np.ndarray, np.ndarray]:
        gaps, log_likelihood = np.zeros(len(temperatures) * n_bins), np.zeros(len(temperatures))
        rows = slice(start, start + TASK)
        for distance, of_label, correct in _chunks(logits[rows], labels[rows]):
            g = np.maximum(_log_sums(distance, nodes) @ to_grid, 0)
            confidences = np.exp(-g)
            cells = (first + bin_of(confidences, n_bins)).ravel()
            weights = (confidences - correct[:, None]).ravel()
            gaps += np.bincount(cells, weights, minlength=len(gaps))
            log_likelihood += g.sum(axis=0) + of_label.sum() / temperatures
        return gaps, log_likelihood

    # numpy lets go of the interpreter, so threads work side by side; BLAS must not start its own
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(task, range(0, len(labels), TASK))  # in order: the sums repeat bit by bit
        gaps, log_likelihood = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    n = len(labels)
    return np.abs(gaps.reshape(-1, n_bins)).sum(axis=1) / n, log_likelihood / n


def _plan(
    temperatures: Float[np.ndarray, " grid"],
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, "nodes grid"]]:
    """Temperatures to compute at, hottest first, and the matrix from values there to the grid."""
    hottest, coldest = np.log2(temperatures[-1]), np.log2(temperatures[0])
    steps = int(np.ceil((hottest - coldest) * PER_OCTAVE)) + 2 * BEYOND
    nodes = hottest + (BEYOND - np.arange(steps + 1)) / PER_OCTAVE
    spline = make_interp_spline(nodes[::-1], np.eye(len(nodes))[::-1], k=DEGREE)
    return 2.0**nodes, np.ascontiguousarray(spline(np.log2(temperatures)).T)


def _log_sums(
    distance: Float[np.ndarray, "rows classes"], nodes: Float[np.ndarray, " nodes"]
) -> Float[np.ndarray, "rows nodes"]:
    """Log sum exp(-distance / T) at every node."""
    sums = np.empty((len(distance), len(nodes)))
    ones = np.ones(distance.shape[1], distance.dtype)
    tiny = np.asarray(TINY, distance.dtype)
    for phase in range(PER_OCTAVE):
        with np.errstate(over="ignore"):  # to -inf, which has no mass
            mass = distance * np.asarray(-1 / nodes[phase], distance.dtype)
        np.exp(mass, out=mass)
        sums[:, phase] = mass @ ones
        for node in range(phase + PER_OCTAVE, len(nodes), PER_OCTAVE):
            mass += tiny
            np.square(mass, out=mass)
            sums[:, node] = mass @ ones
    return np.log(sums)


def _recompute_least(
    eces: Float[np.ndarray, " grid"],
    logits: Float[np.ndarray, "samples classes"],
    labels: np.ndarray,
    temperatures: Float[np.ndarray, " grid"],
    n_bins: int,
) -> Float[np.ndarray, " grid"]:
    """The curve with its least values, and all that could be less, by the direct formula.

    How far the interpolation can be off is measured on what is recomputed: as long as that is
    more than half the margin, the margin grows.
    """
    direct = np.full(len(eces), np.nan)
    margin = RECHECK
    while True:
        near = np.flatnonzero(np.isnan(direct) & (eces <= eces.min() + margin))
        direct[near] = [direct_ece(logits, labels, temperatures[i], n_bins) for i in near]
        off = np.nanmax(np.abs(direct - eces))
        if off <= margin / 2:
            return np.where(np.isnan(direct), eces, direct)
        margin = 4 * off


def _chunks(
    logits: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Distances to the largest logit, that of the label, and whether the largest is the label's."""
    for start in range(0, len(logits), ROWS):
        part = np.ascontiguousarray(logits[start : start + ROWS])  # one order of summation
        truth = labels[start : start + ROWS]
        distance = part.max(axis=1, keepdims=True) - part
        of_label = distance[np.arange(len(part)), truth].astype(np.float64)
        yield distance, of_label, part.argmax(axis=1) == truth


def _minimise_nll(
    logits: np.ndarray, labels: np.ndarray, low: float, high: float, start: float
) -> float:
    """The inverse temperature in [low, high] of the least NLL: Newton, kept in a bracket.

    The NLL is convex in the inverse temperature, so the sign of its slope says on which side the
    minimum lies.
    """
    if _nll(logits, labels, min(max(1.0, low), high))[1] == 0:  # equal logits: all are as good
        return min(max(1.0, low), high)
    if _nll(logits, labels, low)[1] >= 0:
        return low
    if _nll(logits, labels, high)[1] <= 0:
        return high
    beta = start
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
