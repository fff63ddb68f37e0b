"""Reliability grids: legend, intervals of each panel, words off the lines, whole files."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.report.reliability import (
    FEW,
    confidence_histogram,
    legend_handles,
    reliability_diagram,
    reliability_grid,
)
from carot_lib.report.styles import OVER, PALE, UNDER, save_figure, style

mpl.use("agg")

# of each bin: how many samples, and which share of them is right
BINS = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), min_size=10, max_size=10).filter(
    lambda bins: sum(n for n, _ in bins) > 0
)


@pytest.fixture(autouse=True)
def _figures_are_styled_and_closed() -> Iterator[None]:
    with style():
        yield
    plt.close("all")


def sample(bins: list[tuple[int, float]]) -> BinStats:
    """Samples at the centres of the bins."""
    centres = (np.arange(len(bins)) + 0.5) / len(bins)
    confidences = np.repeat(centres, [n for n, _ in bins])
    correct = np.concatenate([np.arange(n) < round(share * n) for n, share in bins])
    return BinStats.from_confidences(confidences, correct, len(bins))


def one_bin(b: int, share: float, n: int = 100) -> BinStats:
    return sample([(n if i == b else 0, share) for i in range(10)])


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def heights(ax: Axes, colour: str, edge: bool = False) -> list[float]:
    """Of the rectangles with this face, or this edge and a hatch."""
    patches = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    wanted = mpl.colors.to_rgba(colour)
    if edge:
        return [p.get_height() for p in patches if p.get_hatch() and p.get_edgecolor() == wanted]
    return [p.get_height() for p in patches if p.get_facecolor() == wanted]


@settings(max_examples=25, deadline=None)
@given(BINS)
def test_gaps_weighted_by_their_bins_add_up_to_the_ece(bins: list[tuple[int, float]]):
    bins = [(n if n >= FEW else 0, share) for n, share in bins]
    bins[9] = (20, 0.5)
    stats = sample(bins)
    figure, ax = plt.subplots()
    reliability_diagram(ax, stats)
    rectangles = [p for p in ax.patches if p.get_hatch()]
    # the middle of the rectangle says which bin it is of
    of_bin = [int((p.get_x() + p.get_width() / 2) // 10) for p in rectangles]
    assert of_bin == list(np.flatnonzero(stats.count))
    total = sum(stats.count[b] * p.get_height() for b, p in zip(of_bin, rectangles, strict=True))
    assert total / stats.n == pytest.approx(100 * stats.ece(), abs=1e-6)
    plt.close(figure)


@settings(max_examples=25, deadline=None)
@given(BINS)
def test_shares_of_a_histogram_add_up_to_all(bins: list[tuple[int, float]]):
    figure, ax = plt.subplots()
    confidence_histogram(ax, sample(bins), top=100.0)
    assert sum(bar.get_height() for bar in ax.containers[0]) == pytest.approx(100)
    plt.close(figure)


def test_a_bin_without_a_gap_shows_accuracy_only():
    _, ax = plt.subplots()
    # 75 of 100 right at .75
    reliability_diagram(ax, one_bin(7, 0.75))
    assert heights(ax, PALE) == pytest.approx([75])
    assert sum(heights(ax, OVER, edge=True) + heights(ax, UNDER, edge=True)) == pytest.approx(0)
    assert words(ax) == ["ECE 0.0 (noise)"]


def test_the_level_is_that_of_the_interval_and_of_the_boxes():
    _, (narrow, wide) = plt.subplots(1, 2)
    stats = one_bin(4, 0.45)
    reliability_diagram(narrow, stats, (0.0, 0.1), level=0.5)
    reliability_diagram(wide, stats, (0.0, 0.1), level=0.99)
    assert "50% CI 0.0–10.0" in words(narrow)
    assert "99% CI 0.0–10.0" in words(wide)
    # half widths .674 and 2.576 times sqrt(.45 * .55 / 100) = 4.975 %: heights 6.71 and 25.63
    assert heights(narrow, "white") == pytest.approx([6.71], abs=0.01)
    assert heights(wide, "white") == pytest.approx([25.63], abs=0.01)
    labels = [handle.get_label() for handle in legend_handles(0.99)]
    assert "99% consistency box" in labels


def test_the_diagonal_is_drawn_from_corner_to_corner():
    _, ax = plt.subplots()
    reliability_diagram(ax, one_bin(7, 0.75))
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [100, 100]]
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 100), (0, 100))


@pytest.mark.parametrize(("b", "share", "side"), [(9, 0.9, "left"), (2, 0.3, "right")])
def test_words_of_a_histogram_stand_where_its_lines_are_not(b: int, share: float, side: str):
    _, ax = plt.subplots()
    confidence_histogram(ax, one_bin(b, share), top=100.0)
    assert {text.get_ha() for text in ax.texts} == {side}


@pytest.mark.parametrize(("share", "colour"), [(0.4, OVER), (0.9, UNDER)])
def test_the_mean_confidence_has_the_colour_of_its_direction(share: float, colour: str):
    _, ax = plt.subplots()
    confidence_histogram(ax, one_bin(7, share), top=100.0)
    # accuracy first, then confidence .75
    assert ax.lines[1].get_xdata()[0] == pytest.approx(75)
    assert ax.lines[1].get_color() == colour
    [accuracy, confidence] = ax.texts
    assert (accuracy.get_text(), confidence.get_text()) == (f"acc {100 * share:.0f}", "conf 75")
    assert confidence.get_color() == colour


def test_every_panel_of_a_grid_prints_its_own_interval_and_ece():
    stats = {
        "ID test": {"ZS": one_bin(7, 0.7), "FT": one_bin(7, 0.4)},
        "A": {"ZS": one_bin(7, 0.2), "FT": one_bin(7, 0.1)},
    }
    intervals = {
        "ID test": {"ZS": (0.01, 0.02), "FT": (0.03, 0.04)},
        "A": {"ZS": (0.05, 0.06), "FT": (0.07, 0.08)},
    }
    figure = reliability_grid(stats, intervals)
    printed = [text for ax in figure.axes for text in words(ax) if "CI" in text or "ECE" in text]
    # .75 - .7, .75 - .4 and so on, row by row
    assert printed == [
        "ECE 5.0 (noise)",
        "95% CI 1.0–2.0",
        "ECE 35.0",
        "95% CI 3.0–4.0",
        "ECE 55.0",
        "95% CI 5.0–6.0",
        "ECE 65.0",
        "95% CI 7.0–8.0",
    ]


def test_a_grid_without_intervals_prints_none():
    figure = reliability_grid({"A": {"ZS": one_bin(7, 0.2)}})
    assert not any("CI" in text for ax in figure.axes for text in words(ax))


def test_the_legend_explains_both_directions_once():
    figure = reliability_grid({"A": {"ZS": one_bin(7, 0.2)}})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [handle.get_label() for handle in legend_handles()]
    assert {"over-confident gap", "under-confident gap", "95% consistency box"} <= set(labels)
    assert len(set(labels)) == len(labels)


def test_only_outer_panels_of_a_grid_have_labels():
    row = {"ZS": one_bin(7, 0.2), "FT": one_bin(7, 0.4)}
    figure = reliability_grid({"ID test": row, "A": row})
    # upper and lower of ZS, upper and lower of FT, then the second row
    below = [ax.get_xlabel() for ax in figure.axes]
    assert below == ["", "", "", "", "", "confidence (%)", "", "confidence (%)"]
    beside = [ax.get_ylabel() for ax in figure.axes]
    assert beside == ["accuracy (%)", "share (%)", "", ""] * 2


def test_large_samples_are_counted_with_separators():
    figure = reliability_grid({"A": {"ZS": one_bin(7, 0.2, n=12_000)}})
    assert "N = 12,000" in {text for ax in figure.axes for text in words(ax)}


def test_a_grid_is_saved_as_three_readable_files_with_its_words_as_text(tmp_path: Path):
    figure = reliability_grid({"ID test": {"CaRot": one_bin(7, 0.4)}})
    save_figure(figure, tmp_path / "made", "grid", ("png", "pdf", "svg"))
    files = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert files == ["grid.pdf", "grid.png", "grid.svg"]
    assert (tmp_path / "made" / "grid.pdf").read_bytes().startswith(b"%PDF")
    assert plt.imread(tmp_path / "made" / "grid.png").ndim == 3
    drawn = (tmp_path / "made" / "grid.svg").read_text(encoding="utf-8")
    for word in ("CaRot", "ID test", "ECE 35.0", "N = 100"):
        assert word in drawn


def test_every_file_of_a_grid_has_the_layout_of_the_first(tmp_path: Path):
    one = sample([(40, 0.1), (60, 0.9)])
    figure = reliability_grid({"ID": {"ZS": one, "FT": one}, "R": {"ZS": one, "FT": one}})
    before = [ax.get_position().bounds for ax in figure.axes]
    save_figure(figure, tmp_path, "grid", ("png", "pdf", "svg"))
    assert [ax.get_position().bounds for ax in figure.axes] == before


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figure = reliability_grid({"A": {"ZS": one_bin(7, 0.2)}})
    (tmp_path / "grid.png").write_bytes(b"old")

    def full_disk(path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_figure(figure, tmp_path, "grid")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert (tmp_path / "grid.png").read_bytes() == b"old"
