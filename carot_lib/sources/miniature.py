"""The data of the miniature: one in-distribution task, its five shifts, and one real set.

Each shift follows the principle of its namesake: `v2` samples a slightly harder recipe anew, `r`
shows renditions of a subset of the classes, `a` keeps photos of a subset that an independent
classifier gets wrong, `sketch` shows pencil outlines, and `objectnet` changes pose, place and
clutter and has coarser labels. `handwritten` is real: scikit-learn's scanned digits.
"""

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from carot_lib.schema import StrictParams, read_params
from carot_lib.sources.pictograms import CHUNK, GlyphBank, Pictogram, Recipe

REFERENCE_STREAM = 1000  # number of the reference classifier's random stream; sets count from 0
MAX_ROUNDS = 1000  # candidates for each picture of a filtered set, before the class is too easy


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


class World(StrictParams):
    """data/miniature.yaml: which sets there are, and what their pictures look like."""

    recipes: dict[str, Recipe]
    sets: dict[str, DrawnSetParams]
    reference: ReferenceParams

    @model_validator(mode="after")
    def _recipes_exist(self) -> "World":
        for name, drawn in self.sets.items():
            if drawn.recipe not in self.recipes:
                raise ValueError(f"sets.{name}.recipe: no recipe named {drawn.recipe!r}")
        return self

    @property
    def faces(self) -> list[str]:
        """All typefaces of all recipes, those of the first recipe first."""
        return list(dict.fromkeys(f for recipe in self.recipes.values() for f in recipe.faces))


class PictogramParams(StrictParams):
    """`data:` of the miniature."""

    kind: Literal["pictograms"]
    world: str  # file with recipes and sets, relative to the project
    image_size: PositiveInt  # pixels
    seed: int  # of all pictures
    subset_size: PositiveInt  # classes of the sets that show a subset only


def load_world(root: Path, params: PictogramParams) -> World:
    """Read the recipes and sets of the miniature.

    Raises:
        ValueError: the file is missing or invalid; one line for each problem, with file and key.
    """
    return read_params(root / params.world, World)


def draw_sets(
    params: PictogramParams, world: World, pictograms: Sequence[Pictogram], folder: Path
) -> None:
    """Draw every set and write the data folder, see `carot_lib.data.datasets`.

    Raises:
        ValueError: too few pictures deceive the reference classifier.
    """
    classes = [pictogram for pictogram in pictograms if pictogram.is_class]
    glyphs = GlyphBank(classes, world.faces)
    label_spaces, reference = {}, None
    sets = track(world.sets.items(), len(world.sets), "drawing", "sets")
    for number, (name, drawn) in enumerate(sets):
        generator = make_generator(params.seed, number)
        shown, labels, label_space = plan_set(drawn, classes, params)
        recipe = world.recipes[drawn.recipe]
        draw = partial(glyphs.draw, recipe=recipe, size=params.image_size, generator=generator)
        if drawn.filtered:
            if reference is None:
                reference = train_reference(world.reference, glyphs, recipe, params)
            images = adversarial_filter(reference, draw, shown, name)
        else:
            images = draw(shown)
        if label_space is not None:
            label_spaces[name] = label_space
        write_set(folder, name, labels.numpy(), images=images.numpy())
    images, labels, label_spaces["handwritten"] = handwritten(classes, params.image_size)
    write_set(folder, "handwritten", labels, images=images)
    names = [pictogram.name for pictogram in classes]
    write_json(folder / "classes.json", {"class_names": names, "label_spaces": label_spaces})


def make_generator(seed: int, stream: int) -> Generator:
    """Make an independent random generator for each set; neighbouring seeds share no stream."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1)
    return Generator().manual_seed(int(state[0]))


def plan_set(
    drawn: DrawnSetParams, classes: Sequence[Pictogram], params: PictogramParams
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], dict[str, Any] | None]:
    """Choose the class that each picture of a set shows, its label, and the set's label space.

    Pictures are sorted by class, as in folders of images. The label space is None for all classes.
    """
    columns = [[i] for i in range(len(classes))]
    names = [pictogram.name for pictogram in classes]
    if drawn.classes == "subset":
        generator = Generator().manual_seed(params.seed)
        chosen = torch.randperm(len(classes), generator=generator)[: params.subset_size]
        columns = chosen.sort().values[:, None].tolist()
        names = [names[i] for (i,) in columns]
    elif drawn.classes == "objects":
        names = sorted({p.object_name for p in classes if p.object_name})
        columns = [[i for i, p in enumerate(classes) if p.object_name == name] for name in names]
    label_space = None if drawn.classes == "all" else {"names": names, "columns": columns}
    label_space_of(label_space, len(classes))  # raises an error if no class has an object
    shown = torch.tensor([i for group in columns for i in group])
    labels = torch.tensor([label for label, group in enumerate(columns) for _ in group])
    n = drawn.images_per_class
    return shown.repeat_interleave(n), labels.repeat_interleave(n), label_space


def handwritten(
    classes: Sequence[Pictogram], image_size: int
) -> tuple[UInt8[np.ndarray, "n size size 3"], Int[np.ndarray, " n"], dict[str, Any]]:
    """Load scikit-learn's 1,797 scanned digits, enlarged from 8 x 8 pixels; dark on white.

    Returns:
        Images, labels and label space.

    Raises:
        ValueError: a digit is not among the classes.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), test part.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this stage needs it

    names = [unicodedata.name(digit).lower() for digit in "0123456789"]  # "digit zero", ...
    position = {pictogram.name: i for i, pictogram in enumerate(classes)}
    if missing := [name for name in names if name not in position]:
        raise ValueError(f"set handwritten: not among the classes: {', '.join(missing)}")
    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    ink = torch.from_numpy(digits.images[order] / 16).float()[:, None]
    ink = F.interpolate(ink, size=(image_size * 3 // 4,) * 2, mode="bicubic").clamp(0, 1)
    margin = (image_size - ink.shape[-1]) // 2
    ink = F.pad(ink, (margin, image_size - ink.shape[-1] - margin) * 2)
    grey = ((1 - 0.8 * ink) * 255).round().to(torch.uint8)
    images = grey.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()
    label_space = {"names": names, "columns": [[position[name]] for name in names]}
    return images, digits.target[order].astype(np.int64), label_space


def train_reference(
    reference: ReferenceParams, glyphs: GlyphBank, recipe: Recipe, params: PictogramParams
) -> nn.Module:
    """Train a small convolutional network from scratch on pictures of its own.

    It shares neither architecture nor weights nor pictures with the models under test.
    """
    generator = make_generator(params.seed, REFERENCE_STREAM)
    n_classes = len(glyphs.masks)
    labels = torch.arange(n_classes).repeat_interleave(reference.images_per_class)
    images = glyphs.draw(labels, recipe, params.image_size, generator)
    model = _convolutional_network(n_classes, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=reference.learning_rate, fused=True)
    n_steps = reference.epochs * math.ceil(len(labels) / reference.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, reference.learning_rate, n_steps)

    def draw_batches() -> Iterator[Tensor]:
        for _ in range(reference.epochs):
            order = torch.randperm(len(labels), generator=generator)
            yield from order.split(reference.batch_size)

    for rows in track(draw_batches(), n_steps, "training the reference classifier", "steps"):
        loss = F.cross_entropy(model(normalise(images[rows])), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def adversarial_filter(
    reference: nn.Module, draw: Callable[[Tensor], Tensor], shown: Int[Tensor, " n"], name: str
) -> UInt8[Tensor, "n size size 3"]:
    """Draw until the reference classifier gets every picture wrong.

    ImageNet-A was collected by such a filter (Hendrycks et al. 2021).

    Raises:
        ValueError: pictures of some class hardly ever deceive it; the message has the set's name.
    """
    images, missing = draw(shown), torch.arange(len(shown))
    for _ in range(MAX_ROUNDS):
        chunks = images[missing].split(CHUNK)
        guesses = torch.cat([reference(normalise(chunk)).argmax(dim=1) for chunk in chunks])
        missing = missing[guesses == shown[missing]]
        if len(missing) == 0:
            return images
        images[missing] = draw(shown[missing])
    raise ValueError(
        f"set {name}: after {MAX_ROUNDS} rounds {len(missing)} of {len(shown)} pictures still do "
        "not deceive the reference classifier: give `reference` fewer epochs or images"
    )


def _convolutional_network(n_classes: int, generator: Generator) -> nn.Module:
    layers = []
    for n_in, n_out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers[-1] = nn.AdaptiveAvgPool2d(4)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, n_classes))
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
    return model.to(memory_format=torch.channels_last)
