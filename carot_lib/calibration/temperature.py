"""Temperature scaling: one number that divides all logits, chosen on held-out predictions.

Source: Guo et al. 2017, Section 4.2; CaRot, Section A.1: by the ECE of the ID validation set over
[0.5, 10].
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from threadpoolctl import threadpool_limits

from carot_lib.calibration.bin_stats import BinStats, bin_of
from carot_lib.calibration.scores import (
    MAX_SIZE,
    Array,
    check_finite,
    check_integer,
    check_temperature,
    read_logits,
)
from carot_lib.calibration.softmax import interpolation, log_sums, nodes_between

RECHECK_MARGIN = 2e-5  # interpolated ECEs this near the least one are recomputed
ROWS = 64  # of logits at a time: 1,000 classes of them stay in the cache
TASK = 1024  # rows that a thread takes at once


@dataclass(frozen=True)
class TemperatureChoice:
    """A temperature and how it was found.

    Attributes:
        temperature: the choice; of equally good ones the nearest to 1, by ratio.
        at_bound: the choice is an end of the range: a better one may lie beyond.
        value_before: the ECE at temperature 1.
        value_after: the ECE at the choice, by the direct formula.
        temperatures: the grid.
        values: the ECE on the grid.
    """

    temperature: float
    at_bound: bool
    value_before: float
    value_after: float
    temperatures: Float[np.ndarray, " grid"]
    values: Float[np.ndarray, " grid"]


def select_temperature(
    logits: Array,
    labels: Array,
    low: float = 0.5,
    high: float = 10.0,
    step: float = 0.01,
    n_bins: int = 10,
) -> TemperatureChoice:
    """The temperature in [low, high] that minimises the ECE on a grid.

    Choose it on other samples than are reported. The least ECE of the grid is the least by the
    direct formula: every temperature near it is recomputed.

    Args:
        logits: [N, K], array, tensor or lists.
        labels: [N], integers in [0, K).
        low: start of the grid.
        high: end of the grid, to which it always belongs.
        step: distance of two temperatures; the last may be shorter.
        n_bins: of the ECE.

    Raises:
        ValueError: a bad grid, a logit that is not finite, or as `read_logits`.
        TypeError: as `read_logits`.
    """
    low, high = _check_range(low, high)
    grid = _grid(low, high, check_temperature(step, "step"))
    n_bins = check_integer(n_bins, "n_bins")
    logits, labels = read_logits(logits, labels)
    check_finite(logits)
    values = _recompute_least(sweep(logits, labels, grid, n_bins), logits, labels, grid, n_bins)
    near = np.flatnonzero(values == values.min())
    best = near[np.abs(np.log(grid[near])).argmin()]
    chosen = float(grid[best])
    before = direct_ece(logits, labels, 1.0, n_bins)
    at_bound = is_bound(chosen, low, high)
    return TemperatureChoice(chosen, at_bound, before, float(values[best]), grid, values)


def temperature_of_least_nll(
    logits: Array, labels: Array, low: float = 0.5, high: float = 10.0
) -> float:
    """The temperature in [low, high] of the least NLL, which is convex in its inverse.

    Where all are as good, as for equal logits, the nearest to 1.

    Raises:
        ValueError: a bad range, a logit that is not finite, or as `read_logits`.
        TypeError: as `read_logits`.
    """
    low, high = _check_range(low, high)
    logits, labels = read_logits(logits, labels)
    check_finite(logits)

    def slope(beta: float) -> float:
        """Derivative of the mean NLL by the inverse temperature."""
        total = 0.0
        for distance, truth in _distances(logits, labels):
            distance = distance.astype(np.float64)
            mass = np.exp(-beta * distance)
            of_label = distance[np.arange(len(truth)), truth]
            total += (of_label - (mass * distance).sum(axis=1) / mass.sum(axis=1)).sum()
        return float(total / len(labels))

    least, greatest = 1 / high, 1 / low
    nearest_to_one = min(max(1.0, least), greatest)
    if slope(nearest_to_one) == 0:
        return 1 / nearest_to_one
    if slope(least) >= 0:
        return 1 / least
    if slope(greatest) <= 0:
        return 1 / greatest
    ends = np.log(least), np.log(greatest)
    return 1 / float(np.exp(brentq(lambda log_beta: slope(np.exp(log_beta)), *ends, xtol=1e-12)))


def is_bound(temperature: float, low: float, high: float) -> bool:
    """Whether a temperature is an end of the range of which it was chosen."""
    return bool(np.isclose(temperature, [low, high]).any())


def _check_range(low: float, high: float) -> tuple[float, float]:
    low, high = check_temperature(low, "low"), check_temperature(high, "high")
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    return low, high


def _grid(low: float, high: float, step: float) -> Float[np.ndarray, " grid"]:
    if (high - low) / step > MAX_SIZE:
        raise ValueError(f"step: {step} makes more than {MAX_SIZE} temperatures of {low} to {high}")
    grid = low + step * np.arange(int(np.floor((high - low) / step + 1e-9)) + 1)
    grid = np.append(grid, high) if grid[-1] < high - 1e-9 else grid
    return np.array([float(f"{value:.10g}") for value in grid])  # 0.57, not 0.5700000000000001


def direct_ece(logits: Array, labels: Array, temperature: float, n_bins: int) -> float:
    """ECE at one temperature, by the formula."""
    return BinStats.from_logits(logits, labels, n_bins, temperature).ece()


def sweep(
    logits: np.ndarray, labels: np.ndarray, temperatures: Float[np.ndarray, " grid"], n_bins: int
) -> Float[np.ndarray, " grid"]:
    """ECE at every temperature of an increasing grid: see `carot_lib.calibration.softmax`."""
    nodes = nodes_between(temperatures[0], temperatures[-1])
    to_grid = interpolation(nodes, temperatures)
    first = np.arange(len(temperatures)) * n_bins

    def task(start: int) -> np.ndarray:
        gaps = np.zeros(len(temperatures) * n_bins)
        rows = slice(start, start + TASK)
        for distance, truth in _distances(logits[rows], labels[rows]):
            correct = distance.argmin(axis=1) == truth
            g = np.maximum(log_sums(distance, nodes) @ to_grid, 0)
            confidences = np.exp(-g)
            cells = (first + bin_of(confidences, n_bins)).ravel()
            weights = (confidences - correct[:, None]).ravel()
            gaps += np.bincount(cells, weights, minlength=len(gaps))
        return gaps

    # numpy releases the interpreter lock, so threads help; BLAS must not start more of them
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(task, range(0, len(labels), TASK))  # in order: the sums repeat bit by bit
        gaps = np.sum(list(parts), axis=0)
    return np.abs(gaps.reshape(-1, n_bins)).sum(axis=1) / len(labels)


def _recompute_least(
    eces: np.ndarray, logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray, n_bins: int
) -> np.ndarray:
    """The curve with its least values, and all that could be less, by the direct formula.

    While the error of the interpolation there is more than half the margin, the margin grows.
    """
    direct = np.full(len(eces), np.nan)
    margin = RECHECK_MARGIN
    while True:
        near = np.flatnonzero(np.isnan(direct) & (eces <= eces.min() + margin))
        direct[near] = [direct_ece(logits, labels, temperatures[i], n_bins) for i in near]
        off = np.nanmax(np.abs(direct - eces))
        if off <= margin / 2:
            return np.where(np.isnan(direct), eces, direct)
        margin = 4 * off


def _distances(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distances to the largest logit, and the labels, of some rows at a time."""
    for start in range(0, len(logits), ROWS):
        part = np.ascontiguousarray(logits[start : start + ROWS])  # one order of summation
        yield part.max(axis=1, keepdims=True) - part, labels[start : start + ROWS]
