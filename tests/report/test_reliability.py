"""Reliability diagrams: heights of bars, gaps and boxes, words, and the layout of grids."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.report.reliability import (
    MIN_BIN_COUNT,
    confidence_histogram,
    reliability_diagram,
    reliability_grid,
)
from carot_lib.report.styles import OVER, PAGE_WIDTH, PALE, UNDER, save_figure

mpl.use("agg")

# for each bin: number of samples, and the share of them that is right
BINS = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), min_size=10, max_size=10).filter(
    lambda bins: sum(n for n, _ in bins) > 0
)


pytestmark = pytest.mark.usefixtures("figure_style")


def sample(*bins: tuple[float, int, int]) -> BinStats:
    """Predictions by (confidence, number, number of right ones)."""
    confidences = np.concatenate([np.full(n, confidence) for confidence, n, _ in bins])
    correct = np.concatenate([np.arange(n) < right for _, n, right in bins])
    return BinStats.from_confidences(confidences, correct)


def bars(ax: Axes, colour: str, attribute: str = "facecolor") -> list[tuple[float, float, float]]:
    """Left end, bottom and top of the rectangles of a colour."""
    wanted = mpl.colors.to_rgba(colour)
    return [
        (round(p.get_x(), 6), round(p.get_y(), 6), round(p.get_y() + p.get_height(), 6))
        for p in ax.patches
        if isinstance(p, Rectangle) and getattr(p, f"get_{attribute}")() == wanted
    ]


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def overlapping(figure: Figure) -> bool:
    """Whether the legend overlaps an axis with its labels, or anything leaves the page."""
    figure.canvas.draw()
    legend, page = figure.legends[0].get_window_extent(), figure.bbox
    for ax in figure.axes:
        box = ax.get_tightbbox()
        if box.overlaps(legend) or box.x0 < page.x0 or box.x1 > page.x1 or box.y1 > page.y1:
            return True
    return legend.x0 < page.x0 or legend.x1 > page.x1 or legend.y0 < page.y0


def test_gaps_fill_from_accuracy_up_to_confidence_or_the_other_way_in_another_hatch():
    _, ax = plt.subplots()
    # 100 predictions at .25, 60 right: bar to 25 %, gap from 25 to 60 %; 100 at .75, 40 right: bar
    # to 40 %, gap from 40 to 75 %; bins 2 and 7 start (10 - 9.4) / 2 above 20 and 70
    reliability_diagram(ax, sample((0.25, 100, 60), (0.75, 100, 40)))
    assert bars(ax, PALE) == [(20.3, 0, 25), (70.3, 0, 40)]
    assert bars(ax, UNDER, "edgecolor") == [(20.3, 25, 60)]
    assert bars(ax, OVER, "edgecolor") == [(70.3, 40, 75)]
    assert {patch.get_hatch()[0] for patch in ax.patches if patch.get_hatch()} == {"/", "\\"}
    assert words(ax) == ["ECE 35.0"]
    # the diagonal
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [100, 100]]
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 100), (0, 100))


@given(BINS)
def test_gaps_weighted_by_their_bins_add_up_to_the_ece(bins: list[tuple[int, float]]):
    bins = [(n if n >= MIN_BIN_COUNT else 0, share) for n, share in bins]
    bins[9] = (20, 0.5)
    stats = sample(*((b / 10 + 0.05, n, round(share * n)) for b, (n, share) in enumerate(bins)))
    figure, ax = plt.subplots()
    reliability_diagram(ax, stats)
    gaps = [p for p in ax.patches if p.get_hatch()]
    # the middle of a rectangle is in its bin
    of_bin = [int((p.get_x() + p.get_width() / 2) // 10) for p in gaps]
    assert sorted(of_bin) == list(np.flatnonzero(stats.count))
    total = sum(stats.count[b] * p.get_height() for b, p in zip(of_bin, gaps, strict=True))
    assert total / stats.n == pytest.approx(100 * stats.ece(), abs=1e-6)
    plt.close(figure)


def test_bins_of_few_samples_are_in_the_histogram_only():
    _, (upper, lower) = plt.subplots(2)
    stats = sample((0.55, 9, 0), (0.75, 10, 5))
    reliability_diagram(upper, stats)
    assert [left for left, _, _ in bars(upper, PALE)] == [70.3]
    confidence_histogram(lower, stats)
    assert [bar.get_height() > 0 for bar in lower.containers[0]][5:8] == [True, False, True]


@pytest.mark.parametrize(("level", "height"), [(0.5, 6.71), (0.95, 19.5), (0.99, 25.63)])
def test_the_level_is_that_of_the_boxes_and_of_the_legend(level: float, height: float):
    # half heights .674, 1.96 and 2.576 times sqrt(.45 * .55 / 100) = 4.975 %
    stats = sample((0.45, 100, 45))
    figure = reliability_grid({"A": {"ZS": stats}}, {"A": {"ZS": (0.301, 0.4)}}, level)
    [(_, low, high)] = bars(figure.axes[0], "white")
    assert high - low == pytest.approx(height, abs=0.01)
    assert "30.1–40.0" in words(figure.axes[0])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    percent = f"{100 * level:.0f}%"
    assert {f"{percent} consistency box", f"{percent} interval of ECE"} <= set(labels)
    assert len(set(labels)) == len(labels)


def test_an_ece_is_called_noise_by_a_test_of_that_level():
    _, axes = plt.subplots(1, 3)
    # 60 of 100 right at .5: two standard errors
    stats = sample((0.5, 100, 60))
    assert 0.03 < stats.p_value() < 0.05
    reliability_diagram(axes[0], stats, level=0.97)
    reliability_diagram(axes[1], stats, level=0.95)
    reliability_diagram(axes[2], sample((0.5, 100, 90)))
    assert [words(ax) for ax in axes] == [["ECE 10.0 (noise)"], ["ECE 10.0"], ["ECE 40.0"]]


def test_histogram_shows_shares_accuracy_and_mean_confidence():
    _, ax = plt.subplots()
    # 30 of 40 predictions at .95 and 10 at .55: shares 75 and 25 %; mean confidence
    # (30 * .95 + 10 * .55) / 40 = .85; accuracy (20 + 4) / 40 = .6
    confidence_histogram(ax, sample((0.95, 30, 20), (0.55, 10, 4)), top=80.0)
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert heights == [0, 0, 0, 0, 0, 25, 0, 0, 0, 75]
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([60, 85])
    assert words(ax) == ["acc 60", "conf 85"]
    assert ax.get_ylim() == (0, 80)


@pytest.mark.parametrize(
    ("confidence", "right", "side", "colour"),
    [(0.95, 90, "left", OVER), (0.25, 30, "right", UNDER), (0.75, 22, "center", OVER)],
)
def test_numbers_of_a_histogram_stand_where_its_lines_are_not(
    confidence: float, right: int, side: str, colour: str
):
    _, ax = plt.subplots()
    confidence_histogram(ax, sample((confidence, 100, right)))
    assert {text.get_ha() for text in ax.texts} == {side}
    assert ax.lines[1].get_color() == ax.texts[1].get_color() == colour


def one_row(*columns: str) -> dict[str, dict[str, BinStats]]:
    return {"ID test": {column: sample((0.75, 100, 40), (0.95, 300, 200)) for column in columns}}


def test_grid_names_methods_sets_and_sample_sizes_at_its_edges():
    big = sample((0.75, 12_000, 4_000))
    figure = reliability_grid({**one_row("ZS", "FT"), "V2": {"ZS": big, "FT": big}})
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["ZS", "FT"]
    names = {text for ax in figure.axes for text in words(ax)}
    assert {"ID test", "V2", "N = 400", "N = 12,000"} <= names
    # upper and lower of ZS, upper and lower of FT, then the second row
    below, beside = ["", "", "", "", "", "confidence (%)", "", "confidence (%)"], "accuracy (%)"
    assert [ax.get_xlabel() for ax in figure.axes] == below
    assert [ax.get_ylabel() for ax in figure.axes] == [beside, "share (%)", "", ""] * 2
    # one histogram scale: the fullest bin holds 100 %, times 1.25
    assert {round(ax.get_ylim()[1], 6) for ax in figure.axes} == {100, 125}


@pytest.mark.parametrize(("n", "label"), [(99, "N = 99: few"), (100, "N = 100")])
def test_a_set_with_fewer_samples_than_ten_for_each_of_ten_bins_is_marked(n: int, label: str):
    figure = reliability_grid({"ID test": {"ZS": sample((0.75, n, 40))}})
    assert label in {text for ax in figure.axes for text in words(ax)}


def test_every_panel_of_a_grid_prints_its_ece_and_interval():
    right = {"ID test": (70, 40), "A": (20, 10)}
    stats = {
        name: {"ZS": sample((0.75, 100, zs)), "FT": sample((0.75, 100, ft))}
        for name, (zs, ft) in right.items()
    }
    intervals = {
        "ID test": {"ZS": (0.01, 0.02), "FT": (0.03, 0.04)},
        "A": {"ZS": (0.05, 0.06), "FT": (0.07, 0.08)},
    }
    panels = reliability_grid(stats, intervals).axes[::2]
    assert [words(ax)[:2] for ax in panels] == [  # .75 - .7, .75 - .4 and so on
        ["ECE 5.0 (noise)", "1.0–2.0"],
        ["ECE 35.0", "3.0–4.0"],
        ["ECE 55.0", "5.0–6.0"],
        ["ECE 65.0", "7.0–8.0"],
    ]
    panels = reliability_grid(stats).axes[::2]
    assert not any("–" in text for ax in panels for text in words(ax))


@pytest.mark.parametrize("columns", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 5])
def test_nothing_overlaps_the_legend_or_leaves_the_page(columns: int, rows: int):
    names = [f"run {i}" for i in range(columns)]
    figure = reliability_grid({f"set {i}": one_row(*names)["ID test"] for i in range(rows)})
    assert not overlapping(figure)
    if columns <= 4:
        assert figure.get_figwidth() <= PAGE_WIDTH  # printed at its own size


def test_grid_refuses_rows_with_other_columns_other_samples_and_nothing():
    with pytest.raises(ValueError, match="same columns"):
        reliability_grid({**one_row("ZS", "FT"), "V2": one_row("ZS")["ID test"]})
    with pytest.raises(ValueError, match="must be one"):
        reliability_grid({})
    row = {"ZS": sample((0.75, 100, 40)), "FT": sample((0.75, 90, 40))}
    with pytest.raises(ValueError, match=r"A have different numbers of samples: \[90, 100\]"):
        reliability_grid({"A": row})


def test_every_file_of_a_grid_has_the_layout_of_the_first(tmp_path: Path):
    figure = reliability_grid(one_row("ZS", "FT"))
    before = [ax.get_position().bounds for ax in figure.axes]
    save_figure(figure, tmp_path / "new", "grid")
    assert [ax.get_position().bounds for ax in figure.axes] == before
    assert (tmp_path / "new" / "grid.pdf").read_bytes().startswith(b"%PDF")
