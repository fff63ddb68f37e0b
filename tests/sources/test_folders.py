"""Your own images: what a tree of folders may look like, what is said of one, and all the way.

The images are real: scikit-learn's handwritten digits, written as PNG files. All the way is a
`dvc repro` of the profile, from the folders to the rendered appendix.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_digits

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_class_names, read_set, read_templates
from carot_lib.layout import Layout
from carot_lib.stages.calibrate import calibrate
from carot_lib.stages.check_data import check_data
from carot_lib.stages.data import data
from carot_lib.stages.evaluate import evaluate
from carot_lib.stages.interpolate import mix
from carot_lib.stages.posthoc import posthoc
from carot_lib.stages.predict import predict
from carot_lib.stages.pretrain import make_pretrained
from carot_lib.stages.tables import tables
from carot_lib.stages.train import train
from carot_lib.stages.zero_shot import zero_shot

ROOT = Path(__file__).parents[2]
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASSES = sorted(f"digit_{word}" for word in WORDS)
SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "rotated": lambda image: image.rotate(25, fillcolor=255),
    "inverted": ImageOps.invert,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "subset": lambda image: image,
}


def write_digits(folder: Path, n_train: int = 900, n_test: int = 300) -> None:
    """Digits for training, and others for test and for each shift; `subset` has three classes."""
    digits = load_digits()
    images = digits.images[: n_train + n_test]
    for i, (pixels, label) in enumerate(zip(images, digits.target, strict=False)):
        grey = Image.fromarray((255 - 13 * pixels).astype(np.uint8)).resize((32, 32))
        where = {"train": grey} if i < n_train else {"test": grey}
        if i >= n_train:
            where |= {name: change(grey) for name, change in SHIFTS.items()}
        for name, image in where.items():
            if name != "subset" or WORDS[label] in ("one", "four", "eight"):
                place = folder / name / f"digit_{WORDS[label]}"
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f"{i:04d}.png")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


def tree() -> dict:
    """The numbers of params.yaml, with a small miniature and the digits as the own images."""
    numbers = yaml.safe_load((ROOT / "params.yaml").read_text())
    numbers["miniature"]["pretrained"] |= {"steps": 30, "batch_size": 64, "warmup_steps": 3}
    numbers["miniature"]["pretrained"]["scale_images"] = 64
    own = numbers["folders"]
    own["pretrained"] = {"kind": "miniature"}
    own["hardware"] = numbers["miniature"]["hardware"]
    own["training"] = numbers["miniature"]["training"] | {"epochs": 3}
    own["runs"] = numbers["miniature"]["runs"]
    own["data"]["validation_per_class"] = 10
    own["evaluation"]["ood"] = list(SHIFTS)
    return numbers


@pytest.fixture
def layout(tmp_path: Path, digits: Path) -> Layout:
    """A project with the digits in it."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree()))
    (tmp_path / "data").mkdir()
    shutil.copytree(digits, tmp_path / "data" / "folders")
    shutil.copy(ROOT / "data" / "pictograms.csv", tmp_path / "data")
    return Layout(tmp_path, "folders")


def change(layout: Layout, **values: object) -> None:
    """Other numbers under `folders.data`."""
    numbers = tree()
    numbers["folders"]["data"] |= values
    layout.params.write_text(yaml.safe_dump(numbers))


def top(layout: Layout) -> Path:
    return layout.root / "data" / "folders"


def test_real_images_are_learnt(layout: Layout):
    assert check_data(layout) == []
    data(layout)
    make_pretrained(layout)
    accuracies = {}
    for run in ("ft", "flyp", "carot"):
        train(layout, run, seed=0)
        predict(layout, run, seed=0)
        for name in ("id_val", "id_test", *SHIFTS):
            predictions = Predictions.load(layout.predictions(run, 0, name))
            right = predictions.logits.argmax(axis=1) == predictions.labels
            accuracies[run, name] = right.mean()
    assert len(predictions.labels) == sum("subset" in p.parts for p in top(layout).rglob("*.png"))
    assert predictions.logits.shape[1] == 3  # of the subset
    # a few seconds of training, from hardly any pre-training: far above the 10 % of chance
    assert accuracies["ft", "id_test"] > 0.6
    assert accuracies["ft", "subset"] > accuracies["ft", "inverted"]
    for run in ("flyp", "carot"):
        loss = pd.read_csv(layout.model(run, 0) / "history.csv")["contrastive"]
        assert loss[-10:].mean() < loss[:10].mean()


def test_the_sets_have_the_images_of_their_folders(layout: Layout):
    assert check_data(layout) == []
    data(layout)
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
    shown = ["digit eight", "digit four", "digit one"]
    assert subset.class_names == shown
    columns = tuple((CLASSES.index(name.replace(" ", "_")),) for name in shown)
    assert subset.label_space.columns == columns


def test_thumbnails_are_squares_of_the_files_or_the_pictures_as_they_are(layout: Layout):
    wide = Image.new("RGB", (300, 200), (255, 0, 0))
    wide.paste((0, 0, 255), (40, 0, 260, 200))  # the middle: a square shows nothing else
    first = top(layout) / "test" / "digit_eight" / "0.png"
    wide.save(first)
    assert check_data(layout) == []
    data(layout)
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
    data(layout)
    assert len(read_set(layout.data, "train").labels) == 900
    assert len(read_set(layout.data, "id_val").labels) == 300


def test_a_validation_set_needs_every_class(layout: Layout):
    # all is selected on it, and one of the calibrators has a number for each class
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
    data(layout)
    assert read_class_names(layout.data)[0] == "eight, by hand"
    assert [t("x") for t in read_templates(layout.data)] == ["a scan of x.", "handwriting: x"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("folder,name\ndigit_one,1\n", "names.csv does not name digit_eight, digit_five"),
        ("digit_one,1\n", "not a CSV file with folder,name"),
        (None, "not a CSV file with folder,name"),
    ],
)
def test_a_wrong_file_of_names_is_said(layout: Layout, names: str | None, said: str):
    if names is not None:
        (layout.root / "names.csv").write_text(names)
    change(layout, class_names="names.csv")
    assert [line for line in check_data(layout) if said in line]


def test_a_caption_without_a_name_is_said(layout: Layout):
    (layout.root / "captions.txt").write_text("a scan\n")
    change(layout, templates="captions.txt")
    assert check_data(layout) == [
        "templates: captions.txt: every line needs {} where the class name stands"
    ]


def test_all_faults_are_said_at_once(layout: Layout):
    (top(layout) / "rotated" / "digit_ten").mkdir()
    first = sorted((top(layout) / "test" / "digit_one").iterdir())[0]
    first.rename(top(layout) / "test" / "loose.png")
    shutil.rmtree(top(layout) / "inverted")
    (top(layout) / "blurred" / "digit_two" / "bad.png").write_bytes(b"no image")
    (top(layout) / "id_test").mkdir()
    (top(layout) / "ood").mkdir()
    (top(layout) / "empty").mkdir()
    said = "\n".join(check_data(layout))
    for part in (
        "rotated: 1 class folders hold no image (digit_ten): fill or remove them",
        "rotated: 1 folders are none of train's classes (digit_ten): rename or remove them",
        "id_test: 1 images lie in test itself (loose.png): move each into",
        f"inverted: not found: put it at {top(layout)}/inverted",
        f"{top(layout)}/blurred/digit_two/bad.png: cannot identify image file",
        f"{top(layout)}/id_test: this name is taken",
        f"{top(layout)}/ood: this name is taken",
        "empty: it holds no class folders",
    ):
        assert part in said, said
    assert not layout.checked.exists()


def test_too_few_images_to_hold_out_are_said(layout: Layout):
    change(layout, validation_per_class=90)
    (said,) = check_data(layout)
    assert "classes are too small to hold out 90 images (digit_eight has 8" in said
    assert said.endswith("lower validation_per_class")


def test_a_fault_is_exit_code_1_and_no_report(layout: Layout):
    shutil.rmtree(top(layout))
    (layout.root / "carot_lib").mkdir()  # what makes a folder the project's
    words = [sys.executable, "-m", "carot_lib.stages.check_data", "--profile", "folders"]
    done = subprocess.run(words, cwd=layout.root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{top(layout)}: no such folder, or an empty one: see data/README.md" in done.stderr
    assert "Traceback" not in done.stderr
    assert not layout.checked.exists()


def test_the_miniature_has_nothing_to_check(layout: Layout):
    miniature = Layout(layout.root, "miniature")
    assert check_data(miniature) == []
    assert json.loads(miniature.checked.read_text()) == {"sets": {}, "unreadable": {}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A copy of the project with a few digits in it, after `dvc repro` of the profile folders.

    To start Python for each of the sixty stages up to the tables would take minutes, and
    tests/test_pipeline.py does it: they are run in this process, and DVC is told so.
    """
    root = tmp_path_factory.mktemp("project")
    for part in ("carot_lib", "notebooks", "appendix", ".dvc"):
        ignored = shutil.ignore_patterns("cache", "tmp", "__pycache__", "config.local")
        shutil.copytree(ROOT / part, root / part, ignore=ignored)
    for file in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / file, root)
    write_digits(root / "data" / "folders", 300, 100)
    shutil.copytree(ROOT / "data" / "paper", root / "data" / "paper")
    shutil.copy(ROOT / "data" / "pictograms.csv", root / "data")
    (root / "captions.txt").write_text("a scan of {}.\nhandwriting: {}\nthe digit {}, by hand.\n")
    numbers = tree() | {"profile": "folders"}
    own = numbers["folders"]
    own["data"] |= {"templates": "captions.txt", "validation_per_class": 3}
    own["training"] |= {"epochs": 1, "warmup": 1}
    own["evaluation"]["bootstrap"]["resamples"] = 20
    (root / "params.yaml").write_text(yaml.safe_dump(numbers, sort_keys=False))
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    layout, rows = Layout(root, "folders"), numbers["rows"]
    assert check_data(layout) == []
    data(layout)
    make_pretrained(layout)
    zero_shot(layout, 0)
    for run in numbers["trained"]:
        train(layout, run, 0)
    for run in numbers["interpolated"]:
        mix(layout, run, 0)
    for run, stage in itertools.product(rows, (predict, calibrate, evaluate, posthoc)):
        stage(layout, run, 0)
    tables(layout)
    dvc(root, "commit", "--force", "--with-deps", "tables@folders")
    dvc(root, "repro")
    return layout


def dvc(root: Path, *words: str) -> str:
    """What a command of DVC's prints; it must not fail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        ["dvc", *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_every_notebook_has_run_and_is_a_page_of_the_appendix(project: Layout):
    executed = {path.stem for path in (project.results / "notebooks").glob("*.ipynb")}
    assert executed == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {path.stem for path in project.site.glob("[0-9]*.html")}
    assert {name for name in executed if "01" <= name < "08"} <= pages <= executed
    for name in ("world", "world_classes", "pretraining", "reliability_real", "figure2", "figure5"):
        assert (project.results / "figures" / f"{name}.png").stat().st_size > 5000


def test_the_pages_name_ones_own_sets(project: Layout):
    text = {path.stem: path.read_text(encoding="utf-8") for path in project.site.glob("0*.html")}
    assert "Rotated" in text["02_reliability"]  # the first shift stands for R
    for name in ("Rotated", "Inverted", "Blurred", "Subset", "OOD, mean of four"):
        assert name in text["04_table1"]
    assert "No set of this profile has coarser labels." in text["01_world"]


def test_a_published_clip_without_a_history_shows_its_similarities(project: Layout):
    figure = project.results / "figures" / "pretraining.png"
    of_history = figure.read_bytes()
    (project.pretrained / "history.csv").unlink()  # what else it has of a published one
    words = ["carot_lib.stages.run_notebook", "--profile", "folders", "--notebook", "01_world"]
    subprocess.run([sys.executable, "-m", *words], cwd=project.root, check=True)
    assert figure.read_bytes() != of_history
