"""Figures that follow controls in the lab and stay as an image where no kernel runs."""

import base64
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.predictions import Predictions
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.plots import wise_ft_curves
from carot_lib.report.reliability import add_legend, confidence_histogram, reliability_diagram
from carot_lib.report.results import Report, read_table
from carot_lib.report.styles import GREY, INK

RESOLUTION = 100  # pixels of the page per inch
SHARPNESS = 1.5  # pixels of the image per pixel of the page: screens are dense, drawing is slow
POSITIONS = 60  # of the temperature slider, evenly spaced in the logarithm
NARROW = {"layout": {"width": "230px"}, "style": {"description_width": "85px"}}


class InteractiveFigure(widgets.VBox):
    """Rows of controls above a figure, which is drawn again after each change.

    In the lab it is a widget. In a saved notebook, which has no kernel, the image remains: both are
    in one output, and a viewer shows the richest form that it supports.

    Args:
        rows: the controls, from top to bottom.
        draw: makes a new figure from the values of `follow`.
        follow: the controls that the figure depends on.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[widgets.Widget]],
        draw: Callable[..., Figure],
        follow: Sequence[widgets.ValueWidget] = (),
    ):
        self._draw, self._follow = draw, follow
        self.picture = widgets.Image(layout={"max_width": "100%", "object_fit": "contain"})
        wrapped = {"flex_flow": "row wrap"}  # in a narrow window
        super().__init__([*(widgets.HBox(row, layout=wrapped) for row in rows), self.picture])
        self.refresh()
        for control in follow:
            control.observe(self._follow_change, names="value")

    def _follow_change(self, _: object) -> None:
        """Draw again, unless a change that this one led to has already done so."""
        if self._values() != self._drawn:
            self.refresh()

    def _values(self) -> list[Any]:
        return [control.value for control in self._follow]

    def refresh(self) -> None:
        """Draw the figure again."""
        self._drawn = self._values()
        figure, file = self._draw(*self._drawn), BytesIO()
        figure.savefig(file, format="png", dpi=SHARPNESS * RESOLUTION)
        plt.close(figure)  # or the notebook would show it once more
        self.picture.width = str(round(RESOLUTION * figure.get_figwidth()))
        self.picture.value = file.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict]:
        still = {
            "image/png": base64.b64encode(self.picture.value).decode(),
            "text/plain": "a figure; its controls work in the lab",
        }
        size = {"image/png": {"width": int(self.picture.width)}}
        return super()._repr_mimebundle_(**options) | still, size


def slider_temperatures(low: float, high: float, *extra: float) -> list[float]:
    """Positions of a slider from `low` to `high`, with 1 and the extra values among them."""
    even = np.round(np.geomspace(low, high, POSITIONS), 2).tolist()
    return sorted({*even, 1.0, *(value for value in extra if low <= value <= high)})


def temperature_figure(
    title: str, temperature: float, stats: BinStats, loss: float, level: float
) -> Figure:
    """A reliability diagram over its histogram, beside the numbers of one temperature."""
    figure = plt.figure(figsize=(6.6, 4.2), layout="none")
    margins = {"left": 0.08, "right": 0.99, "top": 0.97, "bottom": 0.1}
    widths = {"width_ratios": (1.5, 1), "height_ratios": (3, 1)}
    grid = figure.add_gridspec(2, 2, **widths, **margins, hspace=0.1, wspace=0.06)
    upper, lower = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    reliability_diagram(upper, stats, level=level)
    confidence_histogram(lower, stats)
    upper.set(ylabel="accuracy (%)", xticklabels=[])
    lower.set(xlabel="confidence (%)", ylabel="share (%)", yticks=[0, 50, 100])
    figure.align_ylabels()
    aside = figure.add_subplot(grid[:, 1])
    aside.set_axis_off()
    add_legend(aside, level, intervals=False, loc="lower left", borderaxespad=0)
    numbers = {
        "temperature": f"{temperature:.2f}",
        "ECE": f"{stats.ece():.4f}",
        "noise floor": f"{stats.noise_floor():.4f}",
        "NLL": f"{loss:.4f}",
        "accuracy": f"{stats.mean_accuracy():.4f}",
        "mean confidence": f"{stats.mean_confidence():.4f}",
        "images": f"{stats.n:,}",
    }
    aside.text(0, 1, title, weight="bold", size=9, va="top")
    for row, (name, number) in enumerate(numbers.items()):
        aside.text(0, 0.88 - 0.062 * row, name, color=GREY)
        aside.text(1, 0.88 - 0.062 * row, number, ha="right")
    return figure


def temperature_slider(
    report: Report, dataset: str = "id_test", run: str = "ft"
) -> InteractiveFigure:
    """Choose a data set, a method (at first those given) and a seed, and drag the temperature.

    Raises:
        FileNotFoundError: there are no predictions yet; the message names the stage to run.
    """
    evaluation, rows = report.evaluation, report.rows
    chosen = {(name, s): report.temperature(name, s) for name in rows.rows for s in rows.seeds}
    search = evaluation.temperature
    grid = slider_temperatures(search.low, search.high, *chosen.values())
    datasets = [(report.names[name], name) for name in evaluation.datasets]
    runs = [(RUN_NAMES[name], name) for name in rows.rows]
    which_set = widgets.Dropdown(options=datasets, value=dataset, description="set", **NARROW)
    which_run = widgets.Dropdown(options=runs, value=run, description="method", **NARROW)
    which_seed = widgets.Dropdown(options=rows.seeds, description="seed", **NARROW)
    which_temperature = widgets.SelectionSlider(
        options=[(f"{value:.2f}", value) for value in grid],
        value=1.0,
        description="temperature",
        layout={"width": "440px"},
    )
    plain = widgets.Button(description="T = 1", tooltip="no temperature scaling")
    tooltip = "chosen on the ID validation set, by ECE"
    as_chosen = widgets.Button(description="as chosen", tooltip=tooltip)
    load = lru_cache(maxsize=1)(Predictions.load)  # the logits of ImageNet are large

    def draw(dataset: str, run: str, seed: int, temperature: float) -> Figure:
        predictions = load(report.layout.predictions(run, seed, dataset))
        confidences, correct = predictions.confidences(temperature)
        stats = BinStats.from_confidences(confidences, correct, evaluation.n_bins)
        # -log p(label) = (largest logit - label's logit) / T - log(confidence)
        logits, rows = predictions.logits, np.arange(len(predictions.labels))
        below_top = logits.max(axis=1) - logits[rows, predictions.labels].astype(float)
        loss = float((below_top / temperature - np.log(confidences)).mean())
        title = f"{RUN_NAMES[run]} on {report.names[dataset]}"
        return temperature_figure(title, temperature, stats, loss, evaluation.bootstrap.level)

    def set_chosen(_: widgets.Button) -> None:
        which_temperature.value = chosen[which_run.value, which_seed.value]

    plain.on_click(lambda _: setattr(which_temperature, "value", 1.0))
    as_chosen.on_click(set_chosen)
    choices = [which_set, which_run, which_seed]
    controls = [choices, [which_temperature, plain, as_chosen]]
    return InteractiveFigure(controls, draw, [*choices, which_temperature])


def read_wise_ft_curves(report: Report) -> pd.DataFrame:
    """The WiSE-FT curves of all runs that have one, of every seed.

    Columns run, seed, alpha, dataset, accuracy, ece, ece_noise_floor.

    Raises:
        FileNotFoundError: stage `wise_ft` has not run.
    """
    runs = [row.removeprefix("wise_") for row in report.rows.rows if row.startswith("wise_")]
    seeds = report.rows.seeds
    tables = [read_table(report.layout.wise_ft_curve(run, seed)) for run in runs for seed in seeds]
    return pd.concat(tables, ignore_index=True)


def wise_ft_slider(report: Report) -> InteractiveFigure:
    """Choose the fine-tuned run and drag alpha: marks move along the curves.

    Raises:
        FileNotFoundError: stage `wise_ft` has not run.
    """
    table = read_wise_ft_curves(report)
    values = table.groupby(["run", "alpha", "dataset"])[["accuracy", "ece"]].mean()
    runs = [(RUN_NAMES[run], run) for run in table["run"].unique()]
    alphas = values.index.unique("alpha").tolist()
    which_run = widgets.Dropdown(options=runs, description="fine-tuned by", **NARROW)
    which_alpha = widgets.SelectionSlider(
        options=[(f"{alpha:g}", alpha) for alpha in alphas],
        value=min(alphas, key=lambda alpha: abs(alpha - 0.5)),
        description="alpha",
        layout={"width": "420px"},
    )

    def draw(run: str, alpha: float) -> Figure:
        figure = wise_ft_curves(table, report.names)
        plane, errors = figure.axes
        inside, shifted = (values.loc[(run, alpha, name)] for name in ("id_test", "ood"))
        mark = {"marker": "o", "ms": 9, "mfc": "none", "mec": INK, "mew": 1.6, "ls": "none"}
        plane.plot(inside["accuracy"], shifted["accuracy"], **mark)
        errors.plot([alpha, alpha], [inside["ece"], shifted["ece"]], **mark)
        errors.axvline(alpha, color=INK, linewidth=0.8)
        lines = [f"{RUN_NAMES['wise_' + run]}, alpha = {alpha:g}"]
        for name, row in (("ID", inside), ("OOD", shifted)):
            lines.append(f"{name}: accuracy {row['accuracy']:.4f}, ECE {row['ece']:.4f}")
        plane.text(0.03, 0.04, "\n".join(lines), transform=plane.transAxes, linespacing=1.5)
        return figure

    return InteractiveFigure([[which_run, which_alpha]], draw, [which_run, which_alpha])
