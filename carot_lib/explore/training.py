"""Watch a training in a notebook, and compare its result with the one that DVC made."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.figure import Figure

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet
from carot_lib.explore.interactive import InteractiveFigure
from carot_lib.models.clip import ImageClassifier, states_of
from carot_lib.models.inference import predict_logits
from carot_lib.report.plots import SMOOTHED
from carot_lib.report.styles import PAGE_WIDTH, PALE, UNDER

PAUSE = 1.0  # seconds between two drawings, so that they do not slow down the training


@contextlib.contextmanager
def loss_monitor(total_steps: int) -> Iterator[Callable[[dict[str, int | float]], None]]:
    """Display the loss while a training runs; yields the `log` for `fine_tune`.

    Meanwhile standard error, where the training reports the same progress, is suppressed.

    Args:
        total_steps: optimizer steps of the training.
    """
    losses: dict[int, float] = {}
    figure = InteractiveFigure([], lambda: loss_curve(losses, total_steps))
    handle, drawn_at = display(figure, display_id=True), time.monotonic()

    def log(record: dict[str, int | float]) -> None:
        nonlocal drawn_at
        # names with a slash are no loss terms
        terms = {name: value for name, value in record.items() if "/" not in name}
        step, _ = terms.pop("step"), terms.pop("learning_rate")
        losses[step] = sum(terms.values())
        if time.monotonic() - drawn_at > PAUSE:
            figure.refresh()
            drawn_at = time.monotonic()  # after drawing: steps are logged in bursts

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield log
    finally:
        figure.refresh()
        handle.update(figure)  # replaces the saved image, too


def loss_curve(losses: Mapping[int, float], total_steps: int) -> Figure:
    """The loss by step so far, in nats, and its running mean over 20 steps."""
    series = pd.Series(losses, dtype=float)
    means = series.rolling(SMOOTHED, min_periods=1).mean()
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH, 2.6))
    ax.plot(series, color=PALE, linewidth=0.8)
    ax.plot(means, color=UNDER, linewidth=1.6)
    ax.set(xlim=(0, total_steps), ylim=(0, None), xlabel="optimizer step", ylabel="loss (nats)")
    ax.grid()
    for step, mean in means[-1:].items():
        title = f"step {step} of {total_steps}: loss {mean:.3f} nats"
        ax.set_title(title, size=8, weight="normal", loc="right")
    return figure


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
    """Accuracy, ECE and weights of a classifier trained here and of the stored one by DVC.

    Returns:
        Columns here, stored, difference; rows accuracy, ece and weights, with the number of weights
        and the largest difference of any of them.

    Raises:
        ValueError: see `carot_lib.models.clip.states_of`.
    """
    here, there = states_of(classifier, stored)
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
