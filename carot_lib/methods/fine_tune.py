"""FT: image encoder and linear head by cross-entropy, starting from the zero-shot head.

Source: Wortsman et al. 2022, Section 3; CaRot, Section A.1.
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from carot_lib.methods.base import Batch, RunParams, Setup
from carot_lib.models.clip import ImageClassifier


class FineTuneParams(RunParams):
    """A `kind: fine_tune` entry of params.yaml."""

    kind: Literal["fine_tune"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]  # mass moved to the uniform distribution

    def build(self, setup: Setup) -> "FineTune":
        """The method, ready to train on `setup`."""
        return FineTune(setup, self)


class FineTune(nn.Module):
    """Cross-entropy over the classes; the text encoder only provides the initial head."""

    def __init__(self, setup: Setup, params: FineTuneParams):
        super().__init__()
        self.model = setup.clip.zero_shot_classifier(setup.class_prompts)
        self.label_smoothing = params.label_smoothing

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Unit-length image features and the labels."""
        return {
            "image": F.normalize(self.model.visual(batch.images), dim=-1),
            "label": batch.labels,
        }

    def loss_terms(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy against the (smoothed) labels."""
        logits = self.model.head(encoded["image"])
        loss = F.cross_entropy(logits, encoded["label"], label_smoothing=self.label_smoothing)
        return {"cross_entropy": loss}

    def after_step(self, step: int) -> None:
        """Nothing to do or to log."""

    def classifier(self) -> ImageClassifier:
        """The model itself."""
        return self.model
