"""The plain way to the same losses, as the public codes of WiSE-FT, FLYP and CaRot go about it.

Texts fill the model's whole context; the teacher encodes images and captions again at every step;
similarities are computed once for each direction; the optimizer is torch's default; the teacher
follows tensor by tensor; the loss is read at every step. Written from what those codes do, with
none of their lines.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from carot_lib.methods.base import Batch
from carot_lib.models.clip import Clip
from carot_lib.params import MethodParams
from carot_lib.training.loop import learning_rate_factor


class PlainTraining:
    """One method on one model.

    Args:
        run: method and its numbers.
        clip: the pre-trained model; it is trained in place.
        prompts: token ids of every class in every template.
        steps: of a call of `train`, the length of the schedule.
        weight_decay: of all tensors.
        warmup_steps: of the schedule.
        bf16: whether to compute in bfloat16 where torch's autocast does.
    """

    def __init__(
        self,
        run: MethodParams,
        clip: Clip,
        prompts: Int[Tensor, "classes templates context"],
        steps: int,
        weight_decay: float,
        warmup_steps: int,
        bf16: bool,
    ):
        self.run, self.steps, self.warmup_steps, self.bf16 = run, steps, warmup_steps, bf16
        self.model: nn.Module = clip.model
        if run.kind == "fine_tune":
            self.model = clip.zero_shot_classifier(prompts)
        self.model.to(memory_format=torch.contiguous_format)
        if run.kind == "carot":
            self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.device = prompts.device
        self.prompts = F.pad(prompts, (0, clip.context_length - prompts.shape[2])).long()
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, run.learning_rate, weight_decay=weight_decay)

    def train(self, batches: Sequence[Batch]) -> float:
        """One optimizer step per batch; the first loss term of the last step."""
        self.model.train()
        for module in self.model.modules():
            if "BatchNorm" in type(module).__name__:
                module.eval()  # keeps its running statistics
        for step, batch in enumerate(batches, start=1):
            factor = learning_rate_factor(step - 1, self.warmup_steps, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.run.learning_rate * factor
            images = batch.images.to(self.device).contiguous()
            labels, templates = batch.labels.to(self.device), batch.templates.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                first, rest = self._losses(images, labels, self.prompts[labels, templates])
            loss = first + rest
            self.optimizer.zero_grad()
            loss.backward()
            if self.run.clip_gradient_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.run.clip_gradient_norm)
            self.optimizer.step()
            if self.run.kind == "carot" and step % self.run.update_every == 0:
                self._move_teacher(step)
            value = first.item()
        return value

    def _losses(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Int[Tensor, " batch"],
        captions: Int[Tensor, "batch context"],
    ) -> tuple[Tensor, Tensor | float]:
        """The first loss term, and the weighted second one or 0."""
        if self.run.kind == "fine_tune":
            logits = self.model(images)
            return F.cross_entropy(logits, labels, label_smoothing=self.run.label_smoothing), 0.0
        smoothing = self.run.label_smoothing if self.run.kind == "flyp" else 0.0
        per_image, per_text = self._similarities(self.model, images, captions)
        targets = torch.arange(len(images), device=self.device)
        image_to_text = F.cross_entropy(per_image, targets, label_smoothing=smoothing)
        text_to_image = F.cross_entropy(per_text, targets, label_smoothing=smoothing)
        contrastive = (image_to_text + text_to_image) / 2
        if self.run.kind == "flyp":
            return contrastive, 0.0
        with torch.no_grad():
            slow_per_image, slow_per_text = self._similarities(self.teacher, images, captions)
        crossed = slow_per_image.softmax(dim=1) * per_image.softmax(dim=1).log()
        crossed = crossed + slow_per_text.softmax(dim=1) * per_text.softmax(dim=1).log()
        directions = 2 if self.run.kd_reduction == "paper" else 1
        distillation = -crossed.sum(dim=1).mean() / directions
        return contrastive, self.run.distillation_weight * distillation

    @staticmethod
    def _similarities(
        model: nn.Module,
        images: Float[Tensor, "batch 3 height width"],
        captions: Int[Tensor, "batch context"],
    ) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch"]]:
        """Scaled similarities of images to texts, and of texts to images."""
        image = F.normalize(model.encode_image(images), dim=-1)
        text = F.normalize(model.encode_text(captions), dim=-1)
        scale = model.logit_scale.exp()
        return scale * image @ text.T, scale * text @ image.T

    @torch.no_grad()
    def _move_teacher(self, step: int) -> None:
        run = self.run
        ramp = min(1.0, step / (run.momentum_warmup * self.steps))
        kept = run.momentum_start + (run.momentum_end - run.momentum_start) * ramp
        pairs = zip(
            self.teacher.state_dict().values(), self.model.state_dict().values(), strict=True
        )
        for slow, fast in pairs:
            slow.copy_(kept * slow + (1 - kept) * fast if slow.is_floating_point() else fast)
