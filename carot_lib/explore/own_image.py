"""Your own picture: what every model takes it for."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure
from open_clip.transform import image_transform_v2
from PIL import Image, ImageOps

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_class_names, read_set
from carot_lib.explore.exhibit import SHARPNESS, Canvas, InteractiveFigure
from carot_lib.explore.mistakes import Answer, answer_bars
from carot_lib.models.clip import ImageClassifier, load_classifier
from carot_lib.report.results import Report
from carot_lib.report.styles import RUN_NAMES, style

TOP = 5  # classes shown of every model


def read_upload(name: str, content: bytes) -> Image.Image:
    """An uploaded file as a picture in RGB, turned the way its camera was held.

    Raises:
        ValueError: it is no picture, or a damaged one; the message says so by its name.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(
            f"{name} is not a picture that can be read: choose a PNG, JPEG, GIF or WebP file."
        ) from None


@torch.no_grad()
def top_classes(
    classifier: ImageClassifier,
    picture: Image.Image,
    class_names: Sequence[str],
    temperature: float,
) -> list[tuple[str, float]]:
    """The likeliest classes of a picture and their calibrated probabilities, in [0, 1].

    Args:
        classifier: in evaluation mode, on the CPU.
        picture: of any size; its shorter side is resized, and the centre is taken.
        class_names: in the order of the logits.
        temperature: divides the logits.
    """
    taken = image_transform_v2(classifier.preprocessing, is_train=False)(picture)
    probabilities = (classifier(taken[None])[0].double() / temperature).softmax(dim=0)
    best = probabilities.topk(min(TOP, len(class_names)))
    return [(class_names[i], p) for p, i in zip(best.values.tolist(), best.indices, strict=True)]


def opinions(
    title: str, picture: Image.Image, said: Mapping[str, Sequence[tuple[str, float]]]
) -> Figure:
    """A picture beside the likeliest classes of every model.

    Args:
        title: of the picture.
        picture: to show.
        said: classes and their probabilities, by the name of the model.
    """
    with style():
        figure = Figure(figsize=(8.2, 2.3), dpi=100 * SHARPNESS)
        panels = figure.subplots(1, 1 + len(said), width_ratios=(1.2, *[1] * len(said)))
        nearest = "nearest" if max(picture.size) < 128 else "antialiased"
        panels[0].imshow(picture, interpolation=nearest)
        panels[0].set_title(title, size=8, loc="left")
        panels[0].set_axis_off()
        for ax, (name, classes) in zip(panels[1:], said.items(), strict=True):
            ranked = {str(rank): (*one, None) for rank, one in enumerate(classes, start=1)}
            answer_bars(ax, ranked, longest=19)
            ax.set_xlim(-0.12, 1)
            ax.set_title(name, size=8, loc="center")
        return figure


def explore_own_image(
    report: Report, runs: Sequence[str] = ("zs", "ft", "flyp", "carot")
) -> InteractiveFigure:
    """Upload a picture and see what every model takes it for, with calibrated confidences.

    Until then an image of the ID test set stands there, one that the last model knows well.

    Raises:
        FileNotFoundError: there are no models or images yet.
    """
    layout = report.layout
    names = read_class_names(layout.data)
    models = {run: load_classifier(layout.model(run, report.seed)) for run in runs}
    temperatures = {run: report.temperature(run) for run in runs}
    test = read_set(layout.data, "id_test")
    sure = Answer(Predictions.load(layout.predictions(runs[-1], report.seed, test.name)))
    clearest = int(np.where(sure.correct, sure.confidences, 0).argmax())
    (example,) = test.thumbnails([clearest], 224)
    shown = ["an image of the ID test set", Image.fromarray(example)]
    upload = widgets.FileUpload(accept="image/*", multiple=False, description="your picture")
    upload.layout.width = "180px"
    said = widgets.Label()

    def draw() -> Image.Image:
        title, picture = shown
        found = {
            f"{RUN_NAMES[run]}, T = {temperatures[run]:.2f}": top_classes(
                model, picture, names, temperatures[run]
            )
            for run, model in models.items()
        }
        return Canvas(opinions(title, picture, found)).picture()

    exhibit = InteractiveFigure([widgets.HBox([upload, said])], draw, [])

    def take(change: Any) -> None:
        for file in change["new"]:
            try:
                shown[:] = file["name"], read_upload(file["name"], bytes(file["content"]))
            except ValueError as error:
                said.value = str(error)
            else:
                said.value = ""
                exhibit.refresh()

    upload.observe(take, names="value")
    return exhibit
