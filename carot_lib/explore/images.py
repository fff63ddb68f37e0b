"""Images with the answers of every model: the most confident errors, and an image of your own."""

import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from io import BytesIO
from typing import Any, NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from open_clip.transform import image_transform_v2
from PIL import Image, ImageOps

from carot_lib.calibration.predictions import Predictions, check_same_images
from carot_lib.data.datasets import read_class_names, read_set
from carot_lib.explore.interactive import NARROW, InteractiveFigure
from carot_lib.models.clip import ImageClassifier, load_classifier
from carot_lib.report.names import RUN_NAMES
from carot_lib.report.results import Report
from carot_lib.report.styles import GREY, INK, OVER, PAGE_WIDTH, SMALL, UNDER

RUNS = ("zs", "ft", "flyp", "carot")
ACROSS, DOWN = 2, 3  # images of a page
PER_PAGE = ACROSS * DOWN
PIXELS = 224  # largest side of a displayed image
TOP = 5  # classes shown for each model on an uploaded image


class Answer(NamedTuple):
    """A predicted class, its confidence in [0, 1] and whether it is right (None: unknown)."""

    name: str
    confidence: float
    correct: bool | None = None


def answer_table(
    predictions: Predictions, class_names: Sequence[str], temperature: float = 1.0
) -> pd.DataFrame:
    """The answer of one model to every image, as the columns of `Answer`.

    Args:
        predictions: predictions of the model.
        class_names: in the order of the logits.
        temperature: divides the logits.
    """
    names = np.array(class_names)[predictions.logits.argmax(axis=1)]
    confidences, correct = predictions.confidences(temperature)
    return pd.DataFrame({"name": names, "confidence": confidences, "correct": correct})


def most_confident_errors(answers: pd.DataFrame) -> list[int]:
    """Positions of all wrong predictions, the most confident first."""
    wrong = answers[~answers["correct"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable").index.tolist()


def answer_bars(ax: Axes, answers: Mapping[str, Answer], longest: int = 21) -> None:
    """One bar of confidence per labelled line, below the name of the predicted class.

    Names of more than `longest` characters are cut off.
    """
    ax.barh(range(len(answers)), 1, height=0.28, color="#EEEEEE", align="edge")
    text = {"size": SMALL, "color": INK, "va": "bottom"}
    for i, (label, answer) in enumerate(answers.items()):
        colour = {True: UNDER, False: OVER, None: "#7F9DB9"}[answer.correct]
        ax.barh(i, answer.confidence, height=0.28, color=colour, align="edge")
        ax.text(0, i - 0.12, _shorten(answer.name, longest), **text)
        ax.text(1, i - 0.12, f"{answer.confidence:.2f}", ha="right", **text)
        ax.text(-0.05, i + 0.14, label, size=SMALL, color=GREY, ha="right", va="center")
    ax.set(xlim=(-0.32, 1), ylim=(len(answers) - 0.45, -0.75))
    ax.set_axis_off()


def error_page(
    title: str,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    labels: Sequence[str],
    answers: Sequence[Mapping[str, Answer]],
) -> Figure:
    """At most six images, each below its true class and beside the answers by name of the model."""
    figure = plt.figure(figsize=(PAGE_WIDTH, 0.4 + 1.35 * DOWN))
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=7.5)
    grid = figure.add_gridspec(DOWN, 2 * ACROSS, width_ratios=(1, 1.75) * ACROSS)
    for i, (image, label, given) in enumerate(zip(images, labels, answers, strict=True)):
        row, column = divmod(i, ACROSS)
        _show(figure.add_subplot(grid[row, 2 * column]), image, _shorten(label, 24))
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
    runs = report.those_run(runs)
    sets = [(report.names[name], name) for name in report.evaluation.reported]
    methods = [(RUN_NAMES[run], run) for run in runs]
    which_set = widgets.Dropdown(options=sets, value="id_test", description="set", **NARROW)
    whose = widgets.Dropdown(options=methods, value=errors_of, description="errors of", **NARROW)
    scaled = widgets.Checkbox(description="temperature scaling", indent=False)
    which_page = widgets.BoundedIntText(value=1, min=1, max=1, description="page", **NARROW)
    read = cache(partial(read_set, report.layout.data))

    @cache
    def load(name: str, scaled: bool) -> dict[str, pd.DataFrame]:
        paths = {run: report.layout.predictions(run, report.seed, name) for run in runs}
        predictions = {run: Predictions.load(path) for run, path in paths.items()}
        seen = {run: one.fingerprint for run, one in predictions.items()}
        check_same_images(name, seen | {"the images": read(name).fingerprint})
        temperatures = {run: report.temperature(run) if scaled else 1.0 for run in runs}
        names = read(name).class_names
        return {run: answer_table(predictions[run], names, temperatures[run]) for run in runs}

    def draw(name: str, run: str, scaled: bool, page: int) -> Figure:
        dataset, tables = read(name), load(name, scaled)
        errors = most_confident_errors(tables[run])
        which_page.max = max(1, math.ceil(len(errors) / PER_PAGE))
        count = f"{RUN_NAMES[run]} errs on {len(errors):,} of {len(dataset.labels):,} images"
        order = f"the most confident errors, page {page:,} of {which_page.max:,}"
        shown = errors[PER_PAGE * (page - 1) : PER_PAGE * page]
        labels = [dataset.class_names[label] for label in dataset.labels[shown]]
        answers = [
            {RUN_NAMES[model]: Answer(*table.loc[i]) for model, table in tables.items()}
            for i in shown
        ]
        title = f"{count} of {report.names[name]}; {order}"
        return error_page(title, dataset.thumbnails(shown, PIXELS), labels, answers)

    for choice in (which_set, whose):  # a new list starts at its first page
        choice.observe(lambda _: setattr(which_page, "value", 1), names="value")
    choices = [which_set, whose, scaled]
    return InteractiveFigure([choices, [which_page]], draw, [*choices, which_page])


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
        image: its shorter side is resized, and the centre is taken.
        class_names: in the order of the logits.
        temperature: divides the logits.
    """
    pixels = image_transform_v2(classifier.preprocessing, is_train=False)(image)
    probabilities = (classifier(pixels[None])[0].double() / temperature).softmax(dim=0)
    best = probabilities.topk(min(TOP, len(class_names)))
    return [Answer(class_names[i], p) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]


def classify_upload(report: Report, runs: Sequence[str] = RUNS) -> InteractiveFigure:
    """Upload an image and see how every model classifies it, with calibrated confidences.

    At first it shows an image of the ID test set that the last model classifies confidently.

    Raises:
        FileNotFoundError: there are no models or images yet.
    """
    layout, runs = report.layout, report.those_run(runs)
    class_names = read_class_names(layout.data)
    models = {run: load_classifier(layout.model(run, report.seed)) for run in runs}
    temperatures = {run: report.temperature(run) for run in runs}
    predictions = Predictions.load(layout.predictions(runs[-1], report.seed, "id_test"))
    confidences, correct = predictions.confidences()
    clearest = int(np.where(correct, confidences, 0).argmax())
    (example,) = read_set(layout.data, "id_test").thumbnails([clearest], PIXELS)
    shown = ["an image of the ID test set", Image.fromarray(example)]
    upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
    message = widgets.Label()

    def draw(files: Sequence[Mapping[str, Any]]) -> Figure:
        message.value = ""
        for file in files:
            try:
                shown[:] = file["name"], read_upload(file["name"], bytes(file["content"]))
            except ValueError as error:
                message.value = str(error)
        size = {"figsize": (PAGE_WIDTH, 2.2), "width_ratios": (1.2, *[1] * len(models))}
        figure, (first, *others) = plt.subplots(1, 1 + len(models), **size)
        title, image = shown
        _show(first, image, title)
        for ax, (run, model) in zip(others, models.items(), strict=True):
            best = top_classes(model, image, class_names, temperatures[run])
            ranked = {str(rank): answer for rank, answer in enumerate(best, start=1)}
            answer_bars(ax, ranked, longest=14)
            ax.set_xlim(-0.12, 1)
            ax.set_title(f"{RUN_NAMES[run]}, T = {temperatures[run]:.2f}", size=8)
        return figure

    return InteractiveFigure([[upload, message]], draw, [upload])


def _show(ax: Axes, image: Image.Image | UInt8[np.ndarray, "_ _ 3"], title: str) -> None:
    pixels = np.asarray(image)
    small = max(pixels.shape) < PIXELS / 2
    ax.imshow(pixels, interpolation="nearest" if small else "antialiased")
    ax.set_title(title, size=8, loc="left", pad=3, weight="normal")
    ax.set_axis_off()


def _shorten(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
