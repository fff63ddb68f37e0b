"""A user's own images all the way: `dvc repro` from the folders to the rendered appendix."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from handwritten_digits import ROOT, digit_params, write_digits
from shrunken_project import REGIMES

from carot_lib.layout import Layout
from carot_lib.sources.listing import list_images
from carot_lib.stages.data import check_data, prepare
from carot_lib.stages.evaluate import evaluate
from carot_lib.stages.predict import predict
from carot_lib.stages.pretrain import pretrain
from carot_lib.stages.tables import tables
from carot_lib.stages.train import train
from carot_lib.stages.wise_ft import wise_ft
from carot_lib.stages.zero_shot import zero_shot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A copy of the project with a few digits in it, after `dvc repro` of the profile folders.

    To start Python for each of the sixty stages up to the tables would take minutes, and
    tests/test_pipeline.py does it: they are run in this process, and committed to DVC.
    """
    root = tmp_path_factory.mktemp("project")
    for part in ("carot_lib", "notebooks", "appendix", ".dvc"):
        ignored = shutil.ignore_patterns("cache", "tmp", "__pycache__", "config.local")
        shutil.copytree(ROOT / part, root / part, ignore=ignored)
    for file in ("dvc.yaml", ".dvcignore", *REGIMES):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    write_digits(root / "data" / "folders", 300, 100)
    for folder in ("paper", "choices"):
        shutil.copytree(ROOT / "data" / folder, root / "data" / folder)
    for file in ("pictograms.csv", "miniature.yaml", "adversarial.json"):
        shutil.copy(ROOT / "data" / file, root / "data")
    (root / "captions.txt").write_text("a scan of {}.\nhandwriting: {}\nthe digit {}, by hand.\n")
    numbers = digit_params() | {"profile": "folders", "seeds": [0]}
    folders = numbers["folders"]
    folders["data"] |= {"templates": "captions.txt", "validation_per_class": 3}
    folders["training"] |= {"epochs": 1, "warmup": 1}
    folders["evaluation"]["bootstrap"]["resamples"] = 20
    (root / "params.yaml").write_text(yaml.safe_dump(numbers, sort_keys=False))
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    layout, rows = Layout(root, "folders"), numbers["rows"]
    list_images(layout)
    assert check_data(layout) == []
    prepare(layout)
    pretrain(layout)
    zero_shot(layout, 0)
    methods = dict(numbers["methods"])
    interpolated = methods.pop("wise_ft")
    for run in itertools.chain.from_iterable(methods.values()):
        train(layout, run, 0)
    for run in interpolated:
        wise_ft(layout, run, 0)
    for run, stage in itertools.product(rows, (predict, evaluate)):
        stage(layout, run, 0)
    tables(layout)
    dvc(root, "commit", "--force", "--with-deps", "tables@folders")
    dvc(root, "repro")
    return layout


def dvc(root: Path, *words: str) -> str:
    """Run a command of DVC, which must succeed, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        ["dvc", *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_every_notebook_has_run_and_is_a_page_of_the_appendix(project: Layout):
    executed = {path.stem for path in (project.results / "notebooks").glob("*/*.ipynb")}
    assert executed == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {path.stem for path in project.site.glob("[0-9]*.html")}
    assert {name for name in executed if "01" <= name < "08"} <= pages <= executed
    for name in ("world", "world_classes", "pretraining", "reliability_real", "figure2", "figure5"):
        (figure,) = (project.results / "notebooks").glob(f"*/{name}.png")
        assert figure.stat().st_size > 5000


def test_the_pages_name_the_users_sets(project: Layout):
    text = {path.stem: path.read_text(encoding="utf-8") for path in project.site.glob("0*.html")}
    assert "Rotated" in text["02_reliability"]  # the first shift stands for R
    for name in ("Rotated", "Inverted", "Blurred", "Subset", "OOD, mean of four"):
        assert name in text["04_table1"]
    assert "No set of this profile has coarser labels." in text["01_world"]


def test_an_edited_text_makes_the_trainings_stale_and_a_touched_image_does_not(project: Layout):
    captions = project.root / "captions.txt"
    before = captions.read_text()

    def repro() -> list[str]:
        """The stages that had to run to prepare the data."""
        return re.findall(
            "Running stage '(.+)@folders'", dvc(project.root, "repro", "data@folders")
        )

    def stale() -> set[str]:
        return {name.split("@")[0] for name in json.loads(dvc(project.root, "status", "--json"))}

    captions.write_text(before + "a drawing of {}.\n")
    assert repro() == ["list_images", "check_data", "data"]
    assert {"zero_shot", "fine_tune", "flyp", "carot"} <= stale()
    captions.write_text(before)
    repro()
    assert not {"zero_shot", "fine_tune", "flyp", "carot"} & stale()
    os.utime(next((project.root / "data" / "folders").glob("train/*/*.png")), (1, 1))
    assert repro() == ["list_images", "check_data"]  # the content is the same
    assert not {"zero_shot", "fine_tune", "flyp", "carot"} & stale()


def test_a_published_clip_without_a_history_shows_its_similarities(project: Layout):
    figure = project.notebook("01_world").with_name("pretraining.png")
    of_history = figure.read_bytes()
    (project.pretrained / "history.csv").unlink()  # what else it has of a published one
    words = ["carot_lib", "notebook", "--profile", "folders", "--notebook", "01_world"]
    subprocess.run([sys.executable, "-m", *words], cwd=project.root, check=True)
    assert figure.read_bytes() != of_history
