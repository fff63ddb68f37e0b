"""From a classifier and a set of images to logits: the last thing that needs a GPU."""

import math

import numpy as np
import torch
from jaxtyping import Float

from carot_lib.data.datasets import LabelledSet
from carot_lib.distributed import gather, rank_slice
from carot_lib.models.clip import ImageClassifier
from carot_lib.progress import track

BATCH_SIZE = 500  # images at a time; bounds the memory


@torch.no_grad()
def predict_logits(
    classifier: ImageClassifier, dataset: LabelledSet, device: torch.device
) -> Float[np.ndarray, "samples classes"]:
    """Logits of every image over all of the classifier's classes, in full precision.

    Where several processes have joined, each computes whole batches of its own, the same batches
    that one process would: how many there are makes no difference to a logit. Each must call this,
    and each is given the logits of all images.

    Args:
        classifier: is set to evaluation mode.
        dataset: the set; its label space is not applied.
        device: where to compute.
    """
    classifier = classifier.to(device).eval()
    own = rank_slice(math.ceil(len(dataset.labels) / BATCH_SIZE))
    n_batches = own.stop - own.start
    part = dataset.part(slice(own.start * BATCH_SIZE, own.stop * BATCH_SIZE))
    batches = part.read_images(classifier.preprocessing, BATCH_SIZE) if n_batches else ()
    if own.start == 0:  # the first process speaks for all: none has a larger share
        batches = track(batches, n_batches, f"predicting {dataset.name}", "batches")
    logits = [classifier(images.to(device)).float().cpu().numpy() for images in batches]
    return np.concatenate([rows for share in gather(logits) for rows in share])
