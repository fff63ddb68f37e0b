"""Progress of long work: a bar with the time left in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS = 5.0  # between two lines when nobody watches a terminal


def track(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """Yield the items and report on standard error how far the work is.

    Args:
        items: the work; one item is taken at a time.
        total: number of items.
        label: what is being done, printed in front.
        unit: what the items are, in the plural.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=f" {unit}", dynamic_ncols=True)
        return
    start = printed = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - printed >= SECONDS or done == total:
            printed = now
            spent = now - start
            left = spent / done * (total - done)
            time_left = f", about {left:.0f} s left" if done < total else ""
            print(
                f"{label}: {done}/{total} {unit}, {spent:.0f} s{time_left}",
                file=sys.stderr,
                flush=True,
            )
