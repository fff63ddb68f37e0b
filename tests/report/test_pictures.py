"""Contact sheets and heat maps: what they show, in which order."""

import matplotlib as mpl
import numpy as np
import pytest

from carot_lib.report.pictures import contact_sheet, heat_maps
from carot_lib.report.styles import PAGE_WIDTH

mpl.use("agg")

pytestmark = pytest.mark.usefixtures("figure_style")


def test_contact_sheet_shows_every_picture_without_smoothing():
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    figure = contact_sheet(
        {"A": pictures, "R": [*pictures[:1], None]},
        {"A": "hard", "R": "drawn"},
        ["x", "umbrella with rain drops"],
    )
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(images) == 3  # a place stays empty
    np.testing.assert_array_equal(images[1].get_array(), pictures[1])
    assert {image.get_interpolation() for image in images} == {"nearest"}
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == [
        "A",
        "hard",
        "R",
        "drawn",
    ]
    assert figure.axes[1].get_title() == "umbrella with rain drops"
    assert figure.get_figwidth() == PAGE_WIDTH


def test_contact_sheet_refuses_rows_of_different_lengths():
    pictures = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        contact_sheet({"A": pictures, "R": pictures[:1]}, {"A": "", "R": ""})


def test_heat_maps_share_one_scale_and_name_rows_and_columns_at_the_edges():
    rows = [{"hard": np.eye(2)}, {"soft": np.full((2, 2), 0.5), "last": np.eye(2)}]
    figure = heat_maps(rows, ["cat", "dog"], scale=(-0.1, 1.0))
    *panels, bar = figure.axes
    assert [ax.get_title() for ax in panels] == ["hard", "soft", "last"]
    meshes = [ax.collections[0] for ax in panels]
    assert {mesh.get_clim() for mesh in meshes} == {(-0.1, 1)}
    assert meshes[1].get_array().ravel().tolist() == [0.5] * 4
    assert [ax.get_ylabel() for ax in panels] == ["images", "images", ""]
    assert [ax.get_xlabel() for ax in panels] == ["", "captions", "captions"]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == ["cat", "dog"]
    assert panels[0].get_ylim() == (2, 0)  # the first image on top
    assert bar.get_ylim() == (-0.1, 1)
