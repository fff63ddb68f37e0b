"""What a data folder holds, what is wrong with it, and the prepared sets made of it.

Problems are collected, not raised: a user sees all of them at once, each with what to do about it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Int
from pydantic import PositiveInt
from torchvision.datasets.folder import is_image_file

from carot_lib.data.datasets import usable_cores, write_set
from carot_lib.data.images import Member, locate, why_unreadable
from carot_lib.files import read_json, write_json
from carot_lib.progress import track
from carot_lib.schema import StrictParams

CHUNK = 256  # images that one process checks at a time
MAX_LISTED = 5  # names that one line of a report lists
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
Item, Result = TypeVar("Item"), TypeVar("Result")


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
    files: dict[str, list[str]] = field(default_factory=dict)  # sorted paths by class
    label_space: dict[str, Any] | None = None  # as in `classes.json`; None: all classes
    expected_images: int | None = None
    expected_classes: int | None = None
    border: int = 0  # pixels to cut off at each side of an image
    problems: list[str] = field(default_factory=list)  # each with what to do about it
    left_out: list[str] = field(default_factory=list)  # problems of samples not in `files`

    @property
    def paths(self) -> list[str]:
        """All images, class after class."""
        return [path for paths in self.files.values() for path in paths]

    @property
    def labels(self) -> Int[np.ndarray, " samples"]:
        """Label of each image: the position of its class in `files`."""
        counts = [len(paths) for paths in self.files.values()]
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def set_label_space(self, classes: Sequence[str], names: Sequence[str]) -> None:
        """Give the set a label space of its own if it has only some of the classes.

        Args:
            classes: classes of train, as in `files`; another class is a problem.
            names: names of these classes.
        """
        if unknown := [name for name in self.files if name not in classes]:
            self.problems.append(
                f"{len(unknown)} folders are none of train's classes ({shorten(unknown)}): "
                "rename or remove them, or add them to train"
            )
        elif list(self.files) != list(classes):
            columns = [classes.index(name) for name in self.files]
            self.label_space = {
                "names": [names[column] for column in columns],
                "columns": [[column] for column in columns],
            }


@dataclass(frozen=True)
class DatasetScan:
    """Everything that a data folder holds."""

    folder: Path
    sets: dict[str, ImageSet]  # by name; those that do not exist have no `place`
    class_names: list[str]  # of the classes of `train`, in the order of the labels
    templates: list[str] | None = None  # captions with `{}` for the name; None: CLIP's 80
    problems: list[str] = field(default_factory=list)  # of the folder as a whole
    shards: list[str] = field(default_factory=list)  # that paths refer to: paths, or URLs

    def report(self, required: Iterable[str]) -> list[str]:
        """List all problems, one line `<set>: <problem>: <what to do>` each.

        Args:
            required: sets that must exist, besides `train`.
        """
        lines = list(self.problems)
        required = ["train", *required]
        for name in dict.fromkeys([*required, *self.sets]):
            one = self.sets.get(name)
            if one is not None and one.place is not None:
                lines += [f"{name}: {problem}" for problem in one.problems]
            elif name in required:
                where = " or ".join(one.places if one else [name])
                todo = f"put it at {self.folder}/{where}"
                if self.shards and one is None:
                    todo = "list its shards under `shards`"
                lines.append(f"{name}: not found: {todo}")
        return lines

    def locate(self, path: str) -> Path | Member:
        """Find the image that a path of a set names."""
        return locate(self.folder, path, self.shards)

    def save(self, path: Path) -> None:
        """Write everything but the folder, for stage `data`."""
        content = asdict(self)
        del content["folder"]
        write_json(path, content)

    @classmethod
    def load(cls, path: Path, folder: Path) -> "DatasetScan":
        """Read what `save` wrote about a folder."""
        content = read_json(path)
        content["sets"] = {name: ImageSet(**one) for name, one in content["sets"].items()}
        return cls(folder, **content)


def find_set(folder: Path, name: str, places: Sequence[str], **expected: int) -> ImageSet:
    """List the images of a set that has one folder for each class.

    Args:
        folder: the data folder.
        name: name of the set.
        places: paths from the data folder; the first one that exists is taken.
        expected: other fields of `ImageSet`.
    """
    place = next((place for place in places if (folder / place).is_dir()), None)
    one = ImageSet(name, places, place, **expected)
    if place is None:
        return one
    top = folder / place
    walk = os.walk(top, followlinks=True)
    paths = [f"{parent}/{file}" for parent, _, files in walk for file in files]
    names = sorted(path.removeprefix(f"{top}/") for path in paths)
    names = [name for name in names if "/." not in f"/{name}"]  # no hidden files or folders
    images = [name for name in names if is_image_file(name)]
    one.files = {entry.name: [] for entry in sorted(top.glob("[!.]*/"))}
    for name in images:
        if "/" in name:
            one.files[name.split("/")[0]].append(f"{place}/{name}")
    if loose := [name for name in images if "/" not in name]:
        one.problems.append(
            f"{len(loose)} images lie in {place} itself ({shorten(loose)}): "
            "move each into the folder of its class"
        )
    if archives := [name for name in names if name.endswith(ARCHIVES)]:
        one.problems.append(
            f"{len(archives)} archives are not unpacked ({shorten(archives)}): "
            "unpack each into a folder of its own and remove it"
        )
    if empty := [entry for entry, paths in one.files.items() if not paths]:
        one.problems.append(
            f"{len(empty)} class folders hold no image ({shorten(empty)}): fill or remove them"
        )
    return one


def check_validation(
    sets: Mapping[str, ImageSet], classes: Sequence[str], per_class: int | None
) -> list[str]:
    """Check that validation images are given, or can be held out, and cover every class.

    Args:
        sets: all sets by name; problems of a single set are added to it, the others returned.
        classes: classes of train, as in `ImageSet.files`.
        per_class: images of each class to hold out; None: there must be a set `id_val`.
    """
    train, val = sets.get("train"), sets.get("id_val")
    if train is not None and per_class is not None:
        small = [f"{k} has {len(p)}" for k, p in train.files.items() if len(p) <= per_class]
        if small:
            train.problems.append(
                f"{len(small)} classes are too small to hold out {per_class} images "
                f"({shorten(small)}): lower validation_per_class"
            )
    if val is not None and val.files and (missing := [c for c in classes if c not in val.files]):
        val.problems.append(
            f"no image of the classes {shorten(missing)}: add some, or hold out images of train by "
            "validation_per_class"
        )
    if (val is None) == (per_class is None):
        return [
            "validation_per_class: give a number to hold out images of train, or null if there is "
            "a set `val`; not both"
        ]
    return []


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str, chunk: int = 1
) -> Iterator[Result]:
    """Apply a function to all items on all cores, `chunk` at a time; results come in order.

    `label` and `unit` (in the plural) are for the progress bar.
    """
    with ProcessPoolExecutor(max(1, min(usable_cores(), len(items) // chunk))) as pool:
        yield from track(pool.map(function, items, chunksize=chunk), len(items), label, unit)


def find_unreadable(scan: DatasetScan) -> dict[str, str]:
    """Decode every image and return why some of them cannot be, by path.

    Raises:
        UnreadableImageError: a shard cannot be read any more.
    """
    paths = [path for one in scan.sets.values() for path in one.paths]
    images = [scan.locate(path) for path in paths]
    reasons = map_in_processes(why_unreadable, images, "checking", "images", CHUNK)
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def hold_out(train: ImageSet, per_class: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split `per_class` random images of each class off; each class has a stream of its own.

    Returns:
        The images to train on, and the set `id_val`.
    """
    kept, held = ImageSet("train", [], train.place), ImageSet("id_val", [], train.place)
    for label, (name, paths) in enumerate(train.files.items()):
        rng = np.random.default_rng([seed, label])
        chosen = set(rng.choice(len(paths), per_class, replace=False).tolist())
        held.files[name] = [path for i, path in enumerate(paths) if i in chosen]
        kept.files[name] = [path for i, path in enumerate(paths) if i not in chosen]
    return kept, held


def prepare(
    scan: DatasetScan, params: ImageParams, unreadable: Mapping[str, str], out: Path
) -> None:
    """Write every set, see `carot_lib.data.datasets`.

    Args:
        scan: a scan without problems.
        params: number and seed of the held-out images.
        unreadable: images to leave out; the choice of the held-out images does not depend on it.
        out: the prepared data folder.

    Raises:
        ValueError: a set, or a class of train, has no readable image.
    """
    found = [one for one in scan.sets.values() if one.place is not None]
    sets = found
    if params.validation_per_class is not None:
        split = hold_out(scan.sets["train"], params.validation_per_class, params.seed)
        sets = [*split, *(one for one in found if one.name != "train")]
    for one in sets:
        one.files = {k: [p for p in paths if p not in unreadable] for k, paths in one.files.items()}
        if not (all if one.name == "train" else any)(one.files.values()):
            raise ValueError(f"{one.name}: the readable files do not cover its classes")
    for one in sets:
        write_set(out, one.name, one.labels, paths=one.paths)
    is_absolute = Path(params.folder).is_absolute()  # outside the project
    classes = {
        "class_names": scan.class_names,
        "label_spaces": {s.name: s.label_space for s in found if s.label_space is not None},
        "image_folder": str(scan.folder) if is_absolute else os.path.relpath(scan.folder, out),
        "borders": {s.name: s.border for s in found if s.border},
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
