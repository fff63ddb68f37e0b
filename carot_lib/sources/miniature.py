"""The data of the miniature: one in-distribution task, its five shifts, and one real set.

Each shift follows the principle of its namesake: `v2` samples a slightly harder recipe anew, `r`
shows renditions of a subset of the classes, `a` keeps those pictures from the web, of another
subset, that a reference classifier of photos gets wrong, `sketch` shows pencil outlines, and
`objectnet` changes pose, place and clutter and has coarser labels. `handwritten` is real:
scikit-learn's scanned digits.

All pictures are the same bytes on every processor. What a trained classifier gets wrong is not, so
its choice is kept in git, see `carot_lib.sources.adversarial`.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Generator, Tensor

from carot_lib.calibration.label_space import label_space_of
from carot_lib.data.datasets import write_set
from carot_lib.files import write_json
from carot_lib.progress import track
from carot_lib.schema import StrictParams, read_params
from carot_lib.sources.pictograms import GlyphBank, Pictogram, Recipe


class DrawnSetParams(StrictParams):
    """One set of drawn pictures."""

    recipe: str  # a key of `recipes`
    images_per_class: PositiveInt
    # two disjoint random subsets; `objects`: those with a coarser label
    classes: Literal["all", "first_subset", "second_subset", "objects"]
    filtered: bool  # keep only pictures that the reference classifier gets wrong


class ReferenceParams(StrictParams):
    """The reference classifier, which nothing else uses, and whose errors make a filtered set."""

    recipe: str  # of the pictures that it is trained on, a key of `recipes`
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
        used = {f"sets.{name}.recipe": drawn.recipe for name, drawn in self.sets.items()}
        for key, recipe in (used | {"reference.recipe": self.reference.recipe}).items():
            if recipe not in self.recipes:
                raise ValueError(f"{key}: no recipe named {recipe!r}")
        return self

    @property
    def filtered(self) -> list[str]:
        """Names of the sets that hold only what the reference classifier gets wrong."""
        return [name for name, drawn in self.sets.items() if drawn.filtered]

    @property
    def faces(self) -> list[str]:
        """All typefaces of all recipes, those of the first recipe first."""
        return list(dict.fromkeys(f for recipe in self.recipes.values() for f in recipe.faces))


class PictogramParams(StrictParams):
    """`data:` of the miniature."""

    kind: Literal["pictograms"]
    world: str  # file with recipes and sets, relative to the project
    adversarial: str  # file with the choice of the filtered sets, relative to the project
    image_size: PositiveInt  # pixels
    seed: int  # of all pictures
    subset_size: PositiveInt  # classes of each of the two subsets


def load_world(root: Path, params: PictogramParams) -> World:
    """Read the recipes and sets of the miniature.

    Raises:
        ValueError: the file is missing or invalid; one line for each problem, with file and key.
    """
    return read_params(root / params.world, World)


def draw_sets(
    params: PictogramParams,
    world: World,
    pictograms: Sequence[Pictogram],
    choices: Mapping[str, Mapping[str, Sequence[int]]],
    folder: Path,
) -> None:
    """Draw every set and write the data folder, see `carot_lib.data.datasets`.

    `choices` holds the numbers of the candidates that make each filtered set, by set and class; of
    each class, the set takes the first ones.
    """
    classes = [pictogram for pictogram in pictograms if pictogram.is_class]
    glyphs, label_spaces = GlyphBank(classes, world.faces), {}
    sets = track(world.sets.items(), len(world.sets), "drawing", "sets")
    for number, (name, drawn) in enumerate(sets):
        shown, labels, label_space = plan_set(drawn, classes, params)
        if drawn.filtered:
            draw, n = candidates(params, world, glyphs, name), drawn.images_per_class
            numbers = {i: choices[name][classes[i].name][:n] for i in shown[::n].tolist()}
            images = torch.cat([draw(i, chosen) for i, chosen in numbers.items()])
        else:
            recipe, generator = world.recipes[drawn.recipe], make_generator(params.seed, number)
            images = glyphs.draw(shown, recipe, params.image_size, generator)
        if label_space is not None:
            label_spaces[name] = label_space
        write_set(folder, name, labels.numpy(), images=images.numpy())
    images, labels, label_spaces["handwritten"] = handwritten(classes, params.image_size)
    write_set(folder, "handwritten", labels, images=images)
    names = [pictogram.name for pictogram in classes]
    write_json(folder / "classes.json", {"class_names": names, "label_spaces": label_spaces})


def candidates(
    params: PictogramParams, world: World, glyphs: GlyphBank, name: str
) -> Callable[[int, Sequence[int]], UInt8[Tensor, "n size size 3"]]:
    """A function of class and numbers that draws these candidates for a filtered set.

    Each has a stream of its own: whoever knows their numbers need not draw the others.
    """
    recipe, stream = world.recipes[world.sets[name].recipe], list(world.sets).index(name)

    def draw(shown: int, numbers: Sequence[int]) -> Tensor:
        one = torch.tensor([shown])
        generators = (make_generator(params.seed, stream, shown, number) for number in numbers)
        return torch.cat([glyphs.draw(one, recipe, params.image_size, g) for g in generators])

    return draw


def make_generator(seed: int, *stream: int) -> Generator:
    """Make an independent random generator for each set or candidate.

    Neighbouring seeds share no stream.
    """
    state = np.random.SeedSequence([seed, *stream]).generate_state(1)
    return Generator().manual_seed(int(state[0]))


def plan_set(
    drawn: DrawnSetParams, classes: Sequence[Pictogram], params: PictogramParams
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], dict[str, Any] | None]:
    """Choose the class that each picture of a set shows, its label, and the set's label space.

    Pictures are sorted by class, as in folders of images. The label space is None for all classes.

    Raises:
        ValueError: there are too few classes for two subsets, or none has a coarser label.
    """
    columns = [[i] for i in range(len(classes))]
    names = [pictogram.name for pictogram in classes]
    if drawn.classes.endswith("subset"):
        size = params.subset_size
        if 2 * size > len(classes):
            raise ValueError(
                f"data.subset_size: two disjoint subsets of {size} need {2 * size} classes, and "
                f"there are {len(classes)}"
            )
        order = torch.randperm(len(classes), generator=Generator().manual_seed(params.seed))
        chosen = order[:size] if drawn.classes == "first_subset" else order[size : 2 * size]
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
    ink = torch.from_numpy(digits.images[order] / 16)[:, None]
    ink = F.interpolate(ink, size=(image_size * 3 // 4,) * 2, mode="bicubic").clamp(0, 1)
    margin = (image_size - ink.shape[-1]) // 2
    ink = F.pad(ink, (margin, image_size - ink.shape[-1] - margin) * 2)
    # exact halves are computed a little above or below, by the processor: all of them round up
    grey = ((1 - 0.8 * ink) * 255 + 0.5 + 1e-6).floor().to(torch.uint8)
    images = grey.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()
    label_space = {"names": names, "columns": [[position[name]] for name in names]}
    return images, digits.target[order].astype(np.int64), label_space
