"""From a classifier and a set of images to logits: the last thing that needs a GPU."""

import math
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
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

    Where several processes have joined, each computes whole batches of its own, the same batches
    that one process would: how many there are makes no difference to a logit. Each must call this,
    and each is given the logits of all images.

    Args:
        classifier: is set to evaluation mode.
        dataset: the set; its label space is not applied.
        device: where to compute.
    """
    classifier = classifier.to(device).eval()
    total = math.ceil(len(dataset.labels) / BATCH_SIZE)
    own = own_batches(total)
    part = dataset.part(slice(own.start * BATCH_SIZE, own.stop * BATCH_SIZE))
    batches = part.read_images(classifier.preprocessing, BATCH_SIZE) if own else ()
    if own.start == 0:  # the first process speaks for all: none has a larger share
        batches = track(batches, len(own), f"predicting {dataset.name}", "batches")
    logits = [classifier(images.to(device)).float().cpu().numpy() for images in batches]
    return np.concatenate([rows for share in gather(logits) for rows in share])


def own_batches(total: int) -> range:
    """The batches of this process: all, or its share of them, equal to the others' but for one.

    Args:
        total: batches of all processes.
    """
    if not dist.is_initialized():
        return range(total)
    processes = dist.get_world_size()
    sizes = [total // processes + (process < total % processes) for process in range(processes)]
    start = sum(sizes[: dist.get_rank()])
    return range(start, start + sizes[dist.get_rank()])


def gather(share: Any) -> list[Any]:
    """What each of the processes gave, in their order."""
    if not dist.is_initialized():
        return [share]
    shares = [None] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    return shares
