"""WiSE-FT along alpha: several classifiers evaluated in one pass over the images."""

import math
from collections.abc import Sequence

import torch

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.predictions import Calibrated
from carot_lib.data.datasets import LabelledSet
from carot_lib.models.clip import ImageClassifier
from carot_lib.models.inference import BATCH_SIZE
from carot_lib.progress import track


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
