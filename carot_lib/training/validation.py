"""How good the unfinished model is on the validation set: to follow a run, not to choose by it."""

import torch
from lightning_fabric import Fabric

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet
from carot_lib.distributed import rank_slice
from carot_lib.methods.base import Method
from carot_lib.models.inference import BATCH_SIZE
from carot_lib.training.global_batch import gather_rows


class Validation:
    """Judges a method between two steps and leaves no trace in its training.

    Args:
        dataset: the ID validation set.
        every: optimizer steps between two judgements.
        method: in training.
        fabric: devices; each one predicts its share of the images.
    """

    def __init__(self, dataset: LabelledSet, every: int, method: Method, fabric: Fabric):
        self.dataset, self.every, self.method, self.fabric = dataset, every, method, fabric

    def is_due(self, step: int) -> bool:
        """Whether the model is to be judged after this optimizer step (1-based)."""
        return step % self.every == 0

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """Accuracy and ECE (ten bins), as the stages find them for a finished run.

        Every process must call it; all of them are given the same.
        """
        device = self.fabric.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            classifier = self.method.classifier().eval()
            share = self.dataset.part(rank_slice(len(self.dataset.labels)))
            images = share.read_images(classifier.preprocessing, BATCH_SIZE)
            logits = torch.cat([classifier(part.to(device)).float() for part in images])
        self.method.model.train()  # the classifier may be the model itself
        labels = self.dataset.labels
        logits = gather_rows({"logits": logits}, len(labels))["logits"].cpu().numpy()
        stats = BinStats.from_logits(logits, labels, label_space=self.dataset.label_space)
        return {"id_val/accuracy": stats.mean_accuracy(), "id_val/ece": stats.ece()}
