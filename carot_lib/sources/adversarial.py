"""The adversarial filter of set `a`: pictures that a reference classifier gets wrong.

The classifier is trained here, and rounding makes its errors differ between processors. So the
choice is kept in git, data/adversarial.json, made by `python -m carot_lib choose_adversarial`: from
it the set is drawn as the same bytes everywhere.

Source: ImageNet-A (Hendrycks et al. 2021): natural pictures from the web that a classifier
trained on ImageNet gets wrong.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from carot_lib.data.datasets import normalise
from carot_lib.files import reading, write_json
from carot_lib.progress import track
from carot_lib.schema import StrictParams, check_params
from carot_lib.sources.miniature import PictogramParams, World, candidates, make_generator
from carot_lib.sources.pictograms import GlyphBank, Pictogram

REFERENCE_STREAM = 1000  # number of the classifier's random stream; sets count from 0
MAX_CANDIDATES = 100_000  # pictures of one class, before it is too easy for the classifier
CHOOSE_ANEW = "run `python -m carot_lib choose_adversarial`"

Choices = dict[str, dict[str, list[int]]]  # numbers of candidates, by set and class


class ChoicesFile(StrictParams):
    """data/adversarial.json."""

    made_for: str  # hash of the parameters
    candidates: dict[str, dict[str, str]]  # numbers with spaces between them, by set and class


def choose_adversarial(
    params: PictogramParams, world: World, pictograms: Sequence[Pictogram]
) -> Choices:
    """For each filtered set and each class, the first candidates that the classifier gets wrong.

    Raises:
        ValueError: pictures of some class hardly ever deceive it; the message names the class.
    """
    classes = [pictogram for pictogram in pictograms if pictogram.is_class]
    glyphs = GlyphBank(classes, world.faces)
    reference = train_reference(world, glyphs, params)
    choices: Choices = {}
    for name in world.filtered:
        n, draw = world.sets[name].images_per_class, candidates(params, world, glyphs, name)
        choices[name] = {}
        for shown, one in enumerate(track(classes, len(classes), f"choosing {name}", "classes")):
            errors = _first_errors(reference, partial(draw, shown), shown, n)
            if len(errors) < n:
                raise ValueError(
                    f"set {name}: fewer than {n} of {MAX_CANDIDATES} pictures of {one.name} "
                    "deceive the reference classifier: give it fewer epochs or images"
                )
            choices[name][one.name] = errors
    return choices


@torch.no_grad()
def _first_errors(
    reference: nn.Module, draw: Callable[[Sequence[int]], Tensor], shown: int, n: int
) -> list[int]:
    """Numbers of the first `n` candidates that are misclassified, or of all that there are."""
    errors: list[int] = []
    for start in range(0, MAX_CANDIDATES, n):
        guesses = reference(normalise(draw(range(start, start + n)))).argmax(dim=1)
        errors += (start + (guesses != shown).nonzero()[:, 0]).tolist()
        if len(errors) >= n:
            break
    return errors[:n]


def write_choices(path: Path, params: PictogramParams, world: World, choices: Choices) -> None:
    """Keep a choice, with a hash of the parameters that it was made for; a line for each class."""
    lines = {
        name: {one: " ".join(map(str, numbers)) for one, numbers in by_class.items()}
        for name, by_class in choices.items()
    }
    content = ChoicesFile(made_for=_made_for(params, world), candidates=lines)
    write_json(path, content.model_dump())


def read_choices(
    path: Path, params: PictogramParams, world: World, pictograms: Sequence[Pictogram]
) -> Choices:
    """Read what `write_choices` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or was made for other parameters, classes or fewer images;
            the message says what to do.
    """
    with reading(path, CHOOSE_ANEW):
        tree = json.loads(path.read_text(encoding="utf-8"))
        content = check_params(tree, ChoicesFile, path.name)
        choices = {
            name: {one: [int(number) for number in line.split()] for one, line in by_class.items()}
            for name, by_class in content.candidates.items()
        }
    if content.made_for != _made_for(params, world):
        raise ValueError(
            f"{path}: chosen for another seed, image size, recipe or reference classifier: "
            f"{CHOOSE_ANEW}"
        )
    classes = [pictogram.name for pictogram in pictograms if pictogram.is_class]
    for name in world.filtered:
        if list(choices.get(name, {})) != classes:
            raise ValueError(f"{path}: set {name} was chosen for other classes: {CHOOSE_ANEW}")
        fewest, n = min(map(len, choices[name].values())), world.sets[name].images_per_class
        if fewest < n:
            raise ValueError(
                f"{path}: set {name} has {fewest} pictures of a class, not {n}: {CHOOSE_ANEW}"
            )
    return choices


def _made_for(params: PictogramParams, world: World) -> str:
    """Hash of all parameters that a choice depends on."""
    recipes = [world.sets[name].recipe for name in world.filtered] + [world.reference.recipe]
    models = [world.reference, *(world.recipes[name] for name in recipes)]
    parts = [params.seed, params.image_size, list(world.sets), [one.model_dump() for one in models]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def train_reference(world: World, glyphs: GlyphBank, params: PictogramParams) -> nn.Module:
    """Train a small convolutional network from scratch on photos of its own.

    It shares neither architecture nor weights nor pictures with the models under test.
    """
    reference, generator = world.reference, make_generator(params.seed, REFERENCE_STREAM)
    recipe, n_classes = world.recipes[reference.recipe], len(glyphs.masks)
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
