"""What a fine-tuning method is given and what it must be."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor, nn

from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.schema import StrictParams

Scalars = dict[str, Tensor | float]  # scalars by name, which show how a run goes


@dataclass(frozen=True)
class Batch:
    """One step's images with their class and the template of their caption.

    Attributes:
        images: as the model takes them.
        labels: their classes.
        templates: index of the template of each one's caption.
        whole: images of the step over all devices; None if these are all.
    """

    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, " batch"]
    templates: Int[Tensor, " batch"]
    whole: int | None = None

    def split(self, pieces: int) -> list["Batch"]:
        """The batch in as many pieces of like sizes, in order; fewer if it has fewer images."""
        pieces = min(pieces, len(self.labels))
        tensors = (self.images, self.labels, self.templates)
        columns = [tensor.tensor_split(pieces) for tensor in tensors]
        return [Batch(*piece) for piece in zip(*columns, strict=True)]


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
    sampling: Literal["epochs", "pairs"]  # see `draw_epochs` and `draw_pairs` in samples.py

    def build(self, setup: Setup) -> "Method":
        """The method, ready to train on `setup`."""
        raise NotImplementedError


@runtime_checkable
class Method(Protocol):
    """A fine-tuning method: what is trained, on which losses, and what comes out.

    It is an `nn.Module`: its state is the model and all else that changes in training, which is
    what a checkpoint keeps.
    """

    model: nn.Module

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """All that the losses need of the images, by name: tensors of one row an image.

        No image's row may depend on the others: the loop may cut the batch into pieces.
        """

    def loss_terms(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted scalar losses of a whole batch by name; the loop minimises their sum.

        Args:
            encoded: the rows of `encode`, of all pieces and devices.
        """

    def after_step(self, step: int) -> Scalars | None:
        """Called after optimizer step `step` (1-based).

        Returns:
            What there is to tell beside the losses, under names with a slash; None: nothing.
        """

    def classifier(self) -> ImageClassifier:
        """The trained result, the same kind for every method."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that change in training, by name."""
