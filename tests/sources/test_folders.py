"""A user's own images in folders: what is prepared of them, and every problem of a tree."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from handwritten_digits import CLASSES, ROOT, SHIFTS, digit_params, write_digits
from PIL import Image

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_class_names, read_set, read_templates
from carot_lib.layout import Layout
from carot_lib.sources.scan import find_set
from carot_lib.stages.data import check_data, prepare
from carot_lib.stages.predict import predict
from carot_lib.stages.pretrain import pretrain
from carot_lib.stages.train import train


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


@pytest.fixture
def layout(tmp_path: Path, digits: Path) -> Layout:
    """A project with the digits in it."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(digit_params()))
    (tmp_path / "data").mkdir()
    shutil.copytree(digits, tmp_path / "data" / "folders")
    for file in ("pictograms.csv", "miniature.yaml"):
        shutil.copy(ROOT / "data" / file, tmp_path / "data")
    return Layout(tmp_path, "folders")


def change(layout: Layout, **values: object) -> None:
    """Write other numbers under `folders.data`."""
    numbers = digit_params()
    numbers["folders"]["data"] |= values
    layout.params.write_text(yaml.safe_dump(numbers))


def top(layout: Layout) -> Path:
    return layout.root / "data" / "folders"


def test_real_images_are_learnt(layout: Layout):
    assert check_data(layout) == []
    prepare(layout)
    pretrain(layout)
    accuracies = {}
    for run in ("ft", "flyp", "carot"):
        train(layout, run, seed=0)
        predict(layout, run, seed=0)
        for name in ("id_val", "id_test", *SHIFTS):
            predictions = Predictions.load(layout.predictions(run, 0, name))
            correct = predictions.logits.argmax(axis=1) == predictions.labels
            accuracies[run, name] = correct.mean()
    assert len(predictions.labels) == sum("subset" in p.parts for p in top(layout).rglob("*.png"))
    assert predictions.logits.shape[1] == 3  # classes of the subset
    # a few seconds of training, from hardly any pre-training: far above the 10 % of chance
    assert accuracies["ft", "id_test"] > 0.6
    assert accuracies["ft", "subset"] > accuracies["ft", "inverted"]
    for run in ("flyp", "carot"):
        loss = pd.read_csv(layout.model(run, 0) / "history.csv")["contrastive"]
        assert loss[-10:].mean() < loss[:10].mean()


def test_the_sets_have_the_images_of_their_folders(layout: Layout):
    assert check_data(layout) == []
    prepare(layout)
    assert read_class_names(layout.data) == [name.replace("_", " ") for name in CLASSES]
    for name, folder in (("train", "train"), ("id_val", "train"), ("id_test", "test")):
        one = read_set(layout.data, name)
        assert one.label_space.is_identity
        assert {Path(path).parts[0] for path in one.paths} == {folder}
        assert [CLASSES[label] for label in one.labels] == [Path(p).parts[1] for p in one.paths]
    held, kept = read_set(layout.data, "id_val"), read_set(layout.data, "train")
    assert np.bincount(held.labels).tolist() == [10] * 10
    assert len(held.labels) + len(kept.labels) == 900
    assert not set(held.paths) & set(kept.paths)
    subset = read_set(layout.data, "subset")
    assert subset.class_names == ["digit eight", "digit four", "digit one"]
    columns = [CLASSES.index(name.replace(" ", "_")) for name in subset.class_names]
    assert subset.label_space.columns == tuple((column,) for column in columns)


def test_the_held_out_images_are_those_of_each_classs_own_stream(layout: Layout):
    assert check_data(layout) == []
    prepare(layout)
    one = read_set(layout.data, "id_val")
    for label, name in enumerate(CLASSES):
        files = sorted(path.name for path in (top(layout) / "train" / name).iterdir())
        chosen = np.random.default_rng([0, label]).choice(files, 10, replace=False)
        held = [Path(path).name for path in one.paths[one.labels == label]]
        assert held == sorted(chosen)


def test_hidden_files_and_linked_or_nested_folders(tmp_path: Path):
    for file in ("b/2.png", "b/deep/er/1.JPG", "b/._2.png", "b/.cache/3.png", ".git/4.png"):
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    (tmp_path / "set" / "b" / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "5.webp").touch()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    found = find_set(tmp_path, "x", ["nowhere", "set"])
    assert found.files == {"a": ["set/a/5.webp"], "b": ["set/b/2.png", "set/b/deep/er/1.JPG"]}
    assert found.problems == []
    assert found.labels.tolist() == [0, 1, 1]


def test_thumbnails_are_squares_of_the_files_or_the_pictures_as_they_are(layout: Layout):
    wide = Image.new("RGB", (300, 200), (255, 0, 0))
    wide.paste((0, 0, 255), (40, 0, 260, 200))  # the middle: a square shows nothing else
    wide.save(top(layout) / "test" / "digit_eight" / "0.png")
    assert check_data(layout) == []
    prepare(layout)
    test = read_set(layout.data, "id_test")
    assert test.paths[0] == "test/digit_eight/0.png"
    large, small = test.thumbnails([0, 1])
    assert large.shape == (128, 128, 3)
    assert (large == (0, 0, 255)).all()
    with Image.open(top(layout) / test.paths[1]) as image:
        np.testing.assert_array_equal(small, np.asarray(image.convert("RGB")))  # 32 pixels
    pictures = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    drawn = replace(test, labels=test.labels[:2], images=pictures, paths=None)
    np.testing.assert_array_equal(drawn.thumbnails([1])[0], drawn.images[1])


def test_a_folder_val_is_the_validation_set(layout: Layout):
    shutil.copytree(top(layout) / "test", top(layout) / "val")
    assert "validation_per_class: give a number" in check_data(layout)[0]
    change(layout, validation_per_class=None)
    assert check_data(layout) == []
    prepare(layout)
    assert len(read_set(layout.data, "train").labels) == 900
    assert len(read_set(layout.data, "id_val").labels) == 300


def test_a_validation_set_needs_every_class(layout: Layout):
    # everything is selected on it, and one of the calibrators has a number for each class
    shutil.copytree(top(layout) / "test", top(layout) / "val")
    for name in ("digit_two", "digit_nine"):
        shutil.rmtree(top(layout) / "val" / name)
    change(layout, validation_per_class=None)
    assert check_data(layout) == [
        "id_val: no image of the classes digit_nine, digit_two: add some, or hold out images of "
        "train by validation_per_class"
    ]


def test_classes_and_captions_may_be_named_in_files(layout: Layout):
    lines = ["folder,name", *(f'{name},"{name[6:]}, by hand"' for name in CLASSES)]
    (layout.root / "names.csv").write_text("\n".join(lines))
    (layout.root / "captions.txt").write_text("a scan of {}.\n\nhandwriting: {}\n")
    change(layout, class_names="names.csv", templates="captions.txt")
    assert check_data(layout) == []
    prepare(layout)
    assert read_class_names(layout.data)[0] == "eight, by hand"
    assert [t("x") for t in read_templates(layout.data)] == ["a scan of x.", "handwriting: x"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("folder,name\ndigit_one,1\n", "names.csv does not name digit_eight, digit_five"),
        ("folder,name\ndigit_ten,10\n", "names.csv names digit_ten, which train does not have"),
        ("digit_one,1\n", "class_names: names.csv: needs lines with folder,name"),
        ("name\none\n", "class_names: names.csv: needs lines with folder,name"),
        ("", "class_names: names.csv: needs lines with folder,name"),
        (None, "names.csv: not readable ("),
    ],
)
def test_an_invalid_file_of_class_names(layout: Layout, names: str | None, message: str):
    if names is not None:
        (layout.root / "names.csv").write_text(names)
    change(layout, class_names="names.csv")
    assert [line for line in check_data(layout) if message in line]


@pytest.mark.parametrize(
    ("captions", "message"),
    [("a scan\n", "captions.txt: every line needs {} where"), (None, "captions.txt: not readable")],
)
def test_an_invalid_file_of_captions(layout: Layout, captions: str | None, message: str):
    if captions is not None:
        (layout.root / "captions.txt").write_text(captions)
    change(layout, templates="captions.txt")
    (line,) = check_data(layout)
    assert line.startswith("templates: ")
    assert message in line


def test_all_problems_are_reported_at_once(layout: Layout):
    folder = top(layout)
    (folder / "rotated" / "digit_ten").mkdir()
    first = sorted((folder / "test" / "digit_one").iterdir())[0]
    first.rename(folder / "test" / "loose.png")
    (folder / "test" / "digit_one" / "more.tar.gz").touch()
    shutil.rmtree(folder / "inverted")
    (folder / "blurred" / "digit_two" / "bad.png").write_bytes(b"no image")
    for name in ("id_test", "ood", "empty"):
        (folder / name).mkdir()
    report = "\n".join(check_data(layout))
    for part in (
        "rotated: 1 class folders hold no image (digit_ten): fill or remove them",
        "rotated: 1 folders are none of train's classes (digit_ten): rename or remove them",
        "id_test: 1 images lie in test itself (loose.png): move each into",
        "id_test: 1 archives are not unpacked (digit_one/more.tar.gz): unpack each",
        f"inverted: not found: put it at {folder}/inverted",
        f"{folder}/blurred/digit_two/bad.png: cannot identify image file",
        f"{folder}/id_test: this name is reserved",
        f"{folder}/ood: this name is reserved",
        "empty: it holds no class folders",
    ):
        assert part in report, report
    assert not layout.checked.exists()


def test_too_few_images_to_hold_out(layout: Layout):
    change(layout, validation_per_class=90)
    (line,) = check_data(layout)
    assert "classes are too small to hold out 90 images (digit_eight has 8" in line
    assert line.endswith("lower validation_per_class")


def test_a_problem_is_exit_code_2_and_no_report(layout: Layout):
    shutil.rmtree(top(layout))
    (layout.root / "carot_lib").mkdir()  # marks the root of a project
    words = [sys.executable, "-m", "carot_lib", "check_data", "--profile", "folders"]
    done = subprocess.run(words, cwd=layout.root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{top(layout)}: no such folder, or an empty one: see data/README.md" in done.stderr
    assert "Traceback" not in done.stderr
    assert not layout.checked.exists()


def test_the_miniature_has_nothing_to_check(layout: Layout):
    miniature = Layout(layout.root, "miniature")
    assert check_data(miniature) == []
    assert json.loads(miniature.checked.read_text()) == {"sets": {}, "unreadable": {}}
