"""Watch a training in a notebook, and hold its result against the one that DVC made."""

import contextlib
import io
import time
from dataclasses import replace
from types import TracebackType

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from carot_lib.data.datasets import LabelledSet
from carot_lib.explore.exhibit import SHARPNESS, Canvas, InteractiveFigure
from carot_lib.models.clip import ImageClassifier
from carot_lib.models.wise_ft import evaluate_classifiers
from carot_lib.report.styles import GREY, PALE, UNDER, style

PAUSE = 0.5  # seconds between two drawings: the training has better things to do
SMOOTHED = 20  # steps of the running mean


class LossWatch:
    """A progress bar over a plot of the loss, for `log` of `fine_tune`.

    Used as a context, it shows itself at the start and in its last state at the end, and keeps
    quiet what the training says on standard error meanwhile: the bar says it already.

    Args:
        total_steps: of the training.

    Attributes:
        history: every record so far, as `fit` logs them.
    """

    def __init__(self, total_steps: int):
        self.history: list[dict[str, int | float]] = []
        self.bar = widgets.IntProgress(max=total_steps, description="steps")
        self.said = widgets.Label(f"0 of {total_steps}")
        with style():
            figure = Figure(figsize=(7, 2.6), dpi=100 * SHARPNESS)
            ax = figure.subplots()
            self.each = ax.plot([], [], color=PALE, linewidth=0.8)[0]
            self.mean = ax.plot([], [], color=UNDER, linewidth=1.6)[0]
            self.top = ax.text(0.99, 0.93, "", transform=ax.transAxes, ha="right", color=GREY)
            ax.set(xlim=(0, total_steps), ylim=(0, 1), xlabel="optimizer step", ylabel="loss")
            ax.set_yticks([0, 0.5, 1], ["0", "half", "at the start"])
            ax.grid()
            self._canvas = Canvas(figure, [self.each, self.mean, self.top])
        self._drawn = 0.0
        self._exhibit = InteractiveFigure([widgets.HBox([self.bar, self.said])], self._draw, [])

    def __call__(self, record: dict[str, int | float]) -> None:
        """Take the record of one step; draw if the last drawing is a while ago."""
        self.history.append(record)
        if time.monotonic() - self._drawn > PAUSE:
            self._refresh()

    def __enter__(self) -> "LossWatch":
        self._shown = display(self._exhibit, display_id=True)
        self._quiet = contextlib.redirect_stderr(io.StringIO())
        self._quiet.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._quiet.__exit__(kind, error, traceback)
        self._refresh()
        self._shown.update(self._exhibit)

    def losses(self) -> pd.Series:
        """Sum of the loss terms, by step."""
        table = pd.DataFrame(self.history)
        if table.empty:
            return pd.Series(dtype=float)
        table = table[[name for name in table if "/" not in name]].dropna().set_index("step")
        return table.drop(columns="learning_rate").sum(axis=1)

    def _refresh(self) -> None:
        self._exhibit.refresh()
        self._drawn = time.monotonic()  # afterwards: steps are logged in bursts

    def _draw(self) -> Image.Image:
        losses = self.losses()
        if len(losses):
            done = int(losses.index[-1])
            self.bar.value, self.said.value = done, f"{done} of {self.bar.max}"
            shares = losses / losses.iloc[0]
            mean = shares.rolling(SMOOTHED, min_periods=1).mean()
            self.each.set_data(shares.index, shares.to_numpy())
            self.mean.set_data(mean.index, mean.to_numpy())
            self.top.set_text(f"step {done}: loss {losses.iloc[-SMOOTHED:].mean():.3f} nats")
        return self._canvas.picture()


def shortened(dataset: LabelledSet, most: int) -> LabelledSet:
    """The set itself if it is small, else `most` of its images, evenly spread over the classes.

    A step needs few images: so a notebook can take some steps of a run that lasts days.
    """
    n = len(dataset.labels)
    if n <= most:
        return dataset
    kept = np.linspace(0, n - 1, most).astype(int)
    return replace(dataset.part(kept), fingerprint=f"{dataset.fingerprint}, {most} of {n}")


def compare_with_stored(
    classifier: ImageClassifier,
    stored: ImageClassifier,
    dataset: LabelledSet,
    n_bins: int,
    device: torch.device,
) -> pd.DataFrame:
    """Accuracy, ECE and weights of a classifier trained here and of the one on disk.

    Args:
        classifier: trained here.
        stored: of the same run, trained by DVC.
        dataset: on which both are judged.
        n_bins: of the ECE.
        device: where to compute.

    Returns:
        Columns here, stored, difference; rows accuracy, ece, and weights: of these, the number,
        and as difference the largest of any weight.

    Raises:
        ValueError: the two do not have the same tensors.
    """
    ours, theirs = classifier.state_dict(), stored.state_dict()
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        raise ValueError("the classifiers to compare do not have the same tensors")
    apart = max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in ours)
    with contextlib.redirect_stderr(io.StringIO()):  # a second's progress is no news
        judged = evaluate_classifiers([classifier, stored], dataset, n_bins, device)
    rows = {
        "accuracy": [one.mean_accuracy() for one in judged],
        "ece": [one.ece() for one in judged],
        "weights": [sum(value.numel() for value in state.values()) for state in (ours, theirs)],
    }
    table = pd.DataFrame(rows, index=["here", "stored"]).T
    table["difference"] = [*(table["here"] - table["stored"])[:2], apart]
    return table
