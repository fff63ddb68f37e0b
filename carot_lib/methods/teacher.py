"""The teacher of CaRot: an exponential moving average of its student."""

import copy

import torch
from torch import nn


class EmaTeacher(nn.Module):
    """Exponential moving average of a student's weights: psi <- a * psi + (1 - a) * theta.

    Starts as an exact copy of the student (the pre-trained model), stays in eval mode and takes
    no gradient. The average runs over the whole state: parameters, including the logit scale, and
    the running statistics of BatchNorm, whose integer counters are copied.

    Args:
        student: the model to follow; it is copied, never changed.
        momentum_start: momentum a at step 0, in [0, 1].
        momentum_end: momentum from `warmup_steps` on.
        warmup_steps: optimizer steps, possibly fractional, of the linear ramp in between.
        update_every: optimizer steps between two updates; None: the teacher stays pre-trained.
        update_at_step_0: number the steps from 0 as the public code does, so that the first
            optimizer step is followed by an update.

    Source: CaRot, Section 2.3 and A.1 (momentum ramp, update every 500 steps).
    """

    def __init__(
        self,
        student: nn.Module,
        momentum_start: float,
        momentum_end: float,
        warmup_steps: float,
        update_every: int | None,
        update_at_step_0: bool = False,
    ):
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False).eval()
        self.momentum_start, self.momentum_end = momentum_start, momentum_end
        self.warmup_steps, self.update_every = warmup_steps, update_every
        self.update_at_step_0 = update_at_step_0

    def train(self, mode: bool = True) -> "EmaTeacher":
        """Stay in eval mode, whatever the parent module does."""
        return super().train(False)

    def momentum(self, step: int) -> float:
        """Momentum a at an optimizer step: a linear ramp, then constant."""
        start, end = self.momentum_start, self.momentum_end
        if step >= self.warmup_steps:
            return end
        return start + (end - start) * step / self.warmup_steps

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> bool:
        """Update the teacher if it is due after optimizer step `step` (1-based).

        Returns:
            Whether the teacher was updated.
        """
        if self.update_at_step_0:
            step -= 1  # the public code's number of this step
        if self.update_every is None or step % self.update_every != 0:
            return False
        weight = 1.0 - self.momentum(step)
        # The state and not `buffers()`: CLIP's attention mask is a buffer that holds -inf and is
        # no part of the state; -inf + weight * (-inf - -inf) would be NaN.
        slow, fast = self.model.state_dict(), student.state_dict()
        for key, value in slow.items():
            if value.is_floating_point():
                value.lerp_(fast[key], weight)
            else:
                value.copy_(fast[key])
        return True
