"""Progress of long work on standard error: a bar in a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """Yield the items one at a time and show progress as `<label>: 3/7 <unit> |####     | ...`."""
    layout = f"{{desc}}: {{n_fmt}}/{{total_fmt}} {unit} |{{bar}}| {{elapsed}}<{{remaining}}"
    if sys.stderr.isatty():
        options = {"dynamic_ncols": True}
    else:
        options = {"file": _Log(), "mininterval": 5.0}  # seconds
    yield from tqdm(items, desc=label, total=total, bar_format=layout, **options)


class _Log:
    """Standard error, on which each update of a bar is a line instead of overwriting the last."""

    def write(self, text: str) -> None:
        """Print what is not blank."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Do nothing: every line is flushed."""
