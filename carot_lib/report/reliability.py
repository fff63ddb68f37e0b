"""Reliability diagrams over confidence histograms: the paper's Figures 1, 2, 4 and 5.

Drawn from `BinStats` alone, the source of the tables too. Over- and under-confidence differ in
hue, lightness and hatch, so they stay apart in grey print and for colour-blind readers. The white
box of a bin is where chance alone would put the accuracy of a calibrated model: a tick inside it
is no evidence of miscalibration.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.report.styles import GREY, INK, OVER, PALE, UNDER

FEW = 10  # samples in a bin below which it is not drawn as a bar: only the histogram shows it
WIDTH = 0.94  # of a bar, in bins; the rest is a white gutter
ALPHA = 0.05  # of the calibration test


def reliability_diagram(
    ax: Axes, stats: BinStats, interval: tuple[float, float] | None = None, level: float = 0.95
) -> None:
    """Draw accuracy against confidence, in percent, with the gap of each bin.

    Args:
        ax: where to draw; the caller owns the figure.
        stats: predictions grouped by confidence; bins of fewer than 10 samples are left out.
        interval: of the ECE, printed below it.
        level: of the consistency boxes.

    Source: layout of CaRot, Figure 1 (upper panels); boxes of Bröcker and Smith 2007.
    """
    width = 100 / stats.n_bins
    centres = (np.arange(stats.n_bins) + 0.5) * width
    low, high = stats.consistency(level)
    ax.plot([0, 100], [0, 100], linestyle=(0, (4, 3)), color=GREY, linewidth=1, zorder=4)
    for b in np.flatnonzero(stats.count >= FEW):
        accuracy, confidence = 100 * stats.accuracy[b], 100 * stats.confidence[b]
        left = centres[b] - WIDTH * width / 2
        ax.add_patch(
            Rectangle(
                (left, 0),
                WIDTH * width,
                min(accuracy, confidence),
                color=PALE,
                linewidth=0,
                zorder=2,
            )
        )
        colour, hatch = (OVER, "/////") if confidence > accuracy else (UNDER, "\\\\\\\\\\")
        ax.add_patch(
            Rectangle(
                (left, min(accuracy, confidence)),
                WIDTH * width,
                abs(confidence - accuracy),
                facecolor=_tint(colour),
                edgecolor=colour,
                hatch=hatch,
                linewidth=0.8,
                zorder=3,
            )
        )
        box = Rectangle(
            (centres[b] - 0.21 * width, 100 * low[b]),
            0.42 * width,
            100 * (high[b] - low[b]),
            facecolor="white",
            edgecolor=INK,
            linewidth=0.7,
            zorder=5,
        )
        ax.add_patch(box)
        ax.hlines(
            accuracy,
            left,
            left + WIDTH * width,
            color=INK,
            linewidth=1.5,
            zorder=6,
            capstyle="butt",
        )
    noise = " (noise)" if stats.p_value() > ALPHA else ""
    text = {"transform": ax.transAxes, "va": "top", "ha": "left", "zorder": 8}
    ax.text(0.04, 0.965, f"ECE {100 * stats.ece():.1f}{noise}", weight="bold", size=9.5, **text)
    if interval is not None:
        words = f"{100 * level:.0f}% CI {100 * interval[0]:.1f}–{100 * interval[1]:.1f}"
        ax.text(0.04, 0.845, words, color=GREY, size=7, **text)
    ax.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 50, 100])
    ax.grid(axis="y")


def confidence_histogram(ax: Axes, stats: BinStats, top: float) -> None:
    """Draw the share of samples in each bin, the accuracy and the mean confidence, in percent.

    Args:
        ax: where to draw.
        stats: predictions grouped by confidence.
        top: upper end of the axis, the same for all panels that are compared.

    Source: layout of CaRot, Figure 1 (lower panels).
    """
    width = 100 / stats.n_bins
    centres = (np.arange(stats.n_bins) + 0.5) * width
    accuracy, confidence = 100 * stats.mean_accuracy(), 100 * stats.mean_confidence()
    colour = OVER if confidence > accuracy else UNDER
    ax.bar(centres, 100 * stats.count / stats.n, WIDTH * width, color="#BFC6CD", zorder=2)
    ax.axvspan(*sorted((accuracy, confidence)), color=colour, alpha=0.22, linewidth=0, zorder=1)
    ax.axvline(accuracy, color=INK, linewidth=1.4, zorder=3)
    ax.axvline(confidence, color=colour, linewidth=1.4, linestyle=(0, (3, 1.5)), zorder=3)
    # the words stand where the lines are not
    x, ha = (0.04, "left") if min(accuracy, confidence) > 40 else (0.97, "right")
    text = {"transform": ax.transAxes, "size": 7, "ha": ha, "va": "top", "zorder": 4}
    ax.text(x, 0.95, f"acc {accuracy:.0f}", color=INK, **text)
    ax.text(x, 0.62, f"conf {confidence:.0f}", color=colour, **text)
    ax.set(xlim=(0, 100), ylim=(0, top), xticks=[0, 50, 100])
    ax.grid(axis="y")


def reliability_grid(
    stats: Mapping[str, Mapping[str, BinStats]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    level: float = 0.95,
) -> Figure:
    """One reliability diagram over one histogram for each data set (rows) and method (columns).

    Args:
        stats: by title of the row and title of the column; every row has the same columns.
        intervals: of the ECEs, by the same titles.
        level: of the intervals and boxes.

    Raises:
        ValueError: nothing is given, the rows do not have the same columns, or the methods of a
            row do not have the same number of samples.

    Source: CaRot, Figures 1, 2, 4 and 5.
    """
    rows = list(stats)
    if not rows or any(list(stats[row]) != list(stats[rows[0]]) for row in rows):
        raise ValueError("every row of a grid needs the same columns, and there must be one")
    for row in rows:
        if len(sizes := {one.n for one in stats[row].values()}) > 1:
            raise ValueError(f"methods on {row} have different numbers of samples: {sorted(sizes)}")
    columns = list(stats[rows[0]])
    top = 1.12 * max(
        100 * one.count.max() / one.n for row in stats.values() for one in row.values()
    )
    # a narrow figure folds its legend, which then needs more height below the axes, in inches
    in_legend = min(len(columns), 4)
    below = 0.6 + 0.19 * -(-len(legend_handles(level)) // in_legend)
    width, height = 1.1 + 1.86 * len(columns), 2.42 * len(rows) + below
    # an engine that leaves everything where it is: without one, matplotlib puts that of the style
    # sheet into its place after the first saving, and a second file has another layout
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    figure = plt.figure(figsize=(width, height), layout=by_hand)
    outer = figure.add_gridspec(
        len(rows),
        len(columns),
        left=0.95 / width,
        right=1 - 0.15 / width,
        top=1 - 0.28 / height,
        bottom=below / height,
        hspace=0.17,
        wspace=0.12,
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            inner = outer[i, j].subgridspec(2, 1, height_ratios=(3.4, 1), hspace=0.1)
            upper, lower = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
            one = stats[row][column]
            reliability_diagram(upper, one, intervals and intervals[row][column], level)
            confidence_histogram(lower, one, top)
            upper.set_xticklabels([])
            if i == 0:
                upper.set_title(column, pad=7)
            if i < len(rows) - 1:
                lower.set_xticklabels([])
            else:
                lower.set_xlabel("confidence (%)")
            if j == 0:
                upper.set_ylabel("accuracy (%)", size=8, color=GREY)
                lower.set_ylabel("share (%)", size=8, color=GREY)
                _name_row(upper, row, one.n)
                figure.align_ylabels([upper, lower])
            else:
                upper.set_yticklabels([])
                lower.set_yticklabels([])
    figure.legend(
        handles=legend_handles(level),
        loc="lower center",
        ncols=in_legend,
        bbox_to_anchor=(0.53, 0.0),
        fontsize=8,
        columnspacing=1.8,
    )
    return figure


def legend_handles(level: float = 0.95) -> Sequence[Patch | Line2D]:
    """What the marks of a reliability diagram mean."""
    return [
        Patch(facecolor=PALE, label="accuracy"),
        Patch(facecolor=_tint(OVER), edgecolor=OVER, hatch="/////", label="over-confident gap"),
        Patch(
            facecolor=_tint(UNDER), edgecolor=UNDER, hatch="\\\\\\\\\\", label="under-confident gap"
        ),
        Patch(facecolor="white", edgecolor=INK, label=f"{100 * level:.0f}% consistency box"),
        Line2D([], [], color=GREY, linestyle=(0, (4, 3)), label="perfect calibration"),
        Line2D([], [], color=INK, linewidth=1.5, label="accuracy (bin, mean)"),
        Line2D([], [], color=OVER, linestyle=(0, (3, 1.5)), label="mean confidence, over"),
        Line2D([], [], color=UNDER, linestyle=(0, (3, 1.5)), label="mean confidence, under"),
    ]


def _name_row(ax: Axes, name: str, n: int) -> None:
    offset = {"xycoords": "axes fraction", "textcoords": "offset points", "rotation": 90}
    place = {"ha": "center", "va": "center", "annotation_clip": False}
    ax.annotate(name, (0, 0.5), (-60, 0), weight="bold", size=9.5, **offset, **place)
    ax.annotate(f"N = {n:,}", (0, 0.5), (-48, 0), size=7, color=GREY, **offset, **place)


def _tint(colour: str) -> tuple[float, float, float]:
    """The colour at 30 % on white, opaque: what lies behind must not shine through."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return tuple(1 - 0.3 * (1 - rgb))
