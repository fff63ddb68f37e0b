"""WiSE-FT along alpha in the lab."""

import matplotlib.pyplot as plt
import pytest
from carot_lib.explore.interpolations import (
    explore_interpolations,
    interpolation_curves,
    read_interpolations,
)

from carot_lib.report.results import Report


def test_the_curves_are_the_tables_numbers(report: Report):
    table = read_interpolations(report)
    figure, (plane, errors) = plt.subplots(1, 2)
    interpolation_curves((plane, errors), table, report.names)
    curve = plane.get_lines()[0]
    assert curve.get_xdata() == pytest.approx([0.5, 0.54, 0.6])  # .5 + alpha / 10
    assert curve.get_ydata() == pytest.approx([0.4, 0.44, 0.5])
    inside, shifted, floor = errors.get_lines()[:3]
    assert inside.get_xdata() == pytest.approx([0, 0.4, 1])
    assert inside.get_ydata() == pytest.approx([0.1] * 3)
    assert shifted.get_ydata() == pytest.approx([0.1, 0.14, 0.2])  # .1 + .1 alpha
    assert floor.get_ydata() == pytest.approx([0.01] * 3)
    assert {text.get_text() for text in plane.texts} == {"ZS", "FT"}
    plt.close(figure)


def test_the_marks_follow_alpha_from_the_middle_on(report: Report):
    exhibit = explore_interpolations(report)
    _, alpha = exhibit.widget.children[0].children
    assert alpha.value == 0.4  # nearest to one half
    assert [value for _, value in alpha.options] == [0.0, 0.4, 1.0]
    first = exhibit.picture.value
    alpha.value = 1.0
    assert exhibit.picture.value != first
    alpha.value = 0.4
    assert exhibit.picture.value == first


def test_without_the_stage_it_says_what_to_run(report: Report):
    (report.layout.results / "interpolations" / "ft_seed0.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"ft_seed0\.csv is missing: run `make repro`"):
        explore_interpolations(report)
