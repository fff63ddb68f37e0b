"""Which results exist and are up to date, in a real pipeline of DVC with a few small stages."""

import contextlib
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from shrunken_project import change

from carot_lib.explore.state import GOOD, MISSING, OUTDATED, headline, state, styled_state
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.sources.listing import listing

# raised by a parser inside DVC
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

MATRIX = {"profile": ["${profile}"]}
FIT = {
    "desc": "fit a model",
    "matrix": {**MATRIX, "run": "${trained}"},
    "cmd": "mkdir -p models && echo ${item.run} > models/${item.run}",
    "deps": ["code.py"],
    "params": ["${item.profile}.runs.${item.run}", "${item.profile}.training"],
    "outs": ["models/${item.run}"],
}


def stage(name: str, *deps: str) -> dict:
    out = f"results/{name}"
    cmd = f"mkdir -p results && echo {name} > {out}"
    return {"desc": name, "matrix": MATRIX, "cmd": cmd, "deps": list(deps), "outs": [out]}


STAGES = {
    "tables": stage("tables", "models/ft", "models/flyp"),  # before what it reads
    "fit": FIT,
    "other": stage("other", "other.py"),
    "notebook": stage("notebook", "results/tables"),
    "appendix": stage("appendix", "results/notebook"),
}
PARAMS = {
    "profile": "tiny",
    "trained": ["ft", "flyp"],
    "tiny": {"runs": {"ft": {"rate": 0.1}, "flyp": {"rate": 0.2}}, "training": {"epochs": 3}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has run."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    for name in ("code.py", "other.py"):
        (root / name).touch()
    with contextlib.chdir(root), Repo.init(no_scm=True) as repo:
        repo.reproduce()
    return root


@pytest.fixture
def layout(finished: Path, tmp_path: Path) -> Layout:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "copy")
    return Layout(tmp_path / "copy", "tiny")


def test_a_pipeline_that_has_run_is_up_to_date_without_its_notebooks(layout: Layout):
    table = state(layout)
    assert list(table.index) == ["tables", "fit", "other"]
    assert list(table["makes"]) == ["tables", "fit a model", "other"]
    assert list(table["state"]) == [GOOD] * 3
    assert list(table["runs"]) == ["1", "2", "1"]
    assert not table["because"].any()
    assert not table["command"].any()
    assert headline(table).startswith("Every result exists and is up to date")
    assert GOOD in styled_state(table).to_html()


def test_a_changed_number_reaches_what_reads_the_result_and_nothing_else(layout: Layout):
    change(layout.root, "tiny", "runs", "flyp", "rate", value=0.5)
    table = state(layout)
    assert list(table["state"]) == [OUTDATED, OUTDATED, GOOD]
    reason = "tiny.runs.flyp: modified"
    assert list(table["because"]) == [reason, reason, ""]
    assert list(table["runs"]) == ["1 of 1", "1 of 2", "1"]
    assert list(table["command"]) == ["dvc repro tables", "dvc repro fit", ""]
    assert headline(table) == "Out of date: tables, fit. `make repro` makes them."


@pytest.mark.parametrize("value", [{"epochs": 3, "warmup": 1}, {}, None])
def test_a_number_more_or_less_is_a_change(layout: Layout, value: object):
    change(layout.root, "tiny", "training", value=value)
    assert list(state(layout)["state"]) == [OUTDATED, OUTDATED, GOOD]


def test_changed_code_and_a_changed_command_are_changes(layout: Layout):
    (layout.root / "code.py").write_text("x = 1")
    text = (layout.root / "dvc.yaml").read_text()
    (layout.root / "dvc.yaml").write_text(text.replace("echo other", "echo another"))
    table = state(layout)
    because = ["code.py: modified", "code.py: modified", "command of other@tiny: modified"]
    assert list(table["because"]) == because


def test_an_added_image_is_seen(layout: Layout):
    (layout.root / "images").mkdir()
    change(layout.root, "tiny", "data", value={"kind": "folders", "folder": "images"})
    write_json(layout.root / "listing.json", listing(layout))
    look = stage("look", "data/listed/tiny")
    cmd = "mkdir -p data/listed/tiny && cp listing.json data/listed/tiny/files.json"
    listed = {"desc": "list", "matrix": MATRIX, "cmd": cmd, "outs": ["data/listed/tiny"]}
    stages = {"list_images": listed | {"always_changed": True}, "look": look}
    (layout.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    with contextlib.chdir(layout.root), Repo() as repo:
        repo.reproduce()
    assert list(state(layout)["state"]) == [GOOD, GOOD]
    (layout.root / "images" / "1.png").touch()
    table = state(layout)
    assert list(table["state"]) == [OUTDATED, OUTDATED]
    assert table["because"].iloc[0].startswith("changed on disk: image files")


def test_a_missing_result_is_missing_where_it_is_made(layout: Layout):
    (layout.root / "models" / "ft").unlink()
    table = state(layout)
    assert list(table["state"]) == [GOOD, MISSING, GOOD]
    assert table.loc["fit", "because"] == "models/ft is missing"
    assert headline(table) == "Missing: fit. `make repro` makes them."


def test_a_new_run_has_not_run(layout: Layout):
    change(layout.root, "tiny", "runs", "carot", value={"rate": 1})
    change(layout.root, "trained", value=["ft", "flyp", "carot"])
    row = state(layout).loc["fit", ["runs", "state", "because", "command"]]
    assert row.tolist() == ["1 of 3", MISSING, "it has not run yet", "dvc repro fit"]


def test_before_the_first_run_all_is_missing(layout: Layout):
    (layout.root / "dvc.lock").unlink()
    shutil.rmtree(layout.root / "results")
    table = state(layout)
    assert set(table["state"]) == {MISSING}
    assert set(table["because"]) == {"it has not run yet"}


def test_another_profile_than_that_of_the_pipeline_is_refused(layout: Layout):
    with pytest.raises(ValueError, match=r"has the profile tiny: set `profile: huge` there"):
        state(Layout(layout.root, "huge"))


def test_the_state_can_be_seen_while_a_stage_runs(layout: Layout):
    with Repo(str(layout.root)) as repo, repo.lock:
        assert set(state(layout)["state"]) == {GOOD}
