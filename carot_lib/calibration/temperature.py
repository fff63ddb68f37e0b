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

NODES_PER_OCTAVE = 8  # nodes of the interpolation between a temperature and its double
MARGIN_NODES = 4  # nodes outside the range at either end, where a spline is least exact
DEGREE = 7  # of the spline; 2e-6 off in the confidence of the worst logits tried
RECHECK_MARGIN = 2e-5  # interpolated ECEs this near the least one are recomputed
TINY = 2e-19  # its square is a normal number in single precision; others are slow
ROWS = 64  # of logits at a time: 1,000 classes of them stay in the cache
TASK = 1024  # rows that a thread takes at once


@dataclass(frozen=True)
class TemperatureChoice:
    """A temperature and how it was found.

    Attributes:
        temperature: the choice; of equally good ones the nearest to 1, by ratio.
        criterion: what was minimised: "ece" or "nll".
        at_bound: the choice is an end of the range: a better one may lie beyond.
        value_before: the criterion at temperature 1.
        value_after: the criterion at the choice, by the direct formula.
        temperatures: the grid.
        values: the criterion on the grid.
        n: number of samples.
        selected_on: name of the samples.
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

    Choose it on other samples than are reported. The least ECE of the grid is the least by the
    direct formula: every temperature near it is recomputed.

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
        ValueError: a bad grid or criterion, a logit that is not finite, or as `read_logits`.
        TypeError: as `read_logits`.
    """
    if criterion not in ("ece", "nll"):
        raise ValueError(f"criterion must be ece or nll, got {criterion!r}")
    ends = {"low": low, "high": high, "step": step}
    low, high, step = (check_temperature(value, name) for name, value in ends.items())
    grid = _grid(low, high, step)
    n_bins = check_integer(n_bins, "n_bins")
    logits, labels = read_logits(logits, labels)
    check_finite(logits)
    eces, nlls = sweep(logits, labels, grid, n_bins)
    if criterion == "ece":
        values = _recompute_least(eces, logits, labels, grid, n_bins)
        near = np.flatnonzero(values == values.min())
        best = near[np.abs(np.log(grid[near])).argmin()]
        temperature, after = float(grid[best]), float(values[best])
        before = direct_ece(logits, labels, 1.0, n_bins)
    else:
        values = nlls
        temperature = 1 / _minimise_nll(logits, labels, 1 / high, 1 / low)
        before, after = (_nll(logits, labels, 1 / t)[0] for t in (1.0, temperature))
    at_bound = bool(np.isclose(temperature, low) or np.isclose(temperature, high))
    return TemperatureChoice(
        temperature, criterion, at_bound, before, after, grid, values, len(labels), selected_on
    )


def _grid(low: float, high: float, step: float) -> Float[np.ndarray, " grid"]:
    """Temperatures from low to high; the last step may be shorter."""
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
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

    # numpy releases the interpreter lock, so threads help; BLAS must not start more of them
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(task, range(0, len(labels), TASK))  # in order: the sums repeat bit by bit
        gaps, log_likelihood = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    n = len(labels)
    return np.abs(gaps.reshape(-1, n_bins)).sum(axis=1) / n, log_likelihood / n


def _plan(temperatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes, hottest first, and the matrix [nodes, grid] that interpolates values there."""
    hottest, coldest = np.log2(temperatures[-1]), np.log2(temperatures[0])
    steps = int(np.ceil((hottest - coldest) * NODES_PER_OCTAVE)) + 2 * MARGIN_NODES
    nodes = hottest + (MARGIN_NODES - np.arange(steps + 1)) / NODES_PER_OCTAVE
    spline = make_interp_spline(nodes[::-1], np.eye(len(nodes))[::-1], k=DEGREE)
    return 2.0**nodes, np.ascontiguousarray(spline(np.log2(temperatures)).T)


def _log_sums(distance: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Log sum exp(-distance / T) of [rows, classes] at every node, [rows, nodes]."""
    sums = np.empty((len(distance), len(nodes)))
    ones = np.ones(distance.shape[1], distance.dtype)
    tiny = np.asarray(TINY, distance.dtype)
    for phase in range(NODES_PER_OCTAVE):
        with np.errstate(over="ignore"):  # to -inf, which has no mass
            mass = distance * np.asarray(-1 / nodes[phase], distance.dtype)
        np.exp(mass, out=mass)
        sums[:, phase] = mass @ ones
        for node in range(phase + NODES_PER_OCTAVE, len(nodes), NODES_PER_OCTAVE):
            mass += tiny
            np.square(mass, out=mass)
            sums[:, node] = mass @ ones
    return np.log(sums)


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


def _chunks(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Distances to the largest logit, the label's distance, and whether the prediction is right."""
    for start in range(0, len(logits), ROWS):
        part = np.ascontiguousarray(logits[start : start + ROWS])  # one order of summation
        truth = labels[start : start + ROWS]
        distance = part.max(axis=1, keepdims=True) - part
        of_label = distance[np.arange(len(part)), truth].astype(np.float64)
        yield distance, of_label, part.argmax(axis=1) == truth


def _minimise_nll(logits: np.ndarray, labels: np.ndarray, low: float, high: float) -> float:
    """The inverse temperature in [low, high] of the least NLL, which is convex in it."""

    def slope(beta: float) -> float:
        return _nll(logits, labels, beta)[1]

    nearest_to_one = min(max(1.0, low), high)
    if slope(nearest_to_one) == 0:  # as for equal logits, where all are as good
        return nearest_to_one
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    bounds = np.log(low), np.log(high)
    return float(np.exp(brentq(lambda log_beta: slope(np.exp(log_beta)), *bounds, xtol=1e-12)))


def _nll(logits: np.ndarray, labels: np.ndarray, beta: float) -> tuple[float, float]:
    """Mean NLL at an inverse temperature, and its derivative."""
    value = slope = 0.0
    for distance, of_label, _ in _chunks(logits, labels):
        distance = distance.astype(np.float64)
        mass = np.exp(-beta * distance)
        total = mass.sum(axis=1)
        value += (np.log(total) + beta * of_label).sum()
        slope += (of_label - (mass * distance).sum(axis=1) / total).sum()
    return float(value / len(labels)), float(slope / len(labels))
