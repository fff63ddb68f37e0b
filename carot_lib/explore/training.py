"""Watch a training in a notebook, and compare its result with the one that DVC made."""

import contextlib
import io
import time
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.figure import Figure

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet
from carot_lib.explore.interactive import InteractiveFigure
from carot_lib.models.clip import ImageClassifier
from carot_lib.models.inference import predict_logits
from carot_lib.report.plots import SMOOTHED
from carot_lib.report.styles import PAGE_WIDTH, PALE, UNDER

PAUSE = 1.0  # seconds between two drawings, so that they do not slow down the training


class LossMonitor:
    """A progress bar over a plot of the loss, for `log` of `fine_tune`.

    Used as a context, it is displayed at the start and in its last state at the end; meanwhile it
    suppresses standard error, where the training reports the same progress.

    Args:
        total_steps: optimizer steps of the training.

    Attributes:
        history: all records so far, as `fit` logs them.
    """

    def __init__(self, total_steps: int):
        self.history: list[dict[str, int | float]] = []
        self.bar = widgets.IntProgress(max=total_steps, description="steps")
        self.label = widgets.Label(f"0 of {total_steps}")
        self._plot, ax = plt.subplots(figsize=(PAGE_WIDTH, 2.6))
        self.losses_line = ax.plot([], [], color=PALE, linewidth=0.8)[0]
        self.mean_line = ax.plot([], [], color=UNDER, linewidth=1.6)[0]
        ax.set(xlim=(0, total_steps), ylim=(0, 1), xlabel="optimizer step", ylabel="loss")
        ax.set_yticks([0, 0.5, 1], ["0", "half", "at the start"])
        ax.grid()
        self._drawn_at = 0.0
        self._figure = InteractiveFigure([widgets.HBox([self.bar, self.label])], self._draw, [])

    def __call__(self, record: dict[str, int | float]) -> None:
        """Add the record of one step, and draw if the last drawing was a while ago."""
        self.history.append(record)
        if time.monotonic() - self._drawn_at > PAUSE:
            self._refresh()

    def __enter__(self) -> "LossMonitor":
        self._handle = display(self._figure, display_id=True)
        self._stderr = contextlib.redirect_stderr(io.StringIO())
        self._stderr.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stderr.__exit__(*error)
        self._refresh()
        self._handle.update(self._figure)

    def losses(self) -> pd.Series:
        """Sum of the loss terms, by step."""
        table = pd.DataFrame(self.history)
        if table.empty:
            return pd.Series(dtype=float)
        # records of a validation have names with a slash
        table = table[[name for name in table if "/" not in name]].dropna().set_index("step")
        return table.drop(columns="learning_rate").sum(axis=1)

    def _refresh(self) -> None:
        self._figure.refresh()
        self._drawn_at = time.monotonic()  # after drawing: steps are logged in bursts

    def _draw(self) -> Figure:
        losses = self.losses()
        if len(losses):
            step, recent = int(losses.index[-1]), losses.iloc[-SMOOTHED:].mean()
            self.bar.value = step
            self.label.value = f"{step} of {self.bar.max}: loss {recent:.3f} nats"
            title = f"step {self.label.value}"
            self._plot.axes[0].set_title(title, size=8, weight="normal", loc="right")
            shares = losses / losses.iloc[0]
            means = shares.rolling(SMOOTHED, min_periods=1).mean()
            self.losses_line.set_data(shares.index, shares.to_numpy())
            self.mean_line.set_data(means.index, means.to_numpy())
        return self._plot


def thin_out(dataset: LabelledSet, max_size: int) -> LabelledSet:
    """The data set itself if it is small, else `max_size` images, spread evenly over the classes.

    So a notebook can take a few steps of a run that lasts days.
    """
    n = len(dataset.labels)
    if n <= max_size:
        return dataset
    kept = np.linspace(0, n - 1, max_size).astype(int)
    return replace(dataset.part(kept), fingerprint=f"{dataset.fingerprint}, {max_size} of {n}")


def compare_with_stored(
    classifier: ImageClassifier,
    stored: ImageClassifier,
    dataset: LabelledSet,
    n_bins: int,
    device: torch.device,
) -> pd.DataFrame:
    """Accuracy, ECE and weights of a classifier trained here and of the stored one.

    Args:
        classifier: trained here.
        stored: classifier of the same run, trained by DVC.
        dataset: data set on which both are evaluated.
        n_bins: bins of the ECE.
        device: device of the evaluation.

    Returns:
        Columns here, stored, difference; rows accuracy, ece and weights, with the number of weights
        and the largest difference of any of them.

    Raises:
        ValueError: the two do not have the same tensors.
    """
    here, there = classifier.state_dict(), stored.state_dict()
    if {k: v.shape for k, v in here.items()} != {k: v.shape for k, v in there.items()}:
        raise ValueError("the classifiers to compare do not have the same tensors")
    largest = max(float((here[key].double() - there[key].double()).abs().max()) for key in here)
    both = []
    for one in (classifier, stored):
        logits = predict_logits(one, dataset, device, show_progress=False).astype(float)
        logits = dataset.label_space.project(logits)
        both.append(BinStats.from_logits(logits, dataset.labels, n_bins))
    rows = {
        "accuracy": [stats.mean_accuracy() for stats in both],
        "ece": [stats.ece() for stats in both],
        "weights": [sum(value.numel() for value in state.values()) for state in (here, there)],
    }
    table = pd.DataFrame(rows, index=["here", "stored"]).T
    table["difference"] = [*(table["here"] - table["stored"])[:2], largest]
    return table
