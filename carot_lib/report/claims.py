"""The paper's claims, as statistics with a sign; `carot_lib.report.verdicts` judges them."""

from typing import Literal

import numpy as np

from carot_lib.report.names import RUN_NAMES
from carot_lib.report.verdicts import Claim, Part, Value

BASELINES = ("ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls")


def difference(
    left: str,
    right: str,
    dataset: str,
    metric: str,
    relation: Literal[">", "<", "~"],
    calibration: str = "none",
) -> Part:
    """Run `left` minus run `right` on one set."""
    words = {"id_test": "ID", "ood": "OOD", "accuracy": "accuracy", "ece": "ECE"}
    scaled = " w/ TS" if calibration == "temperature" else ""
    return Part(
        f"{words[dataset]} {words[metric]}{scaled}: {RUN_NAMES[left]} - {RUN_NAMES[right]}",
        lambda v: v(left, dataset, metric, calibration) - v(right, dataset, metric, calibration),
        relation,
    )


def scaling(run: str, dataset: str) -> Part:
    """ECE of a run with temperature scaling minus without."""
    words = {"id_test": "ID", "ood": "OOD"}
    return Part(
        f"{words[dataset]} ECE: {RUN_NAMES[run]} w/ TS - w/o TS",
        lambda v: v(run, dataset, "ece", "temperature") - v(run, dataset, "ece", "none"),
        "<",
    )


def mean_accuracy_gain(left: str, right: str) -> Part:
    """Mean of ID and OOD accuracy, `left` minus `right`: the better trade-off has more."""

    def gain(value: Value) -> float | np.ndarray:
        sets = ("id_test", "ood")
        return sum(
            value(left, s, "accuracy", "none") - value(right, s, "accuracy", "none") for s in sets
        ) / len(sets)

    return Part(f"mean of ID and OOD accuracy: {RUN_NAMES[left]} - {RUN_NAMES[right]}", gain, ">")


def against_best_baseline(dataset: str, metric: str, calibration: str = "none") -> Part:
    """CaRot minus the best of the other fine-tuned rows, chosen anew in each replicate."""
    scaled = " w/ TS" if calibration == "temperature" else ""
    words = {"id_test": "ID", "ood": "OOD", "accuracy": "accuracy", "ece": "ECE"}
    best = np.maximum.reduce if metric == "accuracy" else np.minimum.reduce

    def lead(value: Value) -> float | np.ndarray:
        others = best([value(run, dataset, metric, calibration) for run in BASELINES])
        return value("carot", dataset, metric, calibration) - others

    return Part(
        f"{words[dataset]} {words[metric]}{scaled}: CaRot - best other fine-tuned row",
        lead,
        ">" if metric == "accuracy" else "<",
    )


CLAIMS = (
    Claim(
        "1",
        "Main results, 1)",
        "FT sacrifices OOD generalization of ZS as well as ID and OOD calibration",
        (
            difference("ft", "zs", "ood", "accuracy", "<"),
            difference("ft", "zs", "id_test", "ece", ">"),
            difference("ft", "zs", "ood", "ece", ">"),
        ),
    ),
    Claim(
        "2a",
        "Main results, 2)",
        "WiSE-FT finds a better trade-off between ID and OOD accuracy",
        (
            difference("wise_ft", "ft", "ood", "accuracy", ">"),
            mean_accuracy_gain("wise_ft", "ft"),
        ),
    ),
    Claim(
        "2b",
        "Main results, 2)",
        "WiSE-FT significantly degrades the calibration of the pre-trained model",
        (
            difference("wise_ft", "zs", "id_test", "ece", ">"),
            difference("wise_ft", "zs", "ood", "ece", ">"),
        ),
    ),
    Claim(
        "3a",
        "Main results, 3)",
        "FLYP achieves strong ID and OOD generalization and ID calibration (against FT)",
        (
            difference("flyp", "ft", "id_test", "accuracy", ">"),
            difference("flyp", "ft", "ood", "accuracy", ">"),
            difference("flyp", "ft", "id_test", "ece", "<"),
        ),
    ),
    Claim(
        "3b",
        "Main results, 3)",
        "FLYP lacks OOD calibration (against ZS)",
        (difference("flyp", "zs", "ood", "ece", ">"),),
    ),
    Claim(
        "4a",
        "Main results, 4)",
        "TS helps calibration somewhat",
        tuple(
            scaling(run, dataset)
            for run in ("zs", *BASELINES, "carot")
            for dataset in ("id_test", "ood")
        ),
    ),
    Claim(
        "4b",
        "Main results, 4)",
        "With TS, the gap between ZS and fine-tuned rows in OOD calibration remains",
        tuple(
            difference(run, "zs", "ood", "ece", ">", "temperature") for run in (*BASELINES, "carot")
        ),
    ),
    Claim(
        "5a",
        "Main results, 5)",
        "LS remarkably improves ID and OOD calibration (FT and FLYP)",
        tuple(
            difference(f"{run}_ls", run, dataset, "ece", "<")
            for run in ("ft", "flyp")
            for dataset in ("id_test", "ood")
        ),
    ),
    Claim(
        "5b",
        "Main results, 5)",
        "LS remarkably improves ID and OOD calibration (WiSE-FT)",
        tuple(
            difference("wise_ft_ls", "wise_ft", dataset, "ece", "<")
            for dataset in ("id_test", "ood")
        ),
    ),
    Claim(
        "6",
        "Main results, 6)",
        "CaRot is superior in ID and OOD generalization and calibration",
        tuple(
            against_best_baseline(dataset, metric, calibration)
            for metric, calibration in (
                ("accuracy", "none"),
                ("ece", "none"),
                ("ece", "temperature"),
            )
            for dataset in ("id_test", "ood")
        ),
    ),
    Claim(
        "A1",
        "Ablation study",
        "A teacher updated every step brings no meaningful improvement over FLYP",
        tuple(
            difference("carot_every_step", "flyp", dataset, metric, "~")
            for metric in ("accuracy", "ece")
            for dataset in ("id_test", "ood")
        ),
    ),
    Claim(
        "A2",
        "Ablation study",
        "A teacher updated half as often slightly lowers ID accuracy and raises ID ECE",
        (
            difference("carot_update_2x", "carot", "id_test", "accuracy", "<"),
            difference("carot_update_2x", "carot", "id_test", "ece", ">"),
        ),
    ),
    Claim(
        "A3",
        "Ablation study",
        "A teacher updated half as often largely improves OOD accuracy and ECE",
        (
            difference("carot_update_2x", "carot", "ood", "accuracy", ">"),
            difference("carot_update_2x", "carot", "ood", "ece", "<"),
        ),
    ),
    Claim(
        "A4",
        "Table 2",
        "A teacher that stays pre-trained costs ID accuracy and ID calibration",
        (
            difference("carot_frozen", "carot", "id_test", "accuracy", "<"),
            difference("carot_frozen", "carot", "id_test", "ece", ">"),
        ),
    ),
)
