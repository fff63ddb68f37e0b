"""The figure of the claims: each row's numbers, colours and words, and what a claim shades."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carot_lib.report.claims_figure import VERDICT_COLOURS, claim_panels
from carot_lib.report.styles import PAGE_HEIGHT, PAGE_WIDTH

mpl.use("agg")

pytestmark = pytest.mark.usefixtures("figure_style")


def row(claim: str, relation: str, value: float, verdict: str, paper: float = 0.03) -> dict:
    return {
        "claim": claim,
        "text": "FT sacrifices OOD generalization of ZS as well as ID and OOD calibration",
        "part": f"OOD ECE {relation}: CaRot - best other fine-tuned row",
        "relation": relation,
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "verdict": verdict,
        "paper_value": paper,
        "paper_low": paper - 0.002,
        "paper_high": paper + 0.002,
        "claim_verdict": verdict,
    }


def panels(*rows: dict) -> list[Axes]:
    return claim_panels(pd.DataFrame(rows)).axes


def points(ax: Axes, marker: str) -> list[tuple[float, str]]:
    """Value and face colour of the markers of one kind, from top to bottom."""
    lines = [line for line in ax.lines if line.get_marker() == marker]
    return [(line.get_xdata()[0], line.get_markerfacecolor()) for line in lines]


def shaded(ax: Axes) -> list[tuple[float, float]]:
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]


def words(figure: Figure) -> list[str]:
    texts = [*figure.texts, *(text for ax in figure.axes for text in ax.texts)]
    return [text.get_text() for text in texts]


def test_a_row_has_value_interval_and_the_papers_value_in_colours_that_words_repeat():
    (ax,) = panels(row("1", "> 0", 0.05, "holds"), row("1", "< 0", 0.05, "fails"))
    holds, fails = VERDICT_COLOURS["holds"], VERDICT_COLOURS["fails"]
    assert points(ax, "o") == [(0.05, holds), (0.05, fails)]
    assert points(ax, "D") == [(0.03, "white")] * 2
    ends = [part[:, 0].tolist() for lines in ax.collections for part in lines.get_segments()]
    # of the paper, then of ours
    np.testing.assert_allclose(ends, [[0.028, 0.032], [0.04, 0.06]] * 2)
    assert [text.get_text() for text in ax.texts] == ["holds", "fails"]
    assert [mpl.colors.to_hex(text.get_color()).upper() for text in ax.texts] == [holds, fails]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top


def test_the_claimed_side_is_shaded_up_to_zero_or_the_margin():
    relations = ("> 0", "< 0", "> 0.01", "< -0.01", "within 0.01", "< 0.01")
    (ax,) = panels(*(row("1", relation, 0.05, "holds") for relation in relations))
    low, high = ax.get_xlim()
    expected = [(0, high), (low, 0), (0.01, high), (low, -0.01), (-0.01, 0.01), (low, 0.01)]
    np.testing.assert_allclose(shaded(ax), expected)
    assert low < -0.01


def test_every_claim_has_a_scale_of_its_own():
    large, small = panels(row("1", "> 0", 0.5, "holds"), row("2", "> 0", 0.02, "holds"))
    assert large.get_xlim()[1] > 0.5
    assert 0.032 < small.get_xlim()[1] < 0.04  # the paper's upper end and 8 % of the range


def test_title_and_verdict_of_each_claim_are_in_words():
    rows = [row("1", "> 0", 0.5, "holds"), row("2b", "> 0", 0.02, "undecided")]
    figure = claim_panels(pd.DataFrame(rows))
    said = words(figure)
    assert said.count("holds") == 2  # of the claim and of its row
    assert said.count("undecided") == 2
    assert " ".join(said).startswith("1  FT sacrifices OOD generalization of ZS as well as ID")
    assert "2b  FT sacrifices OOD generalization" in said


def test_what_was_not_run_and_not_published_is_a_word_without_a_point():
    table = pd.DataFrame([row("1", "> 0", np.nan, "not run", np.nan)])
    (ax,) = claim_panels(table).axes
    assert [text.get_text() for text in ax.texts] == ["not run"]
    assert np.isfinite(ax.get_xlim()).all()


def test_another_relation_is_refused():
    with pytest.raises(ValueError, match="relation '= 0': it must begin with <, > or within"):
        panels(row("1", "= 0", 0.5, "holds"))


def test_two_columns_of_panels_fit_on_a_page_and_do_not_overlap():
    rows = [row(f"6{c}", "> 0", 0.1, "undecided") for c in "abcdefgh" for _ in range(4)]
    figure = claim_panels(pd.DataFrame(rows))
    assert figure.get_figwidth() == PAGE_WIDTH
    assert figure.get_figheight() < PAGE_HEIGHT
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    page, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
    assert all(box.y1 <= page.y1 and box.y0 > legend.y1 for box in boxes)
    assert {round(ax.get_position().x0, 3) for ax in figure.axes} == {0.245, 0.745}
