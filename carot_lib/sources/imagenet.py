"""ImageNet-1K and its five shifts, as the paper evaluates them.

data/README.md says where to get the images and where to put them.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

from open_clip import IMAGENET_CLASSNAMES
from pydantic import PositiveInt

from carot_lib.sources.scan import (
    DatasetScan,
    ImageParams,
    ImageSet,
    check_validation,
    find_set,
)
from carot_lib.sources.shards import Patterns, find_sharded

CLASS_NAMES = list(IMAGENET_CLASSNAMES)  # in the order of the sorted WordNet ids

# Where each set may be, and how many images and classes it must have
SETS = {
    "train": (("train",), 1_281_167, 1000),
    "id_test": (("val_dirs", "val"), 50_000, 1000),
    "imagenet_v2": (
        (
            "imagenetv2-matched-frequency-format-val",
            "imagenetv2-matched-frequency",
            "ImageNetV2-matched-frequency",
        ),
        10_000,
        1000,
    ),
    "imagenet_r": (("imagenet-r",), 30_000, 200),
    "imagenet_a": (("imagenet-a",), 7_500, 200),
    "imagenet_sketch": (("sketch", "imagenet-sketch"), 50_889, 1000),
    "objectnet": (("objectnet-1.0/images", "objectnet/objectnet-1.0/images"), 18_574, 113),
}
PER_CLASS = {"id_test": 50, "imagenet_v2": 10}  # sets with as many images of every class
INCOMPLETE = "unpack its archive again, the last time may have stopped half-way"
OBJECTNET_BORDER = 2  # pixels: a red frame of 1, and what JPEG made of it


class ImagenetParams(ImageParams):
    """`data:` of the profile imagenet."""

    kind: Literal["imagenet"]
    validation_per_class: PositiveInt  # 26: 2 % of train
    train_shards: Patterns | None  # paths from `folder`, or URLs; None: train is a folder

    def scan(self, root: Path) -> DatasetScan:
        """List the images of every set of `SETS`, and what is wrong with them."""
        folder = root / self.folder
        sets = {
            name: find_set(folder, name, places, expected_images=images, expected_classes=classes)
            for name, (places, images, classes) in SETS.items()
        }
        wordnet_ids, shards = list(sets["train"].files or sets["id_test"].files), []
        if self.train_shards is not None:
            patterns = {"train": self.train_shards}
            sharded, shards = find_sharded(folder, patterns, len(CLASS_NAMES), self.on_error)
            train, wordnet_ids = sharded["train"], list(sets["id_test"].files)
            _, train.expected_images, train.expected_classes = SETS["train"]
            if len(wordnet_ids) == len(CLASS_NAMES):  # else val has a problem
                train.files = {wordnet_ids[int(k)]: paths for k, paths in train.files.items()}
            sets["train"] = train
        for name, one in sets.items():
            if one.place is None:
                continue
            if name == "imagenet_v2":
                _order_by_number(one)
            elif name == "objectnet":
                _apply_objectnet_mapping(one, folder)
            elif name != "train" or self.train_shards is None:
                _check_wordnet_ids(one, wordnet_ids)
            _check_counts(one, PER_CLASS.get(name))
        problems = check_validation(sets, wordnet_ids, self.validation_per_class)
        return DatasetScan(sets, CLASS_NAMES, problems=problems, shards=shards)


def _check_counts(one: ImageSet, per_class: int | None) -> None:
    """Compare the numbers of images and classes with the expected ones."""
    n_images, n_classes = len(one.paths), len(one.files)
    if n_classes != one.expected_classes:
        one.problems.append(f"{n_classes} class folders, not {one.expected_classes}: {INCOMPLETE}")
    if n_images != one.expected_images:
        one.problems.append(f"{n_images} images, not {one.expected_images}: {INCOMPLETE}")
    if per_class is not None:
        odd = [f"{k} has {len(p)}" for k, p in one.files.items() if len(p) not in (per_class, 0)]
        one.add_problem(odd, f"classes do not have {per_class} images", INCOMPLETE)


def _check_wordnet_ids(one: ImageSet, wordnet_ids: list[str]) -> None:
    """Check that the folders are WordNet ids of train's classes: their order is the labels."""
    wrong = [name for name in one.files if not re.fullmatch(r"n\d{8}", name)]
    one.add_problem(wrong, "folders are not WordNet ids like n01440764", "remove them")
    names = [*CLASS_NAMES, *wordnet_ids[len(CLASS_NAMES) :]]  # if train has too many folders
    one.set_label_space(wordnet_ids, names)
    if one.expected_classes == len(CLASS_NAMES):
        missing = [name for name in wordnet_ids if name not in one.files]
        one.add_problem(missing, "classes of train are missing", INCOMPLETE)


def _order_by_number(one: ImageSet) -> None:
    """Sort the folders of ImageNet-V2, 0 to 999, as numbers: the number is the label."""
    wanted = [str(label) for label in range(one.expected_classes)]
    wrong = [name for name in one.files if name not in wanted]
    what = f"folders are not named by a number from 0 to {len(wanted) - 1}"
    one.add_problem(wrong, what, "take the matched-frequency archive as it is")
    missing = [name for name in wanted if name not in one.files]
    one.add_problem(missing, "classes are missing", INCOMPLETE)
    one.files = {name: one.files[name] for name in [*wanted, *wrong] if name in one.files}


def _apply_objectnet_mapping(one: ImageSet, folder: Path) -> None:
    """Keep ObjectNet's folders that mean classes of ImageNet, and set their label space."""
    one.border = OBJECTNET_BORDER
    try:
        meaning = read_objectnet_mapping(folder / Path(one.place).parent / "mappings")
    except (OSError, KeyError, ValueError) as error:
        one.problems.append(
            f"its mappings are missing or do not match ({error}): unpack the archive's folder "
            "mappings again"
        )
        return
    missing = [name for name in meaning if name not in one.files]
    one.add_problem(missing, "class folders are missing", INCOMPLETE)
    # an empty folder matters only if it is used, which the counts tell
    one.problems = [line for line in one.problems if "class folders hold no image" not in line]
    one.files = {name: files for name, files in one.files.items() if name in meaning}
    one.label_space = {
        "names": [meaning[name][0] for name in one.files],
        "columns": [meaning[name][1] for name in one.files],
    }


def read_objectnet_mapping(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Read from `objectnet-1.0/mappings` which classes of ImageNet the folders mean.

    Returns:
        For each folder that means any class, sorted: the name of the object, and the classes as
        positions in the order of WordNet ids.

    Raises:
        OSError, KeyError, ValueError: a file is missing or damaged, or the files do not match.

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
