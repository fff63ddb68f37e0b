"""The paper's claims, tested by paired bootstrap intervals, and the differences between runs.

A claim holds if each of its parts does. A part is a statistic of the numbers of Tables 1 and 2, so
one definition gives its value in the paper, our value, and its bootstrap replicates. Its verdict is
read from the interval of the replicates: all on the claimed side of zero (holds), all on the other
(does not hold), or neither (undecided).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from carot_lib.calibration.bootstrap import percentile_interval
from carot_lib.evaluation import TABLE1_COLUMNS
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.tables import TABLE2_RUNS, TITLES, MetricLookup

BASELINES = ("ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls")
COMPARED = ("id_acc", "id_ece", "id_ece_ts", "ood_acc", "ood_ece", "ood_ece_ts")
Relation = Literal[">", "<", "~"]
Statistic = Callable[[MetricLookup], float | np.ndarray]
Estimate = Callable[[Statistic], tuple[float, float, float]]  # value, low, high


class Part(NamedTuple):
    """One statistic of a claim, which is claimed to be > 0, < 0, or ~ 0 (within a margin)."""

    statistic: str
    compute: Statistic
    relation: Relation


class Claim(NamedTuple):
    """One claim of the paper: its number, its source, a short wording, and its parts."""

    number: str
    source: str
    text: str
    parts: tuple[Part, ...]


def compare(left: str, right: str, **relations: Relation) -> tuple[Part, ...]:
    """Run `left` minus run `right` in columns of the tables, each with its relation."""
    names = f"{RUN_NAMES[left]} - {RUN_NAMES[right]}"
    return tuple(
        Part(f"{_quantity(column)}: {names}", difference(left, right, column), relation)
        for column, relation in relations.items()
    )


def difference(left: str, right: str, column: str) -> Statistic:
    """Run `left` minus run `right` in one column of the tables."""
    key = TABLE1_COLUMNS[column]
    return lambda lookup: lookup(left, *key) - lookup(right, *key)


def scaling_effect(run: str, column: str) -> Part:
    """ECE of a run with temperature scaling minus without: `column` is `id_ece` or `ood_ece`."""
    before, after = TABLE1_COLUMNS[column], TABLE1_COLUMNS[f"{column}_ts"]
    return Part(
        f"{_quantity(column)}: {RUN_NAMES[run]} w/ TS - w/o TS",
        lambda lookup: lookup(run, *after) - lookup(run, *before),
        "<",
    )


def mean_accuracy_gain(left: str, right: str) -> Part:
    """Mean of ID and OOD accuracy, `left` minus `right`: the better trade-off has more."""
    gains = [difference(left, right, column) for column in ("id_acc", "ood_acc")]
    return Part(
        f"mean of ID and OOD accuracy: {RUN_NAMES[left]} - {RUN_NAMES[right]}",
        lambda lookup: sum(gain(lookup) for gain in gains) / len(gains),
        ">",
    )


def lead_over_baselines(column: str) -> Part:
    """CaRot minus the best of the other fine-tuned rows, chosen anew in each replicate."""
    key, is_accuracy = TABLE1_COLUMNS[column], column.endswith("acc")
    best = np.maximum.reduce if is_accuracy else np.minimum.reduce
    return Part(
        f"{_quantity(column)}: CaRot - best other fine-tuned row",
        lambda lookup: lookup("carot", *key) - best([lookup(run, *key) for run in BASELINES]),
        ">" if is_accuracy else "<",
    )


def _quantity(column: str) -> str:
    return TITLES[column].replace("Acc.", "accuracy")


CLAIMS = (
    Claim(
        "1",
        "Main results, 1)",
        "FT sacrifices OOD generalization of ZS as well as ID and OOD calibration",
        compare("ft", "zs", ood_acc="<", id_ece=">", ood_ece=">"),
    ),
    Claim(
        "2a",
        "Main results, 2)",
        "WiSE-FT finds a better trade-off between ID and OOD accuracy",
        (*compare("wise_ft", "ft", ood_acc=">"), mean_accuracy_gain("wise_ft", "ft")),
    ),
    Claim(
        "2b",
        "Main results, 2)",
        "WiSE-FT significantly degrades the calibration of the pre-trained model",
        compare("wise_ft", "zs", id_ece=">", ood_ece=">"),
    ),
    Claim(
        "3a",
        "Main results, 3)",
        "FLYP achieves strong ID and OOD generalization and ID calibration (against FT)",
        compare("flyp", "ft", id_acc=">", ood_acc=">", id_ece="<"),
    ),
    Claim(
        "3b",
        "Main results, 3)",
        "FLYP lacks OOD calibration (against ZS)",
        compare("flyp", "zs", ood_ece=">"),
    ),
    Claim(
        "4a",
        "Main results, 4)",
        "TS helps calibration somewhat",
        tuple(
            scaling_effect(run, column)
            for run in ("zs", *BASELINES, "carot")
            for column in ("id_ece", "ood_ece")
        ),
    ),
    Claim(
        "4b",
        "Main results, 4)",
        "With TS, the gap between ZS and fine-tuned rows in OOD calibration remains",
        tuple(part for run in (*BASELINES, "carot") for part in compare(run, "zs", ood_ece_ts=">")),
    ),
    Claim(
        "5a",
        "Main results, 5)",
        "LS remarkably improves ID and OOD calibration (FT and FLYP)",
        (
            *compare("ft_ls", "ft", id_ece="<", ood_ece="<"),
            *compare("flyp_ls", "flyp", id_ece="<", ood_ece="<"),
        ),
    ),
    Claim(
        "5b",
        "Main results, 5)",
        "LS remarkably improves ID and OOD calibration (WiSE-FT)",
        compare("wise_ft_ls", "wise_ft", id_ece="<", ood_ece="<"),
    ),
    Claim(
        "6",
        "Main results, 6)",
        "CaRot is superior in ID and OOD generalization and calibration",
        tuple(lead_over_baselines(column) for column in TABLE1_COLUMNS if column != "temperature"),
    ),
    Claim(
        "A1",
        "Ablation study",
        "A teacher updated every step brings no meaningful improvement over FLYP",
        compare("carot_every_step", "flyp", id_acc="~", ood_acc="~", id_ece="~", ood_ece="~"),
    ),
    Claim(
        "A2",
        "Ablation study",
        "A teacher updated half as often slightly lowers ID accuracy and raises ID ECE",
        compare("carot_update_2x", "carot", id_acc="<", id_ece=">"),
    ),
    Claim(
        "A3",
        "Ablation study",
        "A teacher updated half as often largely improves OOD accuracy and ECE",
        compare("carot_update_2x", "carot", ood_acc=">", ood_ece="<"),
    ),
    Claim(
        "A4",
        "Table 2",
        "A teacher that stays pre-trained costs ID accuracy and ID calibration",
        compare("carot_frozen", "carot", id_acc="<", id_ece=">"),
    ),
)


def estimator(value: MetricLookup, replicates: MetricLookup, level: float) -> Estimate:
    """A function that gives value and bootstrap interval of a statistic.

    The replicates must be paired: index r of all of them belongs to one resample of the images.
    """
    return lambda statistic: (
        float(statistic(value)),
        *percentile_interval(statistic(replicates), level),
    )


def check_claims(
    claims: Sequence[Claim], estimate: Estimate, paper: MetricLookup, margin: float, seeds: int
) -> pd.DataFrame:
    """Test each part of each claim; one row per part.

    Args:
        claims: what is tested.
        estimate: see `estimator`.
        paper: the published numbers.
        margin: largest absolute difference that is not meaningful.
        seeds: number of training seeds behind the numbers.

    Returns:
        Columns claim, source, text, part, relation, value, low, high, seeds, verdict, paper_value,
        paper_verdict, claim_verdict.
    """
    rows = []
    for claim, part in [(one, part) for one in claims for part in one.parts]:
        value, low, high = estimate(part.compute)
        published = float(part.compute(paper))
        rows.append(
            {
                "claim": claim.number,
                "source": claim.source,
                "text": claim.text,
                "part": part.statistic,
                "relation": f"within {margin:g}" if part.relation == "~" else f"{part.relation} 0",
                "value": value,
                "low": low,
                "high": high,
                "seeds": seeds,
                "verdict": verdict(part.relation, low, high, margin),
                "paper_value": published,
                "paper_verdict": verdict(part.relation, published, published, margin),
            }
        )
    report = pd.DataFrame(rows)
    report["claim_verdict"] = report.groupby("claim")["verdict"].transform(combined_verdict)
    return report


def verdict(relation: Relation, low: float, high: float, margin: float) -> str:
    """What an interval says about a relation: holds, does not hold, or undecided."""
    if relation == "~":
        if -margin <= low and high <= margin:
            return "holds"
        return "does not hold" if low > margin or high < -margin else "undecided"
    if relation == "<":
        low, high = -high, -low
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def combined_verdict(verdicts: Iterable[str]) -> str:
    """The verdict of a claim from those of its parts: one that fails is enough to fail it."""
    verdicts = set(verdicts)
    return next((one for one in ("does not hold", "undecided") if one in verdicts), "holds")


def paper_lookup(folder: Path) -> MetricLookup:
    """The published numbers, from table1.csv and table2.csv of a folder."""
    tables = [pd.read_csv(folder / f"{name}.csv", index_col=0) for name in ("table1", "table2")]
    table = pd.concat([tables[0], tables[1].rename(index=TABLE2_RUNS).drop(index="carot")])
    columns = {key: column for column, key in TABLE1_COLUMNS.items()}
    return lambda run, *key: float(table.loc[run, columns[key]])


def saved_lookups(
    saved: Mapping[tuple[str, int], Mapping[str, np.ndarray]], ood: Sequence[str], seed: int
) -> tuple[MetricLookup, MetricLookup]:
    """Our numbers and their replicates: means over training seeds, and for `ood` over sets.

    Args:
        saved: content of replicates.npz by run and training seed.
        ood: names of the shifted sets.
        seed: seed of the resampling of training seeds.
    """

    def of_seeds(run: str, dataset: str, *key: str) -> np.ndarray:
        names = ["|".join((name, *key)) for name in (ood if dataset == "ood" else [dataset])]
        arrays = [arrays for (name, _), arrays in saved.items() if name == run]
        return np.array([np.mean([one[name] for name in names], axis=0) for one in arrays])

    return (
        lambda *key: float(of_seeds(*key, "value").mean()),
        lambda *key: resample_seeds(of_seeds(*key), seed),
    )


def resample_seeds(
    replicates: Float[np.ndarray, "seeds resamples"], seed: int
) -> Float[np.ndarray, " resamples"]:
    """Two-level bootstrap: in each resample of the images, resample the training seeds too.

    With one training seed nothing is resampled, and the interval is that of the test images only:
    it says nothing about another training. The same seeds are drawn for the same `seed`, so
    replicates of different runs stay paired.
    """
    n_seeds, n_resamples = replicates.shape
    chosen = np.random.default_rng(seed).integers(n_seeds, size=(n_seeds, n_resamples))
    return np.take_along_axis(replicates, chosen, axis=0).mean(axis=0)


def differences(runs: Sequence[str], reference: str, estimate: Estimate) -> pd.DataFrame:
    """Each run minus a reference, with its paired interval, and whether that is noise.

    Returns:
        Columns run, against, dataset, metric, calibration, value, low, high, reading: "higher",
        "lower", or "within noise" if the interval holds zero.
    """
    rows = []
    for run, column in product(runs, COMPARED):
        dataset, calibration, metric = TABLE1_COLUMNS[column]
        value, low, high = estimate(difference(run, reference, column))
        reading = "higher" if low > 0 else "lower" if high < 0 else "within noise"
        rows.append((run, reference, dataset, metric, calibration, value, low, high, reading))
    names = ["run", "against", "dataset", "metric", "calibration", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "reading"])
