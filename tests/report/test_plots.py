"""What the figures show: heights, places, words; not how they look."""

import itertools
from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.report.plots import (
    accuracy_ece_plane,
    calibrator_rows,
    contact_sheet,
    matrices,
    shifts_profile,
    temperature_curves,
    terms_of,
    training_curves,
)
from carot_lib.report.reliability import confidence_histogram, reliability_diagram, reliability_grid
from carot_lib.report.styles import OVER, PALE, UNDER, colour_of, style

mpl.use("agg")


@pytest.fixture(autouse=True)
def _figures_are_styled_and_closed() -> Iterator[None]:
    with style():
        yield
    plt.close("all")


def sample(*bins: tuple[float, int, int]) -> BinStats:
    """Predictions by (confidence, how many, how many of them right)."""
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
    """Whether the legend meets the words below any axis, or anything leaves the page."""
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    page = figure.bbox
    for ax in figure.axes:
        box = ax.get_tightbbox()
        if box.overlaps(legend) or box.x0 < page.x0 or box.x1 > page.x1 or box.y1 > page.y1:
            return True
    return legend.x0 < page.x0 or legend.x1 > page.x1 or legend.y0 < page.y0


def test_over_confident_bin_fills_from_accuracy_up_to_confidence():
    _, ax = plt.subplots()
    # 100 predictions at .75, 40 right: bar to 40 %, gap from 40 to 75 %; bin 7 starts at
    # 70 + (10 - 9.4) / 2 = 70.3
    reliability_diagram(ax, sample((0.75, 100, 40)))
    assert bars(ax, PALE) == [(70.3, 0, 40)]
    assert bars(ax, OVER, "edgecolor") == [(70.3, 40, 75)]
    assert bars(ax, UNDER, "edgecolor") == []
    assert "ECE 35.0" in words(ax)


def test_under_confident_bin_fills_from_confidence_up_to_accuracy():
    _, ax = plt.subplots()
    reliability_diagram(ax, sample((0.25, 100, 60)))
    assert bars(ax, PALE) == [(20.3, 0, 25)]
    assert bars(ax, UNDER, "edgecolor") == [(20.3, 25, 60)]


def test_directions_differ_in_hatch_too_for_grey_print():
    _, ax = plt.subplots()
    reliability_diagram(ax, sample((0.25, 100, 60), (0.75, 100, 40)))
    hatches = {patch.get_hatch() for patch in ax.patches} - {None}
    assert {hatch[0] for hatch in hatches} == {"/", "\\"}


def test_consistency_box_spans_what_chance_explains():
    _, ax = plt.subplots()
    # 100 predictions at .5: 50 +- 1.96 * sqrt(100 * .25) = 50 +- 9.8 percent
    reliability_diagram(ax, sample((0.5, 100, 50)))
    [(_, low, high)] = bars(ax, "white")
    assert (low, high) == (pytest.approx(40.2, abs=0.01), pytest.approx(59.8, abs=0.01))


def test_a_calibrated_sample_is_called_noise_and_a_wrong_one_is_not():
    _, (left, right) = plt.subplots(1, 2)
    reliability_diagram(left, sample((0.5, 100, 51)))
    reliability_diagram(right, sample((0.5, 100, 90)))
    assert words(left) == ["ECE 1.0 (noise)"]
    assert words(right) == ["ECE 40.0"]


def test_bins_of_few_samples_are_not_drawn():
    _, ax = plt.subplots()
    reliability_diagram(ax, sample((0.55, 9, 0), (0.75, 10, 5)))
    assert [left for left, _, _ in bars(ax, PALE)] == [70.3]


def test_interval_is_printed_in_percent():
    _, ax = plt.subplots()
    reliability_diagram(ax, sample((0.75, 100, 40)), interval=(0.301, 0.4))
    assert "95% CI 30.1–40.0" in words(ax)


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


def one_row(*columns: str) -> dict[str, dict[str, BinStats]]:
    return {"ID test": {column: sample((0.75, 100, 40), (0.95, 300, 200)) for column in columns}}


def test_grid_names_methods_sets_and_sample_sizes():
    figure = reliability_grid({**one_row("ZS", "FT"), "V2": one_row("ZS", "FT")["ID test"]})
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["ZS", "FT"]
    names = {text for ax in figure.axes for text in words(ax)}
    assert {"ID test", "V2", "N = 400"} <= names
    # one histogram scale: the fullest bin holds 75 %, times 1.12
    assert {round(ax.get_ylim()[1], 6) for ax in figure.axes} == {100, 84}


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("rows", [1, 5])
def test_nothing_overlaps_the_legend_or_leaves_the_page(columns: int, rows: int):
    names = [f"run {i}" for i in range(columns)]
    stats = {f"set {i}": one_row(*names)["ID test"] for i in range(rows)}
    assert not overlapping(reliability_grid(stats))


def test_grid_refuses_rows_with_other_columns_and_nothing():
    with pytest.raises(ValueError, match="same columns"):
        reliability_grid({**one_row("ZS", "FT"), "V2": one_row("ZS")["ID test"]})
    with pytest.raises(ValueError, match="must be one"):
        reliability_grid({})


def test_grid_refuses_methods_seen_on_different_samples():
    row = {"ZS": sample((0.75, 100, 40)), "FT": sample((0.75, 90, 40))}
    with pytest.raises(ValueError, match=r"A have different numbers of samples: \[90, 100\]"):
        reliability_grid({"A": row})


def curve(at: float) -> pd.DataFrame:
    temperatures = np.array([0.5, 1.0, 2.0, 4.0])
    return pd.DataFrame({"temperature": temperatures, "ece": np.abs(temperatures - at) / 10})


def test_temperature_curve_has_its_dot_at_the_choice():
    _, ax = plt.subplots()
    temperature_curves(ax, {"ft": curve(2.0)}, {"ft": 2.0})
    dots = [line.get_xydata().tolist() for line in ax.lines if line.get_linestyle() == "None"]
    assert dots == [[[2.0, 0.0]]]


def test_smoothed_runs_differ_from_plain_ones_by_dashes_and_open_markers():
    _, ax = plt.subplots()
    runs = {"flyp": 2.0, "flyp_ls": 1.0}
    temperature_curves(ax, {run: curve(at) for run, at in runs.items()}, runs)
    plain, smoothed = ax.get_legend_handles_labels()[0]
    assert (plain.get_linestyle(), smoothed.get_linestyle()) == ("-", "--")
    faces = (plain.get_markerfacecolor(), smoothed.get_markerfacecolor())
    assert faces == (colour_of("flyp"), "white")


def plane_table(**ece: float) -> pd.DataFrame:
    row = {"acc": 0.8, "acc_low": 0.79, "acc_high": 0.82, "ece": 0.05, "ece_low": 0.04}
    return pd.DataFrame([{**row, "ece_high": 0.06, **ece}], index=["zs"])


def segments(ax: Axes) -> list[list[list[float]]]:
    return [part.tolist() for lines in ax.collections for part in lines.get_segments()]


def test_plane_draws_each_interval_from_low_to_high():
    _, ax = plt.subplots()
    accuracy_ece_plane([ax], {"ID test": plane_table()})
    assert segments(ax) == [[[0.79, 0.05], [0.82, 0.05]], [[0.8, 0.04], [0.8, 0.06]]]
    assert ax.get_title() == "ID test"
    assert ax.get_legend_handles_labels()[1] == ["ZS"]


def test_plane_shows_an_interval_that_does_not_hold_its_value():
    # the bootstrap of an ECE is biased upwards: .050 with an interval of .051 to .06 occurs
    _, ax = plt.subplots()
    accuracy_ece_plane([ax], {"ID test": plane_table(ece_low=0.051)})
    assert [[0.8, 0.051], [0.8, 0.06]] in segments(ax)


def test_profile_of_shifts_keeps_the_order_of_sets_and_the_true_intervals():
    rows = [("zs", "ID test", 0.5, 0.51, 0.6), ("zs", "A", 0.3, 0.2, 0.4)]
    _, ax = plt.subplots()
    table = pd.DataFrame(rows, columns=["run", "dataset", "value", "low", "high"])
    shifts_profile(ax, table, ["zs"], "ECE")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["ID test", "A"]
    assert segments(ax) == [[[0, 0.51], [0, 0.6]], [[1, 0.2], [1, 0.4]]]


def test_profile_of_a_missing_set_fails():
    rows = [("zs", "ID test", 0.5, 0.4, 0.6), ("zs", "A", 0.3, 0.2, 0.4)]
    rows.append(("ft", "ID test", 0.5, 0.4, 0.6))
    table = pd.DataFrame(rows, columns=["run", "dataset", "value", "low", "high"])
    with pytest.raises(KeyError, match="A"):
        shifts_profile(plt.subplots()[1], table, ["zs", "ft"], "ECE")


def test_training_curves_have_a_panel_for_each_term_in_order():
    step = np.arange(1, 4)
    flyp = pd.DataFrame({"step": step, "learning_rate": 1.0, "contrastive": [3.0, 2.0, 1.0]})
    carot = flyp.assign(distillation=[0.3, 0.2, 0.1])
    histories = {"flyp": flyp, "carot": carot}
    assert terms_of(histories) == ["contrastive", "distillation"]
    _, axes = plt.subplots(1, 2)
    training_curves(axes, histories)
    assert [len(ax.lines) for ax in axes] == [2, 1]
    # running means of 3, 2, 1: 3, 2.5, 2
    assert axes[0].lines[0].get_ydata().tolist() == [3.0, 2.5, 2.0]


def test_contact_sheet_shows_every_picture_without_smoothing():
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    figure = contact_sheet({"A": pictures, "R": pictures[::-1]}, {"A": "hard", "R": "drawn"}, "xy")
    images = [ax.images[0] for ax in figure.axes]
    np.testing.assert_array_equal(images[1].get_array(), pictures[1])
    assert {image.get_interpolation() for image in images} == {"nearest"}
    assert [text for ax in figure.axes for text in words(ax)] == ["A", "hard", "R", "drawn"]


def test_contact_sheet_leaves_a_place_empty():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    figure = contact_sheet({"A": [picture, None]}, {"A": ""})
    assert [len(ax.images) for ax in figure.axes] == [1, 0]


def test_contact_sheet_refuses_rows_of_different_lengths():
    pictures = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        contact_sheet({"A": pictures, "R": pictures[:1]}, {"A": "", "R": ""})


def test_matrices_share_one_scale():
    _, axes = plt.subplots(1, 2)
    matrices(axes, {"hard": np.eye(2), "soft": np.full((2, 2), 0.5)}, ["cat", "dog"])
    assert [ax.images[0].get_clim() for ax in axes] == [(0, 1.0), (0, 1.0)]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["cat", "dog"]
    assert axes[1].get_yticklabels() == [] or not axes[1].get_yticklabels()[0].get_text()
    _, ax = plt.subplots()
    matrices([ax], {"cosines": np.full((2, 2), 0.25)}, ["cat", "dog"], scale=(-0.1, 0.3))
    assert ax.images[0].get_clim() == (-0.1, 0.3)


def test_plane_writes_names_that_cover_neither_each_other_nor_an_interval():
    runs = ["zs", "ft", "flyp", "carot"]
    table = pd.concat([plane_table(ece=0.05 + 0.003 * k) for k in range(4)]).set_axis(runs)
    figure, ax = plt.subplots(figsize=(4, 4))
    accuracy_ece_plane([ax], {"ID test": table})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert sorted(text.get_text() for text in ax.texts) == ["CaRot", "FLYP", "FT", "ZS"]
    for box, other in itertools.combinations(boxes, 2):
        assert not box.overlaps(other)
    for point in ax.transData.transform(table[["acc", "ece"]].to_numpy()):
        assert not any(box.contains(*point) for box in boxes)


def calibrated_runs() -> pd.DataFrame:
    rows = [("zs", "oracle", 0.1, 0.08, 0.12), ("zs", "none", 0.2, 0.21, 0.3)]
    rows += [("flyp_ls", "none", 0.4, 0.3, 0.5), ("flyp_ls", "oracle", 0.1, 0.0, 0.2)]
    return pd.DataFrame(rows, columns=["run", "calibration", "value", "low", "high"])


def test_rows_of_calibrations_have_each_runs_value_and_true_interval_side_by_side():
    _, ax = plt.subplots()
    titles = {"none": "none", "oracle": "oracle temperature"}
    calibrator_rows(ax, calibrated_runs(), ["zs", "flyp_ls"], titles, apart="oracle")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["none", "oracle temperature"]
    zs, flyp = (line for line in ax.lines if line.get_linestyle() == "None")
    # two runs, .13 apart, about rows 0 and 1.4, for the oracle stands .4 off the others
    np.testing.assert_allclose(zs.get_xydata(), [[0.2, -0.065], [0.1, 1.335]])
    np.testing.assert_allclose(flyp.get_xydata(), [[0.4, 0.065], [0.1, 1.465]])
    assert flyp.get_markerfacecolor() == "white"
    np.testing.assert_allclose(segments(ax)[0], [[0.21, -0.065], [0.3, -0.065]])
    assert ax.get_legend_handles_labels()[1] == ["ZS", "FLYP w/ LS"]


def test_the_oracle_is_set_off_and_said_to_be_chosen_where_it_is_reported():
    _, ax = plt.subplots()
    titles = {"none": "none", "oracle": "oracle temperature"}
    calibrator_rows(ax, calibrated_runs(), ["zs"], titles, apart="oracle")
    (band,) = ax.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((0.9, 1.0))
    assert words(ax) == ["chosen on the\nreported set"]
    # the first row on top, and nothing beyond the band
    assert ax.get_ylim() == pytest.approx((1.9, -0.5))


def test_a_run_without_one_of_the_calibrations_fails():
    table = calibrated_runs().iloc[1:]
    with pytest.raises(KeyError, match="oracle"):
        calibrator_rows(
            plt.subplots()[1], table, ["zs"], {"none": "none", "oracle": "oracle"}, "oracle"
        )
