"""The learning rate over the steps of a run."""

import math


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0, as a fraction of the peak.

    Args:
        step: optimizer steps done before this one.
        warmup_steps: steps of the ramp; 0 for none.
        total_steps: of the whole run.

    Source: `cosine_lr` of the public codes of WiSE-FT, FLYP and CaRot.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
