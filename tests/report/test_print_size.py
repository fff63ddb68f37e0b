"""Every text of every figure can be read in print: at least 6 points at its printed size."""

import re
from collections.abc import Callable
from inspect import getmembers, isfunction
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.explore import images, interactive, training
from carot_lib.report import claims_figure, pictures, plots, reliability
from carot_lib.report.styles import PAGE_HEIGHT, PAGE_WIDTH

mpl.use("agg")

pytestmark = pytest.mark.usefixtures("figure_style")

LEAST = 6  # points
RUNS = ["zs", "ft", "flyp", "carot"]
SETS = ["ID test", "V2", "A", "R", "Sketch", "ObjectNet"]
NAMES = [f"a class with a long name {k}" for k in range(12)]


def by_run(columns: dict[str, float], **keys: list) -> pd.DataFrame:
    """Every combination of a run, two seeds and the keys, with constant columns."""
    index = pd.MultiIndex.from_product([RUNS, [0, 1], *keys.values()], names=["run", "seed", *keys])
    return pd.DataFrame(columns, index).reset_index()


def plane() -> Figure:
    parts = {(m, end): 0.5 for m in ("acc", "ece") for end in ("value", "low", "high")}
    index = pd.MultiIndex.from_product([RUNS, [0, 1]], names=["run", "seed"])
    table = pd.DataFrame(parts, index)
    return plots.accuracy_ece_plane({"ID": table, "OOD, mean of five": table})


def temperatures() -> Figure:
    curves = by_run({"ece": 0.1}, temperature=[0.5, 1.0, 2.0, 10.0])
    return plots.temperature_curves(curves, by_run({"ece": 5.0, "nll": 1.0}))


def learning_rates() -> Figure:
    metrics = dict.fromkeys(["id_val_accuracy", "id_val_ece", "ood_accuracy", "ood_ece"], 0.5)
    table = by_run(metrics, learning_rate=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
    return plots.learning_rate_curves(table.assign(chosen=table["learning_rate"] == 1e-3))


def pretraining() -> Figure:
    history = pd.DataFrame({"step": [1, 2], "contrastive": [3.0, 2.0], "logit_scale": [14.0, 15.0]})
    return plots.pretraining_curves(history)


def losses() -> Figure:
    terms = {"learning_rate": 1e-3, "contrastive": 2.0, "distillation": 0.1}
    return plots.training_curves(by_run(terms, step=[1, 2, 3]))


def profiles() -> Figure:
    table = by_run({"value": 0.5, "low": 0.4, "high": 0.6}, dataset=SETS)
    return plots.shift_profiles({"accuracy": table, "ECE": table}, RUNS)


def wise_ft() -> Figure:
    metrics = {"accuracy": 0.5, "ece": 0.1, "ece_noise_floor": 0.01}
    table = by_run(metrics, alpha=[0.0, 0.5, 1.0], dataset=["id_test", "ood"])
    names = {"id_test": "ID test", "ood": "OOD, mean of five"}
    return plots.wise_ft_curves(table[table["run"] == "ft"], names)


def claims() -> Figure:
    row = {"claim": "1", "text": "A claim", "part": "ECE: CaRot - FLYP", "relation": "< -0.001"}
    row |= {"verdict": "undecided", "claim_verdict": "undecided"}
    numbers = ["value", "low", "high", "paper_value", "paper_low", "paper_high"]
    return claims_figure.claim_panels(pd.DataFrame([row | dict.fromkeys(numbers, 0.001)] * 3))


def sheet() -> Figure:
    black = np.zeros((12, 4, 4, 3), np.uint8)
    return pictures.contact_sheet({"ID": black, "R": black}, {"ID": "N = 9", "R": ""}, NAMES)


def matrices() -> Figure:
    one = np.eye(12)
    rows = [{"student": one, "teacher": one}, {"hard": one, "smoothed": one, "distilled": one}]
    return pictures.heat_maps(rows, NAMES)


STATS = BinStats.from_confidences(np.full(100, 0.75), np.arange(100) < 40)


def grid(rows: int) -> Figure:
    stats = {name: dict.fromkeys(["ZS", "FT", "FLYP", "CaRot"], STATS) for name in SETS[:rows]}
    intervals = {name: dict.fromkeys(one, (0.1, 0.2)) for name, one in stats.items()}
    return reliability.reliability_grid(stats, intervals)


def errors() -> Figure:
    answers = dict.fromkeys(["ZS", "FT", "FLYP", "CaRot"], images.Answer(NAMES[0], 0.9, False))
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 6
    return images.error_page("FT errs on 9 images", pictures, NAMES[:6], [answers] * 6)


FIGURES: dict[str, Callable[[], Figure]] = {
    "accuracy_ece_plane": plane,
    "temperature_curves": temperatures,
    "learning_rate_curves": learning_rates,
    "pretraining_curves": pretraining,
    "training_curves": losses,
    "shift_profiles": profiles,
    "wise_ft_curves": wise_ft,
    "claim_panels": claims,
    "contact_sheet": sheet,
    "heat_maps": matrices,
    "reliability_grid": lambda: grid(6),
    "temperature_figure": lambda: interactive.temperature_figure("FT", 1.5, STATS, 0.5, 0.95),
    "loss_curve": lambda: training.loss_curve({1: 2.0, 2: 1.0}, 2),
    "error_page": errors,
}


def printed_sizes(figure: Figure) -> dict[str, float]:
    """Size in points of every text, with the scale at which the appendix prints the figure."""
    figure.draw_without_rendering()
    scale = min(1, PAGE_WIDTH / figure.get_figwidth(), PAGE_HEIGHT / figure.get_figheight())
    sizes = {}
    for text in figure.findobj(Text):
        said = text.get_text()
        if text.get_visible() and said.strip():
            raised = 0.7 if re.search(r"\$.*[\^_].*\$", said) else 1  # exponents and indices
            sizes[said] = text.get_fontsize() * scale * raised
    return sizes


@pytest.mark.parametrize("name", FIGURES)
def test_the_smallest_text_is_large_enough(name: str):
    sizes = printed_sizes(FIGURES[name]())
    assert len(sizes) > 3
    assert min(sizes.values()) >= LEAST, sizes


def test_a_text_that_shrinks_or_is_raised_is_found():
    figure = Figure(figsize=(2 * PAGE_WIDTH, 1))
    figure.text(0, 0, "half", size=10)
    figure.text(0, 0, "$10^{-3}$", size=10)
    assert printed_sizes(figure) == pytest.approx({"half": 5, "$10^{-3}$": 3.5})


def drawing_functions(module: ModuleType) -> set[str]:
    functions = getmembers(module, isfunction)
    own = [(name, f) for name, f in functions if f.__module__ == module.__name__]
    return {name for name, f in own if f.__annotations__.get("return") is Figure and name[0] != "_"}


def test_no_figure_is_left_out():
    modules = (claims_figure, pictures, plots, reliability, images, interactive, training)
    assert set().union(*map(drawing_functions, modules)) == set(FIGURES)
