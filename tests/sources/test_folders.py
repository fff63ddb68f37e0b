"""A user's own images in folders: what is prepared of them, and every problem of a tree."""

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from handwritten_digits import CLASSES, ROOT, change, digit_params, prepared, write_digits
from PIL import Image

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_class_names, read_templates
from carot_lib.layout import Layout
from carot_lib.sources.scan import find_set
from carot_lib.stages.data import check, check_data, prepare
from carot_lib.stages.predict import predict
from carot_lib.stages.pretrain import pretrain
from carot_lib.stages.train import train
from carot_lib.training.samples import draw_pairs


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


@pytest.fixture
def top(layout: Layout) -> Path:
    return layout.root / "data" / "folders"


def test_real_images_are_learnt(layout: Layout):
    subset = prepared(layout, "subset")
    pretrain(layout)
    train(layout, "ft", seed=0)
    predict(layout, "ft", seed=0)
    accuracy = {}
    for name in ("id_test", "inverted", "subset"):
        predictions = Predictions.load(layout.predictions("ft", 0, name))
        correct = predictions.logits.argmax(axis=1) == predictions.labels
        accuracy[name] = correct.mean()
    assert predictions.logits.shape == (len(subset.labels), 3)  # classes of the subset
    # a few seconds of training, from hardly any pre-training: far above the 10 % of chance
    assert accuracy["id_test"] > 0.6
    assert accuracy["subset"] > accuracy["inverted"]


def test_the_sets_have_the_images_of_their_folders(layout: Layout, top: Path):
    for name, folder in (("train", "train"), ("id_val", "train"), ("id_test", "test")):
        one = prepared(layout, name)
        assert one.label_space.is_identity
        assert {Path(path).parts[0] for path in one.paths} == {folder}
        assert [CLASSES[label] for label in one.labels] == [Path(p).parts[1] for p in one.paths]
    assert read_class_names(layout.data) == [name.replace("_", " ") for name in CLASSES]
    held, kept = prepared(layout, "id_val"), prepared(layout, "train")
    assert len(held.labels) + len(kept.labels) == 900
    assert not set(held.paths) & set(kept.paths)
    for label, name in enumerate(CLASSES):  # each class has a random stream of its own
        files = sorted(path.name for path in (top / "train" / name).iterdir())
        chosen = np.random.default_rng([0, label]).choice(files, 10, replace=False)
        assert [Path(p).name for p in held.paths[held.labels == label]] == sorted(chosen)
    subset = prepared(layout, "subset")
    assert subset.class_names == ["digit eight", "digit four", "digit one"]
    columns = [CLASSES.index(name.replace(" ", "_")) for name in subset.class_names]
    assert subset.label_space.columns == tuple((column,) for column in columns)


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


def test_thumbnails_are_squares_of_the_files_or_the_pictures_as_they_are(layout: Layout, top: Path):
    wide = Image.new("RGB", (300, 200), (255, 0, 0))
    wide.paste((0, 0, 255), (40, 0, 260, 200))  # the middle: a square shows nothing else
    wide.save(top / "test" / "digit_eight" / "0.png")
    test = prepared(layout, "id_test")
    assert test.paths[0] == "test/digit_eight/0.png"
    large, small = test.thumbnails([0, 1])
    assert large.shape == (128, 128, 3)
    assert (large == (0, 0, 255)).all()
    with Image.open(top / test.paths[1]) as image:
        np.testing.assert_array_equal(small, np.asarray(image.convert("RGB")))  # 32 pixels
    pictures = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    drawn = replace(test, labels=test.labels[:2], images=pictures, paths=None)
    np.testing.assert_array_equal(drawn.thumbnails([1])[0], drawn.images[1])


def test_a_folder_val_is_the_validation_set(layout: Layout, top: Path):
    change(layout, validation_per_class=None)
    assert check_data(layout) == [
        "validation_per_class: null, and there is no set `val`: give the number of images of each "
        "class of train to hold out, or add a set `val`"
    ]
    shutil.copytree(top / "test", top / "val")
    assert len(prepared(layout, "train").labels) == 900
    assert len(prepared(layout, "id_val").labels) == 300
    # everything is selected on it
    for name in ("digit_two", "digit_nine"):
        shutil.rmtree(top / "val" / name)
    assert check_data(layout) == [
        "id_val: 2 classes have no image (digit_nine, digit_two): add some, or hold out images of "
        "train by validation_per_class"
    ]
    change(layout, validation_per_class=10)
    assert check_data(layout)[0] == (
        "validation_per_class: 10, but there is a set `val` as well: write null to use it, or "
        "remove it"
    )


def train_shortly(layout: Layout) -> None:
    """One epoch, for which one caption is enough."""
    numbers = yaml.safe_load(layout.params.read_text())
    numbers["folders"]["training"] |= {"epochs": 1, "batch_size": 10}
    layout.params.write_text(yaml.safe_dump(numbers))


def test_classes_and_captions_may_be_named_in_files(layout: Layout):
    lines = ["folder,name", *(f'{name},"{name[6:]}, by hand"' for name in CLASSES)]
    (layout.root / "names.csv").write_text("\n".join(lines))
    (layout.root / "captions.txt").write_text("a scan of {}.\n\nhandwriting: {}\n")
    change(layout, class_names="names.csv", templates="captions.txt")
    train_shortly(layout)
    assert prepared(layout, "id_test").class_names[0] == "eight, by hand"
    assert [t("x") for t in read_templates(layout.data)] == ["a scan of x.", "handwriting: x"]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_names_may_come_from_a_spreadsheet(layout: Layout, mark: str):
    lines = [f"folder{mark}name", *(f"{name}{mark}{name[6:]}, by hand" for name in CLASSES)]
    # with the byte-order mark that spreadsheets write
    (layout.root / "names.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    (layout.root / "captions.txt").write_text("a scan of {}.\n", encoding="utf-8-sig")
    change(layout, class_names="names.csv", templates="captions.txt")
    train_shortly(layout)
    assert prepared(layout, "id_test").class_names[0] == "eight, by hand"
    assert [t("x") for t in read_templates(layout.data)] == ["a scan of x."]


def test_too_few_captions_for_the_steps_are_known_before_any_training(layout: Layout):
    # 900 images less 10 of each of 10 classes; 8 epochs of ceil(800 / 64) = 13 steps of 64
    (layout.root / "captions.txt").write_text("\n".join("{}" + "!" * i for i in range(8)))
    change(layout, templates="captions.txt")
    assert check_data(layout) == [
        "templates: 8 epochs draw 6,656 pairs of an image and a template, and 800 images with 8 "
        "make 6,400: give at least 9 templates, or train at most 7 epochs, or write `sampling: "
        "epochs`"
    ]
    assert not layout.checked.exists()
    (layout.root / "captions.txt").write_text("\n".join("{}" + "!" * i for i in range(9)))
    assert check_data(layout) == []


def test_the_number_of_pairs_is_the_one_that_training_needs(layout: Layout):
    for n_templates, suffices in ((8, False), (9, True)):
        draw = partial(draw_pairs, 800, n_templates, 8, 64, np.random.default_rng(0))
        with nullcontext() if suffices else pytest.raises(ValueError, match="need 6656"):
            draw()


def test_two_classes_of_one_name_are_refused(layout: Layout, top: Path):
    for place in ("train", "test"):
        (top / place / "digit_two").rename(top / place / "Digit one")
    for name in ("rotated", "inverted", "blurred"):
        shutil.rmtree(top / name / "digit_two")
    assert check_data(layout) == [
        "class names that stand for several classes (digit one): give each class a name of its "
        "own, or make one class of them"
    ]


def test_a_class_without_test_images_and_files_that_are_no_images_are_named(
    layout: Layout, top: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(top / "test" / "digit_two")
    (top / "train" / "digit_one" / "notes.txt").touch()
    (top / "train" / "digit_one" / "moving.gif").touch()
    assert check_data(layout) == []
    said = capsys.readouterr().out
    assert "id_test: no image of digit two: judged among the other classes of train\n" in said
    assert (
        "left out:\ntrain: 2 files have no ending of an image (digit_one/moving.gif, "
        "digit_one/notes.txt)\n"
    ) in said


def test_another_content_is_another_set_and_a_touched_file_is_not(layout: Layout, top: Path):
    before = {name: prepared(layout, name).fingerprint for name in ("train", "id_test")}
    file = next((top / "test" / "digit_one").iterdir())
    os.utime(file, (1, 1))
    assert check_data(layout) == []
    prepare(layout)
    assert {name: prepared(layout, name).fingerprint for name in before} == before
    shutil.copy(next((top / "test" / "digit_two").iterdir()), file)
    assert check_data(layout) == []
    prepare(layout)
    assert prepared(layout, "train").fingerprint == before["train"]
    assert prepared(layout, "id_test").fingerprint != before["id_test"]


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("class_names", "folder,name\ndigit_one,1\n", "x.txt does not name digit_eight, digit_fi"),
        ("class_names", "folder,name\ndigit_ten,10\n", "x.txt names digit_ten, which train does"),
        ("class_names", "digit_one,1\n", "x.txt: needs lines with folder,name"),
        ("class_names", "name\none\n", "x.txt: needs lines with folder,name"),
        ("class_names", "", "x.txt: needs lines with folder,name"),
        ("class_names", None, "x.txt: not readable ("),
        ("templates", "a scan\n", "x.txt: every line needs {} where"),
        ("templates", None, "x.txt: not readable ("),
    ],
)
def test_an_invalid_file_of_names_or_captions(
    layout: Layout, key: str, content: str | None, message: str
):
    if content is not None:
        (layout.root / "x.txt").write_text(content)
    change(layout, **{key: "x.txt"})
    lines = [line.replace(f"{layout.root}/", "") for line in check_data(layout)]
    assert any(line.startswith(f"{key}: {message}") for line in lines)


def test_all_problems_are_reported_at_once(layout: Layout, top: Path):
    (top / "rotated" / "digit_ten").mkdir()
    first = sorted((top / "test" / "digit_one").iterdir())[0]
    first.rename(top / "test" / "loose.png")
    (top / "test" / "digit_one" / "more.tar.gz").touch()
    shutil.rmtree(top / "inverted")
    (top / "blurred" / "digit_two" / "bad.png").write_bytes(b"no image")
    for name in ("id_test", "ood", "empty"):
        (top / name).mkdir()
    change(layout, validation_per_class=90)
    report = "\n".join(check_data(layout))
    for part in (
        "classes are too small to hold out 90 images (digit_eight has 8",
        "rotated: 1 class folders hold no image (digit_ten): fill or remove them",
        "rotated: 1 folders are none of train's classes (digit_ten): rename or remove them",
        "id_test: 1 images lie in test itself (loose.png): move each into",
        "id_test: 1 archives are not unpacked (digit_one/more.tar.gz): unpack each",
        f"inverted: not found: put it at {top}/inverted",
        f"{top}/blurred/digit_two/bad.png: cannot identify image file",
        f"{top}/id_test: this name is reserved",
        f"{top}/ood: this name is reserved",
        "empty: it holds no class folders",
    ):
        assert part in report, report
    assert not layout.checked.exists()


def test_the_stage_fails_with_all_problems(layout: Layout, top: Path):
    shutil.rmtree(top)
    message = f"problems:\n{top}: no such folder, or an empty one: see data/README.md\ntrain: not"
    with pytest.raises(ValueError, match=message):
        check(layout)
    assert not layout.checked.exists()


def test_the_miniature_has_nothing_to_check(layout: Layout):
    miniature = Layout(layout.root, "miniature")
    check(miniature)
    assert json.loads(miniature.checked.read_text()) == {"sets": {}, "unreadable": {}}
