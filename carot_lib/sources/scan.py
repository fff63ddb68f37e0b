"""What was found of every set of images, what is wrong with it, and the sets made of it.

Found in folders or in shards, see `image_folders` and `shards`. What is wrong is collected, not
raised: a user learns of every fault at once, each with what to do about it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import PositiveInt
from torch.utils.data import DataLoader, Dataset

from carot_lib.data.datasets import usable_cores, write_set
from carot_lib.data.images import Member, locate, why_unreadable
from carot_lib.files import read_json, write_json
from carot_lib.progress import track
from carot_lib.schema import StrictParams

CHUNK = 256  # files that one process checks at a time
NAMED = 5  # names of a list that a line of a report shows


class ImageParams(StrictParams):
    """Keys that every `data:` of image files has."""

    folder: str  # what is in it depends on the kind; relative to the project, or absolute
    validation_per_class: PositiveInt | None  # images of train held out, never trained on
    seed: int  # of the held-out images
    on_error: Literal["stop", "skip"]  # for unreadable images: nothing runs, or without them


@dataclass
class ImageSet:
    """One set as it lies on disk.

    Attributes:
        name: as the other stages call it, for example `id_test`.
        places: where it is looked for, from the data folder; the first that is there counts.
        place: where it was found; None if it is not there.
        files: paths of its images from the data folder, by class folder; both sorted.
        label_space: `names` and `columns` as `classes.json` holds them; None: all classes.
        expected_images: None if unknown.
        expected_classes: None if unknown.
        border: pixels to cut off each side of an image.
        faults: what is wrong with it and what to do, one line each.
        left_out: what is wrong with parts of it that are not in `files`.
    """

    name: str
    places: Sequence[str]
    place: str | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    label_space: dict[str, Any] | None = None
    expected_images: int | None = None
    expected_classes: int | None = None
    border: int = 0
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Every image, class after class."""
        return [path for paths in self.files.values() for path in paths]

    @property
    def labels(self) -> Int[np.ndarray, " samples"]:
        """The class of every image: the position of its folder."""
        counts = [len(paths) for paths in self.files.values()]
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def narrow(self, classes: Sequence[str], names: Sequence[str]) -> None:
        """Give it a label space of its own if it shows some of the classes only.

        Args:
            classes: of train, as `files` calls them.
            names: of these classes.
        """
        if list(self.files) != classes:
            columns = [classes.index(name) for name in self.files]
            shown = [names[column] for column in columns]
            self.label_space = {"names": shown, "columns": [[column] for column in columns]}


@dataclass(frozen=True)
class DatasetScan:
    """Everything that was found in a data folder.

    Attributes:
        folder: the data folder.
        sets: by name, `train` among them; those that are not there have no `place`.
        class_names: of the classes of `train`, in the order of its folders.
        templates: of captions, `{}` for the name; None: CLIP's 80.
        faults: what is wrong with the folder as a whole.
        shards: that the paths of the sets count, by path from the folder or by URL.
    """

    folder: Path
    sets: dict[str, ImageSet]
    class_names: list[str]
    templates: list[str] | None = None
    faults: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)

    def report(self, wanted: Iterable[str]) -> list[str]:
        """Every fault as a line `<set>: <what>: <what to do>`.

        Args:
            wanted: sets that must be there.
        """
        lines = list(self.faults)
        for name in dict.fromkeys(["train", *wanted, *self.sets]):
            one = self.sets.get(name, ImageSet(name, [name]))
            if one.place is not None:
                lines += [f"{name}: {fault}" for fault in one.faults]
            elif name == "train" or name in wanted:
                looked = " or ".join(dict.fromkeys(one.places))
                where = f"put it at {self.folder}/{looked}"
                if self.shards and name not in self.sets:
                    where = "list its shards under `shards`"
                lines.append(f"{name}: not found: {where}")
        return lines

    def locate(self, path: str) -> Path | Member:
        """Where the image is that a path of a set names."""
        return locate(self.folder, path, self.shards)

    def save(self, path: Path) -> None:
        """Write all that was found, for stage `data`."""
        content = asdict(self)
        del content["folder"]
        write_json(path, content)

    @classmethod
    def load(cls, path: Path, folder: Path) -> "DatasetScan":
        """Read what `save` wrote of a folder."""
        content = read_json(path)
        content["sets"] = {name: ImageSet(**one) for name, one in content["sets"].items()}
        return cls(folder, **content)


def check_validation(sets: Mapping[str, ImageSet], classes: Sequence[str]) -> None:
    """Add a fault if there is a validation set and it lacks a class: all is selected on it.

    Args:
        sets: by name.
        classes: folders, or labels, that train has.
    """
    val = sets.get("id_val")
    if val is not None and val.files and (missing := [c for c in classes if c not in val.files]):
        val.faults.append(
            f"no image of the classes {shorten(missing)}: add some, or hold out images of train by "
            "validation_per_class"
        )


def check_held_out(train: ImageSet, per_class: int) -> None:
    """Add a fault if a class has no image beyond those that are to be held out.

    Args:
        train: the set to hold out from.
        per_class: images to hold out of each class.
    """
    few = [f"{k} has {len(p)}" for k, p in train.files.items() if len(p) <= per_class]
    if few:
        train.faults.append(
            f"{len(few)} classes are too small to hold out {per_class} images ({shorten(few)}): "
            "lower validation_per_class"
        )


def find_unreadable(survey: DatasetScan) -> dict[str, str]:
    """Decode every image, on all cores, and say why some cannot be.

    Returns:
        The reason by path, in the order of the sets.

    Raises:
        UnreadableImageError: a shard does not come any more.
    """
    paths = [path for one in survey.sets.values() for path in one.paths]
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    workers = min(usable_cores(), len(chunks)) if len(chunks) > 1 else 0
    loader = DataLoader(_Reasons(survey, chunks), batch_size=None, num_workers=workers)
    reasons: dict[str, str] = {}
    for found in track(loader, len(chunks), "checking images", f"times {CHUNK}"):
        reasons |= found
    return reasons


class _Reasons(Dataset):
    """For each chunk of images, why some of them cannot be decoded."""

    def __init__(self, survey: DatasetScan, chunks: Sequence[Sequence[str]]):
        self.survey, self.chunks = survey, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> dict[str, str]:
        reasons = {path: why_unreadable(self.survey.locate(path)) for path in self.chunks[index]}
        return {path: reason for path, reason in reasons.items() if reason}


def hold_out(
    labels: Int[np.ndarray, " samples"], per_class: int, seed: int
) -> Bool[np.ndarray, " samples"]:
    """Which images of train are kept for validation: the same number of each class, by chance.

    Args:
        labels: of train, in [0, classes).
        per_class: images to hold out of each class
            (each class must have more, see `check_held_out`).
        seed: of the choice; each class has a stream of its own.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held[np.random.default_rng([seed, int(label)]).choice(rows, per_class, replace=False)] = 1
    return held


def prepare(
    survey: DatasetScan, params: ImageParams, unreadable: Mapping[str, str], out: Path
) -> None:
    """Write every set that was found, see `carot_lib.data.datasets`.

    Args:
        survey: without faults.
        params: how many images of train to hold out; the rest is the prepared set `train`.
        unreadable: files to leave out; the choice of the held-out images does not depend on it.
        out: the prepared data folder.

    Raises:
        ValueError: a set, or a class of train, has no image left.
    """
    found = [one for one in survey.sets.values() if one.place is not None]
    contents = {}
    for one in found:
        labels, paths = one.labels, np.array(one.paths)
        good = np.array([path not in unreadable for path in one.paths], dtype=bool)
        parts = {one.name: good}
        if one.name == "train" and params.validation_per_class is not None:
            held = hold_out(labels, params.validation_per_class, params.seed)
            parts = {"train": good & ~held, "id_val": good & held}
        for name, rows in parts.items():
            left = len(np.unique(labels[rows]))
            if left < (len(survey.class_names) if name == "train" else 1):
                raise ValueError(f"{name}: the readable files do not cover its classes")
            contents[name] = labels[rows], paths[rows]
    for name, (labels, paths) in contents.items():
        write_set(out, name, labels, paths=paths)
    moved = Path(params.folder).is_absolute()  # outside the project: the path stays as it is
    classes = {
        "class_names": survey.class_names,
        "label_spaces": {s.name: s.label_space for s in found if s.label_space is not None},
        "image_folder": str(survey.folder) if moved else os.path.relpath(survey.folder, out),
        "borders": {s.name: s.border for s in found if s.border},
    }
    if survey.shards:
        classes["shards"] = survey.shards
    if survey.templates is not None:
        classes["templates"] = survey.templates
    write_json(out / "classes.json", classes)


def shorten(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
