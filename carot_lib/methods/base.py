"""What a fine-tuning method is given and what it must provide."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor, nn

from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.schema import StrictParams

Scalars = dict[str, Tensor | float]  # scalars by name, to monitor a run


@dataclass(frozen=True)
class Batch:
    """The images of one step with their classes and caption templates."""

    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, " batch"]
    templates: Int[Tensor, " batch"]  # of the images' captions
    global_size: int | None = None  # images of the step over all devices; None if these are all

    def split(self, n: int) -> list["Batch"]:
        """Up to `n` micro-batches of nearly equal size, in order, none of them empty."""
        n = min(n, len(self.labels))
        columns = [x.tensor_split(n) for x in (self.images, self.labels, self.templates)]
        return [Batch(*parts) for parts in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Setup:
    """What a method is built from. The method owns `clip`, the pre-trained model, from then on."""

    clip: Clip
    class_prompts: Int[Tensor, "classes templates context"]  # token ids
    total_steps: int  # optimizer steps of the whole run


@torch.no_grad()
def clamp_logit_scale(clip: Clip, maximum: float | None) -> None:
    """Bound the factor on the similarities; None for no bound.

    Source: open_clip's training bounds it by 100, as CLIP's does; FLYP's and CaRot's code do not.
    """
    if maximum is not None:
        clip.model.logit_scale.clamp_(max=math.log(maximum))


class RunParams(StrictParams):
    """Keys that every run of params.yaml has."""

    learning_rate: PositiveFloat  # peak of the schedule
    clip_gradient_norm: PositiveFloat | None  # global norm; None: gradients are not clipped
    sampling: Literal["epochs", "pairs"]  # see `draw_epochs` and `draw_pairs` in samples.py

    def build(self, setup: Setup) -> "Method":
        """The method, ready to train on `setup`."""
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """What the optimizer trains: groups of parameters, each with its peak learning rate.

        One group holds all of them, unless a method has learning rates of its own, say for a head.
        """
        return [{"params": list(model.parameters()), "lr": self.learning_rate}]


@runtime_checkable
class Method(Protocol):
    """A fine-tuning method: the trained model, its losses and the resulting classifier.

    An `nn.Module` whose state is everything that changes in training: what a checkpoint keeps.
    """

    model: nn.Module

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Everything the losses need of the images, by name, with one row per image.

        No row may depend on other images: the loop may split the batch into micro-batches.
        """

    def loss_terms(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted scalar losses by name, of the rows of all micro-batches and devices.

        The loop minimises their sum.
        """

    def after_step(self, step: int) -> Scalars | None:
        """Called after optimizer step `step` (1-based).

        May return scalars to log besides the losses, under names with a slash.
        """

    def classifier(self) -> ImageClassifier:
        """The trained result, of the same type for every method."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that change in training, by name."""
