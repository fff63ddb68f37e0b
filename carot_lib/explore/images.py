"""Images with the answers of every model: the most confident errors, and an image of your own."""

from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from open_clip.transform import image_transform_v2
from PIL import Image, ImageOps

from carot_lib.calibration.predictions import Predictions, check_same_images
from carot_lib.data.datasets import read_class_names, read_set
from carot_lib.explore.interactive import InteractiveFigure
from carot_lib.models.clip import ImageClassifier, load_classifier
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.results import Report
from carot_lib.report.styles import GREY, INK, OVER, UNDER

RUNS = ("zs", "ft", "flyp", "carot")
ACROSS, DOWN = 2, 3  # images of a page
PIXELS = 224  # largest side of a displayed image
TOP = 5  # classes shown for each model on an uploaded image


class Answer(NamedTuple):
    """A predicted class, its confidence in [0, 1] and whether it is right (None: unknown)."""

    name: str
    confidence: float
    correct: bool | None = None


class Predicted:
    """Predicted class and confidence of one model for every image of a data set.

    Args:
        predictions: predictions of the model.
        temperature: divides its logits.
    """

    def __init__(self, predictions: Predictions, temperature: float = 1.0):
        self.classes = predictions.logits.argmax(axis=1)
        self.confidences, self.correct = predictions.confidences(temperature)

    def most_confident_errors(self) -> Int[np.ndarray, " errors"]:
        """Positions of all wrong predictions, the most confident first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")]

    def answer(self, position: int, class_names: Sequence[str]) -> Answer:
        """The answer to one image."""
        name = class_names[self.classes[position]]
        return Answer(name, float(self.confidences[position]), bool(self.correct[position]))


def answer_bars(ax: Axes, answers: Mapping[str, Answer], longest: int = 30) -> None:
    """One bar of confidence per line, below the name of the predicted class.

    Args:
        ax: axes to draw on.
        answers: answers by the label of their line.
        longest: class names of more characters are cut off.
    """
    ax.barh(range(len(answers)), 1, height=0.28, color="#EEEEEE", align="edge")
    text = {"size": 7.5, "color": INK, "va": "bottom"}
    for i, (label, answer) in enumerate(answers.items()):
        colour = {True: UNDER, False: OVER, None: "#7F9DB9"}[answer.correct]
        ax.barh(i, answer.confidence, height=0.28, color=colour, align="edge")
        ax.text(0, i - 0.12, _shorten(answer.name, longest), **text)
        ax.text(1, i - 0.12, f"{answer.confidence:.2f}", ha="right", **text)
        ax.text(-0.05, i + 0.14, label, size=7.5, color=GREY, ha="right", va="center")
    ax.set(xlim=(-0.32, 1), ylim=(len(answers) - 0.45, -0.75))
    ax.set_axis_off()


def error_page(
    title: str,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    labels: Sequence[str],
    answers: Sequence[Mapping[str, Answer]],
) -> Figure:
    """A page of images, each below its true class and beside the answers of all models.

    Args:
        title: title of the page.
        images: at most one page of them.
        labels: names of the true classes.
        answers: for each image, the answers by the name of the model.
    """
    figure = plt.figure(figsize=(8.2, 0.4 + 1.55 * DOWN))
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=9.5)
    grid = figure.add_gridspec(DOWN, 2 * ACROSS, width_ratios=(1, 1.75) * ACROSS)
    for i, (image, label, given) in enumerate(zip(images, labels, answers, strict=True)):
        row, column = divmod(i, ACROSS)
        _show(figure.add_subplot(grid[row, 2 * column]), image, _shorten(label, 30))
        answer_bars(figure.add_subplot(grid[row, 2 * column + 1]), given)
    return figure


def browse_errors(
    report: Report, runs: Sequence[str] = RUNS, errors_of: str = "ft"
) -> InteractiveFigure:
    """Choose a data set and a method, and leaf through its errors, the most confident first.

    Args:
        report: results whose predictions are shown, of the first seed.
        runs: runs whose answers are shown for every image.
        errors_of: run whose errors are shown first.

    Raises:
        FileNotFoundError: there are no predictions or images; the message names the stage to run.
        ValueError: the runs did not see the same images.
    """
    names = {run: RUN_NAMES[run] for run in runs}
    sets = [(report.names[name], name) for name in report.evaluation.reported]
    methods = [(name, run) for run, name in names.items()]
    narrow = {"layout": {"width": "230px"}, "style": {"description_width": "80px"}}
    which_set = widgets.Dropdown(options=sets, description="set", **narrow)
    whose = widgets.Dropdown(options=methods, value=errors_of, description="errors of", **narrow)
    scaled = widgets.Checkbox(description="temperature scaling", indent=False)
    page = widgets.BoundedIntText(value=1, min=1, max=1, description="page", **narrow)
    page.layout.width = "140px"
    of_all = widgets.Label()
    button = {"layout": {"width": "44px"}}
    back = widgets.Button(icon="arrow-left", tooltip="previous page", **button)
    forward = widgets.Button(icon="arrow-right", tooltip="next page", **button)
    read = cache(lambda name: read_set(report.layout.data, name))

    @cache
    def load(name: str, scaled: bool) -> dict[str, Predicted]:
        paths = {run: report.layout.predictions(run, report.seed, name) for run in runs}
        predictions = {run: Predictions.load(path) for run, path in paths.items()}
        seen = {run: one.fingerprint for run, one in predictions.items()}
        check_same_images(name, seen | {"the images": read(name).fingerprint})
        return {
            run: Predicted(one, report.temperature(run) if scaled else 1.0)
            for run, one in predictions.items()
        }

    def draw() -> Figure:
        dataset, predicted = read(which_set.value), load(which_set.value, scaled.value)
        errors = predicted[whose.value].most_confident_errors()
        per_page = ACROSS * DOWN
        page.max = max(1, -(-len(errors) // per_page))
        of_all.value = f"of {page.max:,}"
        shown = errors[per_page * (page.value - 1) : per_page * page.value].tolist()
        count = f"{names[whose.value]} errs on {len(errors):,} of {len(dataset.labels):,} images"
        of_set = f"{count} of {report.names[which_set.value]}"
        title = f"{of_set}; the most confident errors, page {page.value}"
        answers = [
            {names[run]: one.answer(i, dataset.class_names) for run, one in predicted.items()}
            for i in shown
        ]
        labels = [dataset.class_names[label] for label in dataset.labels[shown]]
        return error_page(title, dataset.thumbnails(shown, PIXELS), labels, answers)

    back.on_click(lambda _: setattr(page, "value", page.value - 1))
    forward.on_click(lambda _: setattr(page, "value", page.value + 1))
    for choice in (which_set, whose):  # a new list starts at its first page
        choice.observe(lambda _: setattr(page, "value", 1), names="value")
    choices = [which_set, whose, scaled]
    rows = [widgets.HBox(choices), widgets.HBox([page, of_all, back, forward])]
    return InteractiveFigure(rows, draw, [*choices, page])


def read_upload(name: str, content: bytes) -> Image.Image:
    """An uploaded file as an RGB image, rotated as its metadata says.

    Raises:
        ValueError: the file is not an image, or a damaged one; the message names it.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(
            f"{name} is not an image that can be read: choose a PNG, JPEG, GIF or WebP file."
        ) from None


@torch.no_grad()
def top_classes(
    classifier: ImageClassifier, image: Image.Image, class_names: Sequence[str], temperature: float
) -> list[Answer]:
    """The most probable classes of an image with their calibrated probabilities.

    Args:
        classifier: in evaluation mode, on the CPU.
        image: of any size; its shorter side is resized, and the centre is taken.
        class_names: in the order of the logits.
        temperature: divides the logits.
    """
    pixels = image_transform_v2(classifier.preprocessing, is_train=False)(image)
    probabilities = (classifier(pixels[None])[0].double() / temperature).softmax(dim=0)
    best = probabilities.topk(min(TOP, len(class_names)))
    return [Answer(class_names[i], p) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]


def classified_image(
    title: str, image: Image.Image, answers: Mapping[str, Sequence[Answer]]
) -> Figure:
    """An image beside the most probable classes of each model, by the name of the model."""
    figure, panels = plt.subplots(
        1, 1 + len(answers), figsize=(8.2, 2.3), width_ratios=(1.2, *[1] * len(answers))
    )
    _show(panels[0], image, title)
    for ax, (name, classes) in zip(panels[1:], answers.items(), strict=True):
        answer_bars(ax, {str(rank): one for rank, one in enumerate(classes, start=1)}, longest=19)
        ax.set_xlim(-0.12, 1)
        ax.set_title(name, size=8)
    return figure


def classify_upload(report: Report, runs: Sequence[str] = RUNS) -> InteractiveFigure:
    """Upload an image and see how every model classifies it, with calibrated confidences.

    At first it shows an image of the ID test set that the last model classifies confidently.

    Raises:
        FileNotFoundError: there are no models or images yet.
    """
    layout = report.layout
    class_names = read_class_names(layout.data)
    models = {run: load_classifier(layout.model(run, report.seed)) for run in runs}
    temperatures = {run: report.temperature(run) for run in runs}
    predictions = Predictions.load(layout.predictions(runs[-1], report.seed, "id_test"))
    confidences, correct = predictions.confidences()
    clearest = int(np.where(correct, confidences, 0).argmax())
    (example,) = read_set(layout.data, "id_test").thumbnails([clearest], PIXELS)
    shown = ["an image of the ID test set", Image.fromarray(example)]
    upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
    upload.layout.width = "180px"
    message = widgets.Label()

    def draw() -> Figure:
        title, image = shown
        answers = {
            f"{RUN_NAMES[run]}, T = {temperatures[run]:.2f}": top_classes(
                model, image, class_names, temperatures[run]
            )
            for run, model in models.items()
        }
        return classified_image(title, image, answers)

    figure = InteractiveFigure([widgets.HBox([upload, message])], draw, [])

    def receive(change: Any) -> None:
        for file in change["new"]:
            try:
                shown[:] = file["name"], read_upload(file["name"], bytes(file["content"]))
            except ValueError as error:
                message.value = str(error)
            else:
                message.value = ""
                figure.refresh()

    upload.observe(receive, names="value")
    return figure


def _show(ax: Axes, image: Image.Image | UInt8[np.ndarray, "_ _ 3"], title: str) -> None:
    pixels = np.asarray(image)
    small = max(pixels.shape) < PIXELS / 2
    ax.imshow(pixels, interpolation="nearest" if small else "antialiased")
    ax.set_title(title, size=8, loc="left", pad=3, weight="normal")
    ax.set_axis_off()


def _shorten(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
