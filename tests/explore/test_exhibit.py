"""A picture that follows controls, and stands alone where no kernel runs."""

import base64
from io import BytesIO

import ipywidgets as widgets
import numpy as np
from carot_lib.explore.exhibit import SHARPNESS, VIEW, Canvas, InteractiveFigure
from matplotlib.figure import Figure
from PIL import Image


def drawing(height: float) -> tuple[Figure, object]:
    figure = Figure(figsize=(3, 2), dpi=50, layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="x")
    return figure, ax.axhline(height, color="red", linewidth=3)


def test_moving_an_artist_gives_what_drawing_it_there_gives():
    figure, line = drawing(0.2)
    canvas = Canvas(figure, [line])
    before = np.asarray(canvas.picture())
    line.set_ydata([0.8, 0.8])
    moved = np.asarray(canvas.picture())
    line.set_ydata([0.2, 0.2])
    assert (np.asarray(canvas.picture()) == before).all()  # nothing of the other place is left
    assert not (moved == before).all()
    other, _ = drawing(0.8)
    whole = np.asarray(Canvas(other).picture())
    # the line lies above the frame here and below it there
    assert (moved != whole).any(axis=2).mean() < 0.01
    assert moved.shape == (100, 150, 3)


def test_the_picture_follows_its_controls_and_no_others():
    slider, label = widgets.IntSlider(value=3, min=0, max=9), widgets.Text()
    exhibit = InteractiveFigure(
        [slider, label], lambda: Image.new("RGB", (40 + slider.value, 20)), [slider]
    )
    first = exhibit.picture.value
    label.value = "a word"
    assert exhibit.picture.value == first
    slider.value = 9
    seen = Image.open(BytesIO(exhibit.picture.value))
    assert seen.size == (49, 20)
    assert seen.format == "WEBP"
    assert exhibit.picture.width == str(round(49 / SHARPNESS))


def test_one_output_holds_the_widget_and_the_picture_as_it_is_now():
    slider = widgets.IntSlider(value=3)
    shade = lambda: Image.new("RGB", (8, 4), (slider.value, 0, 0))  # noqa: E731
    exhibit = InteractiveFigure([slider], shade, [slider])
    slider.value = 7
    data, metadata = exhibit._repr_mimebundle_()
    assert set(data) == {VIEW, "image/png", "text/plain"}
    assert data[VIEW]["model_id"] == exhibit.widget.model_id
    picture = Image.open(BytesIO(base64.b64decode(data["image/png"])))
    assert (picture.size, picture.getpixel((0, 0))) == ((8, 4), (7, 0, 0))
    assert metadata == {"image/png": {"width": round(8 / SHARPNESS)}}
    assert exhibit._repr_mimebundle_()[0]["image/png"] == data["image/png"]
