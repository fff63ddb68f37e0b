"""The optimizer and its learning-rate schedule."""

import math

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW over all parameters in one group, including norms, biases and the logit scale.

    Args:
        model: all its parameters are trained.
        learning_rate: peak.
        weight_decay: of all parameters.
        fused: the fast implementation, which unscales the gradients of `16-mixed` itself and
            therefore cannot be combined with clipping there.

    Source: the public codes; CaRot, Section A.1.
    """
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused
    )


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0, as a fraction of the peak.

    Args:
        step: number of completed optimizer steps.
        warmup_steps: steps of the ramp; 0 for none.
        total_steps: length of the whole run.

    Source: `cosine_lr` of the public codes of WiSE-FT, FLYP and CaRot.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
