"""What a fine-tuning method is given and what it must be."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor, nn

from carot_lib.clip_model import Clip, ImageClassifier
from carot_lib.schema import StrictParams


@dataclass(frozen=True)
class Batch:
    """One step's images with their class and the template of their caption."""

    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, " batch"]
    templates: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Setup:
    """What a method may build from. The method owns `clip` from then on.

    Attributes:
        clip: the pre-trained model.
        class_prompts: token ids of every class in every template.
        total_steps: optimizer steps of the whole run.
    """

    clip: Clip
    class_prompts: Int[Tensor, "classes templates context"]
    total_steps: int


@torch.no_grad()
def clamp_logit_scale(clip: Clip, highest: float | None) -> None:
    """Bound the factor on the similarities; None for no bound.

    Source: open_clip's training bounds it by 100, as CLIP's does; FLYP's and CaRot's code do not.
    """
    if highest is not None:
        clip.model.logit_scale.clamp_(max=math.log(highest))


class RunParams(StrictParams):
    """Keys that every run of params.yaml has."""

    learning_rate: PositiveFloat  # peak of the schedule
    clip_gradient_norm: PositiveFloat | None  # global norm; None: gradients are not clipped
    sampling: Literal["epochs", "pairs"]  # see `draw_epochs` and `draw_pairs` in training.py


@runtime_checkable
class Method(Protocol):
    """A fine-tuning method: what is trained, on which losses, and what comes out.

    It is an `nn.Module`: its state is the model and all else that changes in training, which is
    what a checkpoint keeps.
    """

    model: nn.Module

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalar losses by name; the loop minimises their sum and logs each."""

    def after_step(self, step: int) -> None:
        """Called after optimizer step `step` (1-based)."""

    def classifier(self) -> ImageClassifier:
        """The trained result, the same kind for every method."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that change in training, by name."""
