"""Work in several processes, and how they end."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from carot_lib.processes import map_in_processes, usable_cores

ROOT = Path(__file__).parents[1]
CHILD = """
import sys, time
from carot_lib.processes import end_with_parent
if sys.argv[1] == "bound":
    end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do it")
def test_a_bound_child_ends_when_its_parent_is_killed_and_another_does_not():
    for kind, ends in (("bound", True), ("free", False)):
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        parent.wait()
        gone, alive = psutil.wait_procs([child], timeout=60 if ends else 0.5)
        parent.stdout.close()
        for process in alive:
            process.kill()
        assert bool(gone) == ends


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("chunk", [1, 2])
def test_the_work_is_done_in_other_processes_in_order(
    capsys: pytest.CaptureFixture[str], trains: bool, chunk: int
):
    words = ["__import__('os').getpid()", "2", "3", "1 / 0"]
    results = map_in_processes(eval, words, "trying", "words", chunk=chunk, trains=trains)
    assert next(results) != os.getpid()
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert "trying: 0/4 words" in capsys.readouterr().err


def test_each_process_that_trains_has_one_thread():
    words = ["__import__('torch').get_num_threads()"] * 2
    assert list(map_in_processes(eval, words, "trying", "words", trains=True)) == [1, 1]


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
