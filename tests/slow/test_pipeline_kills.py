"""Stages interrupted and killed in a real pipeline of a shrunken world: nothing is lost."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
import yaml
from shrunken_project import ENVIRONMENT, change, make_project, repro, write_yaml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small world, after one `dvc repro`."""
    root = make_project(tmp_path_factory.mktemp("project"))
    repro(root)
    return root


def start(root: Path, stage: str) -> subprocess.Popen:
    """Run one stage anew, in a process group of its own."""
    return subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", stage],
        cwd=root,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what a shell starts in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stop(process: subprocess.Popen, root: Path, by: signal.Signals) -> None:
    """Signal the whole group, as a terminal does, and wait until nobody works there any more."""
    os.killpg(process.pid, by)
    process.stderr.close()
    assert process.wait(timeout=60) != 0
    deadline = time.monotonic() + 60
    while working := [
        p.info
        for p in psutil.process_iter(["pid", "name", "cwd"])
        if (p.info["cwd"] or "").startswith(str(root))
    ]:
        assert time.monotonic() < deadline, f"left behind: {working}"
        time.sleep(0.1)


def wait_for_line(process: subprocess.Popen, start: str) -> None:
    assert any(line.startswith(start) for line in process.stderr), f"no line {start!r}"


def wait_for_file(process: subprocess.Popen, path: Path) -> None:
    """Wait for a file that was removed when its stage started."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.005)


def forget(root: Path, stages: Iterable[str]) -> None:
    """As if stages were run for the first time: DVC would fetch what they once made."""
    shutil.rmtree(root / ".dvc" / "cache" / "runs")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    for stage in stages:
        del lock["stages"][stage]
    write_yaml(root / "dvc.lock", lock)


def contents(root: Path) -> dict[str, bytes]:
    """Every result that git keeps."""
    return {str(p): p.read_bytes() for p in (root / "results").rglob("*") if p.is_file()}


def test_a_run_that_is_killed_goes_on_to_the_same_table(project: Path):
    table = project / "results" / "miniature" / "tables" / "table1.csv"
    before = table.read_bytes()
    change(project, "miniature", "training", "epochs", value=40)
    process = start(project, "fine_tune@miniature-ft-0")
    wait_for_line(process, "training ft")  # killed in the middle of the training
    stop(process, project, signal.SIGKILL)
    assert not (project / "models" / "miniature" / "ft" / "seed0" / "classifier.json").exists()
    change(project, "miniature", "training", "epochs", value=1)
    repro(project)
    assert table.read_bytes() == before


def test_interrupted_and_killed_in_stages_of_every_kind_it_goes_on_to_the_same_results(
    project: Path,
):
    before = contents(project)
    stages = {
        "notebook@miniature-04_table1": signal.SIGKILL,
        "predict@miniature-carot-0": signal.SIGKILL,
        "data@miniature": signal.SIGKILL,
        "pretrain@miniature": signal.SIGINT,
    }
    forget(project, stages)
    folder = project / "results" / "miniature" / "notebooks" / "04_table1"
    copy = folder / "04_table1.ipynb"
    begun = copy.with_name("04_table1.failed.ipynb")
    process = start(project, "notebook@miniature-04_table1")
    wait_for_file(process, begun)
    stop(process, project, stages["notebook@miniature-04_table1"])
    assert not copy.exists()

    folder = project / "predictions" / "miniature" / "carot" / "seed0"
    (folder / "id_val.npz").unlink()
    process = start(project, "predict@miniature-carot-0")
    wait_for_file(process, folder / "id_val.npz")
    stop(process, project, stages["predict@miniature-carot-0"])
    assert not (folder / "handwritten.npz").exists()  # the last

    folder = project / "data" / "prepared" / "miniature"
    (folder / "train.npz").unlink()
    process = start(project, "data@miniature")
    wait_for_file(process, folder / "train.npz")
    stop(process, project, stages["data@miniature"])
    assert not (folder / "classes.json").exists()  # the last

    change(project, "miniature", "pretrained", "steps", value=4000)
    process = start(project, "pretrain@miniature")
    wait_for_line(process, "pre-training: ")
    stop(process, project, stages["pretrain@miniature"])
    assert not (project / "models" / "miniature" / "pretrained" / "clip.json").exists()
    change(project, "miniature", "pretrained", "steps", value=4)

    done = repro(project)
    ran = set(re.findall(r"Running stage '(.+?)'", done.stdout))
    # their results are the same again: nothing else has to run, but for the stage that always does
    assert ran == {*stages, "list_images@miniature"}
    assert contents(project) == before
