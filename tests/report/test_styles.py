"""Names, colours and markers of runs, and saving without dates."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from carot_lib.report.names import CALIBRATION_NAMES, RUN_NAMES, UPDATE_NAMES, dataset_names
from carot_lib.report.styles import colour_of, marker_of, save_figure, use_style
from carot_lib.report.tables import TABLE2_RUNS

mpl.use("agg")
PAPERS = ["v2", "r", "a", "sketch", "objectnet"]


def contrast_on_white(colour: str) -> float:
    """Contrast ratio of WCAG 2, from 1 to 21."""
    parts = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_every_run_has_a_distinct_look_that_shows_on_white():
    plain = [run for run in RUN_NAMES if not run.endswith("_ls")]
    assert len({colour_of(run) for run in plain}) == len(plain)
    assert len({marker_of(run) for run in plain}) == len(plain)
    assert min(contrast_on_white(colour_of(run)) for run in RUN_NAMES) >= 3  # WCAG's for graphics
    assert {marker_of(run) for run in RUN_NAMES} <= set(mpl.markers.MarkerStyle.markers)
    assert colour_of("flyp_ls") == colour_of("flyp")
    assert marker_of("wise_ft_ls") == marker_of("wise_ft")
    with pytest.raises(KeyError, match="lp_ft"):
        colour_of("lp_ft")


def test_every_row_of_table2_has_a_name_and_the_oracle_comes_last():
    assert list(UPDATE_NAMES) == list(TABLE2_RUNS)
    first, *_, last = CALIBRATION_NAMES
    assert (first, last) == ("none", "oracle")
    assert len(set(CALIBRATION_NAMES.values())) == len(CALIBRATION_NAMES)


def test_every_set_of_the_paper_and_of_the_miniature_has_a_distinct_name():
    names = dataset_names(PAPERS, ["handwritten"])
    shown = ["train", "id_val", "id_test", "handwritten", "ood", *PAPERS]
    assert len({names[key] for key in shown}) == len(shown)
    for key in ("v2", "r", "a", "sketch"):  # the miniature's sets are called as their namesakes
        assert names[f"imagenet_{key}"] == names[key]


def test_a_set_of_a_user_has_the_name_of_its_folder_and_never_that_of_another_set():
    names = dataset_names(["low_light", "r"], ["scanned"])
    assert [names[key] for key in ("low_light", "r", "scanned")] == ["Low light", "R", "Scanned"]
    names = dataset_names(["V2", "v2", "low_light", "low light"], [])
    assert [names[key] for key in ("v2", "V2")] == ["V2", "V2 (V2)"]
    assert [names[k] for k in ("low_light", "low light")] == ["Low light", "Low light (low light)"]


@pytest.mark.parametrize(
    ("n", "name"),
    [(1, "OOD"), (2, "OOD, mean of two"), (10, "OOD, mean of ten"), (11, "OOD, mean of 11")],
)
def test_the_mean_has_the_number_of_sets_in_its_name(n: int, name: str):
    assert dataset_names([f"set{k}" for k in range(n)], [])["ood"] == name


def drawn_and_saved(folder: Path) -> dict[str, bytes]:
    with mpl.rc_context():
        use_style()
        assert not mpl.rcParams["axes.spines.top"]
        figure, ax = plt.subplots(figsize=(2, 2))
        ax.plot([0, 1], [0, 1], marker="o", label="line")
        ax.legend()
        save_figure(figure, folder, "line")
        plt.close(figure)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_figure_gives_the_same_bytes_without_a_date(tmp_path: Path):
    first, second = drawn_and_saved(tmp_path / "first"), drawn_and_saved(tmp_path / "second")
    assert sorted(first) == ["line.pdf", "line.png"]
    assert first == second
    assert b"CreationDate" not in first["line.pdf"]
    # 2 in * 200 dots an inch
    assert plt.imread(tmp_path / "first" / "line.png").shape[:2] == (400, 400)


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figure = plt.figure()
    (tmp_path / "grid.png").write_bytes(b"old")

    def full_disk(path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_figure(figure, tmp_path, "grid")
    plt.close(figure)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert (tmp_path / "grid.png").read_bytes() == b"old"
