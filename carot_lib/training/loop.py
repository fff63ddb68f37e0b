"""The one training loop and its optimizer."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from carot_lib.data.datasets import LabelledSet
from carot_lib.methods.base import Batch, Method, RunParams, Scalars, Setup
from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.progress import track
from carot_lib.schema import StrictParams
from carot_lib.training.checkpoint import Checkpoint, fingerprint_of
from carot_lib.training.global_batch import average_gradients, encode_whole, has_batch_norm
from carot_lib.training.hardware import NUMERICS_NEUTRAL, HardwareParams, out_of_memory_means
from carot_lib.training.samples import batches, draw_epochs, draw_pairs
from carot_lib.training.schedule import learning_rate_factor
from carot_lib.training.validation import Validation

READ_EVERY = 20  # steps between two readings of the losses: a reading waits for the device


class TrainingParams(StrictParams):
    """What all runs share. Units: epochs, images, optimizer steps."""

    epochs: PositiveInt
    batch_size: PositiveInt
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt
    validate_every: PositiveInt | None  # None: never; the weights are the same either way

    def total_steps(self, n_images: int) -> int:
        """Optimizer steps of a run; the last batch of an epoch may be a small one."""
        return self.epochs * math.ceil(n_images / self.batch_size)


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW over all trained tensors in one group, norms, biases and the logit scale included.

    Args:
        model: all its parameters are trained.
        learning_rate: peak.
        weight_decay: of all tensors.
        fused: the fast form, which unscales the gradients of `16-mixed` itself and so cannot have
            them clipped before.

    Source: the public codes; CaRot, Section A.1.
    """
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused
    )


def fit(
    method: Method,
    data: Iterable[Batch],
    total_steps: int,
    optimizer: torch.optim.Optimizer,
    warmup_steps: int,
    clip_gradient_norm: float | None,
    fabric: Fabric,
    log: Callable[[dict[str, int | float]], None],
    done: int = 0,
    checkpoint: Checkpoint | None = None,
    accumulation: int = 1,
    validation: Validation | None = None,
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
        log: is given the record of each step, in order: `step`, `learning_rate`, every loss term,
            and under names with a slash what else the method and the validation tell of it.
        done: steps that were done before.
        checkpoint: keeps the state on disk; None: the state is not kept.
        accumulation: pieces of the batch whose activations are in memory one at a time.
        validation: judges the model now and then; None: never.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step and every term.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer = fabric.setup_optimizers(optimizer)
    method.model.train()
    unread: list[tuple[int, float, Scalars]] = []
    for step, batch in enumerate(data, start=done + 1):
        factor = learning_rate_factor(step - 1, warmup_steps, total_steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        tensors = fabric.to_device((batch.images, batch.labels, batch.templates))
        pieces = Batch(*tensors).split(accumulation)
        with fabric.autocast():
            encoded = encode_whole(method.encode, pieces, batch.whole)
        terms = method.loss_terms(encoded)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(terms.values())).sum())
        average_gradients(parameters)
        if clip_gradient_norm is not None:
            fabric.clip_gradients(
                method.model,
                optimizer,
                max_norm=clip_gradient_norm,
                error_if_nonfinite=False,  # the loss that is read below says more
            )
        optimizer.step()
        told = method.after_step(step) or {}
        rate = peaks[0] * factor
        terms = {name: term.detach() for name, term in terms.items()}
        unread.append((step, rate, terms | told))
        is_kept = checkpoint is not None and checkpoint.is_due(step)
        is_judged = validation is not None and validation.is_due(step)
        if len(unread) == READ_EVERY or step == total_steps or is_kept or is_judged:
            for record in _read(unread):
                if is_judged and record["step"] == step:
                    record |= validation.judge()
                log(record)
            unread.clear()
        if is_kept:
            checkpoint.save(step)


def _read(unread: list[tuple[int, float, Scalars]]) -> Iterator[dict[str, int | float]]:
    """The record of each step, once the device has come so far."""
    for step, rate, told in unread:
        values = {name: float(value) for name, value in told.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(
                f"the loss is not finite at step {step} (learning rate {rate:.3g}): "
                + ", ".join(f"{name} = {value}" for name, value in values.items())
            )
        yield {"step": step, "learning_rate": rate, **values}


def fine_tune(
    run: RunParams,
    training: TrainingParams,
    hardware: HardwareParams,
    clip: Clip,
    class_prompts: Int[Tensor, "classes templates context"],
    train_set: LabelledSet,
    seed: int,
    log: Callable[[dict[str, int | float]], None],
    label: str,
    checkpoints: Path | None = None,
    validation_set: LabelledSet | None = None,
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
        validation_set: on which the run is judged every `training.validate_every` steps; None: it
            is not judged.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step and every term.
        MemoryError: more memory is needed than there is; the message says what to change.
        ValueError: the hardware is not there, or the model or a batch cannot be shared by it.
    """
    fabric = hardware.launch()
    if fabric.world_size * hardware.accumulation > 1 and has_batch_norm(clip):
        raise ValueError(
            "hardware: devices, nodes and accumulation must be 1 for a model with BatchNorm: its "
            "statistics would be those of a part of the batch"
        )
    n_images, n_templates = len(train_set.labels), class_prompts.shape[1]
    total_steps = training.total_steps(n_images)
    fingerprint = fingerprint_of(
        clip.state_dict() | {"class_prompts": class_prompts},
        *(params.model_dump_json() for params in (run, training)),
        hardware.model_dump_json(exclude=NUMERICS_NEUTRAL),
        f"seed {seed}, {train_set.fingerprint}",
        f"{validation_set and validation_set.fingerprint}",
    )
    with out_of_memory_means(
        "out of memory: model and optimizer alone do not fit: take a device with more memory or "
        "a smaller model"
    ):
        clip = clip.to(fabric.device)
        method = run.build(Setup(clip, class_prompts.to(fabric.device), total_steps))
        optimizer = build_optimizer(
            method.model, run.learning_rate, training.weight_decay, hardware.precision != "16-mixed"
        )
    draw = {"epochs": draw_epochs, "pairs": draw_pairs}[run.sampling]
    chance = np.random.default_rng(seed)
    draws = draw(n_images, n_templates, training.epochs, training.batch_size, chance)

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

    validation = None
    if validation_set is not None and training.validate_every is not None:
        validation = Validation(validation_set, training.validate_every, method, fabric)
    images = train_set.open_images(clip.preprocessing, training=True)
    data = batches(
        images,
        train_set.labels,
        draws,
        hardware.workers,
        seed,
        done,
        fabric.global_rank,
        fabric.world_size,
    )
    if fabric.is_global_zero:
        data = track(data, total_steps - done, f"training {label}", "steps")
    advice = (
        "lower batch_size"
        if has_batch_norm(clip)
        else f"set hardware.accumulation to {2 * hardware.accumulation}, which gives the same "
        "result"
    )
    with out_of_memory_means(
        f"out of memory at batch_size {training.batch_size} on {fabric.world_size} device(s) with "
        f"accumulation {hardware.accumulation}: {advice}"
    ):
        fit(
            method,
            data,
            total_steps,
            optimizer,
            training.warmup_steps,
            run.clip_gradient_norm,
            fabric,
            keep,
            done,
            checkpoint,
            hardware.accumulation,
            validation,
        )
    return method.classifier().cpu().eval()
