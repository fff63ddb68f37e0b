"""Which images a step shows under which templates, drawn before training, and its batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carot_lib.distributed import slice_of_rank
from carot_lib.methods.base import Batch

TABLE = 10_000_000  # numbers at most that a draw may make a table of: 80 MB
AT_ONCE = 100_000  # numbers drawn at a time where there is no table


@dataclass(frozen=True)
class Draws:
    """Which image under which caption template stands in which batch, fixed before training.

    Attributes:
        images: indices of the training images, one array a step.
        templates: indices of the caption templates, one array a step.
    """

    images: list[Int[np.ndarray, " _"]]  # of any length each
    templates: list[Int[np.ndarray, " _"]]  # of any length each

    def share(self, device: int, devices: int) -> "Draws":
        """What one of several devices takes of every batch.

        Raises:
            ValueError: a batch has too few images for each device to take one.
        """
        if (fewest := min(len(row) for row in self.images)) < devices:
            raise ValueError(f"hardware: {devices} devices cannot share a batch of {fewest}")
        own = [slice_of_rank(len(row), device, devices) for row in self.images]
        return Draws(
            [row[part] for row, part in zip(self.images, own, strict=True)],
            [row[part] for row, part in zip(self.templates, own, strict=True)],
        )


def draw_epochs(
    n_images: int, n_templates: int, epochs: int, batch_size: int, generator: np.random.Generator
) -> Draws:
    """Every image once an epoch, under a random template; the last batch of an epoch is smaller.

    Source: WiSE-FT and FT in the public code.
    """
    starts = range(batch_size, n_images, batch_size)
    images = [
        part for _ in range(epochs) for part in np.split(generator.permutation(n_images), starts)
    ]
    return Draws(images, [generator.integers(n_templates, size=len(part)) for part in images])


def draw_pairs(
    n_images: int, n_templates: int, epochs: int, batch_size: int, generator: np.random.Generator
) -> Draws:
    """As many (image, template) pairs as the epochs hold, none of them twice.

    An image is met `epochs` times on average only: FLYP and CaRot shuffle the list of all pairs
    and stop when the steps are over.

    Raises:
        ValueError: there are not so many pairs.

    Source: the caption list of FLYP's public code.
    """
    steps = epochs * math.ceil(n_images / batch_size)
    drawn, there = steps * batch_size, n_images * n_templates
    if drawn > there:
        raise ValueError(
            f"{steps} steps of {batch_size} need {drawn} (image, caption template) pairs and there "
            f"are {there}: give more templates or fewer `epochs`, or set `sampling: epochs`"
        )
    rows = np.split(draw_distinct(there, drawn, generator), steps)
    return Draws([row // n_templates for row in rows], [row % n_templates for row in rows])


def draw_distinct(there: int, size: int, generator: np.random.Generator) -> Int[np.ndarray, " _"]:
    """Numbers in [0, there), none twice; each choice in each order is as likely as any other.

    numpy's own `choice` makes a table of all numbers: 0.8 GB for ImageNet's 102 million pairs.
    Where that is too much, numbers are drawn with replacement and those that came before are left
    out. No number is told from another but by whether it came before, so none is favoured.

    Args:
        there: numbers to draw from.
        size: of the draw, at most `there`.
        generator: the chance.
    """
    if there <= TABLE or 2 * size > there:  # or the table is not much larger than the draw
        return generator.choice(there, size=size, replace=False)
    drawn, count = np.empty(size, dtype=np.int64), 0
    is_drawn = np.zeros(there, dtype=bool)
    while count < size:
        numbers = generator.integers(there, size=AT_ONCE)
        _, first = np.unique(numbers, return_index=True)
        numbers = numbers[np.sort(first)]
        numbers = numbers[~is_drawn[numbers]][: size - count]
        is_drawn[numbers] = True
        drawn[count : count + len(numbers)] = numbers
        count += len(numbers)
    return drawn


class DrawnImages(Dataset):
    """The images of each step of a run, indexed by steps (from 0).

    What a transform draws by torch's generator depends on seed and step alone: not on the process
    that reads the image, nor on what was read before, so a run that goes on sees the same images.
    """

    def __init__(self, images: Dataset, draws: Draws, seed: tuple[int, ...]):
        self.images, self.draws, self.seed = images, draws, seed

    def __len__(self) -> int:
        return len(self.draws.images)

    def __getitem__(self, step: int) -> Float[Tensor, "batch 3 height width"]:
        chance = np.random.SeedSequence([*self.seed, step]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(chance[0]))
            return self.images[self.draws.images[step].tolist()]


def batches(
    images: Dataset,
    labels: Int[np.ndarray, " samples"],
    draws: Draws,
    workers: int,
    seed: int = 0,
    done: int = 0,
    device: int = 0,
    devices: int = 1,
) -> Iterator[Batch]:
    """The batches of a run, in the drawn order, or one device's share of each.

    Args:
        images: indexed by lists.
        labels: of all images.
        draws: of the whole run.
        workers: processes that read images; 0: this process.
        seed: of what the images' transform draws.
        done: steps at the start to leave out.
        device: which share of each batch.
        devices: number of shares.

    Raises:
        ValueError: see `Draws.share`.
    """
    own = draws.share(device, devices)
    loader = DataLoader(
        DrawnImages(images, own, (seed, device)),
        batch_size=None,
        sampler=range(done, len(draws.images)),
        num_workers=workers,
        pin_memory=workers > 0 and torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: the run's generator is a part of checkpoints
    )
    for step, pictures in enumerate(loader, start=done):
        row, templates = labels[own.images[step]], own.templates[step]
        whole = len(draws.images[step])
        yield Batch(pictures, torch.from_numpy(row), torch.from_numpy(templates), whole)
