"""Processes that start others."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from carot_lib.progress import track

PR_SET_PDEATHSIG = 1  # of prctl(2)
Item, Result = TypeVar("Item"), TypeVar("Result")


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    label: str,
    unit: str,
    *,
    chunk: int = 1,
    trains: bool = False,
) -> Iterator[Result]:
    """Apply a function to all items, one process per core; results come in order.

    Args:
        function: of the top level of a module, as it is pickled.
        items: likewise.
        label: of the progress bar.
        unit: of the items, in the plural; likewise.
        chunk: items that a process takes at a time.
        trains: the function computes with torch, so each process is a fresh one, on one thread.
    """
    processes = max(1, min(usable_cores(), len(items) // chunk))
    fresh = (get_context("spawn"), _use_one_thread) if trains else ()
    with ProcessPoolExecutor(processes, *fresh) as pool:
        yield from track(pool.map(function, items, chunksize=chunk), len(items), label, unit)


def end_with_parent() -> None:
    """Have this process terminated when the one that started it ends, even by `kill -9`.

    Only Linux can do so; elsewhere it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _use_one_thread() -> None:
    import torch  # slow, and most stages that start processes do not need it

    torch.set_num_threads(1)
