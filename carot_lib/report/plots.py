"""All other figures: they draw what they are given and compute nothing."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, BboxBase

from carot_lib.report.styles import GREY, INK, RUN_NAMES, colour_of, marker_of


def contact_sheet(
    images: Mapping[str, Collection[UInt8[np.ndarray, "_ _ 3"] | None]],
    captions: Mapping[str, str],
    column_titles: Sequence[str] = (),
) -> Figure:
    """Rows of pictures, each row with a name and a line of caption on its left.

    Args:
        images: by the name of the row; every row has the same number of pictures. None leaves a
            place empty.
        captions: a line for each row.
        column_titles: one for each column, or none.

    Raises:
        ValueError: the rows do not have the same number of pictures.
    """
    counts = {len(row) for row in images.values()}
    if len(counts) != 1:
        raise ValueError(f"rows of different lengths: {sorted(counts)}")
    columns = counts.pop()
    figure, axes = plt.subplots(
        len(images),
        columns,
        figsize=(1.75 + 0.66 * columns, 0.3 * bool(column_titles) + 0.7 * len(images)),
        squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.06},
    )
    figure.get_layout_engine().set(w_pad=0.012, h_pad=0.02, wspace=0, hspace=0)
    for row, (name, pictures) in zip(axes, images.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            if picture is not None:
                ax.imshow(picture, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
        row[0].annotate(name, (0, 0.5), (-7, 4), weight="bold", size=8.5, va="center", **place)
        row[0].annotate(
            captions[name], (0, 0.5), (-7, -7), size=6.5, color=GREY, va="center", **place
        )
    for ax, title in zip(axes[0], column_titles, strict=False):
        ax.set_title(title, size=6.5, weight="normal", color=GREY, pad=3)
    return figure


def temperature_curves(
    ax: Axes, curves: Mapping[str, pd.DataFrame], chosen: Mapping[str, float]
) -> None:
    """ECE against temperature of each run, with a dot where it was chosen.

    Args:
        ax: where to draw.
        curves: columns temperature and ece, by run.
        chosen: temperature of each run.
    """
    for run, curve in curves.items():
        ax.plot(curve["temperature"], curve["ece"], **_line(run))
        at = np.interp(chosen[run], curve["temperature"], curve["ece"])
        ax.plot(chosen[run], at, linestyle="none", markersize=7, zorder=3, **_dot(run))
        ax.plot([], [], markersize=6, label=RUN_NAMES[run], **_line(run), **_dot(run))
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set(xscale="log", xlabel="temperature", ylabel="ECE on ID validation", ylim=(0, None))
    ticks = [0.5, 1, 2, 5, 10]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid()


def accuracy_ece_plane(
    axes: Iterable[Axes], points: Mapping[str, pd.DataFrame], baseline: str = "zs"
) -> None:
    """Methods as points: accuracy to the right, ECE upwards, with intervals; best is low right.

    Args:
        axes: one for each set.
        points: by title of the panel; rows named by run, columns acc, ece and acc_low, acc_high,
            ece_low, ece_high.
        baseline: a run whose accuracy and ECE are drawn through as lines.
    """
    for ax, (title, table) in zip(axes, points.items(), strict=True):
        for run, row in table.iterrows():
            # lines from low to high, not error bars, which cannot show a value outside its own
            # interval: the bootstrap of an ECE is biased upwards
            whisker = {"color": colour_of(run), "linewidth": 0.9, "zorder": 2}
            ax.hlines(row["ece"], row["acc_low"], row["acc_high"], **whisker)
            ax.vlines(row["acc"], row["ece_low"], row["ece_high"], **whisker)
            look = {"linestyle": "none", "label": RUN_NAMES[run], "zorder": 3, **_dot(run)}
            size = 10 if run.startswith("carot") else 6.5
            ax.plot(row["acc"], row["ece"], markersize=size, **look)
        ax.axvline(table.loc[baseline, "acc"], color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=0)
        ax.axhline(table.loc[baseline, "ece"], color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=0)
        ax.set(title=title, xlabel="accuracy", ylabel="ECE", ylim=(0, None))
        ax.margins(x=0.12, y=0.1)
        ax.grid()
        _name_points(ax, table)


def _name_points(ax: Axes, table: pd.DataFrame) -> None:
    """Write each run's name beside its point, where it covers least of what is there."""
    ax.figure.draw_without_rendering()  # fixes the place of everything in pixels
    scale = ax.figure.dpi / 72
    points = ax.transData.transform(table[["acc", "ece"]].to_numpy())
    low = ax.transData.transform(table[["acc_low", "ece_low"]].to_numpy())
    high = ax.transData.transform(table[["acc_high", "ece_high"]].to_numpy())
    pad = 4 * scale
    taken = [Bbox.from_extents(*(point - pad), *(point + pad)) for point in points]
    for (x, y), (left, bottom), (right, top) in zip(points, low, high, strict=True):
        taken.append(Bbox.from_extents(left, y - pad, right, y + pad))
        taken.append(Bbox.from_extents(x - pad, bottom, x + pad, top))
    for (run, _), point in zip(table.iterrows(), points, strict=True):
        best, least = None, np.inf
        for distance, angle in itertools.product((9, 14, 20, 28, 38), range(15, 375, 30)):
            way = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
            text = ax.annotate(
                RUN_NAMES[run],
                point,
                way * distance,
                xycoords="figure pixels",
                textcoords="offset points",
                ha="left" if way[0] > 0.3 else "right" if way[0] < -0.3 else "center",
                va="center",
                size=7,
                color=colour_of(run),
            )
            box = text.get_window_extent()
            covered = sum(_overlap(box, other) for other in taken)
            outside = box.width * box.height - _overlap(box, ax.get_window_extent())
            cost = covered + 5 * outside + 2 * distance * scale
            if cost < least:
                if best is not None:
                    best.remove()
                best, least = text, cost
            else:
                text.remove()
        taken.append(best.get_window_extent())
        ends = ax.transData.inverted().transform(point)
        best.xy, best.xycoords = tuple(ends), "data"


def _overlap(one: BboxBase, other: BboxBase) -> float:
    """Area that two boxes share."""
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else shared.width * shared.height


def matrices(
    axes: Iterable[Axes],
    panels: Mapping[str, Float[np.ndarray, "batch batch"]],
    words: Sequence[str],
    scale: tuple[float, float] = (0, 1),
) -> None:
    """Square matrices of a batch side by side on one scale, images down and captions across.

    Args:
        axes: one for each panel.
        panels: by title.
        words: what each image shows and each caption names.
        scale: values of no ink and of full ink; what lies beyond is cut off.
    """
    axes = list(axes)
    for i, (ax, (title, matrix)) in enumerate(zip(axes, panels.items(), strict=True)):
        shades = ax.imshow(matrix, cmap="Blues", clim=scale, interpolation="nearest")
        ax.set_title(title, size=8.5)
        ax.set_xticks(range(len(words)), words, rotation=90, size=5.5)
        ax.set_yticks(range(len(words)), words if i == 0 else [], size=5.5)
        ax.set_xlabel("captions", size=7)
        ax.set_ylabel("images" if i == 0 else "", size=7)
        ax.tick_params(length=0, pad=2)
        ax.spines[:].set_visible(True)
    bar = axes[0].figure.colorbar(shades, ax=axes, shrink=0.5, aspect=14, pad=0.01)
    bar.ax.tick_params(length=2, labelsize=6)
    bar.outline.set_visible(False)


def training_curves(axes: Iterable[Axes], histories: Mapping[str, pd.DataFrame]) -> None:
    """Loss terms against the optimizer step, one panel a term, smoothed over 20 steps.

    Args:
        axes: one for each loss term that occurs.
        histories: by run; columns step, learning_rate and one a term.
    """
    terms = terms_of(histories)
    for ax, term in zip(axes, terms, strict=True):
        for run, history in histories.items():
            if term in history:
                smooth = history[term].rolling(20, min_periods=1).mean()
                ax.plot(history["step"], smooth, label=RUN_NAMES[run], **_line(run))
        ax.set(title=term.replace("_", " "), xlabel="optimizer step", ylabel="loss (nats)")
        ax.grid()


def terms_of(histories: Mapping[str, pd.DataFrame]) -> list[str]:
    """Names of the loss terms that occur, in order of appearance."""
    known = ("step", "learning_rate")
    columns = (c for history in histories.values() for c in history.columns if c not in known)
    return list(dict.fromkeys(columns))


def shifts_profile(ax: Axes, table: pd.DataFrame, runs: Sequence[str], label: str) -> None:
    """A value of each run on each set, as dots joined by lines, with intervals.

    Args:
        ax: where to draw.
        table: columns run, dataset, value, low, high; datasets in the order of drawing.
        runs: which, in order.
        label: of the axis.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    for k, run in enumerate(runs):
        part = table[table["run"] == run].set_index("dataset").loc[datasets]
        x = np.arange(len(datasets)) + 0.07 * (k - (len(runs) - 1) / 2)
        ax.vlines(x, part["low"], part["high"], color=colour_of(run), linewidth=0.9)
        look = {**_line(run), "linewidth": 0.6, "markersize": 6, "label": RUN_NAMES[run]}
        ax.plot(x, part["value"], **look, **_dot(run))
    ax.set_xticks(range(len(datasets)), datasets)
    ax.set(ylabel=label)
    ax.tick_params(axis="x", length=0, labelcolor=INK)
    ax.grid(axis="y")


def calibrator_rows(
    ax: Axes, table: pd.DataFrame, runs: Sequence[str], titles: Mapping[str, str], apart: str
) -> None:
    """A value of each run after each calibration, a row a calibration, with intervals.

    Args:
        ax: where to draw.
        table: columns run, calibration, value, low, high.
        runs: which, in order.
        titles: of the rows by calibration, from top to bottom.
        apart: the last row, set off from the others: it is no result but a bound.
    """
    rows = np.array([k + 0.4 * (name == apart) for k, name in enumerate(titles)])
    ax.axhspan(rows[-1] - 0.5, rows[-1] + 0.5, color="#F1F1F1", zorder=0)
    note = {"ha": "right", "va": "center", "size": 7, "color": GREY}
    ax.text(0.98, rows[-1], "chosen on the\nreported set", note, transform=ax.get_yaxis_transform())
    for k, run in enumerate(runs):
        part = table[table["run"] == run].set_index("calibration").loc[list(titles)]
        y = rows + 0.13 * (k - (len(runs) - 1) / 2)
        ax.hlines(y, part["low"], part["high"], color=colour_of(run), linewidth=0.9)
        look = {"linestyle": "none", "label": RUN_NAMES[run], **_dot(run)}
        ax.plot(part["value"], y, markersize=8 if run.startswith("carot") else 5.5, **look)
    ax.set_yticks(rows, titles.values())
    ax.set(xlim=(0, None), ylim=(rows[-1] + 0.5, rows[0] - 0.5))
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(axis="x")


def _line(run: str) -> dict[str, str]:
    """Colour and dashes of a run's line: dashed with label smoothing."""
    return {"color": colour_of(run), "linestyle": "--" if run.endswith("_ls") else "-"}


def _dot(run: str) -> dict[str, str]:
    """Marker of a run, open with label smoothing."""
    face = "white" if run.endswith("_ls") else colour_of(run)
    return {
        "marker": marker_of(run),
        "markerfacecolor": face,
        "markeredgecolor": colour_of(run),
    }
