"""The teacher of CaRot: an exponential moving average of its student."""

import copy

import torch
from pydantic import PositiveInt
from torch import nn

from carot_lib.schema import Fraction, StrictParams


class TeacherParams(StrictParams):
    """How the teacher follows the student."""

    momentum_start: Fraction
    momentum_end: Fraction
    warmup_fraction: Fraction  # of all training steps; the momentum ramps linearly over them
    update_every: PositiveInt | None  # optimizer steps; None: stays pre-trained (Table 2, last row)
    update_at_step_0: bool  # count steps from 0, which is due: the first optimizer step updates


class EmaTeacher(nn.Module):
    """Exponential moving average of a student's weights: psi <- a * psi + (1 - a) * theta.

    Starts as an exact copy of the student (the pre-trained model), stays in eval mode and takes
    no gradient. The average runs over the whole state: parameters, the logit scale among them,
    and the running statistics of BatchNorm, whose integer counters are copied.

    Args:
        student: the model to follow; it is copied, never changed.
        params: momentum and frequency.
        total_steps: optimizer steps of the whole run, which fixes the momentum ramp.

    Source: CaRot, Section 2.3 and A.1 (momentum ramp, update every 500 steps). The public code
    numbers its steps from 0 and so updates after the first one already: `update_at_step_0`.
    """

    def __init__(self, student: nn.Module, params: TeacherParams, total_steps: int):
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False).eval()
        self.params = params
        self.warmup_steps = params.warmup_fraction * total_steps

    def train(self, mode: bool = True) -> "EmaTeacher":
        """Stay in eval mode, whatever the parent module does."""
        return super().train(False)

    def momentum(self, step: int) -> float:
        """Momentum a at an optimizer step: a linear ramp, then constant."""
        start, end = self.params.momentum_start, self.params.momentum_end
        if step >= self.warmup_steps:
            return end
        return start + (end - start) * step / self.warmup_steps

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> bool:
        """Update the teacher if `step` (1-based, after the optimizer step) is due.

        Returns:
            Whether the teacher moved.
        """
        every = self.params.update_every
        if self.params.update_at_step_0:
            step -= 1  # the public code's number of this step
        if every is None or step % every != 0:
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
