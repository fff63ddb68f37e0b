"""Controls above a picture that follows them, and the picture alone where no kernel runs."""

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

VIEW = "application/vnd.jupyter.widget-view+json"
SHARPNESS = 1.5  # pixels of the picture for each of the page: screens are dense, drawing is slow


class Canvas:
    """A figure of which a few artists move: only these are drawn anew.

    What a figure costs is its frame: axes, ticks, words. They are drawn once and kept as pixels.

    Args:
        figure: its layout is settled here and kept.
        moving: the artists that change, in the order of drawing.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist] = ()):
        self.figure, self.moving = figure, list(moving)
        self._agg = FigureCanvasAgg(figure)
        self._agg.draw()  # settles the layout with everything in it
        figure.set_layout_engine("none")
        for artist in self.moving:
            artist.set_animated(True)
        self._agg.draw()
        self._still = self._agg.copy_from_bbox(figure.bbox)

    def picture(self) -> Image.Image:
        """The figure as it is now; the same figure gives the same pixels."""
        self._agg.restore_region(self._still)
        for artist in self.moving:
            artist.draw(self._agg.get_renderer())
        return Image.fromarray(np.asarray(self._agg.buffer_rgba())).convert("RGB")


class InteractiveFigure:
    """What a notebook shows: controls, below them a picture, which is drawn anew after each change.

    In the lab it is a widget. In a saved notebook, of which no kernel runs, the picture is left:
    both are in one output, and whoever shows it takes the richest form that works.

    Args:
        controls: rows of widgets, from top to bottom.
        draw: gives the picture, SHARPNESS times as large as it is to be seen.
        follow: the widgets whose `value` the picture follows.
    """

    def __init__(
        self,
        controls: Sequence[widgets.Widget],
        draw: Callable[[], Image.Image],
        follow: Sequence[widgets.Widget],
    ):
        self._draw = draw
        self.picture = widgets.Image(format="webp")
        self.picture.layout.max_width, self.picture.layout.object_fit = "100%", "contain"
        self.refresh()
        self.widget = widgets.VBox([*controls, self.picture])
        for control in follow:
            control.observe(self._follow, names="value")

    def refresh(self) -> None:
        """Draw the picture anew."""
        self._now = self._draw()
        self.picture.width = str(round(self._now.width / SHARPNESS))
        # without loss, and in half the time of a PNG
        self.picture.value = _encode(self._now, format="webp", lossless=True, quality=0, method=0)

    def _follow(self, change: Any) -> None:
        self.refresh()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        png = base64.b64encode(_encode(self._now, format="png")).decode()
        data = {
            VIEW: view,
            "image/png": png,
            "text/plain": "a picture; its controls work in the lab",
        }
        return data, {"image/png": {"width": round(self._now.width / SHARPNESS)}}


def _encode(picture: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, **options)
    return file.getvalue()
