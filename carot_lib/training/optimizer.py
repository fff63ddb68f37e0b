"""What all trainings share: their length, the optimizer and its learning-rate schedule."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt

from carot_lib.schema import PositiveSteps, Steps, StrictParams


class TrainingParams(StrictParams):
    """The branch `training:` of a profile: what all runs share."""

    epochs: PositiveInt
    images_per_class: PositiveInt | None  # the first of each class; None: all
    batch_size: PositiveInt  # images
    weight_decay: NonNegativeFloat
    warmup: Steps  # of the learning rate
    validate_every: PositiveSteps | None  # None: never; the weights are the same either way

    def total_steps(self, n_images: int) -> int:
        """Optimizer steps of a run; the last batch of an epoch may be smaller."""
        return self.epochs * math.ceil(n_images / self.batch_size)


def build_optimizer(
    groups: list[dict[str, Any]], weight_decay: float, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW, with one weight decay for all parameters: also norms, biases and the logit scale.

    Args:
        groups: see `carot_lib.methods.base.RunParams.parameter_groups`.
        weight_decay: of every parameter.
        fused: a faster implementation, which does not allow clipping in `16-mixed`.

    Source: the public codes; CaRot, Section A.1.
    """
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=fused)


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0, as a fraction of the peak; steps count from 0.

    Source: `cosine_lr` of the public codes of WiSE-FT, FLYP and CaRot.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
