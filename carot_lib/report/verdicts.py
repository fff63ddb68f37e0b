"""What intervals say: of a claim's parts, and of the difference of two runs.

A claim holds if each of its parts does. A part is a statistic of the numbers of Tables 1 and 2, so
the same definition gives its value in the paper, our value, and its bootstrap replicates. Its
verdict is read from the interval of the replicates: all on the claimed side of zero (holds), all
on the other (does not hold), or neither (undecided).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from carot_lib.calibration.bootstrap import percentile_interval

# (run, "id_test" or "ood", "accuracy" or "ece", "none" or "temperature") -> value(s)
Value = Callable[[str, str, str, str], float | np.ndarray]

MARGIN = 0.01  # "no meaningful improvement": a difference of one point at most


@dataclass(frozen=True)
class Part:
    """One statistic of a claim.

    Attributes:
        statistic: in words.
        of: computes it from values.
        relation: ">" or "<" zero, or "~": within MARGIN of zero.
    """

    statistic: str
    of: Callable[[Value], float | np.ndarray]
    relation: Literal[">", "<", "~"]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: its number, its source, its words in short, and its parts."""

    number: str
    source: str
    text: str
    parts: tuple[Part, ...]


def judge(
    claims: Sequence[Claim], value: Value, replicate: Value, paper: Value, level: float, seeds: int
) -> pd.DataFrame:
    """One row for each part of each claim.

    Args:
        claims: what to judge.
        value: our numbers, means over the seeds.
        replicate: their bootstrap replicates, paired: index r of all of them is one resample.
        paper: the published numbers.
        level: of the intervals.
        seeds: number of training seeds behind the numbers.

    Returns:
        Columns claim, source, text, part, relation, value, low, high, seeds, verdict,
        claim_verdict, paper_value, paper_verdict.
    """
    rows = []
    for claim in claims:
        verdicts = []
        for part in claim.parts:
            low, high = percentile_interval(part.of(replicate), level)
            verdicts.append(verdict(part.relation, low, high))
            published = float(part.of(paper))
            rows.append(
                {
                    "claim": claim.number,
                    "source": claim.source,
                    "text": claim.text,
                    "part": part.statistic,
                    "relation": {"~": f"within {MARGIN}"}.get(part.relation, f"{part.relation} 0"),
                    "value": float(part.of(value)),
                    "low": low,
                    "high": high,
                    "seeds": seeds,
                    "verdict": verdicts[-1],
                    "paper_value": published,
                    "paper_verdict": verdict(part.relation, published, published),
                }
            )
        for row in rows[-len(verdicts) :]:
            row["claim_verdict"] = all_of(verdicts)
    return pd.DataFrame(rows)


def verdict(relation: str, low: float, high: float) -> str:
    """What an interval says of a relation: holds, does not hold, or undecided."""
    if relation == "~":
        if low >= -MARGIN and high <= MARGIN:
            return "holds"
        return "does not hold" if low > MARGIN or high < -MARGIN else "undecided"
    if relation == "<":
        low, high = -high, -low
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def all_of(verdicts: Sequence[str]) -> str:
    """The verdict of a claim from those of its parts: one that fails is enough to fail it."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "undecided" if "undecided" in verdicts else "holds"


def resample_seeds(
    of_seeds: Float[np.ndarray, "seeds resamples"], seed: int
) -> Float[np.ndarray, " resamples"]:
    """Two-level bootstrap: in each resample of the images, resample the training seeds too.

    With one training seed nothing is resampled, and the interval is of the test images only: it
    says nothing of another training. The same seeds are drawn for the same `seed`, so replicates
    of different runs stay paired.
    """
    n_seeds, n_resamples = of_seeds.shape
    chosen = np.random.default_rng(seed).integers(n_seeds, size=(n_seeds, n_resamples))
    return np.take_along_axis(of_seeds, chosen, axis=0).mean(axis=0)


def differences(
    runs: Sequence[str], against: str, value: Value, replicate: Value, level: float
) -> pd.DataFrame:
    """Each run minus one other, with its paired interval, and whether that is noise.

    Args:
        runs: the rows.
        against: the run that is taken off.
        value: our numbers.
        replicate: their paired replicates.
        level: of the intervals.

    Returns:
        Columns run, against, dataset, metric, calibration, value, low, high, reading: "higher",
        "lower", or "within noise" if the interval holds zero.
    """
    columns = (("accuracy", "none"), ("ece", "none"), ("ece", "temperature"))
    rows = []
    for run in runs:
        for dataset in ("id_test", "ood"):
            for metric, calibration in columns:
                place = (dataset, metric, calibration)
                gap = replicate(run, *place) - replicate(against, *place)
                low, high = percentile_interval(gap, level)
                reading = "higher" if low > 0 else "lower" if high < 0 else "within noise"
                difference = value(run, *place) - value(against, *place)
                rows.append((run, against, *place, difference, low, high, reading))
    names = ["run", "against", "dataset", "metric", "calibration", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "reading"])
