"""Files that show a run while it trains: DVCLive's and, where asked for, TensorBoard's."""

import shutil
from functools import cached_property
from pathlib import Path

import pandas as pd
from dvclive import Live
from lightning_fabric.loggers import TensorBoardLogger

from carot_lib.distributed import is_first_rank

EVERY = 10  # optimizer steps to a point: curves of 25,030 steps stay light


class MetricLogger:
    """Shows the records of a run: each point of a curve is the mean over the steps since the last.

    `metrics.json` holds the newest values and `plots/metrics/<name>.tsv` a curve each; only the
    first process writes. A run that goes on from a checkpoint is told the old records again, and so
    ends in the same files as one that was never killed.

    Args:
        folder: where the files lie; what a run before left there goes.
        tensorboard: whether TensorBoard's files are written too, into `tensorboard/`.

    Raises:
        ValueError: TensorBoard is asked for and is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        self.folder = folder
        self.waiting: list[dict[str, int | float]] = []
        try:
            self.board = TensorBoardLogger(folder, "tensorboard", "") if tensorboard else None
        except ModuleNotFoundError:
            raise ValueError(
                "hardware.tensorboard: TensorBoard is missing: pip install tensorboard"
            ) from None

    def __call__(self, record: dict[str, int | float]) -> None:
        """Take the record of the next step; a validation is shown at once."""
        self.waiting.append(record)
        if record["step"] % EVERY == 0 or "id_val/ece" in record:
            self.show()

    def show(self) -> None:
        """Write what waits; to be called once more at the end of the run."""
        if self.waiting and is_first_rank():
            step = self.waiting[-1]["step"]
            means = pd.DataFrame(self.waiting).drop(columns="step").mean().to_dict()
            self._live.step = step
            for name, value in means.items():
                self._live.log_metric(name, value)
            self._live.make_summary()
            if self.board is not None:
                self.board.log_metrics(means, step)
                self.board.save()
        self.waiting.clear()

    @cached_property
    def _live(self) -> Live:
        """Made late: only then it is known which process is the first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return _Files(str(self.folder), dvcyaml=None, save_dvc_exp=False)


class _Files(Live):
    """DVCLive for its files alone: looking for a git repository, it stops at one without commit."""

    def _init_dvc(self) -> None:
        pass
