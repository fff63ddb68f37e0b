"""ImageNet-1K and its five shifts, as the paper evaluates them.

Which images, which classes and which label each image has; data/README.md says where to get them
and where to put them.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

from open_clip import IMAGENET_CLASSNAMES
from pydantic import PositiveInt

from carot_lib.sources.image_folders import check_counts, find_set
from carot_lib.sources.scan import DatasetScan, ImageParams, ImageSet, check_held_out, shorten
from carot_lib.sources.shards import Patterns, find_sharded

CLASS_NAMES = list(IMAGENET_CLASSNAMES)  # in the order of the sorted WordNet ids

# Where each set may lie, and how many images and classes it must have.
SETS = {
    "train": (("train",), 1_281_167, 1000),
    "id_test": (("val_dirs", "val"), 50_000, 1000),
    "v2": (
        (
            "imagenetv2-matched-frequency-format-val",
            "imagenetv2-matched-frequency",
            "ImageNetV2-matched-frequency",
        ),
        10_000,
        1000,
    ),
    "r": (("imagenet-r",), 30_000, 200),
    "a": (("imagenet-a",), 7_500, 200),
    "sketch": (("sketch", "imagenet-sketch"), 50_889, 1000),
    "objectnet": (("objectnet-1.0/images", "objectnet/objectnet-1.0/images"), 18_574, 113),
}
PER_CLASS = {"id_test": 50, "v2": 10}  # the sets that have as many images of every class
OBJECTNET_BORDER = 2  # pixels: a red frame of 1, and what JPEG made of it


class ImagenetParams(ImageParams):
    """`data:` of the profile imagenet."""

    kind: Literal["imagenet"]
    validation_per_class: PositiveInt  # 26: 2 % of train
    train_shards: Patterns | None  # paths from `folder`, or URLs; None: train is a folder

    def survey(self, root: Path) -> DatasetScan:
        """What lies in the data folder, and what is wrong with it.

        Args:
            root: the project's folder.
        """
        found = survey(root / self.folder, self.train_shards, self.on_error)
        check_held_out(found.sets["train"], self.validation_per_class)
        return found


def survey(folder: Path, train_shards: Patterns | None, on_error: str) -> DatasetScan:
    """Look for every set of `SETS` and check it but for the content of its files.

    Args:
        folder: the data folder.
        train_shards: of train, where it is no folder; val then tells the WordNet ids.
        on_error: see `find_sharded`.
    """
    sets = {
        name: find_set(folder, name, places, expected_images=images, expected_classes=classes)
        for name, (places, images, classes) in SETS.items()
    }
    wordnet_ids, shards = list(sets["train"].files or sets["id_test"].files), []
    if train_shards is not None:
        sharded, shards = find_sharded(folder, {"train": train_shards}, len(CLASS_NAMES), on_error)
        train, wordnet_ids = sharded["train"], sorted(sets["id_test"].files)
        _, train.expected_images, train.expected_classes = SETS["train"]
        if len(wordnet_ids) == len(CLASS_NAMES):  # else val has a fault
            train.files = {wordnet_ids[int(k)]: paths for k, paths in train.files.items()}
        sets["train"] = train
    for name, one in sets.items():
        if one.place is None:
            continue
        if name == "v2":
            _order_by_number(one)
        elif name == "objectnet":
            _apply_objectnet(one, folder)
        elif name != "train" or train_shards is None:
            _check_wordnet_ids(one, wordnet_ids)
        if name in ("r", "a"):
            known = [wnid for wnid in one.files if wnid in wordnet_ids]
            columns = [wordnet_ids.index(wnid) for wnid in known]
            names = [CLASS_NAMES[c] if c < len(CLASS_NAMES) else "" for c in columns]
            one.label_space = {"names": names, "columns": [[c] for c in columns]}
        check_counts(one, PER_CLASS.get(name))
    return DatasetScan(folder, sets, CLASS_NAMES, shards=shards)


def _check_wordnet_ids(one: ImageSet, known: list[str]) -> None:
    """The folders must be WordNet ids of train's classes: their sorted order is the labels."""
    if wrong := [name for name in one.files if not re.fullmatch(r"n\d{8}", name)]:
        one.faults.append(
            f"{len(wrong)} folders are not WordNet ids like n01440764 ({shorten(wrong)}): "
            "remove them"
        )
    if strange := [name for name in one.files if name not in known and name not in wrong]:
        one.faults.append(
            f"{len(strange)} folders are none of train's classes ({shorten(strange)}): "
            "this is another set, or train is not complete"
        )
    missing = [name for name in known if name not in one.files]
    if missing and one.expected_classes == len(known):
        one.faults.append(f"{len(missing)} classes of train are missing: {shorten(missing)}")


def _order_by_number(one: ImageSet) -> None:
    """ImageNet-V2 names folders 0 to 999: the number is the label, the order as text is not."""
    wanted = {str(label) for label in range(one.expected_classes)}
    if wrong := sorted(set(one.files) - wanted):
        one.faults.append(
            f"{len(wrong)} folders are not named by a number from 0 to {len(wanted) - 1} "
            f"({shorten(wrong)}): take the matched-frequency archive as it is"
        )
    if missing := sorted(wanted - set(one.files), key=int):
        one.faults.append(f"{len(missing)} classes are missing: {shorten(missing)}")
    one.files = {name: one.files[name] for name in sorted(one.files, key=_number)}


def _number(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdecimal() else (len(SETS) * 10**6, name)


def _apply_objectnet(one: ImageSet, folder: Path) -> None:
    """Keep ObjectNet's folders that mean classes of ImageNet, and give them their columns."""
    mappings = folder / Path(one.place).parent / "mappings"
    one.border = OBJECTNET_BORDER
    try:
        meaning = read_objectnet_mapping(mappings)
    except FileNotFoundError as error:
        name = Path(error.filename).name
        one.faults.append(f"{mappings / name} is missing: unpack the archive's folder mappings too")
        return
    except (KeyError, ValueError) as error:
        one.faults.append(f"{mappings} does not fit together ({error}): unpack it anew")
        return
    if missing := sorted(set(meaning) - set(one.files)):
        one.faults.append(f"{len(missing)} class folders are missing: {shorten(missing)}")
    one.files = {name: files for name, files in one.files.items() if name in meaning}
    one.label_space = {
        "names": [meaning[name][0] for name in one.files],
        "columns": [meaning[name][1] for name in one.files],
    }
    one.faults = [fault for fault in one.faults if "class folders hold no image" not in fault]


def read_objectnet_mapping(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """What ObjectNet's folders mean in ImageNet, from the files that come with the data set.

    Args:
        folder: `objectnet-1.0/mappings`.

    Returns:
        For each folder that means anything in ImageNet, the name of the object and the classes,
        as positions in the order of WordNet ids; the folders sorted.

    Raises:
        FileNotFoundError: one of the four files is missing.
        KeyError: a name in one file does not stand in another.
        ValueError: a file is no JSON, or a number is none.

    Source: the ObjectNet evaluation of WiSE-FT.
    """

    def read(name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    folder_of = {label: name for name, label in read("folder_to_objectnet_label.json").items()}
    position_of_line = {
        int(line): int(position)
        for position, line in read("pytorch_to_imagenet_2012_id.json").items()
    }
    lines = (folder / "imagenet_to_label_2012_v2").read_text(encoding="utf-8").splitlines()
    position_of = {
        label.strip(): position_of_line[line]
        for line, label in enumerate(lines)
        if line in position_of_line
    }
    meaning = {
        folder_of[label]: (label, [position_of[one.strip()] for one in labels.split(";")])
        for label, labels in read("objectnet_to_imagenet_1k.json").items()
    }
    return dict(sorted(meaning.items()))
