"""From a classifier and a set of images to logits: the last step that needs a GPU."""

import math

import numpy as np
import torch
from jaxtyping import Float

from carot_lib.data.datasets import LabelledSet
from carot_lib.distributed import gather, rank_slice
from carot_lib.models.clip import ImageClassifier
from carot_lib.progress import track

BATCH_SIZE = 500  # images; bounds the memory


@torch.no_grad()
def predict_logits(
    classifier: ImageClassifier, dataset: LabelledSet, device: torch.device
) -> Float[np.ndarray, "samples classes"]:
    """Logits of every image over all of the classifier's classes, in full precision.

    Several processes share the batches that a single one would compute, so their number makes no
    difference to a logit. Each must call this, and each returns the logits of all images.

    Args:
        classifier: moved to the device and set to evaluation mode.
        dataset: its label space is not applied.
        device: where to compute.
    """
    classifier = classifier.to(device).eval()
    local = rank_slice(math.ceil(len(dataset.labels) / BATCH_SIZE))
    n_batches = local.stop - local.start
    part = dataset.part(slice(local.start * BATCH_SIZE, local.stop * BATCH_SIZE))
    batches = part.read_images(classifier.preprocessing, BATCH_SIZE) if n_batches else ()
    if local.start == 0:  # the first process reports progress: no other has a larger share
        batches = track(batches, n_batches, f"predicting {dataset.name}", "batches")
    logits = [classifier(images.to(device)).float().cpu().numpy() for images in batches]
    return np.concatenate([rows for share in gather(logits) for rows in share])
