"""Atomic writing of files, and errors that name a damaged file."""

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
    """Yield a temporary path in the same folder, which replaces `path` if the block succeeds.

    A reader sees the old file or the new one, never a part. If the block raises, the temporary
    file is removed. If the process is killed, it stays, under a name that nothing reads, until the
    next write replaces it.

    Args:
        path: the file to write; its folder is made if it is missing.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # safetensors lets nobody else read its files
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file at `path`
        temporary.replace(path)
    except SafetensorError as error:  # of a full disk, too
        raise OSError(f"{path}: {error}") from error
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a full disk
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Which permissions the user's new files lack; to ask is to set it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def reading(path: Path, remedy: str = "`make repro` makes it anew") -> Iterator[None]:
    """Turn errors of the block, which reads a file, into one that names the file and the remedy.

    Raises:
        ValueError: the file is damaged; a missing file stays a FileNotFoundError.
    """
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(f"{error}".splitlines()[:1])
        raise ValueError(f"{path} is damaged ({reason}): {remedy}") from error


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged.
    """
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))
