"""What a data folder holds, what is wrong with it, and the prepared sets made of it.

Problems are collected, not raised: a user sees all of them at once, each with what to do about it.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt
from torchvision.datasets.folder import is_image_file

from carot_lib.data.datasets import write_set
from carot_lib.data.images import Inspection, inspect_image, locate
from carot_lib.files import write_json
from carot_lib.processes import map_in_processes
from carot_lib.schema import StrictParams

CHUNK = 256  # images that one process checks at a time
MAX_LISTED = 5  # names that one line of a report lists
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
Files = dict[str, list[str]]  # sorted paths by class


class ImageParams(StrictParams):
    """Keys of `data:` that all kinds of image files share."""

    folder: str  # its content depends on the kind; relative to the project, or absolute
    validation_per_class: PositiveInt | None  # images of train held out, never trained on
    seed: int  # of the choice of the held-out images
    on_error: Literal["stop", "skip"]  # what unreadable images do: stop everything, or be left out


@dataclass
class ImageSet:
    """One set of images on disk or in shards."""

    name: str  # as in the other stages, for example `id_test`
    places: Sequence[str]  # paths from the data folder where it may be
    place: str | None = None  # where it is; None if there is no such set
    files: Files = field(default_factory=dict)
    label_space: dict[str, Any] | None = None  # as in `classes.json`; None: all classes
    expected_images: int | None = None
    expected_classes: int | None = None
    border: int = 0  # pixels to cut off at each side of an image
    problems: list[str] = field(default_factory=list)  # each with what to do about it
    left_out: list[str] = field(default_factory=list)  # problems of samples not in `files`

    @property
    def paths(self) -> list[str]:
        """All images, class after class."""
        return list(chain.from_iterable(self.files.values()))

    def add_problem(self, names: Sequence[str], what: str, todo: str) -> None:
        """Add the line `<count> <what> (<names>): <todo>`, if there are any such names."""
        if names:
            self.problems.append(f"{len(names)} {what} ({shorten(names)}): {todo}")

    def set_label_space(self, classes: Sequence[str], names: Sequence[str]) -> None:
        """Give the set a label space of its own if it has only some of the classes of train.

        `classes` are those of train, as in `files`, and `names` their names.
        """
        unknown = [name for name in self.files if name not in classes]
        todo = "rename or remove them, or add them to train"
        self.add_problem(unknown, "folders are none of train's classes", todo)
        if not unknown and list(self.files) != list(classes):
            columns = [classes.index(name) for name in self.files]
            self.label_space = {
                "names": [names[column] for column in columns],
                "columns": [[column] for column in columns],
            }


@dataclass(frozen=True)
class DatasetScan:
    """Everything that a data folder holds."""

    sets: dict[str, ImageSet]  # by name; those that do not exist have no `place`
    class_names: list[str]  # of the classes of `train`, in the order of the labels
    templates: list[str] | None = None  # captions with `{}` for the name; None: CLIP's 80
    problems: list[str] = field(default_factory=list)  # of the folder as a whole
    shards: list[str] = field(default_factory=list)  # that paths refer to: paths, or URLs

    @property
    def found(self) -> list[ImageSet]:
        """The sets that exist."""
        return [one for one in self.sets.values() if one.place is not None]

    def report(self, folder: Path, required: Sequence[str]) -> list[str]:
        """List all problems, one line `<set>: <problem>: <what to do>` each.

        `required` are the sets that must exist.
        """
        lines = list(self.problems)
        for name in dict.fromkeys([*required, *self.sets]):
            one = self.sets.get(name)
            if one is not None and one.place is not None:
                lines += [f"{name}: {problem}" for problem in one.problems]
            elif name in required:
                todo = f"put it at {folder}/{' or '.join(one.places if one else [name])}"
                if self.shards and one is None:
                    todo = "list its shards under `shards`"
                lines.append(f"{name}: not found: {todo}")
        return lines


def find_set(folder: Path, name: str, places: Sequence[str], **expected: int) -> ImageSet:
    """List the images of a set that has one folder for each class.

    Of the places, paths from the data folder, the first one that exists is taken.
    """
    place = next((place for place in places if (folder / place).is_dir()), None)
    one = ImageSet(name, places, place, **expected)
    if place is None:
        return one
    top = folder / place
    walk = os.walk(top, followlinks=True)
    paths = [f"{parent}/{file}" for parent, _, files in walk for file in files]
    names = sorted(path.removeprefix(str(top)) for path in paths)
    names = [name[1:] for name in names if "/." not in name]  # no hidden files or folders
    one.files = {entry.name: [] for entry in sorted(top.glob("[!.]*/"))}
    loose = []
    for image in filter(is_image_file, names):
        if "/" in image:
            one.files[image.split("/")[0]].append(f"{place}/{image}")
        else:
            loose.append(image)
    archives = [name for name in names if name.endswith(ARCHIVES)]
    others = [name for name in names if not is_image_file(name) and not name.endswith(ARCHIVES)]
    if others:
        one.left_out.append(f"{len(others)} files have no ending of an image ({shorten(others)})")
    empty = [entry for entry, images in one.files.items() if not images]
    todo = "move each into the folder of its class"
    one.add_problem(loose, f"images lie in {place} itself", todo)
    todo = "unpack each into a folder of its own and remove it"
    one.add_problem(archives, "archives are not unpacked", todo)
    one.add_problem(empty, "class folders hold no image", "fill or remove them")
    return one


def check_validation(
    sets: Mapping[str, ImageSet], classes: Sequence[str], per_class: int | None
) -> list[str]:
    """Check that validation images are given, or can be held out, and cover all classes of train.

    Problems of a single set are added to it, the others returned. Without a number of images of
    each class to hold out there must be a set `id_val`.
    """
    train, val = sets.get("train"), sets.get("id_val")
    if train is not None and per_class is not None:
        small = [f"{k} has {len(p)}" for k, p in train.files.items() if len(p) <= per_class]
        what = f"classes are too small to hold out {per_class} images"
        train.add_problem(small, what, "lower validation_per_class")
    if val is not None and val.files:
        missing = [name for name in classes if name not in val.files]
        todo = "add some, or hold out images of train by validation_per_class"
        val.add_problem(missing, "classes have no image", todo)
    has_val = val is not None and val.place is not None
    if per_class is None and not has_val:
        return [
            "validation_per_class: null, and there is no set `val`: give the number of images of "
            "each class of train to hold out, or add a set `val`"
        ]
    if per_class is not None and has_val:
        return [
            f"validation_per_class: {per_class}, but there is a set `val` as well: write null to "
            "use it, or remove it"
        ]
    return []


def check_class_names(names: Sequence[str]) -> list[str]:
    """Check that captions tell the classes apart; CLIP's tokens know no upper case."""
    twice = [name for name, count in Counter(map(str.lower, names)).items() if count > 1]
    if not twice:
        return []
    todo = "give each class a name of its own, or make one class of them"
    return [f"class names that stand for several classes ({shorten(twice)}): {todo}"]


def inspect_images(scan: DatasetScan, folder: Path) -> dict[str, Inspection]:
    """Read every image, by path.

    Raises:
        UnreadableImageError: a shard cannot be read any more.
    """
    paths = [path for one in scan.found for path in one.paths]
    images = [locate(folder, path, scan.shards) for path in paths]
    found = map_in_processes(inspect_image, images, "checking", "images", chunk=CHUNK)
    return dict(zip(paths, found, strict=True))


def hold_out(files: Files, per_class: int, seed: int) -> tuple[Files, Files]:
    """Images to keep, and `per_class` random ones to hold out; each class has its own stream."""
    kept, held = {}, {}
    for label, (name, paths) in enumerate(files.items()):
        rng = np.random.default_rng([seed, label])
        chosen = set(rng.choice(len(paths), per_class, replace=False).tolist())
        held[name] = [path for i, path in enumerate(paths) if i in chosen]
        kept[name] = [path for i, path in enumerate(paths) if i not in chosen]
    return kept, held


def write_sets(
    scan: DatasetScan, params: ImageParams, root: Path, images: Mapping[str, Inspection], out: Path
) -> None:
    """Write every set, see `carot_lib.data.datasets`.

    Args:
        scan: a scan without problems.
        params: the data folder, and number and seed of the held-out images.
        root: base of the data folder.
        images: what is known of every image. Those with a fault are left out; the choice of the
            held-out images does not depend on it.
        out: where to write.

    Raises:
        ValueError: a set, or a class of train, has no readable image.
    """
    sets = {one.name: one.files for one in scan.found}
    if params.validation_per_class is not None:
        split = hold_out(sets["train"], params.validation_per_class, params.seed)
        sets["train"], sets["id_val"] = split
    readable = {
        name: [[path for path in paths if images[path].fault is None] for paths in files.values()]
        for name, files in sets.items()
    }
    for name, paths_by_class in readable.items():
        if not (all if name == "train" else any)(paths_by_class):
            raise ValueError(f"{name}: the readable files do not cover its classes")
    contents = {}
    for name, paths_by_class in readable.items():
        counts = [len(paths) for paths in paths_by_class]
        labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        write_set(out, name, labels, paths=list(chain.from_iterable(paths_by_class)))
        hashes = "".join(images[path].content for path in chain.from_iterable(paths_by_class))
        contents[name] = hashlib.sha256(hashes.encode()).hexdigest()[:16]
    folder = Path(params.folder)
    if not folder.is_absolute():  # within the project, which may be moved as a whole
        folder = os.path.relpath(root / folder, out)
    classes = {
        "class_names": scan.class_names,
        "label_spaces": {s.name: s.label_space for s in scan.found if s.label_space is not None},
        "image_folder": str(folder),
        "contents": contents,
        "borders": {s.name: s.border for s in scan.found if s.border},
    }
    if scan.shards:
        classes["shards"] = scan.shards
    if scan.templates is not None:
        classes["templates"] = scan.templates
    write_json(out / "classes.json", classes)


def shorten(names: Sequence[str]) -> str:
    """Join the first names, and say how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
