"""Watching a run while it trains: validation, and metrics for DVCLive and TensorBoard.

Nothing here changes a weight, so a checkpoint does not depend on this module.
"""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from dvclive import Live
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet
from carot_lib.distributed import is_first_rank, rank_slice
from carot_lib.methods.base import Method
from carot_lib.models.inference import BATCH_SIZE
from carot_lib.training.global_batch import gather_rows

LOG_EVERY = 10  # optimizer steps per point of a curve: 25,030 steps stay small files


@dataclass(frozen=True, eq=False)
class Validation:
    """Evaluates a method between two steps without affecting its training.

    Attributes:
        dataset: the ID validation set.
        every: optimizer steps between two evaluations.
        n_bins: number of confidence bins of the ECE.
        method: the method in training.
        fabric: devices; each one predicts its share of the images.
    """

    dataset: LabelledSet
    every: int
    n_bins: int
    method: Method
    fabric: Fabric

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracy and ECE, as the stages compute them for a finished run.

        Every process must call it; each returns the same.
        """
        device, labels = self.fabric.device, self.dataset.labels
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            classifier = self.method.classifier().eval()
            share = self.dataset.part(rank_slice(len(labels)))
            batches = share.read_images(classifier.preprocessing, BATCH_SIZE)
            logits = torch.cat([classifier(images.to(device)).float() for images in batches])
        self.method.model.train()  # the classifier may be the model itself
        logits = gather_rows({"logits": logits}, len(labels))["logits"].cpu().numpy()
        stats = BinStats.from_logits(self.dataset.label_space.project(logits), labels, self.n_bins)
        return {"id_val/accuracy": stats.mean_accuracy(), "id_val/ece": stats.ece()}


class MetricLogger:
    """Writes the records of a run; each point of a curve is the mean since the previous one.

    `metrics.json` holds the latest values and `plots/metrics/<name>.tsv` one curve each; only the
    first process writes. A resumed run logs its old records again, and so ends with the same files
    as one that was never interrupted.

    Args:
        folder: folder of the files; those of an earlier run are removed.
        tensorboard: whether to write TensorBoard's files too, into `tensorboard/`.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        self.folder = folder
        self.pending: list[dict[str, int | float]] = []
        try:
            self.board = TensorBoardLogger(folder, "tensorboard", "") if tensorboard else None
        except ModuleNotFoundError:
            raise ValueError(
                "hardware.tensorboard: TensorBoard is missing: pip install tensorboard"
            ) from None

    def __call__(self, record: dict[str, int | float]) -> None:
        """Log the record of the next step; a validation is written at once."""
        self.pending.append(record)
        if record["step"] % LOG_EVERY == 0 or "id_val/ece" in record:
            self.flush()

    def flush(self) -> None:
        """Write the pending records; to be called once more at the end of the run."""
        if self.pending and is_first_rank():
            step = self.pending[-1]["step"]
            means = pd.DataFrame(self.pending).drop(columns="step").mean().to_dict()
            self._live.step = step
            for name, value in means.items():
                self._live.log_metric(name, value)
            self._live.make_summary()
            if self.board is not None:
                self.board.log_metrics(means, step)
                self.board.save()
        self.pending.clear()

    @cached_property
    def _live(self) -> Live:
        """Created at the first flush: only then the first process is known."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return _LiveFiles(str(self.folder), dvcyaml=None, save_dvc_exp=False)


class _LiveFiles(Live):
    """DVCLive for its files only: it fails in a git repository without commits."""

    def _init_dvc(self) -> None:
        pass
