"""The paper's claims as a figure: a panel for each, with its statistics against what is claimed."""

import textwrap
from itertools import accumulate

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from carot_lib.report.styles import GREY, INK, OVER, PAGE_WIDTH, SMALL, UNDER, fixed_layout

VERDICT_COLOURS = {"holds": UNDER, "fails": OVER, "undecided": INK, "not run": GREY}
CLAIMED = "#DCE9E4"
# inches
COLUMN = PAGE_WIDTH / 2  # two columns of panels
LABEL, VERDICT, BETWEEN = 1.62, 0.64, 0.12  # widths: names of the rows, verdicts, a gap
LINE, TITLE_LINE, ROW_GAP = 0.112, 0.13, 0.045
TICKS, PANEL_GAP, TOP, LEGEND = 0.17, 0.13, 0.03, 0.25
LABEL_CHARACTERS, TITLE_CHARACTERS = 29, 38  # of a line


def claim_panels(table: pd.DataFrame) -> Figure:
    """One panel for each claim, each on its own scale, in two columns.

    A row is a statistic: here with its interval, in the colour of its verdict, which is also said
    in words, and in the paper as an open marker. The side of zero, or the margin around it, that
    the claim puts it on is shaded.

    Args:
        table: one row for each statistic; columns claim, text, claim_verdict; part; relation:
            `> 0`, `< -0.01`, `within 0.01` (any number); value, low, high (NaN if it was not run),
            verdict; paper_value, paper_low, paper_high.

    Raises:
        ValueError: a relation is none of those.
    """
    claims = [part for _, part in table.groupby("claim", sort=False)]
    heights = [_height(part) for part in claims]
    total = sum(heights)
    # the first column ends where the longer of the two is shortest
    ends = [max(above, total - above) for above in accumulate(heights)]
    split = int(np.argmin(ends)) + 1
    height = TOP + min(ends) + LEGEND
    figure = plt.figure(figsize=(PAGE_WIDTH, height), layout=fixed_layout())
    for column, chosen in enumerate((slice(split), slice(split, None))):
        top = height - TOP
        for part, own in zip(claims[chosen], heights[chosen], strict=True):
            _draw_claim(figure, part, column * COLUMN, top)
            top -= own
    look = {"marker": "o", "markersize": 4, "linewidth": 1.4}
    entries = {
        "here, with interval": Line2D([], [], color=GREY, **look),
        "paper": Line2D([], [], **_paper_marker()),
        "as claimed": Patch(facecolor=CLAIMED),
    }
    figure.legend(entries.values(), entries, loc="lower center", ncols=3, borderaxespad=0)
    return figure


def _height(part: pd.DataFrame) -> float:
    """Inches of a claim's panel with its title, ticks and the gap below."""
    title = TITLE_LINE * len(_title(part))
    return title + sum(_row_heights(part)) + TICKS + PANEL_GAP


def _title(part: pd.DataFrame) -> list[str]:
    first = part.iloc[0]
    return textwrap.wrap(f"{first['claim']}  {first['text']}", TITLE_CHARACTERS)


def _labels(part: pd.DataFrame) -> list[str]:
    names = part["part"].str.replace(" - ", " \N{MINUS SIGN} ")
    return [textwrap.fill(name, LABEL_CHARACTERS) for name in names]


def _row_heights(part: pd.DataFrame) -> list[float]:
    return [ROW_GAP + LINE * (1 + label.count("\n")) for label in _labels(part)]


def _draw_claim(figure: Figure, part: pd.DataFrame, left: float, top: float) -> None:
    """Draw one claim below `top` and right of `left`, in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    rows, title = _row_heights(part), _title(part)
    verdict = part["claim_verdict"].iloc[0]
    colour = VERDICT_COLOURS[verdict]
    text = {"transform": figure.dpi_scale_trans, "va": "top", "size": 7.5, "weight": "bold"}
    for place, line in enumerate(title):
        figure.text(left, top - TITLE_LINE * place, line, **text)
    figure.text(left + COLUMN - BETWEEN - VERDICT, top, verdict, color=colour, **text)
    tall, low = sum(rows), top - TITLE_LINE * len(title) - sum(rows)
    box = (left + LABEL, low, COLUMN - BETWEEN - LABEL - VERDICT - 0.06, tall)
    ax = figure.add_axes([box[0] / width, low / height, box[2] / width, tall / height])
    numbers = part[["value", "low", "high", "paper_value", "paper_low", "paper_high"]]
    margins = part["relation"].map(_margin)
    seen = [*numbers.to_numpy().ravel(), -margins.max(), margins.max(), 0]
    least, most = np.nanmin(seen), np.nanmax(seen)
    room = 0.08 * (most - least) or 1  # nothing was run: any scale
    ax.set(xlim=(least - room, most + room), ylim=(tall, 0))
    middles = np.cumsum(rows) - np.array(rows) / 2
    for (_, row), y, own in zip(part.iterrows(), middles, rows, strict=True):
        colour = VERDICT_COLOURS[row["verdict"]]
        begin, end = _claimed(row["relation"], *ax.get_xlim())
        ax.barh(y, end - begin, own - 0.02, begin, color=CLAIMED, zorder=0)
        ax.hlines(y, row["paper_low"], row["paper_high"], color=GREY, lw=0.7, zorder=2)
        ax.plot(row["paper_value"], y, zorder=3, **_paper_marker())
        ax.hlines(y, row["low"], row["high"], color=colour, lw=1.6, zorder=4)
        ax.plot(row["value"], y, "o", color=colour, markersize=3.6, zorder=5)
        word = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        word |= {"va": "center", "size": SMALL}
        ax.annotate(row["verdict"], (1, y), (4, 0), color=colour, **word)
    ax.axvline(0, color=INK, lw=0.8, zorder=1)
    ax.set_yticks(middles, _labels(part), ha="left", linespacing=1.05)
    ax.tick_params(axis="y", length=0, labelsize=SMALL, pad=72 * LABEL)
    ax.tick_params(axis="x", length=2, pad=1.5, labelsize=SMALL)
    ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}".replace("-", "\N{MINUS SIGN}"))
    ax.spines["left"].set_visible(False)


def _margin(relation: str) -> float:
    """The number of a relation, without its sign."""
    name, _, number = relation.partition(" ")
    if name not in ("<", ">", "within"):
        raise ValueError(f"relation {relation!r}: it must begin with <, > or within")
    return abs(float(number))


def _claimed(relation: str, low: float, high: float) -> tuple[float, float]:
    """The values that a relation allows, between the ends of an axis."""
    name, _, number = relation.partition(" ")
    end = float(number)
    match name:
        case "<":
            return low, end
        case ">":
            return end, high
    return -end, end


def _paper_marker() -> dict:
    return {
        "marker": "D",
        "markersize": 4,
        "markerfacecolor": "white",
        "markeredgecolor": INK,
        "markeredgewidth": 0.8,
        "linestyle": "none",
    }
