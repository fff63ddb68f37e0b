"""Stage `list_images`: which files of images there are, and what the user's own texts say.

Only a look at the files tells whether one was added, replaced or removed, so DVC runs this stage
each time. It opens no image. Where data/listed/<profile>/ comes out differently than before,
stage `check_data` reads all images again; if their content is the same after all, nothing else
runs. The content of shards behind a URL is not seen. The miniature draws its images: it has none.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from braceexpand import braceexpand
from pydantic import BaseModel

from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.schema import read_params

Patterns = str | list[str]


class ListedPaths(BaseModel):
    """The keys of `data:` that name files, whatever its kind; the class of the kind checks them."""

    kind: str
    folder: str | None = None
    shards: dict[str, Patterns] = {}
    train_shards: Patterns | None = None
    class_names: str | None = None
    templates: str | None = None


def list_images(layout: Layout) -> None:
    """Write the listing of a profile; for errors see `listing`."""
    write_json(layout.listed, listing(layout))


def listing(layout: Layout) -> dict[str, Any]:
    """Number and size of the image files, and hashes that change when a file does.

    That of the images is of their paths, sizes (bytes) and times of modification, those of the
    texts are of their content. Hidden files are left out. A file that is not there is stage
    `check_data`'s problem.

    Raises:
        ValueError: params.yaml cannot be read, or its `data` names no files.
    """
    params = read_params(layout.params, ListedPaths, layout.profile, "data")
    files: list[tuple[str, int, int]] = []
    if params.folder is not None:
        folder = layout.root / params.folder
        shards = [*params.shards.values(), params.train_shards or []]
        paths = [folder / shard for shard in _expand(shards) if "://" not in shard]
        files += [(str(path), *_stamp(path.stat())) for path in paths if path.exists()]
        if params.kind != "shards":
            files += _walk(folder, "")
    lines = "\n".join(f"{name}\t{size}\t{time}" for name, size, time in sorted(files))
    texts = {"class_names": params.class_names, "templates": params.templates}
    return {
        "files": len(files),
        "bytes": sum(size for _, size, _ in files),
        "hash": hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(),
        **{key: _hash_text(layout.root, name) for key, name in texts.items()},
    }


def _expand(shards: list[Patterns]) -> Iterator[str]:
    for given in shards:
        for pattern in [given] if isinstance(given, str) else given:
            yield from braceexpand(pattern)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Path from the first folder, size and time of all files below a folder, links followed."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                status = entry.stat(follow_symlinks=not _is_broken_link(entry))
                yield f"{prefix}{entry.name}", *_stamp(status)


def _is_broken_link(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _hash_text(root: Path, name: str | None) -> str | None:
    if name is None or not (root / name).is_file():
        return None
    return hashlib.sha256((root / name).read_bytes()).hexdigest()
