"""Labelled image sets: what the data stage writes and everybody else reads.

A prepared data folder holds `classes.json` (the class names, and the label space of each set that
has its own) and one `<set>.npz` a set. Both scales end in this form; the code behind it does not
know which one it reads.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import Transform

from carot_lib.files import atomic_write
from carot_lib.label_space import LabelSpace, label_space_of


@dataclass(frozen=True)
class LabelledSet:
    """One set of labelled images.

    Attributes:
        name: as in params.yaml, for example `id_val`.
        labels: in the set's own label space.
        images: pictures as they are (miniature); None where `paths` says where they lie.
        paths: of image files; None where `images` holds them.
        label_space: how logits over all classes become logits over the set's own classes.
        class_names: of the set's own classes.
        fingerprint: hash of labels and pictures (or paths): equal only for equal sets.
    """

    name: str
    labels: Int[np.ndarray, " samples"]
    images: UInt8[np.ndarray, "samples height width 3"] | None
    paths: np.ndarray | None
    label_space: LabelSpace
    class_names: list[str]
    fingerprint: str

    def open_images(self) -> Dataset:
        """The images as the model takes them, indexed by lists of positions.

        Raises:
            ValueError: the set holds paths, for which a transform is needed.
        """
        if self.images is None:
            raise ValueError(f"set {self.name} holds no images but paths")
        return ArrayImages(self.images)


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
    """Image files, read and transformed one by one; indexed by lists."""

    def __init__(self, paths: Sequence[str], transform: Transform):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Sequence[int]) -> Float[Tensor, "batch 3 height width"]:
        return torch.stack([self.transform(self._read(self.paths[i])) for i in indices])

    @staticmethod
    def _read(path: str) -> Image.Image:
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, ValueError) as error:
            raise OSError(f"{path}: not a readable image ({error})") from error


def write_set(
    folder: Path,
    name: str,
    labels: Int[np.ndarray, " samples"],
    images: UInt8[np.ndarray, "samples height width 3"] | None = None,
    paths: Sequence[str] | None = None,
) -> None:
    """Write `<name>.npz`, whole or not at all; give either images or paths."""
    content = {"images": images} if paths is None else {"paths": np.asarray(paths)}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, labels=labels, **content)


def read_class_names(folder: Path) -> list[str]:
    """Names of all classes, in the order of the classifiers' logits."""
    return json.loads((folder / "classes.json").read_text())["class_names"]


def read_set(folder: Path, name: str) -> LabelledSet:
    """One set of a prepared data folder.

    Raises:
        FileNotFoundError: the set was not prepared; the message names the stage to run.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run stage `data`")
    classes = json.loads((folder / "classes.json").read_text())
    with np.load(path) as file:
        content = {key: file[key] for key in file.files}
    own = classes["label_spaces"].get(name)
    pictures = content.get("images", content.get("paths"))
    digest = hashlib.sha256(content["labels"].tobytes() + pictures.tobytes())
    return LabelledSet(
        name=name,
        labels=content["labels"],
        images=content.get("images"),
        paths=content.get("paths"),
        label_space=label_space_of(own, len(classes["class_names"])),
        class_names=own["names"] if own else classes["class_names"],
        fingerprint=digest.hexdigest()[:16],
    )
