"""Progress of long work: a bar with the time left in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINES = 10  # printed over the whole of the work when nobody watches a terminal


def track(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """Yield the items and report on standard error how far the work is.

    Args:
        items: the work; one item is taken at a time.
        total: number of items.
        label: what is being done, printed in front.
        unit: what an item is, in the singular.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=unit, dynamic_ncols=True)
        return
    start, printed = time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        if done * LINES // total > printed:
            printed = done * LINES // total
            spent = time.monotonic() - start
            left = spent / done * (total - done)
            print(
                f"{label}: {done}/{total} {unit}s, {spent:.0f} s, about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
