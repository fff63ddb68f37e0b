"""Figures made of images and of matrices."""

import textwrap
from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from carot_lib.report.styles import GREY, PAGE_WIDTH, SMALL

CHARACTER, LINE = 0.065, 0.125  # inches: mean width of a character of `SMALL`, height of a line


def contact_sheet(
    images: Mapping[str, Collection[UInt8[np.ndarray, "_ _ 3"] | None]],
    captions: Mapping[str, str],
    column_titles: Sequence[str] = (),
) -> Figure:
    """Rows of images, each with its name and a caption on the left.

    Args:
        images: images by the name of their row, the same number in each; None leaves a gap.
        captions: one line for each row.
        column_titles: one for each column, or none.

    Raises:
        ValueError: the rows do not have the same number of images.
    """
    counts = {len(row) for row in images.values()}
    if len(counts) != 1:
        raise ValueError(f"rows of different lengths: {sorted(counts)}")
    columns = counts.pop()
    beside = max(len(text) for name in images for text in (f"{name}  ", captions[name]))
    size = (PAGE_WIDTH - 0.2 - CHARACTER * beside) / columns
    wrap = textwrap.TextWrapper(int(size / CHARACTER) + 1, break_long_words=False)
    titles = [wrap.wrap(title) for title in column_titles]
    above = LINE * max(map(len, titles)) + 0.06 if titles else 0
    height = (size + 0.05) * len(images) + above
    figure, axes = plt.subplots(len(images), columns, figsize=(PAGE_WIDTH, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    text = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
    for row, (name, pictures) in zip(axes, images.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            if picture is not None:
                ax.imshow(picture, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        row[0].annotate(name, (0, 0.5), (-6, 1), weight="bold", va="bottom", **text)
        below = {"size": SMALL, "color": GREY, "va": "top"}
        row[0].annotate(captions[name], (0, 0.5), (-6, -1), **below, **text)
    for ax, lines in zip(axes[0], titles, strict=False):
        ax.set_title("\n".join(lines), size=SMALL, weight="normal", color=GREY, pad=3)
    return figure


def heat_maps(
    rows: Sequence[Mapping[str, Float[np.ndarray, "batch batch"]]],
    names: Sequence[str],
    scale: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Square matrices of one batch on one colour scale: images down, captions across.

    Args:
        rows: panels by title, for each row of the figure.
        names: what each image shows and each caption names.
        scale: values of the lightest and the darkest colour; values beyond are clipped.
    """
    columns = max(map(len, rows))
    size = min((PAGE_WIDTH - 2.2) / columns, 3)
    shape = {"figsize": (size * columns + 2.2, (size + 0.3) * len(rows) + 1.4), "squeeze": False}
    figure, axes = plt.subplots(len(rows), columns, sharex=True, sharey=True, **shape)
    options = {"square": True, "cmap": "Blues", "vmin": scale[0], "vmax": scale[1], "cbar": False}
    for i, (line, panels) in enumerate(zip(axes, rows, strict=True)):
        for ax, (title, matrix) in zip(line, panels.items(), strict=False):
            sns.heatmap(matrix, xticklabels=names, yticklabels=names, ax=ax, **options)
            ax.set_title(title, size=8.5)
            ax.set_xlabel("captions" if i == len(rows) - 1 else "")
            ax.set_ylabel("images" if ax is line[0] else "")
            ax.tick_params(length=0, pad=2, labelsize=SMALL)
            sns.despine(ax=ax, top=False, right=False)
        for ax in line[len(panels) :]:
            ax.remove()
    bar = figure.colorbar(axes[0, 0].collections[0], ax=figure.axes, shrink=0.5, aspect=16)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL)
    return figure
