"""FLYP: fine-tune like you pre-train, by the contrastive loss on images and their captions.

Source: Goyal et al. 2023; CaRot, Section 2.3, Eq. 1. With `label_smoothing` it is FLYP w/ LS.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from carot_lib.methods.base import Batch, RunParams, Scalars, Setup, clamp_logit_scale
from carot_lib.methods.losses import contrastive_loss
from carot_lib.models.clip import ImageClassifier


class FlypParams(RunParams):
    """A `kind: flyp` entry of params.yaml."""

    kind: Literal["flyp"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]  # mass moved to uniform over the batch
    max_logit_scale: PositiveFloat | None  # factor on the cosine similarities; None: no bound

    def build(self, setup: Setup) -> "Flyp":
        """The method, ready to train on `setup`."""
        return Flyp(setup, self)


class Flyp(nn.Module):
    """Contrastive loss; both encoders and the logit scale are trained."""

    def __init__(self, setup: Setup, params: FlypParams):
        super().__init__()
        self.model, self.class_prompts = setup.clip, setup.class_prompts
        self.params = params

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Unit-length features of the images and their captions."""
        captions = self.class_prompts[batch.labels, batch.templates]
        return {
            "image": self.model.encode_images(batch.images),
            "text": self.model.encode_texts(captions),
        }

    def loss_terms(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contrastive loss (Eq. 1) against the (smoothed) pairing."""
        logits = self.model.logit_scale * encoded["image"] @ encoded["text"].T
        return {"contrastive": contrastive_loss(logits, self.params.label_smoothing)}

    def after_step(self, step: int) -> Scalars:
        """Bound the logit scale."""
        clamp_logit_scale(self.model, self.params.max_logit_scale)
        return {"model/logit_scale": self.model.logit_scale.detach()}

    def classifier(self) -> ImageClassifier:
        """Zero-shot head from the fine-tuned text encoder."""
        return self.model.zero_shot_classifier(self.class_prompts)
