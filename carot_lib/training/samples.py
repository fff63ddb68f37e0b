"""Which images each step shows under which caption templates, and the resulting batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carot_lib.methods.base import Batch


@dataclass(frozen=True)
class Draws:
    """Indices of the images and caption templates of a run, fixed before it: an array per step."""

    images: list[Int[np.ndarray, " _"]]
    templates: list[Int[np.ndarray, " _"]]

    def share(self, rank: int, world_size: int) -> "Draws":
        """The part of every batch that one of several devices takes.

        Raises:
            ValueError: a batch has fewer images than there are devices.
        """
        if (smallest := min(map(len, self.images))) < world_size:
            raise ValueError(f"hardware: {world_size} devices cannot share a batch of {smallest}")
        columns = self.images, self.templates
        return Draws(*([np.array_split(row, world_size)[rank] for row in x] for x in columns))


def draw_epochs(
    n_images: int, n_templates: int, epochs: int, batch_size: int, rng: np.random.Generator
) -> Draws:
    """Every image once per epoch, under a random template; the last batch may be smaller.

    Source: WiSE-FT and FT in the public code.
    """
    starts = range(batch_size, n_images, batch_size)
    images = [part for _ in range(epochs) for part in np.split(rng.permutation(n_images), starts)]
    return Draws(images, [rng.integers(n_templates, size=len(part)) for part in images])


def draw_pairs(
    n_images: int, n_templates: int, epochs: int, batch_size: int, rng: np.random.Generator
) -> Draws:
    """Distinct (image, template) pairs, as many as the epochs hold.

    An image comes `epochs` times on average only: FLYP and CaRot shuffle the list of all pairs
    and stop when the steps are over. The draw makes a table of all pairs: 0.8 GB for ImageNet.

    Raises:
        ValueError: there are fewer pairs than needed.

    Source: the caption list of FLYP's public code.
    """
    steps = epochs * math.ceil(n_images / batch_size)
    n_drawn, n_pairs = steps * batch_size, n_images * n_templates
    if n_drawn > n_pairs:
        raise ValueError(
            f"{steps} steps of {batch_size} need {n_drawn} (image, caption template) pairs, but "
            f"there are {n_pairs}: use more templates, fewer `epochs`, or `sampling: epochs`"
        )
    rows = np.split(rng.choice(n_pairs, size=n_drawn, replace=False), steps)
    return Draws([row // n_templates for row in rows], [row % n_templates for row in rows])


class DrawnImages(Dataset):
    """The images of every step of a run, indexed by steps (from 0).

    The random numbers of a transform depend on seed and step alone, not on what was read before nor
    by which process: a resumed run sees the same images.
    """

    def __init__(self, images: Dataset, draws: Draws, seed: tuple[int, ...]):
        self.images, self.draws, self.seed = images, draws, seed

    def __getitem__(self, step: int) -> Float[Tensor, "batch 3 height width"]:
        seed = np.random.SeedSequence([*self.seed, step]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed[0]))
            return self.images[self.draws.images[step].tolist()]


def batches(
    images: Dataset,
    labels: Int[np.ndarray, " samples"],
    draws: Draws,
    workers: int,
    seed: int = 0,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The batches of a run in the drawn order, or one device's share of each.

    Args:
        images: all images, indexed by lists.
        labels: classes of all images.
        draws: the draws of the whole run.
        workers: processes that read images; 0: this process.
        seed: seed of the images' random transforms.
        start_step: number of steps to skip.
        rank: which share of each batch to take.
        world_size: number of shares, see `Draws.share`.
    """
    local = draws.share(rank, world_size)
    loader = DataLoader(
        DrawnImages(images, local, (seed, rank)),
        batch_size=None,
        sampler=range(start_step, len(draws.images)),
        num_workers=workers,
        pin_memory=workers > 0 and torch.cuda.is_available(),
        generator=torch.Generator(),  # leaves the global one, a part of checkpoints, untouched
    )
    for step, pictures in enumerate(loader, start=start_step):
        targets = torch.from_numpy(labels[local.images[step]])
        templates = torch.from_numpy(local.templates[step])
        yield Batch(pictures, targets, templates, len(draws.images[step]))
