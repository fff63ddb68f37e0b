"""Labelled image sets: stage `data` writes them, all other stages read them.

A prepared data folder holds `classes.json` (class names, label spaces, the caption templates if
they are not CLIP's, and where image files and shards lie) and one `<set>.npz` for each set, with
its labels and either its images or their paths. Every profile uses this form.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carot_lib.calibration.label_space import LabelSpace, label_space_of
from carot_lib.data.images import locate, read_image
from carot_lib.data.prompts import Template, as_templates, clip_templates, tokenize_prompts
from carot_lib.distributed import world_size
from carot_lib.files import atomic_write, read_json, reading
from carot_lib.processes import usable_cores

MAX_WORKERS = 8  # processes that decode image files for prediction; each one holds two batches


@dataclass(frozen=True)
class LabelledSet:
    """One set of labelled images; it has either `images` (miniature) or `paths`."""

    name: str  # as in params.yaml, for example `id_val`
    labels: Int[np.ndarray, " samples"]  # in the label space of the set
    images: UInt8[np.ndarray, "samples height width 3"] | None
    paths: np.ndarray | None  # see `carot_lib.data.images.locate`
    label_space: LabelSpace  # how logits over all classes become logits over those of the set
    class_names: list[str]  # of the classes of the set
    fingerprint: str  # hash of labels and images, or of paths and contents: other sets differ
    image_folder: Path | None = None  # base of `paths`
    border: int = 0  # pixels to cut off at each side of an image file (ObjectNet's have a frame)
    shards: tuple[str, ...] = ()  # that `paths` refer to: paths from `image_folder`, or URLs

    def read_image(self, position: int) -> Image.Image:
        """Decode the image file at a position of `paths`, see `carot_lib.data.images`."""
        return read_image(locate(self.image_folder, self.paths[position], self.shards), self.border)

    def open_images(
        self, preprocessing: PreprocessCfg | None = None, training: bool = False
    ) -> Dataset:
        """Images as the model takes them, indexed by lists of positions.

        For image files the model's preprocessing is needed; for training they are cropped at
        random.
        """
        if self.images is not None:
            return ArrayImages(self.images)
        return FileImages(self, preprocessing, training)

    def part(self, rows: slice | Int[np.ndarray, " rows"]) -> "LabelledSet":
        """Select some of the images; name and fingerprint stay."""
        return replace(
            self,
            labels=self.labels[rows],
            images=None if self.images is None else self.images[rows],
            paths=None if self.paths is None else self.paths[rows],
        )

    def first_per_class(self, n: int | None) -> "LabelledSet":
        """The first `n` images of every class, in the order of the set; None: all images.

        Raises:
            ValueError: a class has fewer; the message names it.
        """
        if n is None:
            return self
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        fewest = int(counts.argmin())
        if counts[fewest] < n:
            raise ValueError(
                f"training.images_per_class: {self.class_names[fewest]} has {counts[fewest]} "
                f"images in set {self.name}, not {n}"
            )
        rows = [np.flatnonzero(self.labels == label)[:n] for label in range(len(counts))]
        part = self.part(np.sort(np.concatenate(rows)))
        return replace(part, fingerprint=f"{self.fingerprint}, {n} of each class")

    def thumbnails(
        self, positions: Iterable[int], side: int = 128
    ) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """Pictures for display: image files are cropped to squares of at most `side` pixels."""
        if self.images is not None:
            return [self.images[i] for i in positions]
        files = (self.read_image(i) for i in positions)
        return [np.asarray(ImageOps.fit(f, (min(side, *f.size),) * 2)) for f in files]

    def read_images(
        self, preprocessing: PreprocessCfg, batch_size: int
    ) -> Iterator[Float[Tensor, "batch 3 height width"]]:
        """Iterate over all images in order; other processes decode image files in advance.

        Raises:
            UnreadableImageError: a file cannot be read; the message names it.
        """
        cores = max(1, usable_cores() // world_size())
        workers = 0 if self.images is not None else min(cores, MAX_WORKERS)
        positions = torch.arange(len(self.labels)).split(batch_size)
        yield from DataLoader(
            self.open_images(preprocessing),
            batch_size=None,
            sampler=[batch.tolist() for batch in positions],
            num_workers=workers,
            prefetch_factor=1 if workers else None,
        )


def normalise(
    images: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Standardise each channel by the mean and standard deviation of CLIP's pre-training."""
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    # a view in channels-last order, which is faster for convolutions
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


class ArrayImages(Dataset):
    """Normalised images of an array, indexed by lists of positions."""

    def __init__(self, images: UInt8[np.ndarray, "samples height width 3"]):
        self.images = torch.from_numpy(images)

    def __getitem__(self, indices: Sequence[int]) -> Float[Tensor, "batch 3 height width"]:
        return normalise(self.images[torch.as_tensor(indices)])


class FileImages(Dataset):
    """Image files of a set, decoded and transformed on access, indexed by lists of positions.

    For evaluation the shorter side is resized and the centre cropped; for training a random crop
    of 90 to 100 % of the area is resized (no flip, no colour change), drawn by torch's generator.

    Source: the transforms of CLIP's and WiSE-FT's public code, as in open_clip.
    """

    def __init__(self, source: LabelledSet, preprocessing: PreprocessCfg, training: bool):
        self.source = source
        self.transform = image_transform_v2(
            preprocessing, is_train=training, aug_cfg=AugmentationCfg(scale=(0.9, 1.0))
        )

    def __getitem__(self, indices: Sequence[int]) -> Float[Tensor, "batch 3 height width"]:
        return torch.stack([self.transform(self.source.read_image(i)) for i in indices])


def write_set(
    folder: Path,
    name: str,
    labels: Int[np.ndarray, " samples"],
    images: UInt8[np.ndarray, "samples height width 3"] | None = None,
    paths: Sequence[str] | np.ndarray | None = None,
) -> None:
    """Write `<name>.npz` atomically; give either images or paths."""
    content = {"images": images} if paths is None else {"paths": np.asarray(paths)}
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
    """Caption templates: those in `classes.json` if it has any, else CLIP's 80."""
    classes = _read_classes(folder)
    return as_templates(classes["templates"]) if "templates" in classes else clip_templates()


def read_prompts(folder: Path, context_length: int) -> Int[Tensor, "classes templates context"]:
    """Token ids of every class in every template, see `carot_lib.data.prompts.tokenize`."""
    return tokenize_prompts(read_class_names(folder), read_templates(folder), context_length)


def read_set(folder: Path, name: str) -> LabelledSet:
    """Read one set of a prepared data folder.

    Raises:
        FileNotFoundError: the set was not prepared; the message names the stage to run.
        ValueError: a file of the folder is damaged.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run stage `data`")
    classes = _read_classes(folder)
    with reading(path), path.open("rb") as file, np.load(file) as arrays:
        content = dict(arrays)
        labels, samples = content["labels"], content.get("images", content.get("paths"))
        if samples is None or len(samples) != len(labels):
            raise ValueError("no image for each label")
    label_space = classes["label_spaces"].get(name)
    digest = hashlib.sha256(labels.tobytes())
    digest.update(np.ascontiguousarray(samples).view(np.uint8))  # without a copy in memory
    digest.update(classes.get("contents", {}).get(name, "").encode())  # of image files
    return LabelledSet(
        name=name,
        labels=labels,
        images=content.get("images"),
        paths=content.get("paths"),
        label_space=label_space_of(label_space, len(classes["class_names"])),
        class_names=label_space["names"] if label_space else classes["class_names"],
        fingerprint=digest.hexdigest()[:16],
        image_folder=None if "images" in content else folder / classes.get("image_folder", ""),
        border=classes.get("borders", {}).get(name, 0),
        shards=tuple(classes.get("shards", ())),
    )
