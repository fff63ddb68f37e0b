"""Bring your own data: any tree of image folders.

    <folder>/train/<class>/*        what is learned
    <folder>/val/<class>/*          optional; else a part of train is held out
    <folder>/test/<class>/*         the in-distribution test set
    <folder>/<any name>/<class>/*   a shifted set; its classes may be a subset of train's

See data/README.md.
"""

import csv
from pathlib import Path
from typing import Literal

from carot_lib.sources.image_folders import find_set
from carot_lib.sources.scan import (
    DatasetScan,
    ImageParams,
    ImageSet,
    check_held_out,
    check_validation,
    shorten,
)

NAMES = {"train": "train", "val": "id_val", "test": "id_test"}  # folder: as the stages call it
TAKEN = ("id_val", "id_test", "ood")  # by the two sets, and by the mean of the shifted ones


class FoldersParams(ImageParams):
    """`data:` of the profile folders."""

    kind: Literal["folders"]
    class_names: str | None  # a CSV file with columns folder, name; None: the folders' own names
    templates: str | None  # a text file, one caption a line, {} for the name; None: CLIP's 80

    def survey(self, root: Path) -> DatasetScan:
        """What lies in the data folder, and what is wrong with it.

        Args:
            root: the project's folder; all paths of the params start there.
        """
        folder = root / self.folder
        faults: list[str] = []
        there = sorted(p.name for p in folder.glob("[!.]*/")) if folder.is_dir() else []
        if not there:
            faults.append(f"{folder}: no such folder, or an empty one: see data/README.md")
        places = {NAMES.get(name, name): name for name in ("train", "test")}
        for name in there:
            if name in TAKEN:
                faults.append(f"{folder / name}: this name is taken: call the folder otherwise")
            else:
                places[NAMES.get(name, name)] = name
        sets = {name: find_set(folder, name, [place]) for name, place in places.items()}
        classes = list(sets["train"].files)
        if ("id_val" in sets) == (self.validation_per_class is not None):
            faults.append(
                "validation_per_class: give a number to hold out images of train, or null if "
                f"there is a folder {folder}/val; not both"
            )
        if self.validation_per_class is not None:
            check_held_out(sets["train"], self.validation_per_class)
        names = _class_names(root, self.class_names, classes, faults)
        for one in sets.values():
            _match_classes(one, classes, names)
        check_validation(sets, classes)
        return DatasetScan(
            folder, sets, names, find_templates(root, self.templates, faults), faults
        )


def _match_classes(one: ImageSet, classes: list[str], names: list[str]) -> None:
    """Give a set that shows some of the classes only a label space of its own."""
    if strange := [name for name in one.files if name not in classes]:
        one.faults.append(
            f"{len(strange)} folders are none of train's classes ({shorten(strange)}): "
            "rename or remove them"
        )
    if one.place is not None and not one.files:
        one.faults.append("it holds no class folders: put each image into a folder of its class")
    if one.files and not strange:
        one.narrow(classes, names)


def _class_names(root: Path, file: str | None, classes: list[str], faults: list[str]) -> list[str]:
    """The name of every class folder, in their order."""
    if file is None:
        return [name.replace("_", " ") for name in classes]
    try:
        with (root / file).open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            named = {row["folder"]: (row["name"] or "").strip() for row in rows}
            if not named:
                raise KeyError("folder")
    except (OSError, UnicodeDecodeError, KeyError) as error:
        faults.append(f"class_names: {root / file}: not a CSV file with folder,name ({error!r})")
        return list(classes)
    if nameless := [name for name in classes if not named.get(name)]:
        faults.append(f"class_names: {file} does not name {shorten(nameless)}: add a line for each")
    if strange := [name for name in named if name not in classes]:
        faults.append(f"class_names: {file} names {shorten(strange)}, which train does not have")
    return [named.get(name) or name for name in classes]


def find_templates(root: Path, file: str | None, faults: list[str]) -> list[str] | None:
    """Read the captions from a file; None: CLIP's.

    Args:
        root: what the file's path starts from.
        file: one caption a line, {} for the name.
        faults: is told what is wrong with it.
    """
    if file is None:
        return None
    try:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"templates: {root / file}: not readable ({error})")
        return None
    templates = [line.strip() for line in lines if line.strip()]
    if not templates or any("{}" not in text for text in templates):
        faults.append(f"templates: {file}: every line needs {{}} where the class name stands")
    return templates
