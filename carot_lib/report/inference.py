"""Intervals over training seeds and test images, and verdicts with Holm's correction.

A statistic is estimated by its mean over S trainings that differ in their seed alone. It would come
out differently with other seeds and with other test images, which all trainings share. With
theta(s) its value for seed s, and theta(s, b) its value for seed s on resample b of the images:

- the variance over s of theta(s) estimates seeds + interaction,
- the variance over b of the mean over s of theta(s, b) estimates images + interaction / S,
- the mean over s of the variance over b of theta(s, b) estimates images + interaction,

where `interaction` is what a draw of images does to one training and not to the others. The
variance of the estimate, images + (seeds + interaction) / S, follows from the three. Its t
distribution has S - 1 degrees of freedom, divided by the share of the variance that the seeds and
the interaction have: S - 1 if they have all of it, infinitely many if the images have. (Welch and
Satterthwaite divide by the square of the share; with three seeds their 95 % intervals cover 92 % in
the worst case, these 94 %.) With one seed only the images count, and an interval holds for that one
training alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

# (run, dataset, calibration, metric) -> a number of a run, or an array of them
MetricLookup = Callable[[str, str, str, str], float | np.ndarray]
Statistic = Callable[[MetricLookup], float | np.ndarray]
Region = tuple[float, float]  # open interval of the values for which a claim is true


class Estimate(NamedTuple):
    """Estimate of a statistic; value and error are NaN where one of its numbers does not exist."""

    value: float
    error: float  # standard error
    df: float  # degrees of freedom of the t distribution; infinite: normal distribution

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided confidence interval of a level in (0, 1)."""
        width = float(stdtrit(self.df, (1 + level) / 2)) * self.error
        return self.value - width, self.value + width


Estimator = Callable[[Statistic], Estimate]


def two_level(
    values: Float[np.ndarray, " seeds"], replicates: Float[np.ndarray, "seeds resamples"]
) -> Estimate:
    """Mean over training seeds, with the standard error over seeds and images.

    Args:
        values: the statistic for each seed.
        replicates: the same on resampled images; resample b has the same images for all seeds.
    """
    n_seeds = len(values)
    images = replicates.mean(axis=0).var()  # holds interaction / n_seeds
    seeds = 0.0  # the part of the seeds and of the interaction
    if n_seeds > 1:
        seeds = values.var(ddof=1) / n_seeds
        surplus = replicates.var(axis=1).mean() - images  # interaction * (1 - 1 / n_seeds)
        images = np.maximum(images - np.maximum(surplus, 0) / (n_seeds - 1), 0)
    variance = images + seeds
    # seeds that all agree, as those of a row that is not trained, leave only the images
    df = np.inf if seeds == 0 else (n_seeds - 1) * variance / seeds
    return Estimate(float(values.mean()), float(np.sqrt(variance)), float(df))


def p_values(estimate: Estimate, region: Region) -> tuple[float, float]:
    """One-sided p-values of "the true value lies in the region" and of "it lies outside".

    Each is the probability of such an estimate, or of one that speaks more clearly for the
    statement, if the true value is an end of the region. For a bounded region the first is that of
    two one-sided tests (Schuirmann 1987).
    """
    low, high = region
    error = max(estimate.error, np.finfo(float).tiny)  # no error: a limit, not a division by zero
    inside = min(estimate.value - low, high - estimate.value)
    outside = stdtr(estimate.df, inside / error)
    if np.isfinite(high - low):  # an estimate beyond the other end speaks for "outside" as well
        outside += stdtr(estimate.df, (inside - (high - low)) / error)
    return float(stdtr(estimate.df, -inside / error)), float(outside)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values adjusted for their number by Holm's method (1979); NaN stays and does not count."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    raised = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return adjusted


def judge(
    estimates: Sequence[Estimate], regions: Sequence[Region], level: float, missing: str
) -> pd.DataFrame:
    """Test together whether true values lie in their regions or outside.

    A verdict is `holds` or `fails` if the better of the two one-sided tests, doubled because it was
    chosen, is significant at 1 - `level` after Holm's correction over all, else `undecided`.

    Args:
        estimates: one for each statistic.
        regions: where each is claimed to lie.
        level: of the intervals and of all verdicts together, in (0, 1).
        missing: verdict where there is no estimate.

    Returns:
        Columns value, low, high, df, p, p_holm, verdict.
    """
    pairs = list(zip(estimates, regions, strict=True))
    sides = np.array([p_values(*pair) for pair in pairs]).reshape(-1, 2)
    p = np.minimum(2 * sides.min(axis=1), 1)
    adjusted = holm(p)
    words = np.where(sides[:, 0] < sides[:, 1], "holds", "fails")
    words = np.where(adjusted <= 1 - level, words, "undecided")
    words = np.where(np.isnan(adjusted), missing, words)
    rows = [(one.value, *one.interval(level), one.df) for one in estimates]
    table = pd.DataFrame(rows, columns=["value", "low", "high", "df"])
    return table.assign(p=p, p_holm=adjusted, verdict=words)
