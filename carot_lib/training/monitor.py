"""Watching a run while it trains: validation, and metrics for DVCLive.

Nothing here changes a weight, so a checkpoint does not depend on this module.
"""

import shutil
import sys
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from dvclive import Live

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet
from carot_lib.distributed import rank
from carot_lib.methods.base import Method
from carot_lib.models.inference import predict_logits
from carot_lib.training.global_batch import set_training_mode

LOG_EVERY = 10  # optimizer steps per point of a curve: 25,030 steps stay small files


def validate(
    method: Method, dataset: LabelledSet, n_bins: int, device: torch.device
) -> dict[str, float]:
    """Accuracy and ECE between two steps of a training, as the stages compute them at its end.

    Every process must call it; each returns the same.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        logits = predict_logits(method.classifier(), dataset, device, show_progress=False)
    set_training_mode(method.model)  # the classifier may be the model itself
    stats = BinStats.from_logits(dataset.label_space.project(logits), dataset.labels, n_bins)
    return {"id_val/accuracy": stats.mean_accuracy(), "id_val/ece": stats.ece()}


class MetricLogger:
    """Writes the records of a run; each point of a curve is the mean since the previous one.

    `metrics.json` holds the latest values and `plots/metrics/<name>.tsv` one curve each; only the
    first process writes. A resumed run logs its old records again, and so ends with the same files
    as one that was never interrupted.

    Files of an earlier run are removed. `history` keeps all records.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.history: list[dict[str, int | float]] = []
        self.pending: list[dict[str, int | float]] = []
        self.failed = False  # to write

    def __call__(self, record: dict[str, int | float]) -> None:
        """Log the record of the next step; a validation is written at once."""
        self.history.append(record)
        self.pending.append(record)
        if record["step"] % LOG_EVERY == 0 or "id_val/ece" in record:
            self.flush()

    def flush(self) -> None:
        """Write the pending records; to be called once more at the end of the run."""
        if self.pending and rank() == 0 and not self.failed:
            try:
                self._write()
            except OSError as error:  # a full disk: nobody needs the curves, but the weights
                print(f"{self.folder}: no more curves are written: {error}", file=sys.stderr)
                self.failed = True
        self.pending.clear()

    def _write(self) -> None:
        self._live.step = self.pending[-1]["step"]
        means = pd.DataFrame(self.pending).drop(columns="step").mean()
        for name, value in means.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    @cached_property
    def _live(self) -> Live:
        """Created at the first flush: only then the first process is known."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return _LiveFiles(str(self.folder), dvcyaml=None, save_dvc_exp=False)


class _LiveFiles(Live):
    """DVCLive for its files only: it fails in a git repository without commits."""

    def _init_dvc(self) -> None:
        pass
