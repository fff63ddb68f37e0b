"""`make repro`: bring every stage up to date, several of them side by side.

DVC runs one stage after the other. Here every stage that may have to run gets a `dvc repro` of its
own, as soon as those that it reads are done; DVC decides as ever whether it runs or its results are
those of an earlier run. In the end a plain `dvc repro` finds nothing left to do.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import networkx as nx
import psutil
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from carot_lib.files import StageError
from carot_lib.layout import Layout
from carot_lib.processes import end_with_parent, usable_cores

PATIENCE = 5.0  # seconds between two interrupts of a stage that does not end


def repro(layout: Layout, jobs: int | None) -> None:
    """Check params.yaml, then run what is out of date.

    Args:
        layout: of the profile that params.yaml chooses.
        jobs: stages at a time; 1: plain `dvc repro`. None: as many as the cores have room for
            trainings of `hardware.threads` threads; 1 where one training takes all cores.

    Raises:
        ValueError: `jobs` is not positive, or DVC cannot read the pipeline.
        StageError: a stage failed; those beside it were interrupted.
        SystemExit: params.yaml has a problem, or plain `dvc repro` failed; both say why.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: must be at least 1, not {jobs}")
    # in a process of its own: this one stays without torch and its memory
    _run([sys.executable, "-m", "carot_lib", "check_params"], layout.root)
    jobs = jobs or trainings_at_a_time(layout)
    if jobs > 1:
        for name in always_changed(layout.root):  # what they change is known only afterwards
            _run(["dvc", "repro", "--single-item", name], layout.root)
        asyncio.run(_run_stages(stale_stages(layout.root), jobs, layout.root))
    _run(["dvc", "repro"], layout.root)


def trainings_at_a_time(layout: Layout) -> int:
    """How many trainings the cores have room for; 1 if each takes as many as there are."""
    tree = yaml.safe_load(layout.params.read_text(encoding="utf-8"))
    hardware = tree[layout.profile]["hardware"]
    if hardware["threads"] is None:
        return 1
    return max(1, usable_cores() // (hardware["threads"] * hardware["devices"]))


def _run(words: list[str], root: Path) -> None:
    if code := subprocess.run(words, cwd=root, check=False).returncode:
        raise SystemExit(code)


@contextmanager
def _pipeline(root: Path) -> Iterator[Repo]:
    try:
        with Repo(str(root)) as repo:
            yield repo
    except DvcException as error:
        raise ValueError(f"{root}: DVC cannot read the pipeline: {error}") from error


def always_changed(root: Path) -> list[str]:
    """The stages that run each time, as dvc.yaml says: they look at what DVC does not track.

    Raises:
        ValueError: DVC cannot read the pipeline.
    """
    with _pipeline(root) as repo:
        return [stage.name for stage in repo.index.graph if stage.always_changed]


def stale_stages(root: Path) -> dict[str, list[str]]:
    """The stages that may have to run, each with those of them that it reads.

    These are the ones that `dvc status` calls changed, except `always_changed`, and all that read
    their results. They come in the reverse order of dvc.yaml: so the trainings that take longest
    start first.

    Raises:
        ValueError: DVC cannot read the pipeline, or another DVC works in it.
    """
    with _pipeline(root) as repo:
        changed, graph = repo.status(), repo.index.graph  # its edges lead to what is read
    first = [stage for stage in graph if stage.addressing in changed and not stage.always_changed]
    stale = set(first).union(*(nx.ancestors(graph, stage) for stage in first))
    ordered = [stage for stage in reversed(list(graph)) if stage in stale]
    reads = {stage: set(graph.successors(stage)) for stage in ordered}
    return {s.name: [other.name for other in ordered if other in reads[s]] for s in ordered}


async def _run_stages(reads: dict[str, list[str]], jobs: int, root: Path) -> None:
    done, free = {name: asyncio.Event() for name in reads}, asyncio.Semaphore(jobs)

    async def run(name: str) -> None:
        for read in reads[name]:
            await done[read].wait()
        async with free:  # whoever waits longest is next
            await _run_stage(name, root)
        done[name].set()

    try:
        async with asyncio.TaskGroup() as group:  # the first failure cancels the others
            for name in reads:
                group.create_task(run(name))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _run_stage(name: str, root: Path) -> None:
    """Run one stage in a process group of its own, which Ctrl-C does not reach.

    DVC's locks are held for moments, so it waits for them.
    """
    words = ["dvc", "--wait-for-lock", "repro", "--single-item", name]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=root, process_group=0, preexec_fn=end_with_parent
    )
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await _interrupt(process)
        raise
    if code != 0:
        raise StageError(f"stage {name} failed; `make repro` goes on from here")


async def _interrupt(process: asyncio.subprocess.Process) -> None:
    """Do what Ctrl-C does to all that DVC has started, but not to DVC: it may write dvc.lock."""
    while process.returncode is None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), PATIENCE)
