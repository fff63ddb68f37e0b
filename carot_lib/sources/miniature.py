"""The data of the miniature: one in-distribution task, its five shifts, and one real set.

Each shift is built on the principle of its namesake: `v2` samples the same recipe anew and
slightly harder, `r` shows renditions of a subset of the classes, `a` keeps the photos of a subset
on which an independent classifier errs, `sketch` shows outlines in pencil, `objectnet` changes
pose, place and clutter and has coarser labels of its own. `handwritten` is real: scikit-learn's
scanned digits.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Generator, Tensor, nn

from carot_lib.calibration.label_space import label_space_of
from carot_lib.data.datasets import normalise, write_set
from carot_lib.files import write_json
from carot_lib.progress import track
from carot_lib.schema import StrictParams
from carot_lib.sources.pictograms import CHUNK, GlyphBank, Pictogram, Recipe, pictures

REFERENCE_SEED = (
    1000  # number of the reference classifier's own stream of chances; sets count from 0
)
ROUNDS = 1000  # of candidates for a filtered set, before a class counts as too easy


class DrawnSetParams(StrictParams):
    """One set of drawn pictures."""

    recipe: str  # a key of `recipes`
    images_per_class: PositiveInt
    classes: Literal["all", "subset", "objects"]  # a seeded subset; those with a coarser label
    filtered: bool  # keep only pictures that the reference classifier gets wrong


class ReferenceParams(StrictParams):
    """The independent classifier whose errors make a filtered set."""

    images_per_class: PositiveInt  # drawn for it alone
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat


class PictogramParams(StrictParams):
    """`data:` of the miniature."""

    kind: Literal["pictograms"]
    image_size: PositiveInt  # pixels
    seed: int
    subset_size: PositiveInt  # classes of the sets that show a subset only
    recipes: dict[str, Recipe]
    sets: dict[str, DrawnSetParams]
    reference: ReferenceParams

    @model_validator(mode="after")
    def _recipes_exist(self) -> "PictogramParams":
        for name, drawn in self.sets.items():
            if drawn.recipe not in self.recipes:
                raise ValueError(f"sets.{name}.recipe: no recipe named {drawn.recipe!r}")
        return self

    @property
    def faces(self) -> list[str]:
        """Every typeface of every recipe, the first recipe's first."""
        return list(dict.fromkeys(f for recipe in self.recipes.values() for f in recipe.faces))


def prepare(params: PictogramParams, pictograms: Sequence[Pictogram], folder: Path) -> None:
    """Draw every set and write the data folder.

    Args:
        params: what to draw.
        pictograms: classes first, as `read_pictograms` gives them.
        folder: see `carot_lib.data.datasets` for what is written into it.

    Raises:
        ValueError: too few pictures deceive the reference classifier.
    """
    classes = [pictogram for pictogram in pictograms if pictogram.is_class]
    stencils = GlyphBank(classes, params.faces)
    label_spaces: dict[str, dict] = {}
    reference = None
    for number, (name, drawn) in enumerate(params.sets.items()):
        seed = derive_seed(params.seed, number)
        concepts, labels, own = lay_out(drawn, classes, params)
        recipe = params.recipes[drawn.recipe]
        if drawn.filtered:
            if reference is None:
                reference = train_reference(params, stencils, recipe)
            images = adversarial_filter(reference, stencils, concepts, recipe, params, name, seed)
        else:
            chunks = pictures(stencils, concepts, recipe, params.image_size, seed)
            total = math.ceil(len(concepts) / CHUNK)
            images = torch.cat(list(track(chunks, total, f"drawing {name}", "chunks")))
        if own is not None:
            label_spaces[name] = own
        write_set(folder, name, labels.numpy(), images=images.numpy())
    images, labels, own = handwritten(classes, params.image_size)
    label_spaces["handwritten"] = own
    write_set(folder, "handwritten", labels, images=images)
    names = [pictogram.name for pictogram in classes]
    write_json(folder / "classes.json", {"class_names": names, "label_spaces": label_spaces})


def derive_seed(seed: int, number: int) -> int:
    """A seed of its own for each set: neighbouring seeds share no stream."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def lay_out(
    drawn: DrawnSetParams, classes: Sequence[Pictogram], params: PictogramParams
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], dict | None]:
    """Which class each picture of a set shows, its label, and the set's own label space.

    The order is by class, as in folders of images.
    """
    if drawn.classes == "all":
        shown, own = list(range(len(classes))), None
    elif drawn.classes == "subset":
        generator = Generator().manual_seed(params.seed)
        shown = torch.randperm(len(classes), generator=generator)[: params.subset_size]
        shown = shown.sort().values.tolist()
        own = {"names": [classes[i].name for i in shown], "columns": [[i] for i in shown]}
    else:
        objects = sorted({p.object_name for p in classes if p.object_name})
        columns = [[i for i, p in enumerate(classes) if p.object_name == o] for o in objects]
        shown = [i for group in columns for i in group]
        own = {"names": objects, "columns": columns}
    space = label_space_of(own, len(classes))
    label_of = {i: label for label, group in enumerate(space.columns) for i in group}
    concepts = torch.tensor(shown).repeat_interleave(drawn.images_per_class)
    labels = torch.tensor([label_of[i] for i in shown]).repeat_interleave(drawn.images_per_class)
    return concepts, labels, own


def handwritten(
    classes: Sequence[Pictogram], image_size: int
) -> tuple[UInt8[np.ndarray, "n size size 3"], Int[np.ndarray, " n"], dict]:
    """scikit-learn's 1,797 scanned digits, 8 x 8 pixels, enlarged with a margin; dark on white.

    Raises:
        ValueError: a digit is not among the classes.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), test part.
    """
    from sklearn.datasets import load_digits  # here: it takes a second, and one stage needs it

    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    names = [f"digit {word}" for word in words]
    position = {pictogram.name: i for i, pictogram in enumerate(classes)}
    if missing := [name for name in names if name not in position]:
        raise ValueError(f"set handwritten: not among the classes: {', '.join(missing)}")
    columns = [[position[name]] for name in names]
    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    ink = torch.from_numpy(digits.images[order] / 16).float()[:, None]
    ink = F.interpolate(ink, size=(image_size * 3 // 4,) * 2, mode="bicubic").clamp(0, 1)
    margin = (image_size - ink.shape[-1]) // 2
    ink = F.pad(ink, (margin, image_size - ink.shape[-1] - margin) * 2)
    grey = ((1 - 0.8 * ink) * 255).round().to(torch.uint8)
    images = grey.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()
    own = {"names": names, "columns": columns}
    return images, digits.target[order].astype(np.int64), own


def train_reference(params: PictogramParams, stencils: GlyphBank, recipe: Recipe) -> nn.Module:
    """A small convolutional network trained from scratch on photos of its own.

    It shares nothing with the models that the filtered set will judge: neither architecture, nor
    weights, nor pictures.
    """
    reference, size = params.reference, params.image_size
    generator = Generator().manual_seed(derive_seed(params.seed, REFERENCE_SEED))
    n_classes = len(stencils.masks)
    labels = torch.arange(n_classes).repeat_interleave(reference.images_per_class)
    images = stencils.draw(labels, recipe, size, generator)
    model = _convolutional_network(n_classes, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=reference.learning_rate, fused=True)
    per_epoch = math.ceil(len(labels) / reference.batch_size)
    total = reference.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, reference.learning_rate, total)

    def steps() -> Iterator[Tensor]:
        for _ in range(reference.epochs):
            for rows in torch.randperm(len(labels), generator=generator).split(
                reference.batch_size
            ):
                loss = F.cross_entropy(model(normalise(images[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                yield loss.detach()

    for _ in track(steps(), total, "training the reference classifier", "steps"):
        pass
    return model.eval()


@torch.no_grad()
def adversarial_filter(
    reference: nn.Module,
    stencils: GlyphBank,
    concepts: Int[Tensor, " n"],
    recipe: Recipe,
    params: PictogramParams,
    name: str,
    seed: int,
) -> UInt8[Tensor, "n size size 3"]:
    """Draw until every picture is one that the reference classifier gets wrong.

    Natural adversarial filtering, as ImageNet-A was collected (Hendrycks et al. 2021).

    Raises:
        ValueError: some class hardly ever deceives the reference classifier.
    """
    generator = Generator().manual_seed(seed)
    missing = torch.ones(len(concepts), dtype=torch.bool)
    found = torch.zeros(len(concepts), params.image_size, params.image_size, 3, dtype=torch.uint8)
    for _ in range(ROUNDS):
        places = missing.nonzero()[:, 0]
        images = stencils.draw(concepts[places], recipe, params.image_size, generator)
        guesses = [reference(normalise(chunk)).argmax(dim=1) for chunk in images.split(CHUNK)]
        wrong = torch.cat(guesses) != concepts[places]
        found[places[wrong]] = images[wrong]
        missing[places[wrong]] = False
        if not missing.any():
            return found
    raise ValueError(
        f"set {name}: after {ROUNDS} rounds {int(missing.sum())} of {len(concepts)} pictures still "
        "do not deceive the reference classifier: give `reference` fewer epochs or images"
    )


def _convolutional_network(n_classes: int, generator: Generator) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, n_classes),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
    return model.to(memory_format=torch.channels_last)
