"""Labelled image sets: what the data stage writes and everybody else reads.

A prepared data folder holds `classes.json` (the class names, the label space of each set that has
its own, the caption templates if they are not CLIP's, and where image files or shards lie) and one
`<set>.npz` a set, with its labels and either its pictures or the paths of its image files. Every
profile ends in this form; the code behind it does not know which one it reads.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
from PIL import ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carot_lib.calibration.label_space import LabelSpace, label_space_of
from carot_lib.data.images import locate, read_picture
from carot_lib.data.prompts import Template, as_templates, clip_templates, tokenize_prompts
from carot_lib.distributed import world_size
from carot_lib.files import atomic_write, read_json, reading

READERS = 8  # processes at most that decode image files for prediction: each holds two batches


@dataclass(frozen=True)
class LabelledSet:
    """One set of labelled images.

    Attributes:
        name: as in params.yaml, for example `id_val`.
        labels: in the set's own label space.
        images: pictures as they are (miniature); None where `paths` says where they lie.
        paths: of image files, see `carot_lib.data.images.locate`; None where `images` holds
            them.
        label_space: how logits over all classes become logits over the set's own classes.
        class_names: of the set's own classes.
        fingerprint: hash of labels and pictures (or paths): equal only for equal sets.
        image_folder: what `paths` starts from; None without paths.
        border: pixels to cut off each side of an image file (ObjectNet's have a frame).
        shards: that `paths` count, by path from `image_folder` or by URL.
    """

    name: str
    labels: Int[np.ndarray, " samples"]
    images: UInt8[np.ndarray, "samples height width 3"] | None
    paths: np.ndarray | None
    label_space: LabelSpace
    class_names: list[str]
    fingerprint: str
    image_folder: Path | None = None
    border: int = 0
    shards: tuple[str, ...] = ()

    def open_images(
        self, preprocessing: PreprocessCfg | None = None, training: bool = False
    ) -> Dataset:
        """The images as the model takes them, indexed by lists of positions.

        Args:
            preprocessing: of the model; pictures in memory have its size already.
            training: whether files are cropped at random; pictures in memory never are.

        Raises:
            ValueError: the set holds paths and there is no `preprocessing`.
        """
        if self.images is not None:
            return ArrayImages(self.images)
        if preprocessing is None:
            raise ValueError(f"set {self.name} holds no images but paths: give the preprocessing")
        return FileImages(
            self.image_folder, self.paths, preprocessing, self.border, training, self.shards
        )

    def part(self, rows: slice | Int[np.ndarray, " rows"]) -> "LabelledSet":
        """Some of its images, under its name and fingerprint."""
        return replace(
            self,
            labels=self.labels[rows],
            images=None if self.images is None else self.images[rows],
            paths=None if self.paths is None else self.paths[rows],
        )

    def thumbnails(
        self, positions: Iterable[int], side: int = 128
    ) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """Pictures to look at: those in memory as they are, files cut to squares.

        Args:
            positions: which.
            side: of the squares, in pixels; a smaller file is cut, but not enlarged.
        """
        if self.images is not None:
            return [self.images[i] for i in positions]
        places = (locate(self.image_folder, self.paths[i], self.shards) for i in positions)
        files = (read_picture(place, self.border) for place in places)
        squares = (ImageOps.fit(file, (min(side, *file.size),) * 2) for file in files)
        return [np.asarray(square) for square in squares]

    def read_images(
        self, preprocessing: PreprocessCfg, batch_size: int
    ) -> Iterator[Float[Tensor, "batch 3 height width"]]:
        """All images in order, in batches; files are decoded by other processes meanwhile.

        Raises:
            UnreadableImageError: a file is no image; the message names it.
        """
        own_cores = max(1, usable_cores() // world_size())
        workers = 0 if self.images is not None else min(own_cores, READERS)
        yield from DataLoader(
            self.open_images(preprocessing),
            batch_size=None,
            sampler=[part.tolist() for part in torch.arange(len(self.labels)).split(batch_size)],
            num_workers=workers,
            prefetch_factor=1 if workers else None,
        )


def normalise(
    images: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Pictures as CLIP wants them: each channel centred and scaled as in its pre-training."""
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    # permuted, not copied: the memory stays in the order of pixels, which convolutions like
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


class ArrayImages(Dataset):
    """Pictures in memory, normalised; indexed by lists."""

    def __init__(self, images: UInt8[np.ndarray, "samples height width 3"]):
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Sequence[int]) -> Float[Tensor, "batch 3 height width"]:
        return normalise(self.images[torch.as_tensor(indices)])


class FileImages(Dataset):
    """Image files, decoded and transformed when asked for; indexed by lists.

    For evaluation the shorter side is resized and the centre cut out; for training a random part
    of 90 to 100 % of the area is resized (no flip, no change of colour).

    Args:
        folder: what the paths start from.
        paths: of the files.
        preprocessing: size, mean, standard deviation and interpolation of the model.
        border: pixels cut off each side before anything else.
        training: random crops, drawn by torch's generator, instead of the centre.
        shards: that the paths count.

    Source: the transforms of CLIP's and WiSE-FT's public code, as open_clip has them.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str] | np.ndarray,
        preprocessing: PreprocessCfg,
        border: int = 0,
        training: bool = False,
        shards: tuple[str, ...] = (),
    ):
        self.folder, self.paths, self.border, self.shards = folder, paths, border, shards
        self.transform = image_transform_v2(
            preprocessing, is_train=training, aug_cfg=AugmentationCfg(scale=(0.9, 1.0))
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Sequence[int]) -> Float[Tensor, "batch 3 height width"]:
        places = (locate(self.folder, self.paths[i], self.shards) for i in indices)
        return torch.stack([self.transform(read_picture(place, self.border)) for place in places])


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_set(
    folder: Path,
    name: str,
    labels: Int[np.ndarray, " samples"],
    images: UInt8[np.ndarray, "samples height width 3"] | None = None,
    paths: Sequence[str] | np.ndarray | None = None,
) -> None:
    """Write `<name>.npz`, whole or not at all; give either images or paths."""
    content = {"images": images} if paths is None else {"paths": np.asarray(paths)}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, labels=labels, **content)


def _read_classes(folder: Path) -> dict[str, Any]:
    path = folder / "classes.json"
    classes = read_json(path)
    with reading(path):
        if not isinstance(classes, dict) or not {"class_names", "label_spaces"} <= classes.keys():
            raise ValueError("no class names")
    return classes


def read_class_names(folder: Path) -> list[str]:
    """Names of all classes, in the order of the classifiers' logits."""
    return _read_classes(folder)["class_names"]


def read_templates(folder: Path) -> list[Template]:
    """The caption templates: CLIP's 80, or those that `classes.json` holds."""
    classes = _read_classes(folder)
    return as_templates(classes["templates"]) if "templates" in classes else clip_templates()


def read_prompts(folder: Path, context_length: int) -> Int[Tensor, "classes templates context"]:
    """Every class in every template, as token ids.

    Args:
        folder: of prepared data.
        context_length: tokens that the model can take.

    Raises:
        ValueError: a prompt is longer than that.
    """
    return tokenize_prompts(read_class_names(folder), read_templates(folder), context_length)


def read_set(folder: Path, name: str) -> LabelledSet:
    """One set of a prepared data folder.

    Raises:
        FileNotFoundError: the set was not prepared; the message names the stage to run.
        ValueError: a file of the folder is damaged.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run stage `data`")
    classes = _read_classes(folder)
    with reading(path), path.open("rb") as file, np.load(file) as parts:
        content = {key: parts[key] for key in parts.files}
        labels, pictures = content["labels"], content.get("images", content.get("paths"))
        if pictures is None or len(pictures) != len(labels):
            raise ValueError("no image for each label")
    own = classes["label_spaces"].get(name)
    digest = hashlib.sha256(labels.tobytes())
    digest.update(np.ascontiguousarray(pictures).view(np.uint8))  # no copy of them in memory
    return LabelledSet(
        name=name,
        labels=labels,
        images=content.get("images"),
        paths=content.get("paths"),
        label_space=label_space_of(own, len(classes["class_names"])),
        class_names=own["names"] if own else classes["class_names"],
        fingerprint=digest.hexdigest()[:16],
        image_folder=None if "images" in content else folder / classes.get("image_folder", ""),
        border=classes.get("borders", {}).get(name, 0),
        shards=tuple(classes.get("shards", ())),
    )
