"""From a classifier and a set of images to logits: the last thing that needs a GPU."""

import math

import numpy as np
import torch
from jaxtyping import Float

from carot_lib.data.datasets import LabelledSet
from carot_lib.models.clip_model import ImageClassifier
from carot_lib.progress import track

BATCH_SIZE = 500  # images at a time; bounds the memory


def pick_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def predict_logits(
    classifier: ImageClassifier, dataset: LabelledSet, device: torch.device
) -> Float[np.ndarray, "samples classes"]:
    """Logits of every image over all of the classifier's classes, in full precision.

    Args:
        classifier: is set to evaluation mode.
        dataset: the set; its label space is not applied.
        device: where to compute.
    """
    classifier = classifier.to(device).eval()
    batches = dataset.read_images(classifier.preprocessing, BATCH_SIZE)
    total = math.ceil(len(dataset.labels) / BATCH_SIZE)
    logits = [
        classifier(images.to(device)).float().cpu()
        for images in track(batches, total, f"predicting {dataset.name}", "batches")
    ]
    return torch.cat(logits).numpy()
