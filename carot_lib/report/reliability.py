"""Reliability diagrams over confidence histograms: the paper's Figures 1, 2, 4 and 5.

Drawn from `BinStats` alone, which the tables come from too. Over- and under-confidence differ in
hue, lightness and hatch, so that they can be told apart in grey print and by colour-blind readers.
The white box of a bin is the range of accuracies that sampling noise explains if the model is
calibrated: a line inside it is no evidence of miscalibration.
"""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.report.styles import DASHED, GREY, INK, OVER, PALE, UNDER, fixed_layout

MIN_BIN_COUNT = 10  # samples; a bin with fewer is shown by the histogram only
MEAN_DASHES = (0, (3, 1.5))
BAR, BOX = 0.94, 0.42  # widths, in bins
OVER_HATCH, UNDER_HATCH = "/////", "\\\\\\\\\\"
TICKS, ALIGNED = [0, 50, 100], ["left", "center", "right"]  # percent
# for the numbers of a histogram: their place on the axis and the range in percent that they cover
SIDES = {"left": (0.04, 0, 40), "center": (0.5, 28, 72), "right": (0.97, 60, 100)}
OFFSET = {"xycoords": "axes fraction", "textcoords": "offset points"}
LEGEND_ENTRIES = 8  # of a grid
LEFT, RIGHT, TOP = 0.86, 0.12, 0.3  # margins of a grid, in inches


def reliability_diagram(
    ax: Axes, stats: BinStats, interval: tuple[float, float] | None = None, level: float = 0.95
) -> None:
    """Draw accuracy against confidence, in percent, with the gap of each bin.

    Args:
        ax: axes to draw on.
        stats: predictions grouped by confidence; bins of fewer than 10 samples are left out.
        interval: interval of the ECE over test images, printed below it, in percent.
        level: confidence level of the interval, the consistency boxes and the calibration test,
            which says whether the ECE is explained by noise.

    Source: layout of CaRot, Figure 1 (upper panels); boxes of Bröcker and Smith 2007.
    """
    shown = stats.count >= MIN_BIN_COUNT
    width = 100 / stats.n_bins
    centres = (np.flatnonzero(shown) + 0.5) * width
    accuracy, confidence = 100 * stats.accuracy[shown], 100 * stats.confidence[shown]
    low, high = (100 * bound[shown] for bound in stats.consistency(level))
    bottom, gap = np.minimum(accuracy, confidence), np.abs(confidence - accuracy)
    ax.bar(centres, bottom, BAR * width, color=PALE, linewidth=0, zorder=2)
    over = confidence > accuracy
    for chosen, colour, hatch in ((over, OVER, OVER_HATCH), (~over, UNDER, UNDER_HATCH)):
        look = {"facecolor": _tint(colour), "edgecolor": colour, "hatch": hatch, "linewidth": 0.8}
        ax.bar(centres[chosen], gap[chosen], BAR * width, bottom[chosen], zorder=3, **look)
    ax.plot([0, 100], [0, 100], linestyle=DASHED, color=GREY, linewidth=1, zorder=4)
    look = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.7}
    ax.bar(centres, high - low, BOX * width, low, zorder=5, **look)
    left, right = centres - BAR * width / 2, centres + BAR * width / 2
    ax.hlines(accuracy, left, right, color=INK, linewidth=1.5, zorder=6, capstyle="butt")
    noise = " (noise)" if stats.p_value() > 1 - level else ""
    text = {**OFFSET, "va": "top", "zorder": 8}
    ece = f"ECE {100 * stats.ece():.1f}{noise}"
    ax.annotate(ece, (0, 1), (4, -3), weight="bold", size=8, **text)
    if interval is not None:
        ends = f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"
        ax.annotate(ends, (0, 1), (4, -14), color=GREY, size=8, **text)
    ax.set(xlim=(0, 100), ylim=(0, 100), xticks=TICKS, yticks=TICKS)
    ax.grid(axis="y")


def confidence_histogram(ax: Axes, stats: BinStats, top: float = 100.0) -> None:
    """Draw the share of samples in each bin, the accuracy and the mean confidence, in percent.

    `top` is the upper end of the axis, the same for all panels that are compared.

    Source: layout of CaRot, Figure 1 (lower panels).
    """
    width = 100 / stats.n_bins
    centres = (np.arange(stats.n_bins) + 0.5) * width
    accuracy, confidence = 100 * stats.mean_accuracy(), 100 * stats.mean_confidence()
    colour = OVER if confidence > accuracy else UNDER
    ax.bar(centres, 100 * stats.count / stats.n, BAR * width, color="#BFC6CD", lw=0, zorder=2)
    ax.axvspan(*sorted((accuracy, confidence)), color=colour, alpha=0.22, linewidth=0, zorder=1)
    ax.axvline(accuracy, color=INK, linewidth=1.4, zorder=3)
    ax.axvline(confidence, color=colour, linewidth=1.4, linestyle=MEAN_DASHES, zorder=3)
    lines = np.array([accuracy, confidence])
    free = (k for k, (_, low, high) in SIDES.items() if not ((low < lines) & (lines < high)).any())
    side = next(free, "left")
    place = (SIDES[side][0], 1)
    text = {**OFFSET, "size": 8, "va": "top", "ha": side, "zorder": 4}
    ax.annotate(f"acc {accuracy:.0f}", place, (0, -1), color=INK, **text)
    ax.annotate(f"conf {confidence:.0f}", place, (0, -11), color=colour, **text)
    ax.set(xlim=(0, 100), ylim=(0, top), xticks=TICKS)
    ax.grid(axis="y")


def reliability_grid(
    stats: Mapping[str, Mapping[str, BinStats]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    level: float = 0.95,
) -> Figure:
    """One reliability diagram over one histogram for each data set (rows) and method (columns).

    The number of samples of a row is called few if the bins have fewer than 10 on average.

    Args:
        stats: statistics by row title and column title; every row has the same columns.
        intervals: intervals of the ECEs, by the same titles.
        level: confidence level of the intervals, boxes and calibration tests.

    Raises:
        ValueError: `stats` is empty, the rows do not have the same columns, or the methods of a
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
    share = max(one.count.max() / one.n for row in stats.values() for one in row.values())
    # a narrow figure folds its legend, which then needs more height below the axes, in inches
    in_row = min(len(columns), 4)
    below = 0.5 + 0.17 * math.ceil(LEGEND_ENTRIES / in_row)
    width = LEFT + RIGHT + 1.4 * len(columns)
    roomy = len(rows) < 4  # more rows are lower, so that six of them fit on a page
    height = TOP + below + (1.95 if roomy else 1.25) * len(rows)
    figure = plt.figure(figsize=(width, height), layout=fixed_layout())
    margins = {"left": LEFT / width, "right": 1 - RIGHT / width}
    margins |= {"top": 1 - TOP / height, "bottom": below / height}
    outer = figure.add_gridspec(len(rows), len(columns), **margins, hspace=0.12, wspace=0.1)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            ratios = (2.9 if roomy else 2.4, 1)
            inner = outer[i, j].subgridspec(2, 1, height_ratios=ratios, hspace=0.1)
            upper, lower = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
            one = stats[row][column]
            reliability_diagram(upper, one, intervals and intervals[row][column], level)
            confidence_histogram(lower, one, 125 * share)
            upper.tick_params(labelbottom=False, labelleft=j == 0)
            lower.tick_params(labelbottom=i == len(rows) - 1, labelleft=j == 0)
            if i == 0:
                upper.set_title(column, pad=6)
            if i == len(rows) - 1:
                lower.set_xlabel("confidence (%)")
                for tick, side in zip(lower.get_xticklabels(), ALIGNED, strict=True):
                    tick.set_horizontalalignment(side)  # away from the neighbour's
            if j == 0:
                upper.set_ylabel("accuracy (%)", color=GREY)
                lower.set_ylabel("share (%)" if roomy else "%", color=GREY)
                figure.align_ylabels([upper, lower])
                text = {**OFFSET, "rotation": 90, "ha": "center", "va": "center"}
                upper.annotate(row, (0, 0.3), (-55, 0), weight="bold", size=9, **text)
                few = ": few" if one.n < MIN_BIN_COUNT * one.n_bins else ""
                upper.annotate(f"N = {one.n:,}{few}", (0, 0.3), (-44, 0), color=GREY, **text)
    place = {
        "loc": "lower center",
        "bbox_to_anchor": (0.53, 0),
        "columnspacing": 1,
        "fontsize": 7.5,
    }
    add_legend(figure, level, ncols=in_row, **place)
    return figure


def add_legend(parent: Figure | Axes, level: float, intervals: bool = True, **options: Any) -> None:
    """Explain the parts of a reliability diagram and its histogram in a legend."""
    gaps = ((OVER, OVER_HATCH, "over-confident gap"), (UNDER, UNDER_HATCH, "under-confident gap"))
    means = [Line2D([], [], color=colour, linestyle=MEAN_DASHES) for colour in (OVER, UNDER)]
    percent = f"{100 * level:.0f}%"
    entries = {
        "accuracy": Patch(facecolor=PALE),
        **{name: Patch(fc=_tint(colour), ec=colour, hatch=hatch) for colour, hatch, name in gaps},
        f"{percent} consistency box": Patch(facecolor="white", edgecolor=INK),
        "perfect calibration": Line2D([], [], color=GREY, linestyle=DASHED),
        "accuracy (bin, mean)": Line2D([], [], color=INK, linewidth=1.5),
        "mean confidence": tuple(means),
    }
    if intervals:
        mark = {"marker": "$a-b$", "markersize": 14, "mew": 0, "linestyle": "none"}
        entries[f"{percent} interval of ECE"] = Line2D([], [], color=GREY, **mark)
    pair = {tuple: HandlerTuple(ndivide=None, pad=0.3)}
    parent.legend(entries.values(), entries, handler_map=pair, handlelength=2, **options)


def _tint(colour: str) -> tuple[float, ...]:
    """The colour at 30 % on white, opaque: what lies behind must not shine through."""
    return tuple(1 - 0.3 * (1 - part) for part in to_rgb(colour))
