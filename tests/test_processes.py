"""A process ends with the one that started it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

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
