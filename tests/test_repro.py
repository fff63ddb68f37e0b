"""`python -m carot_lib repro` on pipelines of a few commands: order, failure, interrupts, kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from carot_lib.layout import Layout
from carot_lib.stages.repro import always_changed, repro, stale_stages, trainings_at_a_time

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
PATIENCE = 600  # seconds, on a busy machine
# Both trainings wait for each other's file: they end only if they run side by side.
MEET = "touch began_{0}; until test -e began_{1}; do sleep 0.1; done; echo {0} > {0}"
# Says when it was interrupted; `exec` would leave no shell to do so.
WAIT = "trap 'touch interrupted_{0}; exit 1' INT; touch began_{0}; while :; do sleep 0.1; done"


def stage(cmd: str, outs: list[str], deps: list[str] = ()) -> dict:
    return {"cmd": cmd, "deps": list(deps), "outs": outs}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with the project's params.yaml and two trainings that wait for each other."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "carot_lib").mkdir()  # by which a project is known
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    write_stages(
        tmp_path,
        data=stage("cp source data", ["data"], ["source"]),
        short=stage(MEET.format("short", "long"), ["short"], ["data"]),
        long=stage(MEET.format("long", "short"), ["long"], ["data"]),
        other=stage("echo other > other", ["other"]),
        table=stage("cat short long > table", ["table"], ["short", "long"]),
    )
    (tmp_path / "source").write_text("source\n")
    return tmp_path


def write_stages(root: Path, **stages: dict) -> None:
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def start(root: Path, jobs: int = 2) -> subprocess.Popen:
    """Start the command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "carot_lib", "repro", "--jobs", str(jobs)],
        cwd=root,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what a shell starts in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(root: Path, *names: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all((root / name).exists() for name in names):
        assert time.monotonic() < deadline, f"no {names}"
        time.sleep(0.05)


def working(root: Path) -> list[str]:
    """The command lines of the processes that work in the project."""
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(root)
    ]


def test_what_is_stale_comes_with_what_it_reads_the_last_of_dvc_yaml_first(root: Path):
    assert stale_stages(root) == {
        "table": ["long", "short"],
        "other": [],
        "long": ["data"],
        "short": ["data"],
        "data": [],
    }
    assert list(stale_stages(root)) == ["table", "other", "long", "short", "data"]


def test_stages_run_side_by_side_and_only_where_something_changed(root: Path):
    out, _ = (process := start(root)).communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert (root / "table").read_text() == "short\nlong\n"
    # every stage ran once, and the last `dvc repro` found each in dvc.lock
    for name in ("data", "short", "long", "other", "table"):
        assert out.count(f"Running stage '{name}'") == 1
    assert out.rstrip().endswith("up to date.")
    assert stale_stages(root) == {}
    (root / "source").write_text("another source\n")
    assert set(stale_stages(root)) == {"data", "short", "long", "table"}
    (root / "source").write_text("source\n")
    (root / "table").unlink()
    assert stale_stages(root) == {"table": []}


def test_what_dvc_always_runs_makes_others_run_only_where_it_changes_something(root: Path):
    (root / "listed").write_text("a\n")
    write_stages(
        root,
        look=stage("cp listed look", ["look"]) | {"always_changed": True},
        use=stage("cat look > use", ["use"], ["look"]),
        other=stage("echo other > other", ["other"]),
    )
    for text, runs in (("a\n", 1), ("a\n", 0), ("b\n", 1)):
        (root / "listed").write_text(text)
        out, _ = (process := start(root)).communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert out.count("Running stage 'look'") == 2  # before the others, and by the last repro
        assert out.count("Running stage 'use'") == runs
        assert (root / "use").read_text() == text
    assert always_changed(root) == ["look"]
    assert stale_stages(root) == {}  # of itself it makes nothing stale


def test_a_stage_that_fails_is_named_and_stops_the_others(root: Path):
    write_stages(
        root,
        other=stage(WAIT.format("other"), ["other"]),
        bad=stage("until test -e began_other; do sleep 0.1; done; exit 3", ["bad"]),
        table=stage("cat bad > table", ["table"], ["bad"]),
    )
    out, err = (process := start(root)).communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "stage bad failed; `make repro` goes on from here"
    assert (root / "interrupted_other").exists()
    assert "table" not in out
    assert working(root) == []


@pytest.mark.slow
def test_ctrl_c_interrupts_every_stage(root: Path):
    write_stages(root, **{name: stage(WAIT.format(name), [name]) for name in ("one", "two")})
    process = start(root)
    wait_for(root, "began_one", "began_two")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert (root / "interrupted_one").exists()
    assert (root / "interrupted_two").exists()
    assert working(root) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_killed_it_leaves_no_dvc_behind_and_started_again_it_goes_on(root: Path):
    process = start(root)
    wait_for(root, "began_short", "began_long")
    process.kill()
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while [words for words in working(root) if "dvc" in words]:
        assert time.monotonic() < deadline, working(root)
        time.sleep(0.1)
    out, _ = (process := start(root)).communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Running stage 'data'" not in out
    assert (root / "table").read_text() == "short\nlong\n"


@pytest.mark.slow
def test_one_job_is_plain_dvc(root: Path):
    write_stages(root, other=stage("echo other > other", ["other"]))
    out, _ = (process := start(root, jobs=1)).communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert out.count("Running stage") == 1


@pytest.mark.parametrize(
    ("cores", "threads", "devices", "jobs"),
    [(8, 1, 1, 8), (8, 3, 1, 2), (8, 2, 2, 2), (2, 4, 1, 1), (8, None, 1, 1)],
)
def test_as_many_trainings_as_the_cores_have_room_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, cores, threads, devices, jobs
):
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["miniature"]["hardware"] |= {"threads": threads, "devices": devices}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert trainings_at_a_time(Layout(root, "miniature")) == jobs


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_at_all_are_refused(root: Path, jobs: int):
    with pytest.raises(ValueError, match=f"^jobs: must be at least 1, not {jobs}$"):
        repro(Layout(root, "miniature"), jobs)


def test_a_pipeline_that_dvc_cannot_read_is_a_line(root: Path):
    (root / "dvc.lock").write_text("<<<<<<< ours\n")
    with pytest.raises(ValueError, match=f"^{root}: DVC cannot read the pipeline: "):
        stale_stages(root)
