"""`make repro` with several jobs in a shrunken world: the results of the plain `dvc repro`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shrunken_project import ENVIRONMENT, change, changed_stages, make_project, repro, run

pytestmark = pytest.mark.slow
SIDE_BY_SIDE = [sys.executable, "-m", "carot_lib", "repro", "--jobs", "2"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the plain `dvc repro` makes."""
    root = make_project(tmp_path_factory.mktemp("one after the other"))
    repro(root)
    return contents(root)


def contents(root: Path) -> dict[str, bytes]:
    """Every number, table, weight and executed notebook.

    Without the record of provenance, which says when it was written, and what shows it.
    """
    folders = ("models", "predictions", "evaluations", "results")
    files = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    dated = {"provenance.json", "appendix.pdf"}
    return {str(p.relative_to(root)): p.read_bytes() for p in files if p.name not in dated}


def assert_same(root: Path, expected: dict[str, bytes]) -> None:
    found = contents(root)
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert changed_stages(root) == set()


def start(root: Path) -> subprocess.Popen:
    return subprocess.Popen(
        SIDE_BY_SIDE,
        cwd=root,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_in_two_trainings_and_with_a_failing_row_it_ends_in_the_results_of_one_job(
    tmp_path: Path, expected: dict[str, bytes]
):
    root = make_project(tmp_path / "project")
    process = start(root)
    trainings = set()
    for line in process.stderr:  # killed as soon as two rows are being trained
        if line.startswith("training ") and "reference" not in line:
            trainings.add(line.split(":")[0])
        if len(trainings) == 2:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait(timeout=600) == -signal.SIGKILL

    change(root, "miniature", "runs", "ft", "learning_rate", value=1.0e30)
    done = run(root, *SIDE_BY_SIDE)
    assert done.returncode == 1
    assert "ft: the loss is not finite at step" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "stage fine_tune@miniature-ft-0 failed; `make repro` goes on from here"
    assert not (root / "results" / "miniature" / "tables").exists()

    change(root, "miniature", "runs", "ft", "learning_rate", value=1.0e-3)
    done = run(root, *SIDE_BY_SIDE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert_same(root, expected)
