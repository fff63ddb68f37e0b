"""Fair timing: every candidate in turn, round after round, and what machine it was."""

import os
import platform
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def in_turn(
    candidates: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each candidate, and what its last call returned.

    All are called once uncounted, then in turn, so a change in the machine's speed meets all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    returned = {name: call() for name, call in candidates.items()}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            returned[name] = call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}, returned


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most memory that numpy and Python held at once during a call, beyond what they held before.

    Torch's memory is not seen.
    """
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def peak_memory() -> int:
    """Most bytes of memory that this process has held so far, libraries included."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac
    # not getrusage: a process inherits what it says from the process that started it
    lines = status.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Let `peak_memory` start again, where the system can do that."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def machine(*packages: str) -> dict[str, str | int]:
    """Processor, number of cores, and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line for line in lines if line.startswith("model name")]
    return {
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
