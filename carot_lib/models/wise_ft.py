"""WiSE-FT: classifiers between the zero-shot and a fine-tuned one."""

import copy
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, model_validator

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.predictions import Calibrated
from carot_lib.data.datasets import LabelledSet
from carot_lib.models.clip import ImageClassifier
from carot_lib.models.inference import BATCH_SIZE
from carot_lib.progress import track
from carot_lib.schema import Fraction, StrictParams


class WiseFtParams(StrictParams):
    """`wise_ft:` of a profile: shares of the fine-tuned weights."""

    alpha: Fraction  # of the rows WiSE-FT
    curve: Annotated[list[Fraction], Field(min_length=2)]  # from zero-shot (0) to fine-tuned (1)

    @model_validator(mode="after")
    def _curve_rises_from_0_to_1(self) -> "WiseFtParams":
        if sorted(set(self.curve)) != self.curve or (self.curve[0], self.curve[-1]) != (0, 1):
            raise ValueError(f"curve must rise from 0 to 1, not {self.curve}")
        return self


def interpolate(
    zero_shot: ImageClassifier, fine_tuned: ImageClassifier, alpha: float
) -> ImageClassifier:
    """WiSE-FT: (1 - alpha) * zero-shot + alpha * fine-tuned, over every tensor, head included.

    Running statistics of BatchNorm are averaged too; its step counter is the fine-tuned one's.

    Args:
        zero_shot: weights at alpha 0.
        fine_tuned: weights at alpha 1.
        alpha: in [0, 1].

    Raises:
        ValueError: the two classifiers do not have the same tensors.

    Source: Wortsman et al. 2022, Eq. 1; CaRot, Section A.1.
    """
    start, end = zero_shot.state_dict(), fine_tuned.state_dict()
    if {k: v.shape for k, v in start.items()} != {k: v.shape for k, v in end.items()}:
        raise ValueError("the classifiers to interpolate do not have the same tensors")
    mixed = {
        key: torch.lerp(start[key], end[key], alpha) if end[key].is_floating_point() else end[key]
        for key in end
    }
    classifier = copy.deepcopy(fine_tuned)
    classifier.load_state_dict(mixed)
    return classifier


def interpolate_all(
    zero_shot: ImageClassifier, fine_tuned: ImageClassifier, alphas: Sequence[float]
) -> list[ImageClassifier]:
    """The WiSE-FT classifier of every alpha, see `interpolate`."""
    return [interpolate(zero_shot, fine_tuned, alpha) for alpha in alphas]


@torch.no_grad()
def evaluate_classifiers(
    classifiers: Sequence[ImageClassifier],
    dataset: LabelledSet,
    n_bins: int,
    device: torch.device,
) -> list[BinStats]:
    """Binned predictions of several classifiers of one architecture on one set.

    Each image is read once for all of them, and only bins are kept: ImageNet's files take longer to
    decode than to classify, and its logits would fill the memory.

    Args:
        classifiers: moved to the device and set to evaluation mode.
        dataset: its label space is applied.
        n_bins: number of confidence bins.
        device: where to compute.
    """
    classifiers = [classifier.to(device).eval() for classifier in classifiers]
    stats = [BinStats.empty(n_bins) for _ in classifiers]
    batches = dataset.read_images(classifiers[0].preprocessing, BATCH_SIZE)
    total, start = math.ceil(len(dataset.labels) / BATCH_SIZE), 0
    for images in track(batches, total, f"evaluating on {dataset.name}", "batches"):
        images = images.to(device)
        labels = dataset.labels[start : start + len(images)]
        start += len(images)
        for i, classifier in enumerate(classifiers):
            logits = dataset.label_space.project(classifier(images).float().cpu().numpy())
            one = Calibrated.from_logits(logits, labels)
            stats[i] += BinStats.from_confidences(one.confidences, one.correct, n_bins)
    return stats


# ---- old names, to be removed once params.py and the stages use WiseFtParams -------------------
