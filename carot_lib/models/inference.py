"""From classifiers and a set of images to logits: the last step that needs a GPU."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from carot_lib.data.datasets import LabelledSet
from carot_lib.distributed import gather, rank, world_size
from carot_lib.models.clip import ImageClassifier
from carot_lib.progress import track

BATCH_SIZE = 500  # images; bounds the memory


def predict_logits(
    classifier: ImageClassifier,
    dataset: LabelledSet,
    device: torch.device,
    show_progress: bool = True,
) -> Float[np.ndarray, "samples classes"]:
    """Logits of every image over all of the classifier's classes, in full precision.

    Several processes share the batches that a single one would compute, so their number makes no
    difference to a logit. Each must call this, and each returns the logits of all images. The
    classifier is moved to the device and set to evaluation mode; the set's label space is not
    applied.
    """
    n_batches = math.ceil(len(dataset.labels) / BATCH_SIZE)
    mine = np.array_split(np.arange(n_batches), world_size())[rank()]
    logits = []
    if len(mine):
        part = dataset.part(slice(mine[0] * BATCH_SIZE, (mine[-1] + 1) * BATCH_SIZE))
        # the first process reports progress: no other has a larger share
        label = f"predicting {dataset.name}" if show_progress and rank() == 0 else None
        logits = [rows for (rows,) in predict_batches([classifier], part, device, label)]
    return np.concatenate([rows for share in gather(logits) for rows in share])


def predict_batches(
    classifiers: Sequence[ImageClassifier],
    dataset: LabelledSet,
    device: torch.device,
    label: str | None = None,
) -> Iterator[list[Float[np.ndarray, "batch classes"]]]:
    """The logits of each of several classifiers of one architecture, batch by batch.

    Each image is read once for all of them: ImageNet's files take longer to decode than to
    classify. `label` names the work in a progress bar.
    """
    classifiers = [classifier.to(device).eval() for classifier in classifiers]
    batches = dataset.read_images(classifiers[0].preprocessing, BATCH_SIZE)
    if label is not None:
        total = math.ceil(len(dataset.labels) / BATCH_SIZE)
        batches = track(batches, total, label, "batches")
    for images in batches:
        images = images.to(device)
        with torch.no_grad():
            logits = [classifier(images).float().cpu().numpy() for classifier in classifiers]
        yield logits
