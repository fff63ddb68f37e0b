"""The training loop, and a run from start to end."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from torch import Tensor

from carot_lib.data.datasets import LabelledSet
from carot_lib.methods.base import Batch, Method, RunParams, Scalars, Setup
from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.progress import track
from carot_lib.schema import count_steps
from carot_lib.training.checkpoint import Checkpoint, fingerprint_of
from carot_lib.training.global_batch import (
    average_gradients,
    encode_global_batch,
    set_training_mode,
)
from carot_lib.training.hardware import (
    MODEL_TOO_LARGE,
    NUMERICS_NEUTRAL,
    HardwareParams,
    out_of_memory_means,
)
from carot_lib.training.monitor import validate
from carot_lib.training.optimizer import TrainingParams, build_optimizer, learning_rate_factor
from carot_lib.training.samples import batches, draw_epochs, draw_pairs

READ_EVERY = 20  # steps between two readings of the losses: a reading waits for the device

Log = Callable[[dict[str, int | float]], None]
Validation = tuple[int, Callable[[], dict[str, float]]]


def fit(
    method: Method,
    data: Iterable[Batch],
    total_steps: int,
    optimizer: torch.optim.Optimizer,
    warmup_steps: int,
    clip_gradient_norm: float | None,
    fabric: Fabric,
    log: Log,
    accumulation: int = 1,
    checkpoint: Checkpoint | None = None,
    validation: Validation | None = None,
) -> None:
    """Minimise the sum of the method's loss terms, one optimizer step per batch.

    Args:
        method: its model is trained in place.
        data: one batch per step, starting after those of the checkpoint's history.
        total_steps: length of the schedule.
        optimizer: over the method's model, each group at its peak learning rate.
        warmup_steps: length of the schedule's rise.
        clip_gradient_norm: bound on the global norm of the gradients; None for no bound.
        fabric: devices and precision.
        log: receives the record of each step, in order: `step`, `learning_rate` (of the first
            group), every loss term, and, under names with a slash, scalars of the method and of the
            validation.
        accumulation: micro-batches per step, of which one at a time is in memory.
        checkpoint: saves the state regularly; None: never.
        validation: number of steps between two evaluations, and what evaluates; None: never.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step and every term.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer = fabric.setup_optimizers(optimizer)
    set_training_mode(method.model)
    pending: list[tuple[int, float, Scalars]] = []
    start_step = len(checkpoint.history) if checkpoint is not None else 0
    for step, batch in enumerate(data, start=start_step + 1):
        factor = learning_rate_factor(step - 1, warmup_steps, total_steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        tensors = fabric.to_device((batch.images, batch.labels, batch.templates))
        micro_batches = Batch(*tensors).split(accumulation)
        with fabric.autocast():
            encoded = encode_global_batch(method.encode, micro_batches, batch.global_size)
        terms = method.loss_terms(encoded)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(terms.values())).sum())
        average_gradients(parameters)
        if clip_gradient_norm is not None:
            fabric.clip_gradients(
                method.model,
                optimizer,
                max_norm=clip_gradient_norm,
                error_if_nonfinite=False,  # `to_records` says more
            )
        optimizer.step()
        scalars = {name: term.detach() for name, term in terms.items()}
        scalars |= method.after_step(step) or {}
        pending.append((step, peaks[0] * factor, scalars))
        saves = checkpoint is not None and step % checkpoint.every == 0
        validates = validation is not None and step % validation[0] == 0
        if len(pending) == READ_EVERY or step == total_steps or saves or validates:
            for record in to_records(pending):
                if validates and record["step"] == step:
                    record |= validation[1]()
                if checkpoint is not None:
                    checkpoint.history.append(record)
                log(record)
            pending.clear()
        if saves:
            checkpoint.save()


def to_records(pending: list[tuple[int, float, Scalars]]) -> Iterator[dict[str, int | float]]:
    """The record of each step, from its number, learning rate and scalars on the device."""
    for step, rate, scalars in pending:
        values = {name: float(value) for name, value in scalars.items()}
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
    log: Log,
    label: str,
    checkpoints: Path | None = None,
    validation_set: LabelledSet | None = None,
    n_bins: int = 10,
) -> ImageClassifier:
    """One run from the pre-trained model to the classifier.

    With `checkpoints`, an interrupted run resumes and ends with the same weights.

    Args:
        run: the method and its parameters.
        training: what all runs share.
        hardware: where to compute.
        clip: the pre-trained model; it is trained in place.
        class_prompts: token ids.
        train_set: images and labels.
        seed: seed of the order of the samples, of the images' random transforms and of layers that
            draw random numbers.
        log: receives the record of each step, see `fit`.
        label: name of the run in the progress bar.
        checkpoints: folder for the state of the unfinished run, to be discarded by the caller in
            the end; None: the state is not saved.
        validation_set: evaluated every `training.validate_every` steps; None: never.
        n_bins: number of confidence bins of its ECE.

    Raises:
        FloatingPointError: see `fit`.
        MemoryError: there is too little memory; the message says what to change.
        ValueError: the hardware is not available, a batch cannot be split over it, or a class has
            too few images.
    """
    fabric = hardware.launch()
    torch.manual_seed(seed + fabric.global_rank)  # of layers that draw random numbers
    train_set = train_set.first_per_class(training.images_per_class)
    n_images, n_templates = len(train_set.labels), class_prompts.shape[1]
    total_steps = training.total_steps(n_images)
    fingerprint = fingerprint_of(
        clip.state_dict() | {"class_prompts": class_prompts},
        *(params.model_dump_json() for params in (run, training)),
        hardware.model_dump_json(exclude=NUMERICS_NEUTRAL),
        f"seed {seed}, {train_set.fingerprint}",
        f"{validation_set and validation_set.fingerprint}",
    )
    with out_of_memory_means(MODEL_TOO_LARGE):
        clip = clip.to(fabric.device)
        method = run.build(Setup(clip, class_prompts.to(fabric.device), total_steps))
        fused = hardware.precision != "16-mixed"
        groups = run.parameter_groups(method.model)
        optimizer = build_optimizer(groups, training.weight_decay, fused)
    draw = {"epochs": draw_epochs, "pairs": draw_pairs}[run.sampling]
    rng = np.random.default_rng(seed)
    draws = draw(n_images, n_templates, training.epochs, training.batch_size, rng)

    start_step, checkpoint = 0, None
    if checkpoints is not None:
        every = hardware.checkpoint_every
        checkpoint = Checkpoint(checkpoints, every, fingerprint, method, optimizer, fabric)
        checkpoint.resume()
        start_step = len(checkpoint.history)
        for record in checkpoint.history:
            log(record)
    validation = None
    if validation_set is not None and training.validate_every is not None:
        every = count_steps(training.validate_every, total_steps)
        validation = every, partial(validate, method, validation_set, n_bins, fabric.device)
    images = train_set.open_images(clip.preprocessing, training=True)
    position = seed, start_step, fabric.global_rank, fabric.world_size
    data = batches(images, train_set.labels, draws, hardware.workers, *position)
    if fabric.is_global_zero:
        data = track(data, total_steps - start_step, f"training {label}", "steps")
    warmup_steps = count_steps(training.warmup, total_steps)
    with out_of_memory_means(hardware.step_too_large(training.batch_size)):
        fit(
            method,
            data,
            total_steps,
            optimizer,
            warmup_steps,
            run.clip_gradient_norm,
            fabric,
            log,
            hardware.accumulation,
            checkpoint,
            validation,
        )
    return method.classifier().cpu().eval()
