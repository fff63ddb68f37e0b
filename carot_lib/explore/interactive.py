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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.metrics import nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.files import read_json
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.plots import wise_ft_curves
from carot_lib.report.reliability import add_legend, confidence_histogram, reliability_diagram
from carot_lib.report.results import Report, read_table
from carot_lib.report.styles import GREY, INK

VIEW = "application/vnd.jupyter.widget-view+json"
SHARPNESS = 1.5  # pixels of the image per pixel of the page: screens are dense, drawing is slow
POSITIONS = 60  # of the temperature slider, evenly spaced in the logarithm


class InteractiveFigure:
    """Controls above a figure, which is drawn again after each change.

    In the lab it is a widget. In a saved notebook, which has no kernel, the image remains: both are
    in one output, and a viewer shows the richest form that it supports.

    Args:
        controls: rows of widgets, from top to bottom.
        draw: returns the figure, a new one or the same one after a change.
        follow: widgets whose `value` the figure depends on.
    """

    def __init__(
        self,
        controls: Sequence[widgets.Widget],
        draw: Callable[[], Figure],
        follow: Sequence[widgets.Widget],
    ):
        self._draw = draw
        self.picture = widgets.Image(format="webp")
        self.picture.layout.max_width, self.picture.layout.object_fit = "100%", "contain"
        self.refresh()
        self.widget = widgets.VBox([*controls, self.picture])
        for control in follow:
            control.observe(lambda _: self.refresh(), names="value")

    def refresh(self) -> None:
        """Draw the figure again."""
        figure = self._draw()
        figure.set_dpi(100 * SHARPNESS)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")  # if it is drawn again, nothing but the change moves
        plt.close(figure)  # or the notebook would show it once more
        self._image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        self.picture.width = str(round(self._image.width / SHARPNESS))
        # lossless, and in half the time of a PNG
        options = {"lossless": True, "quality": 0, "method": 0}
        self.picture.value = _encode(self._image, "webp", **options)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        png = base64.b64encode(_encode(self._image, "png")).decode()
        text = "a figure; its controls work in the lab"
        data = {VIEW: view, "image/png": png, "text/plain": text}
        return data, {"image/png": {"width": round(self._image.width / SHARPNESS)}}


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
    """Choose a data set, a method and a seed, and drag the temperature.

    Args:
        report: results whose predictions are shown.
        dataset: shown first.
        run: shown first.

    Raises:
        FileNotFoundError: there are no predictions yet; the message names the stage to run.
    """
    evaluation, layout = report.evaluation, report.layout
    chosen = {
        (name, seed): read_json(layout.evaluation(name, seed) / "temperature.json")["temperature"]
        for name in report.rows.rows
        for seed in report.rows.seeds
    }
    search = evaluation.temperature
    grid = slider_temperatures(search.low, search.high, *chosen.values())
    datasets = [(report.names[name], name) for name in evaluation.datasets]
    runs = [(RUN_NAMES[name], name) for name in report.rows.rows]
    narrow = {"layout": {"width": "220px"}, "style": {"description_width": "60px"}}
    which_set = widgets.Dropdown(options=datasets, value=dataset, description="set", **narrow)
    which_run = widgets.Dropdown(options=runs, value=run, description="method", **narrow)
    which_seed = widgets.Dropdown(options=report.rows.seeds, description="seed", **narrow)
    temperature = widgets.SelectionSlider(
        options=[(f"{value:.2f}", value) for value in grid],
        value=1.0,
        description="temperature",
        layout={"width": "440px"},
        style={"description_width": "80px"},
    )
    button = {"layout": {"width": "100px"}}
    plain = widgets.Button(description="1", tooltip="no temperature scaling", **button)
    tooltip = "chosen on the ID validation set, by ECE"
    as_chosen = widgets.Button(description="as chosen", tooltip=tooltip, **button)

    @lru_cache(maxsize=1)  # the logits of ImageNet are large
    def load(name: str, seed: int, set_name: str) -> Predictions:
        return Predictions.load(layout.predictions(name, seed, set_name))

    def draw() -> Figure:
        predictions = load(which_run.value, which_seed.value, which_set.value)
        confidences, correct = predictions.confidences(temperature.value)
        stats = BinStats.from_confidences(confidences, correct, evaluation.n_bins)
        loss = nll(predictions.logits / temperature.value, predictions.labels)
        title = f"{RUN_NAMES[which_run.value]} on {report.names[which_set.value]}"
        level = evaluation.bootstrap.level
        return temperature_figure(title, temperature.value, stats, loss, level)

    def set_chosen(_: widgets.Button) -> None:
        temperature.value = chosen[which_run.value, which_seed.value]

    plain.on_click(lambda _: setattr(temperature, "value", 1.0))
    as_chosen.on_click(set_chosen)
    choices = [which_set, which_run, which_seed]
    rows = [widgets.HBox(choices), widgets.HBox([temperature, plain, as_chosen])]
    return InteractiveFigure(rows, draw, [*choices, temperature])


def read_wise_ft_curves(report: Report) -> pd.DataFrame:
    """The WiSE-FT curves of all runs that have one, of the first seed.

    Columns run, seed, alpha, dataset, accuracy, ece, ece_noise_floor.

    Raises:
        FileNotFoundError: stage `wise_ft_curve` has not run.
    """
    runs = [row.removeprefix("wise_") for row in report.rows.rows if row.startswith("wise_")]
    tables = [read_table(report.layout.wise_ft_curve(run, report.seed)) for run in runs]
    return pd.concat(tables, ignore_index=True)


def wise_ft_slider(report: Report) -> InteractiveFigure:
    """Choose the fine-tuned run and drag alpha: marks move along the curves.

    Raises:
        FileNotFoundError: stage `wise_ft_curve` has not run.
    """
    table = read_wise_ft_curves(report)
    alphas = sorted(table["alpha"].unique().tolist())
    run = widgets.Dropdown(
        options=[(RUN_NAMES[run], run) for run in table["run"].unique()],
        description="fine-tuned by",
        layout={"width": "240px"},
        style={"description_width": "90px"},
    )
    alpha = widgets.SelectionSlider(
        options=[(f"{value:g}", value) for value in alphas],
        value=min(alphas, key=lambda value: abs(value - 0.5)),
        description="alpha",
        layout={"width": "420px"},
    )
    values = table.set_index(["run", "alpha", "dataset"]).sort_index()
    figure = wise_ft_curves(table, report.names)
    plane, errors = figure.axes
    look = {"marker": "o", "ms": 9, "mfc": "none", "mec": INK, "mew": 1.6, "ls": "none"}
    marks = [ax.plot([], [], **look)[0] for ax in (plane, errors)]
    line = errors.axvline(0.5, color=INK, linewidth=0.8)
    words = plane.text(0.03, 0.04, "", transform=plane.transAxes, linespacing=1.5)

    def draw() -> Figure:
        at = values.loc[run.value, alpha.value]
        inside, shifted = at.loc["id_test"], at.loc["ood"]
        marks[0].set_data([inside["accuracy"]], [shifted["accuracy"]])
        marks[1].set_data([alpha.value] * 2, [inside["ece"], shifted["ece"]])
        line.set_xdata([alpha.value] * 2)
        lines = [f"{RUN_NAMES['wise_' + run.value]}, alpha = {alpha.value:g}"]
        for name, row in (("ID", inside), ("OOD", shifted)):
            lines.append(f"{name}: accuracy {row['accuracy']:.4f}, ECE {row['ece']:.4f}")
        words.set_text("\n".join(lines))
        return figure

    return InteractiveFigure([widgets.HBox([run, alpha])], draw, [run, alpha])


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
