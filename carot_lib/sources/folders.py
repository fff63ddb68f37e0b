"""A user's own images: any tree of image folders.

    <folder>/train/<class>/*        training images
    <folder>/val/<class>/*          optional; without it a part of train is held out
    <folder>/test/<class>/*         the in-distribution test set
    <folder>/<any name>/<class>/*   a shifted set; its classes may be a subset of train's

See data/README.md.
"""

import csv
from pathlib import Path
from typing import Literal

from carot_lib.sources.scan import (
    DatasetScan,
    ImageParams,
    check_class_names,
    check_validation,
    find_set,
    shorten,
)

# Names of the sets in the other stages, by the names that users give them
SET_NAMES = {"train": "train", "val": "id_val", "test": "id_test"}
RESERVED_NAMES = ("id_val", "id_test", "ood")  # `ood` is the mean of the shifted sets


class FoldersParams(ImageParams):
    """`data:` of the profile folders; all paths start at the project's folder."""

    kind: Literal["folders"]
    class_names: str | None  # a CSV file with columns folder, name; None: the folders' own names
    templates: str | None  # a text file, one caption a line, {} for the name; None: CLIP's 80

    def scan(self, root: Path) -> DatasetScan:
        """List the images in the data folder, and what is wrong with it."""
        folder = root / self.folder
        problems: list[str] = []
        entries = sorted(path.name for path in folder.glob("[!.]*/"))
        if not entries:
            problems.append(f"{folder}: no such folder, or an empty one: see data/README.md")
        places = ["train", "test", *entries]
        if self.validation_per_class is None:
            places.append("val")
        sets = {}
        for place in dict.fromkeys(places):
            name = SET_NAMES.get(place, place)
            if place in RESERVED_NAMES:
                problems.append(f"{folder / place}: this name is reserved: rename the folder")
            else:
                sets[name] = find_set(folder, name, [place])
        classes = list(sets["train"].files)
        names = self._read_class_names(root, classes, problems)
        for one in sets.values():
            one.set_label_space(classes, names)
            if one.place is not None and not one.files:
                one.problems.append(
                    "it holds no class folders: put each image into a folder of its class"
                )
        problems += check_validation(sets, classes, self.validation_per_class)
        problems += check_class_names(names)
        templates = read_templates_file(root, self.templates, problems)
        return DatasetScan(sets, names, templates, problems)

    def _read_class_names(self, root: Path, classes: list[str], problems: list[str]) -> list[str]:
        """Names of the class folders, in their order."""
        if self.class_names is None:
            return [name.replace("_", " ") for name in classes]
        lines = read_lines(root / self.class_names, "class_names", problems)
        if lines is None:
            return classes
        file, header = f"class_names: {self.class_names}", lines[0] if lines else ""
        # a comma in the program's own language, in others a semicolon or a tab
        delimiter = next((mark for mark in ",;\t" if mark in header), ",")
        rows = list(csv.DictReader(lines, delimiter=delimiter))
        if not rows or not {"folder", "name"} <= rows[0].keys():
            problems.append(f"{file}: needs lines with folder,name")
            return classes
        names = {row["folder"]: (row["name"] or "").strip() for row in rows}
        if unnamed := [name for name in classes if not names.get(name)]:
            problems.append(f"{file} does not name {shorten(unnamed)}: add a line for each")
        if unknown := [name for name in names if name not in classes]:
            problems.append(f"{file} names {shorten(unknown)}, which train does not have")
        return [names.get(name) or name for name in classes]


def read_lines(path: Path, key: str, problems: list[str]) -> list[str] | None:
    """Read a text file that params.yaml names under `key`; None and a problem if impossible.

    A byte-order mark, which spreadsheets put before the text, is left out.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{key}: {path}: not readable ({error})")
        return None


def read_templates_file(root: Path, file: str | None, problems: list[str]) -> list[str] | None:
    """Read caption templates, one a line with {} for the class name; None without a file."""
    lines = None if file is None else read_lines(root / file, "templates", problems)
    if lines is None:
        return None
    templates = [line.strip() for line in lines if line.strip()]
    if not templates or any("{}" not in text for text in templates):
        problems.append(f"templates: {file}: every line needs {{}} where the class name stands")
    return templates
