"""CaRot: contrastive fine-tuning plus self-distillation from an EMA teacher.

Source: Oh et al. 2023, "Towards Calibrated Robust Fine-Tuning of VLMs", Section 2.3.
"""

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from carot_lib.methods.base import Batch, RunParams, Scalars, Setup, clamp_logit_scale
from carot_lib.methods.losses import contrastive_loss, self_distillation_loss
from carot_lib.models.clip import ImageClassifier
from carot_lib.schema import Fraction, PositiveSteps, count_steps


class CarotParams(RunParams):
    """A `kind: carot` entry of params.yaml."""

    kind: Literal["carot"]
    distillation_weight: NonNegativeFloat  # lambda
    kd_reduction: Literal["paper", "code"]  # see `self_distillation_loss`
    max_logit_scale: PositiveFloat | None  # factor on the cosine similarities; None: no bound
    momentum_start: Fraction  # of the teacher; ramps linearly to momentum_end
    momentum_end: Fraction
    momentum_warmup: Fraction  # length of the ramp as a fraction of all steps
    update_every: PositiveSteps | None  # None: the teacher stays pre-trained (Table 2, last row)
    update_at_step_0: bool  # count from 0 as the public code does: update after the first step

    def build(self, setup: Setup) -> "Carot":
        """The method, ready to train on `setup`."""
        return Carot(setup, self)


class EmaTeacher(nn.Module):
    """Exponential moving average of a student's weights: psi <- a * psi + (1 - a) * theta.

    Starts as an exact copy of the student (the pre-trained model), stays in eval mode and takes
    no gradient. The average runs over the whole state: parameters, including the logit scale, and
    the running statistics of BatchNorm, whose integer counters are copied.

    Source: CaRot, Section 2.3 and A.1 (momentum ramp, update every 500 steps).
    """

    def __init__(self, student: nn.Module, params: CarotParams, total_steps: int):
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False).eval()
        self.params = params
        self.warmup_steps = params.momentum_warmup * total_steps  # possibly fractional
        self.update_every = params.update_every and count_steps(params.update_every, total_steps)

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
        """Update the teacher if it is due after optimizer step `step` (1-based), and say so."""
        if self.params.update_at_step_0:
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


class Carot(nn.Module):
    """L = L_MCL + lambda * L_MKD; the teacher follows the student."""

    def __init__(self, setup: Setup, params: CarotParams):
        super().__init__()
        self.model, self.class_prompts, self.params = setup.clip, setup.class_prompts, params
        self.teacher = EmaTeacher(setup.clip, params, setup.total_steps)
        # cache of the teacher's text features, one row per class and template
        classes, templates, _ = self.class_prompts.shape
        features = self.model.logit_scale.new_zeros(classes * templates, self.model.embed_dim)
        self.register_buffer("features", features)
        self.register_buffer("is_known", torch.zeros_like(features[:, 0], dtype=torch.bool))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Unit-length features of images and captions by the student and by the teacher."""
        captions = self.class_prompts[batch.labels, batch.templates]
        return {
            "image": self.model.encode_images(batch.images),
            "text": self.model.encode_texts(captions),
            **self._encode_by_teacher(batch),  # last: see `encode_micro_batches`
        }

    def loss_terms(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contrastive loss (Eq. 1) and weighted self-distillation (Eq. 2)."""
        # the features of all devices, so that their caches stay the same
        self._remember(encoded["caption"], encoded["teacher_text"])
        scale, slow_scale = self.model.logit_scale, self.teacher.model.logit_scale
        student = scale * encoded["image"] @ encoded["text"].T
        teacher = slow_scale * encoded["teacher_image"] @ encoded["teacher_text"].T
        contrastive = contrastive_loss(student)  # first: the order decides how the gradients round
        distillation = self_distillation_loss(student, teacher, self.params.kd_reduction)
        return {
            "contrastive": contrastive,
            "distillation": self.params.distillation_weight * distillation,
        }

    def after_step(self, step: int) -> Scalars:
        """Bound the logit scale and let the teacher follow the student."""
        clamp_logit_scale(self.model, self.params.max_logit_scale)
        if self.teacher.update(self.model, step):
            self.is_known.zero_()
        scalars = {"model/logit_scale": self.model.logit_scale.detach()}
        if self.teacher.update_every is not None:
            scalars["teacher/momentum"] = self.teacher.momentum(step)
        return scalars

    def classifier(self) -> ImageClassifier:
        """Zero-shot head from the fine-tuned text encoder, as in FLYP."""
        return self.model.zero_shot_classifier(self.class_prompts)

    @torch.no_grad()
    def _encode_by_teacher(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's features; each caption is encoded once between two updates.

        Exact: the teacher is constant between updates and so are its text features.
        """
        teacher = self.teacher.model
        caption = batch.labels * self.class_prompts.shape[1] + batch.templates
        new = caption[~self.is_known[caption]].unique()
        if len(new):
            self._remember(new, teacher.encode_texts(self.class_prompts.flatten(0, 1)[new]))
        return {
            "teacher_image": teacher.encode_images(batch.images),
            "teacher_text": self.features[caption],
            "caption": caption,
        }

    def _remember(
        self, captions: Int[Tensor, " batch"], features: Float[Tensor, "batch embed"]
    ) -> None:
        """Cache the teacher's text features until its next update."""
        self.features[captions] = features.to(self.features.dtype)  # lower in mixed precision
        self.is_known[captions] = True
