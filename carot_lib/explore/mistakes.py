"""The mistakes a model is surest of: picture by picture, with what the others say of them."""

from collections.abc import Mapping, Sequence
from functools import cache

import ipywidgets as widgets
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from carot_lib.calibration.predictions import Predictions, check_same_images
from carot_lib.data.datasets import read_set
from carot_lib.explore.exhibit import SHARPNESS, Canvas, InteractiveFigure
from carot_lib.report.results import Report
from carot_lib.report.styles import GREY, INK, OVER, RUN_NAMES, UNDER, style

ACROSS, DOWN = 2, 3  # pictures of a page
PIXELS = 224  # of a picture's side, at most


class Answer:
    """What one model says of every image of a set.

    Args:
        predictions: of the model.
        temperature: divides its logits.

    Attributes:
        predicted: class, among the set's own.
        confidences: of that class, in [0, 1].
        correct: whether it is the label.
    """

    predicted: Int[np.ndarray, " samples"]
    confidences: Float[np.ndarray, " samples"]
    correct: Bool[np.ndarray, " samples"]

    def __init__(self, predictions: Predictions, temperature: float = 1.0):
        self.predicted = predictions.logits.argmax(axis=1)
        self.confidences, self.correct = predictions.confidences(temperature)

    def most_confident_errors(self) -> Int[np.ndarray, " mistakes"]:
        """Positions of all wrong predictions, the most confident first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")]


def answer_bars(
    ax: Axes, answers: Mapping[str, tuple[str, float, bool | None]], longest: int = 30
) -> None:
    """One bar of confidence a line, with the class that it is the confidence of.

    Args:
        ax: where to draw.
        answers: class, confidence in [0, 1] and whether that is right (None: unknown), by the
            name of the line.
        longest: characters of a class name; more are cut off.
    """
    for i, (name, (said, confidence, right)) in enumerate(answers.items()):
        colour = {True: UNDER, False: OVER, None: "#7F9DB9"}[right]
        ax.barh(i, confidence, height=0.28, color=colour, align="edge")
        ax.text(0, i - 0.12, _short(said, longest), size=7.5, color=INK, va="bottom")
        ax.text(1, i - 0.12, f"{confidence:.2f}", size=7.5, color=INK, va="bottom", ha="right")
        ax.text(-0.05, i + 0.14, name, size=7.5, color=GREY, ha="right", va="center")
    ax.barh(range(len(answers)), 1, height=0.28, color="#EEEEEE", align="edge", zorder=0)
    ax.set(xlim=(-0.32, 1), ylim=(len(answers) - 0.45, -0.75))
    ax.set_axis_off()


def mistakes_page(
    title: str,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    truths: Sequence[str],
    answers: Sequence[Mapping[str, tuple[str, float, bool | None]]],
) -> Figure:
    """Pictures of a page, each under its true class and beside what every model says.

    Args:
        title: of the page.
        pictures: at most a page full.
        truths: names of their classes.
        answers: of every model, by its name, see `answer_bars`.
    """
    with style():
        figure = Figure(figsize=(8.2, 0.4 + 1.55 * DOWN), dpi=100 * SHARPNESS)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=9.5)
        grid = figure.add_gridspec(DOWN, 2 * ACROSS, width_ratios=(1, 1.75) * ACROSS)
        for i, (picture, truth, said) in enumerate(zip(pictures, truths, answers, strict=True)):
            row, column = divmod(i, ACROSS)
            left = figure.add_subplot(grid[row, 2 * column])
            nearest = "nearest" if len(picture) < PIXELS / 2 else "antialiased"
            left.imshow(picture, interpolation=nearest)
            left.set_title(_short(truth, 30), size=8, loc="left", pad=3)
            left.set_axis_off()
            answer_bars(figure.add_subplot(grid[row, 2 * column + 1]), said)
        return figure


def explore_mistakes(
    report: Report, runs: Sequence[str] = ("zs", "ft", "flyp", "carot"), judge: str = "ft"
) -> InteractiveFigure:
    """Choose the set and whose mistakes, and leaf through them, the surest first.

    Args:
        report: whose predictions are shown, of the first seed.
        runs: that are asked about every picture.
        judge: whose mistakes are shown first.

    Raises:
        FileNotFoundError: there are no predictions or images; the message names the stage to run.
    """
    sets = [(report.names[name], name) for name in report.evaluation.reported]
    names = {run: RUN_NAMES[run] for run in runs}
    narrow = {"layout": widgets.Layout(width="230px"), "style": {"description_width": "80px"}}
    which_set = widgets.Dropdown(options=sets, description="set", **narrow)
    whose = widgets.Dropdown(
        options=[(name, run) for run, name in names.items()],
        value=judge,
        description="mistakes of",
        **narrow,
    )
    scaled = widgets.Checkbox(description="with its temperature", indent=False)
    page = widgets.BoundedIntText(value=1, min=1, max=1, description="page", **narrow)
    page.layout.width = "140px"
    of_all = widgets.Label()
    back, on = (
        widgets.Button(icon=i, tooltip=t)
        for i, t in (("arrow-left", "page back"), ("arrow-right", "next page"))
    )
    for button in (back, on):
        button.layout.width = "44px"

    read = cache(lambda name: read_set(report.layout.data, name))

    @cache
    def ask(name: str, with_temperature: bool) -> dict[str, Answer]:
        found = {
            run: Predictions.load(report.layout.predictions(run, report.seed, name)) for run in runs
        }
        seen = {run: one.fingerprint for run, one in found.items()}
        check_same_images(name, seen | {"the images": read(name).fingerprint})
        return {
            run: Answer(one, report.temperature(run) if with_temperature else 1.0)
            for run, one in found.items()
        }

    def draw() -> Image.Image:
        dataset, answers = read(which_set.value), ask(which_set.value, scaled.value)
        order = answers[whose.value].most_confident_errors()
        per_page = ACROSS * DOWN
        page.max = max(1, -(-len(order) // per_page))
        of_all.value = f"of {page.max:,}"
        shown = order[per_page * (page.value - 1) : per_page * page.value]
        errs = f"{names[whose.value]} errs on {len(order):,} of {len(dataset.labels):,} images"
        title = f"{errs} of {report.names[which_set.value]}; its surest mistakes, page {page.value}"
        said = [
            {
                names[run]: (
                    dataset.class_names[one.predicted[i]],
                    float(one.confidences[i]),
                    bool(one.correct[i]),
                )
                for run, one in answers.items()
            }
            for i in shown
        ]
        truths = [dataset.class_names[label] for label in dataset.labels[shown]]
        pictures = dataset.thumbnails(shown.tolist(), PIXELS)
        return Canvas(mistakes_page(title, pictures, truths, said)).picture()

    back.on_click(lambda _: setattr(page, "value", page.value - 1))
    on.on_click(lambda _: setattr(page, "value", page.value + 1))
    for first in (which_set, whose):  # another list starts at its first page
        first.observe(lambda _: setattr(page, "value", 1), names="value")
    rows = [
        widgets.HBox([which_set, whose, scaled]),
        widgets.HBox([page, of_all, back, on]),
    ]
    return InteractiveFigure(rows, draw, [which_set, whose, scaled, page])


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
