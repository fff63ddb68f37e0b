"""Real images for tests of a user's own data: scikit-learn's handwritten digits as PNG files.

And what the tests of all sources of image files do with a project.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_digits

from carot_lib.data.datasets import LabelledSet, read_set
from carot_lib.layout import Layout
from carot_lib.stages.data import check_data, prepare

ROOT = Path(__file__).parents[1]
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASSES = sorted(f"digit_{word}" for word in WORDS)
SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "rotated": lambda image: image.rotate(25, fillcolor=255),
    "inverted": ImageOps.invert,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "subset": lambda image: image,
}


def write_digits(folder: Path, n_train: int = 900, n_test: int = 300) -> None:
    """Digits for training, and others for test and each shift; `subset` has three classes."""
    digits = load_digits()
    images = digits.images[: n_train + n_test]
    for i, (pixels, label) in enumerate(zip(images, digits.target, strict=False)):
        grey = Image.fromarray((255 - 13 * pixels).astype(np.uint8)).resize((32, 32))
        sets = {"train": grey} if i < n_train else {"test": grey}
        if i >= n_train:
            sets |= {name: shift(grey) for name, shift in SHIFTS.items()}
        for name, image in sets.items():
            if name != "subset" or WORDS[label] in ("one", "four", "eight"):
                place = folder / name / f"digit_{WORDS[label]}"
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f"{i:04d}.png")


def digit_params() -> dict:
    """The numbers of params.yaml, with a small miniature and the digits as profile `folders`."""
    numbers = yaml.safe_load((ROOT / "params.yaml").read_text())
    miniature, folders = numbers["miniature"], numbers["folders"]
    miniature["pretrained"] |= {"steps": 30, "batch_size": 64, "warmup_steps": 3}
    folders["pretrained"] = {"kind": "miniature"}
    folders["hardware"] = miniature["hardware"]
    folders["training"] = miniature["training"] | {"epochs": 8, "images_per_class": None}
    folders["runs"] = miniature["runs"]
    folders["runs"]["ft"]["learning_rate"] = 2.0e-3
    folders["data"]["validation_per_class"] = 10
    folders["evaluation"]["ood"] = list(SHIFTS)
    return numbers


def change(layout: Layout, **values: object) -> None:
    """Write other numbers under `data` of the profile."""
    numbers = yaml.safe_load(layout.params.read_text())
    numbers[layout.profile]["data"] |= values
    layout.params.write_text(yaml.safe_dump(numbers))


def prepared(layout: Layout, name: str) -> LabelledSet:
    """A set of a project without problems; all are prepared at the first call."""
    if not layout.data.exists():
        assert check_data(layout) == []
        prepare(layout)
    return read_set(layout.data, name)
