"""The paper's claims: of each, a few statistics of the runs and what it says of them.

One definition of a statistic gives our estimate and that of the paper's own tables.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from carot_lib.evaluation import COLUMNS, TABLE1_COLUMNS
from carot_lib.report.inference import MetricLookup, Statistic
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.tables import TABLE1_RUNS, TITLES

BASELINES = ("ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls")
TABLE1_METRICS = tuple(column for column in TABLE1_COLUMNS if column != "temperature")
# > and < by more than the margin `some`, >> and << than `large`; ~ within and <~ below `equivalent`
Relation = Literal[">", "<", ">>", "<<", "~", "<~"]
# the columns in which the paper calls CaRot superior, and the NLL, which rewards both of its aims
SUPERIOR = {
    "id_acc": ">",
    "ood_acc": ">",
    "id_ece": "<",
    "ood_ece": "<",
    "id_nll": "<",
    "ood_nll": "<",
}


class Part(NamedTuple):
    """One statistic of a claim, and its claimed relation to zero."""

    statistic: str
    compute: Statistic
    relation: Relation


class Claim(NamedTuple):
    """One claim: its number, where the paper makes it, in its words, and its parts."""

    number: str
    source: str
    text: str
    parts: Sequence[Part]


def compare(left: str, right: str, **relations: Relation) -> list[Part]:
    """Run `left` minus run `right` in columns of the tables, each with its relation."""
    names = f"{RUN_NAMES[left]} - {RUN_NAMES[right]}"
    return [
        Part(f"{_quantity(column)}: {names}", difference(left, right, *COLUMNS[column]), relation)
        for column, relation in relations.items()
    ]


def difference(left: str, right: str, *key: str) -> Statistic:
    """Run `left` minus run `right` in a metric of one set and calibration."""
    return lambda lookup: lookup(left, *key) - lookup(right, *key)


def extra_harm_under_shift(left: str, right: str) -> Part:
    """How much more the ECE of `left` exceeds that of `right` OOD than it does ID."""
    of_id, of_ood = (difference(left, right, *COLUMNS[key]) for key in ("id_ece", "ood_ece"))
    name = f"OOD ECE - ID ECE: {RUN_NAMES[left]} - {RUN_NAMES[right]}"
    return Part(name, lambda lookup: of_ood(lookup) - of_id(lookup), ">")


def above_line(run: str, start: str, end: str) -> Part:
    """OOD accuracy of a run above the line through two others, at its own ID accuracy.

    Two runs of the same ID accuracy define no line; a level one through the first is taken.
    """

    def compute(lookup: MetricLookup) -> float | np.ndarray:
        runs = (run, start, end)
        x, x0, x1 = (lookup(one, *COLUMNS["id_acc"]) for one in runs)
        y, y0, y1 = (lookup(one, *COLUMNS["ood_acc"]) for one in runs)
        run_up = np.asarray(x1 - x0)
        slope = np.divide(y1 - y0, run_up, out=np.zeros_like(run_up), where=run_up != 0)
        return y - y0 - slope * (x - x0)

    line = f"line from {RUN_NAMES[start]} to {RUN_NAMES[end]}"
    return Part(f"OOD accuracy: {RUN_NAMES[run]} - {line}", compute, ">")


def mean_effect_of_scaling(column: str) -> Part:
    """ECE with temperature scaling minus without, mean over the rows of Table 1."""
    before, after = COLUMNS[column], COLUMNS[f"{column}_ts"]
    return Part(
        f"{_quantity(column)}: w/ TS - w/o TS, mean of all rows",
        lambda lookup: _mean([lookup(run, *after) - lookup(run, *before) for run in TABLE1_RUNS]),
        "<",
    )


def mean_gap_to_zero_shot(column: str) -> Part:
    """Mean over the fine-tuned rows of Table 1 minus ZS."""
    gaps = [difference(run, "zs", *COLUMNS[column]) for run in (*BASELINES, "carot")]
    name = f"{_quantity(column)}: mean of fine-tuned rows - ZS"
    return Part(name, lambda lookup: _mean([gap(lookup) for gap in gaps]), ">")


def lead_over_baselines(column: str) -> Part:
    """CaRot minus the best other fine-tuned row, which each seed and resample chooses anew."""
    key, is_accuracy = COLUMNS[column], column.endswith("acc")
    best = np.maximum.reduce if is_accuracy else np.minimum.reduce
    return Part(
        f"{_quantity(column)}: CaRot - best other fine-tuned row",
        lambda lookup: lookup("carot", *key) - best([lookup(run, *key) for run in BASELINES]),
        ">" if is_accuracy else "<",
    )


def protection(dataset: str) -> Part:
    """ECE of CaRot on one set minus that of ZS."""
    compute = difference("carot", "zs", dataset, "none", "ece")
    return Part(f"ECE on {dataset}: CaRot - ZS", compute, "<~")


def paper_claims(ood: Sequence[str]) -> list[Claim]:
    """The claims in the order of the paper; one has a part for each of the shifted sets."""
    return [
        Claim(
            "1",
            "Main results, 1)",
            "FT somewhat sacrifices the OOD generalization capacity of ZS as well as ID/OOD "
            "calibration",
            compare("ft", "zs", ood_acc="<", id_ece=">", ood_ece=">"),
        ),
        Claim(
            "1b",
            "Section 2.2",
            "FT significantly hurts the calibration, especially on the OOD dataset",
            [extra_harm_under_shift("ft", "zs")],
        ),
        Claim(
            "2a",
            "Main results, 2)",
            "WiSE-FT finds a better trade-off between ID and OOD accuracy",
            [above_line("wise_ft", "zs", "ft"), *compare("wise_ft", "ft", ood_acc=">")],
        ),
        Claim(
            "2b",
            "Main results, 2)",
            "WiSE-FT significantly degrades the calibration of a pre-trained model",
            compare("wise_ft", "zs", id_ece=">>", ood_ece=">>"),
        ),
        Claim(
            "3a",
            "Main results, 3)",
            "FLYP achieves strong generalization on ID and OOD, and ID calibration (against FT)",
            compare("flyp", "ft", id_acc=">", ood_acc=">", id_ece="<"),
        ),
        Claim(
            "3b",
            "Main results, 3)",
            "FLYP lacks the OOD calibration (against ZS)",
            compare("flyp", "zs", ood_ece=">"),
        ),
        Claim(
            "4a",
            "Main results, 4)",
            "TS helps calibration somewhat",
            [mean_effect_of_scaling("id_ece"), mean_effect_of_scaling("ood_ece")],
        ),
        Claim(
            "4b",
            "Main results, 4)",
            "With TS the gap between ZS and the fine-tuned ones in OOD calibration is still "
            "non-negligible",
            [mean_gap_to_zero_shot("ood_ece_ts")],
        ),
        Claim(
            "5a",
            "Main results, 5)",
            "LS remarkably improves the calibration on both ID and OOD datasets (FT and FLYP)",
            [
                *compare("ft_ls", "ft", id_ece="<<", ood_ece="<<"),
                *compare("flyp_ls", "flyp", id_ece="<<", ood_ece="<<"),
            ],
        ),
        Claim(
            "5b",
            "Main results, 5)",
            "LS remarkably improves the calibration on both ID and OOD datasets (WiSE-FT)",
            compare("wise_ft_ls", "wise_ft", id_ece="<<", ood_ece="<<"),
        ),
        Claim(
            "5c",
            "Contributions, 2)",
            "LS increases the generalization capability of the VLM",
            [
                *compare("ft_ls", "ft", id_acc=">", ood_acc=">"),
                *compare("wise_ft_ls", "wise_ft", id_acc=">", ood_acc=">"),
                *compare("flyp_ls", "flyp", id_acc=">", ood_acc=">"),
            ],
        ),
        Claim(
            "6a",
            "Main results, 6)",
            "CaRot gets superior results over all metrics (against FLYP)",
            compare("carot", "flyp", **SUPERIOR),
        ),
        Claim(
            "6b",
            "Introduction",
            "Data-dependent LS further boosts calibration and generalization (against FLYP w/ LS)",
            compare("carot", "flyp_ls", **SUPERIOR),
        ),
        Claim(
            "6c",
            "Main results, 6)",
            "CaRot gets superior results over all metrics (against FT)",
            compare("carot", "ft", **SUPERIOR),
        ),
        Claim(
            "6d",
            "Main results, 6)",
            "CaRot gets superior results over all metrics (against ZS)",
            compare("carot", "zs", **SUPERIOR),
        ),
        Claim(
            "6e",
            "Main results, 6)",
            "CaRot gets superior results over all metrics (against the best other fine-tuned row)",
            [lead_over_baselines(column) for column in TABLE1_METRICS],
        ),
        Claim(
            "6f",
            "Section A.2",
            "CaRot robustly protects or even improves the calibration of a pre-trained model",
            [protection(dataset) for dataset in ood],
        ),
        Claim(
            "A1",
            "Ablation study",
            "A teacher updated at every iteration does not bring meaningful improvement on "
            "accuracy and ECE compared to FLYP",
            compare("carot_every_step", "flyp", id_acc="~", ood_acc="~", id_ece="~", ood_ece="~"),
        ),
        Claim(
            "A2",
            "Ablation study",
            "A teacher updated half as often induces a slightly lower ID accuracy and higher ECE",
            compare("carot_update_2x", "carot", id_acc="<", id_ece=">"),
        ),
        Claim(
            "A3",
            "Ablation study",
            "A teacher updated half as often largely improves OOD accuracy and ECE",
            compare("carot_update_2x", "carot", ood_acc=">>", ood_ece="<<"),
        ),
        Claim(
            "A4",
            "Table 2",
            "A teacher that stays pre-trained costs ID accuracy and ID calibration",
            compare("carot_frozen", "carot", id_acc="<", id_ece=">"),
        ),
    ]


def _quantity(column: str) -> str:
    return TITLES[column].replace("Acc.", "accuracy")


def _mean(numbers: Sequence[float | np.ndarray]) -> float | np.ndarray:
    return np.mean(numbers, axis=0)
