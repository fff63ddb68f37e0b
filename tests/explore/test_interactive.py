"""Figures that follow controls: what they show, and what is left where no kernel runs."""

import base64
from io import BytesIO

import ipywidgets as widgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.metrics import nll
from carot_lib.calibration.predictions import Predictions
from carot_lib.explore import interactive
from carot_lib.explore.interactive import (
    SHARPNESS,
    InteractiveFigure,
    slider_temperatures,
    temperature_figure,
    temperature_slider,
    wise_ft_slider,
)
from carot_lib.report.results import Report
from carot_lib.stages.notebook import WIDGET

mpl.use("agg")
rng = np.random.default_rng(0)


def line_figure(slider: widgets.FloatSlider) -> InteractiveFigure:
    """A line at the height of a slider."""

    def draw(height: float) -> Figure:
        figure, ax = plt.subplots(figsize=(3, 2))
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="x")
        ax.axhline(height, color="red", linewidth=3)
        return figure

    return InteractiveFigure([[slider]], draw, [slider])


def test_the_picture_follows_its_controls_and_is_the_same_for_the_same_state():
    plt.close("all")  # of other tests
    slider = widgets.FloatSlider(value=0.2, max=1)
    shown = line_figure(slider)
    first = shown.picture.value
    slider.value = 0.8
    assert shown.picture.value != first
    seen = Image.open(BytesIO(shown.picture.value))
    assert (seen.format, seen.size) == ("PNG", (450, 300))  # 3 x 2 in at 150 dots an inch
    assert shown.picture.width == str(round(450 / SHARPNESS))
    slider.value = 0.2
    assert shown.picture.value == first
    assert plt.get_fignums() == []  # or the notebook would show the figure once more


def test_a_change_that_makes_another_one_is_drawn_once():
    page, whose = widgets.IntText(value=2), widgets.Dropdown(options=["a", "b"])
    drawn = []

    def draw(*values: object) -> Figure:
        drawn.append(values)
        return plt.figure(figsize=(1, 1))

    whose.observe(lambda _: setattr(page, "value", 1), names="value")
    shown = InteractiveFigure([[whose, page]], draw, [whose, page])
    whose.value = "b"
    assert drawn == [("a", 2), ("b", 1)]
    shown.refresh()  # asked for, it draws the same once more
    assert drawn[2:] == [("b", 1)]


def test_drawing_restores_no_setting_that_the_first_figure_of_a_notebook_changes():
    # the notebook's backend turns on the interactive mode then, without which no figure is shown
    def draw() -> Figure:
        plt.ion()
        return plt.figure()

    with mpl.rc_context({"interactive": False}):
        InteractiveFigure([], draw, [])
        assert plt.isinteractive()


def test_one_output_holds_the_widget_and_the_picture_as_it_is_now():
    slider = widgets.FloatSlider(value=0.2, max=1)
    shown = line_figure(slider)
    slider.value = 0.8
    data, metadata = shown._repr_mimebundle_()
    assert set(data) == {WIDGET, "image/png", "text/plain"}
    assert data[WIDGET]["model_id"] == shown.model_id
    assert base64.b64decode(data["image/png"]) == shown.picture.value
    assert metadata == {"image/png": {"width": 300}}


def test_the_slider_stops_at_one_at_both_ends_and_where_a_temperature_was_chosen():
    found = slider_temperatures(0.5, 10.0, 0.777, 20.0)
    assert found == sorted(set(found))
    assert {0.5, 0.777, 1.0, 10.0} <= set(found)
    assert 20.0 not in found
    assert np.diff(np.log(found)).max() < 0.08  # no two neighbours are further apart than 8 %


def test_numbers_stand_beside_the_diagram():
    stats = BinStats.from_confidences(np.full(20, 0.75), np.arange(20) < 8, 10)
    figure = temperature_figure("FT on R", 1.5, stats, 0.5, level=0.95)
    upper, lower, aside = figure.axes
    assert upper.texts[0].get_text() == "ECE 35.0"
    assert lower.get_ylim() == (0, 100)
    words = [text.get_text() for text in aside.texts]
    assert words[0] == "FT on R"
    numbers = dict(zip(words[1::2], words[2::2], strict=True))
    assert (numbers["temperature"], numbers["ECE"], numbers["images"]) == ("1.50", "0.3500", "20")
    assert (numbers["accuracy"], numbers["mean confidence"]) == ("0.4000", "0.7500")


def test_the_temperature_slider_follows_every_control(report: Report):
    shown = temperature_slider(report, run="ft")
    (which_set, run, seed), (temperature, plain, chosen) = (
        row.children for row in shown.children[:2]
    )
    assert [name for name, _ in which_set.options] == ["ID validation", "ID test", "Rotated"]
    seen = [shown.picture.value]
    for control, value in ((temperature, 0.5), (which_set, "rotated"), (run, "zs"), (seed, 1)):
        control.value = value
        seen.append(shown.picture.value)
    chosen.click()
    assert temperature.value == 0.77  # of zs
    run.value = "ft"
    chosen.click()
    assert temperature.value == 1.5
    seen.append(shown.picture.value)
    plain.click()
    assert temperature.value == 1.0
    assert len(set(seen)) == len(seen)
    which_set.value, seed.value = "id_test", 0
    assert shown.picture.value == seen[0]


def test_the_numbers_beside_the_diagram_are_those_of_the_metrics(
    report: Report, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def record(title: str, temperature: float, stats: BinStats, loss: float, level: float):
        seen.append((title, temperature, stats.ece(), loss, level))
        return plt.figure()

    monkeypatch.setattr(interactive, "temperature_figure", record)
    shown = temperature_slider(report, "rotated", "ft")
    *_, chosen = shown.children[1].children
    chosen.click()
    stored = Predictions.load(report.layout.predictions("ft", 0, "rotated"))
    scaled = stored.logits.astype(np.float64) / 1.5
    expected = report.stats("ft", "rotated", "temperature").ece(), nll(scaled, stored.labels)
    assert seen[1] == ("FT on Rotated", 1.5, *map(pytest.approx, expected), 0.95)


def test_missing_predictions_are_named_with_their_stage(report: Report):
    report.layout.predictions("ft", 0, "id_test").unlink()
    with pytest.raises(FileNotFoundError, match="run stage `predict`"):
        temperature_slider(report, run="ft")


def test_the_marks_follow_alpha_from_the_middle_on(report: Report):
    shown = wise_ft_slider(report)
    _, alpha = shown.children[0].children
    assert alpha.value == 0.4  # nearest to one half
    assert [value for _, value in alpha.options] == [0.0, 0.4, 1.0]
    first = shown.picture.value
    alpha.value = 1.0
    assert shown.picture.value != first
    alpha.value = 0.4
    assert shown.picture.value == first


def test_missing_wise_ft_curves_are_named_with_what_to_run(report: Report):
    report.layout.wise_ft_curve("ft", 1).unlink()
    with pytest.raises(FileNotFoundError, match=r"ft_seed1\.csv is missing: run `make repro`"):
        wise_ft_slider(report)
