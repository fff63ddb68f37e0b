"""Drag the temperature: the reliability diagram and its numbers follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.scores import top_confidences
from carot_lib.explore.exhibit import SHARPNESS, Canvas, InteractiveFigure
from carot_lib.files import read_json
from carot_lib.report.reliability import FEW, WIDTH, legend_handles
from carot_lib.report.results import Report
from carot_lib.report.styles import GREY, INK, OVER, PALE, RUN_NAMES, UNDER, style

NUMBERS = ("temperature", "ECE", "noise floor", "NLL", "accuracy", "mean confidence", "images")
POSITIONS = 60  # of the temperature's slider, evenly spaced in its logarithm


@dataclass(frozen=True)
class Point:
    """What is known at one temperature.

    Attributes:
        temperature: divides the logits.
        stats: binned predictions.
        nll: mean negative log-likelihood, in nats.
    """

    temperature: float
    stats: BinStats
    nll: float


def points(predictions: Predictions, temperatures: Sequence[float], n_bins: int) -> list[Point]:
    """Statistics at every temperature, exactly as the tables have them.

    Whatever costs time happens here, so that a slider only draws: 50,000 x 1,000 logits take a few
    seconds for all temperatures together.
    """
    logits, labels = predictions.logits, predictions.labels
    behind = (logits.max(axis=1) - logits[np.arange(len(labels)), labels]).mean(dtype=np.float64)
    found = []
    for temperature in temperatures:
        confidences, correct = top_confidences(logits, labels, temperature)
        stats = BinStats.from_confidences(confidences, correct, n_bins)
        # a label's probability is the confidence times exp(-its distance to the top / T)
        nll = float(behind / temperature - np.log(confidences).mean())
        found.append(Point(temperature, stats, nll))
    return found


def slider_temperatures(low: float, high: float, *extra: float) -> list[float]:
    """Positions of a slider from `low` to `high`, 1 and what is extra among them."""
    even = np.round(np.geomspace(low, high, POSITIONS), 2).tolist()
    return sorted({*even, 1.0, *(value for value in extra if low <= value <= high)})


class LiveDiagram:
    """A reliability diagram over a histogram, as `carot_lib.report.reliability` draws them.

    The same look, of artists that are moved instead of made anew.

    Args:
        n_bins: of the points it will show.
        level: of the consistency boxes.
    """

    def __init__(self, n_bins: int, level: float = 0.95):
        self.level = level
        self.left = np.arange(n_bins) * 100 / n_bins
        with style():
            figure = Figure(figsize=(6.6, 4.4), dpi=100 * SHARPNESS)
            inner = figure.add_gridspec(2, 2, width_ratios=(1.45, 1), height_ratios=(3.2, 1))
            upper, lower = figure.add_subplot(inner[0, 0]), figure.add_subplot(inner[1, 0])
            beside = figure.add_subplot(inner[:, 1])
            beside.set_axis_off()
            handles = legend_handles(level)
            beside.legend(handles=handles, loc="lower left", fontsize=7.5, borderaxespad=0)
            dashes = {"linestyle": (0, (4, 3)), "color": GREY, "linewidth": 1}
            self.diagonal = upper.plot([0, 100], [0, 100], **dashes)[0]
            upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
            upper.set(xticks=[0, 50, 100], yticks=[0, 50, 100], xticklabels=[])
            lower.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)", ylabel="share (%)")
            lower.set(xticks=[0, 50, 100], yticks=[0, 50, 100])
            for ax in (upper, lower):
                ax.grid(axis="y")
            self.bars = PolyCollection([], facecolor=PALE, linewidth=0)
            self.over = PolyCollection([], facecolor=_pale(OVER), edgecolor=OVER, hatch="/////")
            self.under = PolyCollection(
                [], facecolor=_pale(UNDER), edgecolor=UNDER, hatch=r"\\\\\\"
            )
            self.boxes = PolyCollection([], facecolor="white", edgecolor=INK, linewidth=0.7)
            self.ticks = LineCollection([], color=INK, linewidth=1.5, capstyle="butt")
            self.shares = PolyCollection([], facecolor="#BFC6CD", linewidth=0)
            for artist in (self.bars, self.over, self.under, self.boxes, self.ticks):
                upper.add_collection(artist, autolim=False)
            lower.add_collection(self.shares, autolim=False)
            self.accuracy = lower.axvline(50, color=INK, linewidth=1.4)
            self.confidence = lower.axvline(50, linewidth=1.4, linestyle=(0, (3, 1.5)))
            self.title = beside.text(0, 1, "", weight="bold", size=10.5, va="top")
            self.numbers = {}
            for row, name in enumerate(NUMBERS):
                beside.text(0, 0.87 - 0.062 * row, name, color=GREY, size=9)
                self.numbers[name] = beside.text(1, 0.87 - 0.062 * row, "", size=9, ha="right")
            moving = [self.bars, self.over, self.under, self.diagonal, self.boxes, self.ticks]
            moving += [self.shares, self.accuracy, self.confidence]
            moving += [self.title, *self.numbers.values()]
            self.canvas = Canvas(figure, moving)

    def show(self, title: str, point: Point) -> Image.Image:
        """The picture of one point."""
        stats, width = point.stats, 100 / point.stats.n_bins
        accuracy, confidence = 100 * stats.accuracy, 100 * stats.confidence
        low, high = (100 * bound for bound in stats.consistency(self.level))
        seen = stats.count >= FEW
        over, under = seen & (confidence > accuracy), seen & (confidence <= accuracy)
        least, most = np.fmin(accuracy, confidence), np.fmax(accuracy, confidence)
        whole, gutter = WIDTH * width, (1 - WIDTH) / 2 * width
        left = self.left + gutter
        self.bars.set_verts(_boxes(left, np.zeros_like(least), whole, least)[seen])
        self.over.set_verts(_boxes(left, least, whole, most)[over])
        self.under.set_verts(_boxes(left, least, whole, most)[under])
        self.boxes.set_verts(_boxes(self.left + 0.29 * width, low, 0.42 * width, high)[seen])
        ends = np.stack([np.stack([left, accuracy], 1), np.stack([left + whole, accuracy], 1)], 1)
        self.ticks.set_segments(ends[seen])
        share = 100 * stats.count / stats.n
        self.shares.set_verts(_boxes(left, np.zeros_like(share), whole, share))
        mean_accuracy, mean_confidence = 100 * stats.mean_accuracy(), 100 * stats.mean_confidence()
        self.accuracy.set_xdata([mean_accuracy] * 2)
        self.confidence.set_xdata([mean_confidence] * 2)
        self.confidence.set_color(OVER if mean_confidence > mean_accuracy else UNDER)
        values = (stats.ece(), stats.noise_floor(), point.nll)
        values = (*values, stats.mean_accuracy(), stats.mean_confidence())
        words = [f"{point.temperature:.2f}", *(f"{v:.4f}" for v in values), f"{stats.n:,}"]
        for number, word in zip(self.numbers.values(), words, strict=True):
            number.set_text(word)
        self.title.set_text(title)
        return self.canvas.picture()


def explore_calibration(
    report: Report, dataset: str = "id_test", run: str = "ft"
) -> InteractiveFigure:
    """Choose set, method and seed, and drag the temperature.

    Args:
        report: whose predictions are shown.
        dataset: shown first.
        run: shown first.

    Raises:
        FileNotFoundError: there are no predictions yet; the message names the stage to run.
    """
    evaluation, layout = report.evaluation, report.layout
    diagram = LiveDiagram(evaluation.n_bins)
    datasets = [(report.names[name], name) for name in evaluation.datasets]
    runs = [(RUN_NAMES[name], name) for name in report.rows.rows]
    wide = {"layout": widgets.Layout(width="220px"), "style": {"description_width": "60px"}}
    which_set = widgets.Dropdown(options=datasets, value=dataset, description="set", **wide)
    which_run = widgets.Dropdown(options=runs, value=run, description="method", **wide)
    seed = widgets.Dropdown(options=report.rows.seeds, description="seed", **wide)
    chosen = {
        (name, one): read_json(layout.evaluation(name, one) / "temperature.json")
        for name in report.rows.rows
        for one in report.rows.seeds
    }
    chosen = {key: found["temperature"] for key, found in chosen.items()}
    grid = slider_temperatures(
        evaluation.temperature.low, evaluation.temperature.high, *chosen.values()
    )
    temperature = widgets.SelectionSlider(
        options=[(f"{value:.2f}", value) for value in grid],
        value=1.0,
        description="temperature",
        layout=widgets.Layout(width="440px"),
        style={"description_width": "80px"},
    )
    plain = widgets.Button(description="1", tooltip="no temperature scaling")
    by_ece = widgets.Button(description="as chosen", tooltip="on the ID validation set, by ECE")
    for button in (plain, by_ece):
        button.layout.width = "100px"

    @cache
    def load(name: str, set_name: str, one: int) -> dict[float, Point]:
        predictions = Predictions.load(layout.predictions(name, one, set_name))
        return {p.temperature: p for p in points(predictions, grid, evaluation.n_bins)}

    def draw() -> Image.Image:
        point = load(which_run.value, which_set.value, seed.value)[temperature.value]
        title = f"{RUN_NAMES[which_run.value]} on {report.names[which_set.value]}"
        return diagram.show(title, point)

    def set_plain(_: widgets.Button) -> None:
        temperature.value = 1.0

    def set_chosen(_: widgets.Button) -> None:
        temperature.value = chosen[which_run.value, seed.value]

    plain.on_click(set_plain)
    by_ece.on_click(set_chosen)
    rows = [
        widgets.HBox([which_set, which_run, seed]),
        widgets.HBox([temperature, plain, by_ece]),
    ]
    return InteractiveFigure(rows, draw, [which_set, which_run, seed, temperature])


def _boxes(
    left: Float[np.ndarray, " bins"],
    low: Float[np.ndarray, " bins"],
    width: float,
    high: Float[np.ndarray, " bins"],
) -> Float[np.ndarray, "bins 4 2"]:
    """Corners of one upright rectangle a bin."""
    right = left + width
    return np.stack(
        [np.stack(c, 1) for c in ((left, low), (right, low), (right, high), (left, high))], 1
    )


def _pale(colour: str) -> str:
    """The colour at 30 % on white, opaque: what lies behind must not shine through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - 0.3 * (255 - part)):02X}" for part in (red, green, blue))
