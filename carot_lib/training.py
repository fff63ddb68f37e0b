"""The one training loop, its optimizer, its schedule and the order of its samples."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from carot_lib.checkpoint import Checkpoint, fingerprint_of
from carot_lib.clip_model import Clip, ImageClassifier
from carot_lib.datasets import LabelledSet
from carot_lib.methods import MethodParams
from carot_lib.methods.base import Batch, Method, Setup
from carot_lib.progress import track
from carot_lib.schedule import learning_rate_factor
from carot_lib.schema import StrictParams

READ_EVERY = 20  # steps between two readings of the losses: a reading waits for the device


class HardwareParams(StrictParams):
    """Where and how to compute; the numbers of a result depend on it in the last digits only."""

    accelerator: Literal["cpu", "cuda", "auto"]
    devices: PositiveInt
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    workers: NonNegativeInt  # processes that read images; 0: the training process itself
    checkpoint_every: PositiveInt  # optimizer steps between two states kept on disk

    def launch(self) -> Fabric:
        """The devices, ready to use."""
        return Fabric(accelerator=self.accelerator, devices=self.devices, precision=self.precision)


class TrainingParams(StrictParams):
    """What all runs share. Units: epochs, images, optimizer steps."""

    epochs: PositiveInt
    batch_size: PositiveInt
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt

    def total_steps(self, n_images: int) -> int:
        """Optimizer steps of a run; the last batch of an epoch may be a small one."""
        return self.epochs * math.ceil(n_images / self.batch_size)


@dataclass(frozen=True)
class Draws:
    """Which image under which caption template stands in which batch, fixed before training.

    Attributes:
        images: indices of the training images, one array a step.
        templates: indices of the caption templates, one array a step.
    """

    images: list[Int[np.ndarray, " _"]]  # of any length each
    templates: list[Int[np.ndarray, " _"]]  # of any length each


def draw_epochs(
    n_images: int, n_templates: int, training: TrainingParams, generator: np.random.Generator
) -> Draws:
    """Every image once an epoch, under a random template; the last batch of an epoch is smaller.

    Source: WiSE-FT and FT in the public code.
    """
    starts = range(training.batch_size, n_images, training.batch_size)
    images = [
        part
        for _ in range(training.epochs)
        for part in np.split(generator.permutation(n_images), starts)
    ]
    return Draws(images, [generator.integers(n_templates, size=len(part)) for part in images])


def draw_pairs(
    n_images: int, n_templates: int, training: TrainingParams, generator: np.random.Generator
) -> Draws:
    """As many (image, template) pairs as the epochs hold, none of them twice.

    An image is met `epochs` times on average only: FLYP and CaRot shuffle the list of all pairs
    and stop when the steps are over.

    Source: the caption list of FLYP's public code.
    """
    steps, size = training.total_steps(n_images), training.batch_size
    if steps * size > n_images * n_templates:
        raise ValueError(f"{steps} steps of {size} need more than all (image, template) pairs")
    pairs = generator.choice(n_images * n_templates, size=steps * size, replace=False)
    rows = np.split(pairs, steps)
    return Draws([row // n_templates for row in rows], [row % n_templates for row in rows])


class DrawnImages(Dataset):
    """The images of each step of a run, indexed by steps (from 0).

    What a transform draws by torch's generator depends on seed and step alone: not on the process
    that reads the image, nor on what was read before, so a run that goes on sees the same images.
    """

    def __init__(self, images: Dataset, draws: Draws, seed: int):
        self.images, self.draws, self.seed = images, draws, seed

    def __len__(self) -> int:
        return len(self.draws.images)

    def __getitem__(self, step: int) -> Float[Tensor, "batch 3 height width"]:
        chance = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
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
) -> Iterator[Batch]:
    """The batches of a run, in the drawn order.

    Args:
        images: indexed by lists.
        labels: of all images.
        draws: of the whole run.
        workers: processes that read images; 0: this process.
        seed: of what the images' transform draws.
        done: steps at the start to leave out.
    """
    loader = DataLoader(
        DrawnImages(images, draws, seed),
        batch_size=None,
        sampler=range(done, len(draws.images)),
        num_workers=workers,
        pin_memory=workers > 0 and torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: the run's generator is a part of checkpoints
    )
    for step, pictures in enumerate(loader, start=done):
        row, templates = draws.images[step], draws.templates[step]
        yield Batch(pictures, torch.from_numpy(labels[row]), torch.from_numpy(templates))


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over all trained tensors in one group, norms, biases and the logit scale included.

    Source: the public codes; CaRot, Section A.1.
    """
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )


def fit(
    method: Method,
    data: Iterable[Batch],
    total_steps: int,
    optimizer: torch.optim.Optimizer,
    warmup_steps: int,
    clip_gradient_norm: float | None,
    fabric: Fabric,
    log: Callable[[dict[str, float]], None],
    done: int = 0,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Minimise the sum of the method's loss terms, one optimizer step per batch.

    Args:
        method: its model is trained in place.
        data: one batch a step, from the first step that is not done.
        total_steps: length of the schedule.
        optimizer: over the method's model, at the peak learning rate.
        warmup_steps: of the schedule.
        clip_gradient_norm: bound on the global norm of the gradients; None for no bound.
        fabric: devices and precision.
        log: is given step, learning rate and every loss term of each step, in order.
        done: steps that were done before.
        checkpoint: keeps the state on disk; None: the state is not kept.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step and every term.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    optimizer = fabric.setup_optimizers(optimizer)
    method.model.train()
    unread: list[tuple[int, float, dict[str, Tensor]]] = []
    for step, batch in enumerate(data, start=done + 1):
        factor = learning_rate_factor(step - 1, warmup_steps, total_steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        batch = Batch(*fabric.to_device((batch.images, batch.labels, batch.templates)))
        with fabric.autocast():
            terms = method.loss_terms(batch)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(terms.values())).sum())
        if clip_gradient_norm is not None:
            fabric.clip_gradients(
                method.model,
                optimizer,
                max_norm=clip_gradient_norm,
                error_if_nonfinite=False,  # the loss that is read below says more
            )
        optimizer.step()
        method.after_step(step)
        rate = peaks[0] * factor
        unread.append((step, rate, {name: term.detach() for name, term in terms.items()}))
        is_kept = checkpoint is not None and checkpoint.is_due(step)
        if len(unread) == READ_EVERY or step == total_steps or is_kept:
            _read(unread, log)
            unread.clear()
        if is_kept:
            checkpoint.save(step)


def _read(
    unread: list[tuple[int, float, dict[str, Tensor]]], log: Callable[[dict[str, float]], None]
) -> None:
    for step, rate, terms in unread:
        values = {name: term.item() for name, term in terms.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(
                f"the loss is not finite at step {step} (learning rate {rate:.3g}): "
                + ", ".join(f"{name} = {value}" for name, value in values.items())
            )
        log({"step": step, "learning_rate": rate, **values})


def fine_tune(
    run: MethodParams,
    training: TrainingParams,
    hardware: HardwareParams,
    clip: Clip,
    class_prompts: Int[Tensor, "classes templates context"],
    train_set: LabelledSet,
    seed: int,
    log: Callable[[dict[str, float]], None],
    label: str,
    checkpoints: Path | None = None,
) -> ImageClassifier:
    """One run from the pre-trained model to the classifier.

    With `checkpoints`, a run that was killed goes on where it was and ends in the same weights.

    Args:
        run: method and its numbers.
        training: what all runs share.
        hardware: where to compute.
        clip: the pre-trained model; it is trained in place.
        class_prompts: token ids of every class in every template.
        train_set: images and labels.
        seed: of the order of the samples, the one chance of a run.
        log: is given the record of each step, see `fit`.
        label: of the progress bar.
        checkpoints: folder for the state of the unfinished run, which the caller discards in the
            end; None: the state is not kept.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step and every term.
    """
    fabric = hardware.launch()
    n_images, n_templates = len(train_set.labels), class_prompts.shape[1]
    total_steps = training.total_steps(n_images)
    fingerprint = fingerprint_of(
        clip.state_dict() | {"class_prompts": class_prompts},
        *(params.model_dump_json() for params in (run, training, hardware)),
        f"seed {seed}, {train_set.fingerprint}",
    )
    clip = clip.to(fabric.device)
    method = run.build(Setup(clip, class_prompts.to(fabric.device), total_steps))
    optimizer = build_optimizer(method.model, run.learning_rate, training.weight_decay)
    draw = {"epochs": draw_epochs, "pairs": draw_pairs}[run.sampling]
    draws = draw(n_images, n_templates, training, np.random.default_rng(seed))

    history: list[dict[str, int | float]] = []
    done, checkpoint = 0, None
    if checkpoints is not None:
        checkpoint = Checkpoint(
            checkpoints, hardware.checkpoint_every, fingerprint, method, optimizer, fabric, history
        )
        done = checkpoint.resume()
        for record in history:
            log(record)

    def keep(record: dict[str, int | float]) -> None:
        history.append(record)
        log(record)

    images = train_set.open_images()
    data = batches(images, train_set.labels, draws, hardware.workers, seed, done)
    fit(
        method,
        track(data, total_steps - done, f"training {label}", "steps"),
        total_steps,
        optimizer,
        training.warmup_steps,
        run.clip_gradient_norm,
        fabric,
        keep,
        done,
        checkpoint,
    )
    return method.classifier().cpu().eval()
