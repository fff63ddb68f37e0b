"""Sets of images in folders: one folder a set, and in it one folder of images a class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from carot_lib.sources.scan import ImageSet, shorten

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


def find_set(folder: Path, name: str, places: Sequence[str], **expected: Any) -> ImageSet:
    """Look for a set and list its images.

    Args:
        folder: the data folder.
        name: of the set.
        places: paths to look at, from the data folder; of the first one that is a folder.
        expected: other fields of `ImageSet`.
    """
    found = ImageSet(name, places, **expected)
    found.place = next((place for place in places if (folder / place).is_dir()), None)
    if found.place is None:
        return found
    top = folder / found.place
    entries = sorted(entry for entry in top.iterdir() if not entry.name.startswith("."))
    loose = [entry.name for entry in entries if is_image(entry.name)]
    if loose:
        found.faults.append(
            f"{len(loose)} images lie in {found.place} itself ({shorten(loose)}): "
            "move each into the folder of its class"
        )
    archives = [entry.name for entry in entries if entry.name.endswith(ARCHIVES)]
    for entry in entries:
        if not entry.is_dir():
            continue
        paths = []
        for parent, folders, files in os.walk(entry, followlinks=True):
            folders[:] = [one for one in folders if not one.startswith(".")]
            inside = os.path.relpath(parent, folder)
            paths += [f"{inside}/{file}" for file in files if is_image(file)]
            archives += [f"{entry.name}/{file}" for file in files if file.endswith(ARCHIVES)]
        found.files[entry.name] = sorted(paths)
    if archives:
        found.faults.append(
            f"{len(archives)} archives are not unpacked ({shorten(archives)}): "
            "unpack each into a folder of its own and remove it"
        )
    if empty := [entry for entry, paths in found.files.items() if not paths]:
        found.faults.append(
            f"{len(empty)} class folders hold no image ({shorten(empty)}): fill or remove them"
        )
    return found


def check_counts(found: ImageSet, per_class: int | None = None) -> None:
    """Add a fault for each count that is not as expected.

    Args:
        found: a set that is there.
        per_class: images that every class must have; None if they differ.
    """
    again = "unpack its archive anew, the last time may have stopped half-way"
    n_images, n_classes = len(found.paths), len(found.files)
    if found.expected_classes not in (None, n_classes):
        found.faults.append(f"{n_classes} class folders, not {found.expected_classes}: {again}")
    if found.expected_images not in (None, n_images):
        found.faults.append(f"{n_images} images, not {found.expected_images}: {again}")
    odd = [f"{k} has {len(p)}" for k, p in found.files.items() if len(p) not in (per_class, 0)]
    if per_class is not None and odd:
        found.faults.append(f"{len(odd)} classes do not have {per_class} images: {shorten(odd)}")


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; hidden files are none (`._x.jpg` of a Mac)."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")
