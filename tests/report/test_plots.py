"""What the figures show: numbers, order and words; not how they look."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carot_lib.report.plots import (
    accuracy_ece_plane,
    learning_rate_curves,
    pretraining_curves,
    shift_profiles,
    temperature_curves,
    training_curves,
    wise_ft_curves,
)
from carot_lib.report.styles import colour_of, marker_of

mpl.use("agg")


pytestmark = pytest.mark.usefixtures("figure_style")


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def marked(ax: Axes) -> list[list[list[float]]]:
    """Points of every line with markers."""
    lines = (line for line in ax.lines if line.get_marker() not in ("", "None"))
    return [line.get_xydata().tolist() for line in lines]


def curves(*least: float, run: str = "ft") -> pd.DataFrame:
    """A curve for each seed, with its least ECE, 0, at a temperature."""
    temperatures = np.array([0.5, 1.0, 2.0, 4.0])
    tables = [
        pd.DataFrame({"temperature": temperatures, "ece": np.abs(temperatures - at) / 10})
        for at in least
    ]
    return pd.concat([t.assign(run=run, seed=s) for s, t in enumerate(tables)], ignore_index=True)


def choices(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["run", "seed", "ece", "nll"])


def test_temperature_curve_ends_at_2_and_has_marks_at_both_choices():
    (ax,) = temperature_curves(curves(2.0), choices(("ft", 0, 2.0, 1.5))).axes
    line, ece, nll = ax.lines[:3]
    assert line.get_xydata().tolist() == pytest.approx(np.array([[0.5, 0.15], [1, 0.1], [2, 0]]))
    assert ece.get_xydata().tolist() == [[2.0, 0.0]]
    assert nll.get_xydata().tolist() == [[1.5, 0.05]]  # between .1 at 1 and 0 at 2


def test_a_temperature_above_2_widens_the_axis():
    (ax,) = temperature_curves(curves(4.0), choices(("ft", 0, 4.0, 1.0))).axes
    assert ax.lines[0].get_xdata()[-1] == 4
    assert marked(ax)[0] == [[4.0, 0.0]]


def test_temperatures_of_several_seeds_are_a_mean_in_a_band_with_a_mark_each():
    chosen = choices(("ft", 0, 1.0, 1.0), ("ft", 1, 2.0, 2.0))
    (ax,) = temperature_curves(curves(1.0, 2.0), chosen).axes
    # at 1: 0 and .1; at 2: .1 and 0
    assert ax.lines[0].get_ydata()[1:] == pytest.approx([0.05, 0.05])
    band = ax.collections[0].get_paths()[0].vertices
    at_1 = band[band[:, 0] == 1, 1]
    assert (at_1.min(), at_1.max()) == pytest.approx((0, 0.1))
    assert [point for [point] in marked(ax)[:4:2]] == [[1.0, 0.0], [2.0, 0.0]]


def test_smoothed_runs_differ_from_plain_ones_by_dashes_and_open_markers():
    tables = pd.concat([curves(2.0, run="flyp"), curves(1.0, run="flyp_ls")])
    figure = temperature_curves(tables, choices(("flyp", 0, 2, 2), ("flyp_ls", 0, 1, 1)))
    plain, smoothed, plain_marker, _, smoothed_marker = figure.axes[0].lines[:5]
    assert (plain.get_linestyle(), smoothed.get_linestyle()) == ("-", "--")
    faces = plain_marker.get_markerfacecolor(), smoothed_marker.get_markerfacecolor()
    assert faces == (colour_of("flyp"), "white")
    assert legend(figure) == ["FLYP", "FLYP w/ LS", "least NLL"]


def learning_rates() -> pd.DataFrame:
    rows = [
        ("ft", seed, rate, rate == 1e-3, 0.5 + 100 * rate + seed / 10, 0.1, 0.4, 0.2)
        for seed in (0, 1)
        for rate in (1e-4, 1e-3)
    ]
    columns = ["run", "seed", "learning_rate", "chosen"]
    metrics = ["id_val_accuracy", "id_val_ece", "ood_accuracy", "ood_ece"]
    return pd.DataFrame(rows, columns=columns + metrics)


def test_learning_rates_have_a_mean_line_a_point_per_seed_and_a_mark_at_the_choice():
    figure = learning_rate_curves(learning_rates())
    labels = ["accuracy, ID validation", "accuracy, OOD", "ECE, ID validation", "ECE, OOD"]
    assert [ax.get_ylabel() for ax in figure.axes] == labels
    seeds, means, chosen = (line.get_xydata() for line in figure.axes[0].lines)
    # .5 + .01 and .5 + .1, and a tenth more for seed 1
    points = [[1e-4, 0.51], [1e-3, 0.6], [1e-4, 0.61], [1e-3, 0.7]]
    np.testing.assert_allclose(seeds, points)
    np.testing.assert_allclose(means, [[1e-4, 0.56], [1e-3, 0.65]])
    np.testing.assert_allclose(chosen, [[1e-3, 0.65]])
    ticks = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert ticks == ["0.0001", "0.001"]
    assert legend(figure) == ["FT"]


def plane_table(run: str, ece: float, low: float = 0.04, seed: int = 0) -> pd.DataFrame:
    parts = {"acc": (0.8, 0.79, 0.82), "ece": (ece, low, 0.06)}
    columns = pd.MultiIndex.from_product([parts, ["value", "low", "high"]])
    index = pd.MultiIndex.from_tuples([(run, seed)], names=["run", "seed"])
    return pd.DataFrame([[*parts["acc"], *parts["ece"]]], index, columns)


@pytest.mark.parametrize("low", [0.04, 0.051])
def test_plane_draws_each_interval_from_low_to_high(low: float):
    figure = accuracy_ece_plane({"ID test": plane_table("zs", 0.05, low)})
    (ax,) = figure.axes
    segments = [part.tolist() for lines in ax.collections for part in lines.get_segments()]
    assert segments == [[[0.79, 0.05], [0.82, 0.05]], [[0.8, low], [0.8, 0.06]]]
    assert marked(ax) == [[[0.8, 0.05]]] * 2  # the seed and, on it, the mean
    assert ax.get_title() == "ID test"


def test_seeds_of_a_plane_are_small_and_pale_behind_their_mean():
    table = pd.concat([plane_table("zs", ece, seed=k) for k, ece in enumerate((0.04, 0.06))])
    (ax,) = accuracy_ece_plane({"ID test": table}).axes
    assert marked(ax) == [[[0.8, 0.04], [0.8, 0.06]], [[0.8, 0.05]]]
    seeds, mean = ax.lines[:2]
    assert seeds.get_markersize() < mean.get_markersize()
    assert seeds.get_alpha() < 1
    # the dashed lines pass through the mean
    assert ax.lines[3].get_ydata() == pytest.approx([0.05, 0.05])


def test_a_run_of_several_panels_is_once_in_a_legend_outside_the_axes():
    runs = ["zs", "ft", "flyp", "carot"]
    table = pd.concat([plane_table(run, 0.05 + 0.003 * k) for k, run in enumerate(runs)])
    figure = accuracy_ece_plane({"ID": table, "OOD": table})
    assert legend(figure) == ["ZS", "FT", "FLYP", "CaRot"]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not any(ax.get_tightbbox().overlaps(box) for ax in figure.axes)


def shifts(*rows: tuple) -> dict[str, pd.DataFrame]:
    return {"ECE": pd.DataFrame(rows, columns=["run", "seed", "dataset", "value", "low", "high"])}


def test_profile_of_shifts_keeps_the_order_of_sets_and_joins_none_of_them():
    # the first interval does not contain its value
    table = shifts(("zs", 0, "ID test", 0.5, 0.51, 0.6), ("zs", 0, "A", 0.3, 0.2, 0.4))
    (ax,) = shift_profiles(table, ["zs"]).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["ID test", "A"]
    assert marked(ax) == [[[0, 0.5]], [[0, 0.5]], [[1, 0.3]], [[1, 0.3]]]
    bars = [part.tolist() for lines in ax.collections for part in lines.get_segments()]
    assert bars == [[[0, 0.51], [0, 0.6]], [[1, 0.2], [1, 0.4]]]
    assert ax.lines[0].get_marker() == marker_of("zs")


def test_profile_of_shifts_has_runs_side_by_side_and_the_mean_over_seeds():
    rows = [
        (run, seed, "A", value + seed / 10, 0.2, 0.6)
        for run, value in (("zs", 0.3), ("ft", 0.4))
        for seed in (0, 1)
    ]
    (ax,) = shift_profiles(shifts(*rows), ["zs", "ft"]).axes
    seeds, mean, _, of_ft = marked(ax)
    np.testing.assert_allclose(seeds, [[-0.3, 0.3], [-0.3, 0.4]])
    np.testing.assert_allclose([*mean, *of_ft], [[-0.3, 0.35], [0.3, 0.45]])


def test_profile_of_a_missing_set_fails():
    rows = [("zs", 0, "ID test", 0.5, 0.4, 0.6), ("zs", 0, "A", 0.3, 0.2, 0.4)]
    with pytest.raises(KeyError, match="A"):
        shift_profiles(shifts(*rows, ("ft", 0, "ID test", 0.5, 0.4, 0.6)), ["zs", "ft"])


def history(**terms: list[float]) -> pd.DataFrame:
    n = len(next(iter(terms.values())))
    return pd.DataFrame({"step": np.arange(1, n + 1), "learning_rate": 1.0, **terms})


def test_training_curves_have_a_panel_for_each_term_in_order():
    flyp = history(contrastive=[3.0, 2.0, 1.0]).assign(run="flyp", seed=0)
    carot = history(contrastive=[3.0, 2.0, 1.0], distillation=[0.3, 0.2, 0.1])
    histories = pd.concat([flyp, carot.assign(run="carot", seed=0)], ignore_index=True)
    figure = training_curves(histories)
    assert [ax.get_title() for ax in figure.axes] == ["contrastive", "distillation"]
    drawn = [[line for line in ax.lines if len(line.get_xdata())] for ax in figure.axes]
    assert [len(lines) for lines in drawn] == [2, 1]
    # running means of 3, 2, 1: 3, 2.5, 2
    assert drawn[0][0].get_xydata().tolist() == [[1, 3.0], [2, 2.5], [3, 2.0]]
    assert legend(figure) == ["FLYP", "CaRot"]


def test_pretraining_is_its_loss_and_its_logit_scale():
    table = history(contrastive=[3.0, 2.0, 1.0]).assign(logit_scale=[14.0, 15.0, 15.4])
    loss, scale = pretraining_curves(table).axes
    assert loss.lines[0].get_ydata().tolist() == [3, 2.5, 2]  # running means
    assert scale.lines[0].get_ydata().tolist() == [14, 15, 15.4]


def test_several_seeds_are_a_mean_in_a_band():
    tables = [history(contrastive=[v, v]).assign(run="ft", seed=v) for v in (1, 2, 6)]
    (ax,) = training_curves(pd.concat(tables, ignore_index=True)).axes
    assert ax.lines[0].get_ydata().tolist() == [3, 3]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1, 6)


def test_wise_ft_curves_are_the_numbers_of_the_table_and_means_over_seeds():
    rows = [
        ("ft", s, a, d, 0.5 + a / 10 - b + s / 50, 0.1 + b * a - s / 50, 0.01)
        for s in (-1, 1)  # cancel in the mean
        for a in (0.0, 0.4, 1.0)
        for d, b in (("id_test", 0.0), ("ood", 0.1))
    ]
    columns = ["run", "seed", "alpha", "dataset", "accuracy", "ece", "ece_noise_floor"]
    table = pd.DataFrame(rows, columns=columns)
    figure = wise_ft_curves(table, {"id_test": "ID test", "ood": "OOD"})
    plane, errors = figure.axes
    points = [[0.5, 0.4], [0.54, 0.44], [0.6, 0.5]]  # .5 + alpha / 10, and .1 less
    np.testing.assert_allclose(plane.lines[0].get_xydata(), points)
    assert marked(plane)[1:] == [pytest.approx(np.array([p])) for p in (points[0], points[2])]
    inside, shifted, floor = (line.get_xydata().tolist() for line in errors.lines)
    np.testing.assert_allclose(inside, [[0, 0.1], [0.4, 0.1], [1, 0.1]])
    np.testing.assert_allclose(shifted, [[0, 0.1], [0.4, 0.14], [1, 0.2]])  # .1 + .1 alpha
    np.testing.assert_allclose(floor, [[0, 0.01], [0.4, 0.01], [1, 0.01]])
    band = errors.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.08, 0.12))
    ends = ["ZS", "FT", "WiSE-FT, ID test", "WiSE-FT, OOD", "noise floor, ID test"]
    assert legend(figure) == ends
