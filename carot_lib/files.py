"""Writing files whole or not at all, and naming those that are damaged all the same."""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

DAMAGE = (ValueError, KeyError, RuntimeError, SafetensorError, zipfile.BadZipFile, EOFError)


class StageError(RuntimeError):
    """A stage failed for a reason that its message explains to the user."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place once the block ends well.

    A reader sees the old file or the new one, never a half. If the block raises, the temporary
    file is removed; if the process is killed, it stays behind under a name that nobody reads and
    the next write replaces it.

    Args:
        path: the file to write; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # a power cut must not leave an empty file under the name
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file of the pipeline whose content the block cannot take.

    Raises:
        ValueError: as said.
    """
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(f"{error}".splitlines()[:1])
        raise ValueError(f"{path} is damaged ({reason}): `make repro` makes it anew") from error


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))
