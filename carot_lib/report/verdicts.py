"""What the results say of the paper's claims, and the differences between runs.

A claim holds if all its parts hold, fails if one of them fails, and is undecided otherwise. Parts
of which a run was not run do not count.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from carot_lib.evaluation import COLUMNS, Margins
from carot_lib.report.claims import TABLE1_METRICS, Claim, Relation, difference
from carot_lib.report.inference import Estimator, Region, Statistic, judge


def check_claims(
    claims: Sequence[Claim],
    ours: Estimator,
    published: Estimator,
    margins: Margins,
    level: float,
    seeds: int,
) -> pd.DataFrame:
    """Verdicts of every part of every claim, ours, with the other ECE, and the paper's.

    Each of the three is corrected for the number of parts by itself, see `judge`.

    Args:
        claims: what to test.
        ours: estimates of our statistics.
        published: estimates from the paper's tables.
        margins: the differences that the relations stand for.
        level: of intervals and verdicts, in (0, 1).
        seeds: number of training seeds of our estimates, to be reported.

    Returns:
        One row per part: claim, source, text, part, relation; value, low, high, seeds, df, p,
        p_holm, verdict; value_batch_mean and verdict_batch_mean, where a part concerns an ECE: the
        same with the mean over batches in place of the ECE of the set; paper_value, paper_low,
        paper_high, paper_verdict; claim_verdict, of all parts of the claim.
    """
    pairs = [(claim, part) for claim in claims for part in claim.parts]
    regions = [region(part.relation, margins) for _, part in pairs]
    statistics = [part.compute for _, part in pairs]
    batch_means = [_with_batch_means(statistic) for statistic in statistics]
    here = judge([ours(one) for one in statistics], regions, level, "not run")
    other = judge([ours(one) for one in batch_means], regions, level, "not run")
    paper = judge([published(one) for one in statistics], regions, level, "not published")
    about = [
        (*claim[:3], part.statistic, _words(*ends))
        for (claim, part), ends in zip(pairs, regions, strict=True)
    ]
    report = pd.DataFrame(about, columns=["claim", "source", "text", "part", "relation"])
    report[["value", "low", "high"]] = here[["value", "low", "high"]]
    report["seeds"] = seeds
    report[["df", "p", "p_holm", "verdict"]] = here[["df", "p", "p_holm", "verdict"]]
    of_ece = report["part"].str.contains("ECE")
    for name in ("value", "verdict"):
        report[f"{name}_batch_mean"] = other[name].where(of_ece)
    for name in ("value", "low", "high", "verdict"):
        report[f"paper_{name}"] = paper[name]
    report["claim_verdict"] = report.groupby("claim")["verdict"].transform(combined_verdict)
    return report


def region(relation: Relation, margins: Margins) -> Region:
    """The values for which a relation to zero is true."""
    some, large, equivalent = margins.some, margins.large, margins.equivalent
    return {
        ">": (some, np.inf),
        "<": (-np.inf, 0 - some),
        ">>": (large, np.inf),
        "<<": (-np.inf, -large),
        "~": (-equivalent, equivalent),
        "<~": (-np.inf, equivalent),
    }[relation]


def combined_verdict(verdicts: Iterable[str]) -> str:
    """The verdict of a claim from those of its parts, of which those not run do not count."""
    judged = set(verdicts) - {"not run"}
    order = ("fails", "undecided", "holds")
    return next((one for one in order if one in judged), "not run")


def differences(
    runs: Sequence[str], reference: str, estimate: Estimator, level: float
) -> pd.DataFrame:
    """Each run minus a reference, with its paired interval, and whether that is noise.

    Returns:
        Columns run, against, dataset, metric, calibration, value, low, high, reading: "higher",
        "lower", or "within noise" if the interval holds zero.
    """
    rows = []
    for run, column in product(runs, TABLE1_METRICS):
        dataset, calibration, metric = COLUMNS[column]
        found = estimate(difference(run, reference, *COLUMNS[column]))
        low, high = found.interval(level)
        reading = "higher" if low > 0 else "lower" if high < 0 else "within noise"
        rows.append((run, reference, dataset, metric, calibration, found.value, low, high, reading))
    names = ["run", "against", "dataset", "metric", "calibration", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "reading"])


def _words(low: float, high: float) -> str:
    """`> 0`, `< -0.01` or `within 0.01`."""
    if np.isfinite(low) and np.isfinite(high):
        return f"within {high:g}"
    return f"> {low:g}" if np.isfinite(low) else f"< {high:g}"


def _with_batch_means(statistic: Statistic) -> Statistic:
    """The same statistic with the mean over batches wherever it takes an ECE."""
    other = {"ece": "ece_batch_mean"}
    return lambda lookup: statistic(lambda *key: lookup(*key[:-1], other.get(key[-1], key[-1])))
