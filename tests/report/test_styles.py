"""Names, colours and markers of runs, and saving without dates."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from carot_lib.report.styles import (
    CALIBRATION_NAMES,
    RUN_NAMES,
    UPDATE_NAMES,
    colour_of,
    dataset_names,
    marker_of,
    save_figure,
    style,
)
from carot_lib.report.tables import TABLE2_RUNS

mpl.use("agg")


def lightness(colour: str) -> float:
    """Luma of a colour in [0, 1], what remains of it in grey print."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@pytest.mark.parametrize("run", RUN_NAMES)
def test_every_run_has_a_colour_that_shows_on_white(run: str):
    assert lightness(colour_of(run)) < 0.75
    assert marker_of(run) in mpl.markers.MarkerStyle.markers


def test_no_two_plain_runs_share_a_colour_or_a_marker():
    plain = [run for run in RUN_NAMES if not run.endswith("_ls")]
    assert len({colour_of(run) for run in plain}) == len(plain)
    assert len({marker_of(run) for run in plain}) == len(plain)


def test_a_smoothed_run_looks_like_its_plain_run():
    assert colour_of("flyp_ls") == colour_of("flyp")
    assert marker_of("wise_ft_ls") == marker_of("wise_ft")


def test_an_unknown_run_has_no_colour():
    with pytest.raises(KeyError, match="lp_ft"):
        colour_of("lp_ft")


MINIATURE = ["v2", "r", "a", "sketch", "objectnet"]
IMAGENET = ["imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch", "objectnet"]


def test_every_row_of_table2_has_a_name():
    assert list(UPDATE_NAMES) == list(TABLE2_RUNS)


def test_every_set_of_the_paper_and_of_the_miniature_has_a_name_of_its_own():
    names = dataset_names(MINIATURE, ["handwritten"])
    fixed = {"train", "id_val", "id_test", "handwritten", "ood"}
    assert fixed | {*MINIATURE} | {*IMAGENET} == set(names)
    assert len({names[key] for key in (*fixed, *MINIATURE)}) == len(fixed) + len(MINIATURE)
    assert [names[key] for key in IMAGENET] == [names[key] for key in MINIATURE]
    assert names["ood"] == "OOD, mean of five"


def test_a_set_of_ones_own_bears_the_name_of_its_folder():
    names = dataset_names(["low_light", "r"], ["scanned"])
    assert [names[key] for key in ("low_light", "r", "scanned")] == ["Low light", "R", "Scanned"]


def test_two_sets_never_share_a_name():
    names = dataset_names(["V2", "v2", "low_light", "low light"], [])
    assert [names[key] for key in ("v2", "V2")] == ["V2", "V2 (V2)"]
    assert [names[key] for key in ("low_light", "low light")] == [
        "Low light",
        "Low light (low light)",
    ]


@pytest.mark.parametrize(
    ("n", "name"),
    [(1, "OOD"), (2, "OOD, mean of two"), (10, "OOD, mean of ten"), (11, "OOD, mean of 11")],
)
def test_the_mean_says_of_how_many_sets_it_is(n: int, name: str):
    assert dataset_names([f"set{k}" for k in range(n)], [])["ood"] == name


def test_the_style_ends_with_its_block():
    before = mpl.rcParams["axes.spines.top"]
    with style():
        assert not mpl.rcParams["axes.spines.top"]
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert mpl.rcParams["axes.spines.top"] == before


def drawn_and_saved(folder: Path, *formats: str) -> dict[str, bytes]:
    with style():
        figure, ax = plt.subplots(figsize=(2, 2))
        ax.plot([0, 1], [0, 1], marker="o", label="line")
        ax.legend()
        save_figure(figure, folder, "line", formats or ("png", "pdf"))
        plt.close(figure)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path):
    first, second = drawn_and_saved(tmp_path / "first"), drawn_and_saved(tmp_path / "second")
    assert sorted(first) == ["line.pdf", "line.png"]
    assert first == second


def test_saved_files_carry_no_date(tmp_path: Path):
    files = drawn_and_saved(tmp_path, "pdf", "svg")
    assert b"CreationDate" not in files["line.pdf"]
    assert b"<dc:date>" not in files["line.svg"]


def test_png_has_200_dots_an_inch(tmp_path: Path):
    drawn_and_saved(tmp_path)
    # 2 in * 200 dpi
    assert plt.imread(tmp_path / "line.png").shape[:2] == (400, 400)


def test_the_oracle_comes_last_and_no_two_calibrations_share_a_name():
    first, *_, last = CALIBRATION_NAMES
    assert (first, last) == ("none", "oracle")
    assert "oracle" in CALIBRATION_NAMES["oracle"]
    assert len(set(CALIBRATION_NAMES.values())) == len(CALIBRATION_NAMES)
