"""The record of what made the results, and the parameters' hash."""

import datetime
import hashlib
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from locked_pipeline import write_pipeline
from shrunken_project import change

from carot_lib.data.datasets import read_set, write_set
from carot_lib.files import write_json, write_text
from carot_lib.layout import Layout
from carot_lib.report.provenance import (
    SOURCES,
    commit_of,
    machine,
    params_hash,
    read_provenance,
    write_provenance,
)

ROOT = Path(__file__).parents[2]
SETS = ("train", "id_val", "id_test", "v2")
PIPELINE = """
stages:
  tables:
    matrix: {profile: ["${profile}"]}
    cmd: write tables
    deps: [data/prepared]
    outs: [{"results/${item.profile}/tables": {cache: false}}]
    metrics: [{"results/${item.profile}/runs/ft.json": {cache: false}}]
  notebook:
    matrix: {profile: ["${profile}"], name: [a, b]}
    cmd: draw
    deps: ["results/${item.profile}/tables"]
    outs: [{"results/${item.profile}/${item.name}.png": {cache: false}}]
  provenance:
    cmd: record
    deps: [results/miniature/tables]
    outs: [{results/miniature/provenance.json: {cache: false}}]
  appendix:
    cmd: render
    deps: [results/miniature/provenance.json]
    outs: [{results/miniature/appendix.pdf: {cache: false}}]
"""
WRITTEN = {  # by a stage that has run
    "tables/table1.csv": "tables@miniature",
    "tables/deeper/table1.md": "tables@miniature",
    "runs/ft.json": "tables@miniature",
    "a.png": "notebook@miniature-a",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A project with one shifted set and results of a few bytes; notebook b has not run."""
    layout, tree = Layout(tmp_path, "miniature"), yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["miniature"]["evaluation"] |= {"ood": ["v2"], "extra": []}
    write_text(layout.params, yaml.safe_dump(tree))
    write_json(layout.data / "classes.json", {"class_names": list("abc"), "label_spaces": {}})
    for i, name in enumerate(SETS):
        write_set(layout.data, name, np.arange(3), np.full((3, 2, 2, 3), i, np.uint8))
    for name in (*WRITTEN, "b.png", "appendix.pdf", "by_hand.csv"):
        write_text(layout.results / name, f"{name}\n")
    write_text(layout.provenance, "")
    write_pipeline(tmp_path, PIPELINE, not_run="notebook@miniature-b")
    layout.provenance.unlink()
    return layout


# The record


def test_the_record_names_every_result_with_its_hash_and_its_stage(layout: Layout):
    made = write_provenance(layout)
    # not the appendix, which shows the record, nor what no stage wrote
    assert {name: file.stage for name, file in made.files.items()} == WRITTEN
    expected = hashlib.sha256(b"tables/table1.csv\n").hexdigest()
    assert made.files["tables/table1.csv"].sha256 == expected


def test_the_record_names_parameters_sets_and_versions(layout: Layout):
    made = write_provenance(layout)
    assert (made.profile, made.params) == ("miniature", params_hash(layout))
    assert made.seeds == [0, 1, 2]
    assert made.rows[0] == "zs"
    assert list(made.sets) == list(SETS)
    assert made.sets["v2"].fingerprint == read_set(layout.data, "v2").fingerprint
    assert (made.sets["v2"].images, made.sets["v2"].classes) == (3, 3)
    assert made.python == ".".join(map(str, sys.version_info[:3]))
    assert made.libraries["torch"] == version("torch")
    assert {"numpy", "open_clip_torch", "dvc"} <= set(made.libraries)
    assert (made.commit, made.uncommitted) == (None, [])
    age = datetime.datetime.now(datetime.UTC).date() - made.date
    assert age <= datetime.timedelta(days=1)


def test_written_twice_it_has_the_same_bytes_and_is_read_as_it_was(layout: Layout):
    made, path = write_provenance(layout), layout.results / "provenance.json"
    before = path.read_bytes()
    assert read_provenance(layout) == made
    write_provenance(layout)
    assert path.read_bytes() == before
    assert str(layout.root) not in path.read_text()
    assert json.loads(before)["machine"] == machine()


def test_a_missing_or_damaged_record_is_reported_with_its_stage(layout: Layout):
    with pytest.raises(FileNotFoundError, match=r"provenance\.json is missing: run stage"):
        read_provenance(layout)
    write_provenance(layout)
    path = layout.results / "provenance.json"
    for text in ("", "{}", path.read_text()[:200]):
        write_text(path, text)
        with pytest.raises(ValueError, match="is no record of provenance: run stage `provenance`"):
            read_provenance(layout)


def test_without_prepared_data_it_names_the_stage(layout: Layout):
    (layout.data / "v2.npz").unlink()
    with pytest.raises(FileNotFoundError, match="missing: run stage `data`"):
        write_provenance(layout)


def test_the_machine_is_described_in_words():
    system, *parts = machine().split(", ")
    assert system.split()[0] in ("Linux", "Darwin", "Windows")
    assert any(part.endswith(("core", "cores")) for part in parts)
    assert torch.cuda.is_available() or parts[-1] == "no GPU"


def test_a_pipeline_that_dvc_cannot_read_is_reported(layout: Layout):
    lock = layout.root / "dvc.lock"
    write_text(lock, "<<<<<<< ours\n")
    with pytest.raises(ValueError, match="DVC cannot read the pipeline"):
        write_provenance(layout)
    lock.unlink()
    with pytest.raises(FileNotFoundError, match=r"dvc\.lock knows no file of .*: run `make repro`"):
        write_provenance(layout)


def test_the_stage_waits_for_every_result_that_does_not_show_the_record():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    record = "results/${item.profile}/provenance.json"
    waits = stages["provenance"]["deps"]
    for stage in stages.values():
        for out in [one for part in ("outs", "metrics", "plots") for one in stage.get(part, [])]:
            path = out if isinstance(out, str) else next(iter(out))
            if path.startswith("results/") and path != record and record not in stage["deps"]:
                assert any(Path(path).is_relative_to(dep) for dep in waits), f"add {path} to deps"


# The parameters' hash


def test_the_hash_is_of_the_numbers_not_of_the_text(layout: Layout):
    before = params_hash(layout)
    assert len(before) == 64
    tree = yaml.safe_load(layout.params.read_text())
    backwards = dict(reversed(tree.items()))
    write_text(layout.params, "# a comment\n" + yaml.safe_dump(backwards, sort_keys=False))
    assert params_hash(layout) == before


@pytest.mark.parametrize(
    ("keys", "value", "matters"),
    [
        (("miniature", "training", "epochs"), 11, True),
        (("miniature", "runs", "carot", "update_every"), 17, True),
        (("miniature", "evaluation", "n_bins"), 15, True),
        (("seeds",), [0, 1], True),
        (("rows",), ["zs"], True),
        (("miniature", "search", "learning_rate"), [0.1], False),  # of `make search` alone
        (("imagenet", "training", "epochs"), 11, False),
        (("profile",), "imagenet", False),
    ],
)
def test_the_hash_changes_with_what_the_results_depend_on(
    layout: Layout, keys: tuple[str, ...], value: object, matters: bool
):
    before = params_hash(layout)
    change(layout.root, *keys, value=value)
    assert (params_hash(layout) != before) == matters


def test_another_profile_that_starts_from_the_miniatures_model_depends_on_it(layout: Layout):
    folders = Layout(layout.root, "folders")
    for kind, matters in (("open_clip", False), ("miniature", True)):
        change(layout.root, "folders", "pretrained", value={"kind": kind})
        before = params_hash(folders)
        change(layout.root, "miniature", "pretrained", "steps", value=f"more for {kind}")
        assert (params_hash(folders) != before) == matters


def test_an_unknown_profile_is_named(layout: Layout):
    with pytest.raises(ValueError, match=r"params\.yaml: lunar: missing"):
        params_hash(Layout(layout.root, "lunar"))


# The commit


def git(root: Path, *words: str) -> str:
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    command = ["git", "-C", str(root), *me, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Code, parameters and a reader's page in one commit."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    root = tmp_path / "repository"
    for name in ("carot_lib/a.py", "params.yaml", "README.md", "data/README.md"):
        write_text(root / name, "first\n")
    write_text(root / ".gitignore", "/data/prepared/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "Write code")
    return root


def test_a_commit_of_results_does_not_change_the_commit_that_is_recorded(repository: Path):
    code = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository) == (code, [])
    for name in ("results/miniature/table1.csv", "dvc.lock", "README.md", "data/README.md"):
        write_text(repository / name, "results\n")
    assert commit_of(repository) == (code, [])
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "Add results")
    assert git(repository, "rev-parse", "HEAD") != code
    assert commit_of(repository) == (code, [])
    write_text(repository / "params.yaml", "second\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Change a number")
    assert commit_of(repository) == (git(repository, "rev-parse", "HEAD"), [])


def test_changes_of_code_and_numbers_that_are_not_committed_are_named(repository: Path):
    code = git(repository, "rev-parse", "HEAD")
    write_text(repository / "carot_lib" / "new ä.py", "new\n")
    write_text(repository / "data" / "prepared" / "x.npz", "made")  # git ignores it
    write_text(repository / "params.yaml", "second\n")
    (repository / "carot_lib" / "a.py").unlink()
    changed = ["carot_lib/a.py", "carot_lib/new ä.py", "params.yaml"]
    assert commit_of(repository) == (code, changed)
    git(repository, "add", "--all")
    assert commit_of(repository) == (code, changed)


def test_without_a_repository_of_its_own_there_is_no_commit(repository: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    write_text(outside / "params.yaml", "archive\n")
    assert commit_of(outside) == (None, [])
    unpacked = repository / "unpacked"  # inside another project's repository
    write_text(unpacked / "params.yaml", "archive\n")
    assert commit_of(unpacked) == (None, [])
    assert all((ROOT / source).exists() for source in SOURCES)
