"""Figures of numbers by run: they draw the tables that they are given."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from carot_lib.report.names import RUN_NAMES
from carot_lib.report.styles import DASHED, GREY, PAGE_WIDTH, UNDER, colour_of, marker_of

SMOOTHED = 20  # optimizer steps of a running mean
PALENESS = 0.5  # opacity of single seeds behind their mean


def temperature_curves(curves: pd.DataFrame, choices: pd.DataFrame) -> Figure:
    """ECE against temperature of each run, with marks at the temperatures of least ECE and NLL.

    With several seeds a line is their mean, in a band from the lowest to the highest, and there is
    a mark for each seed. The axis ends at .5 and 2 unless a mark lies outside.

    Args:
        curves: columns run, seed, temperature and ece.
        choices: columns run, seed, ece and nll: the temperature that is best by each.
    """
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH, 3.1))
    marks = choices[["ece", "nll"]].to_numpy()
    low, high = min(0.5, marks.min()), max(2, marks.max())
    shown = curves[curves["temperature"].between(low, high)]
    for run, table in shown.groupby("run", sort=False):
        _mean_line(ax, table, "temperature", "ece", run)
    by_seed = shown.groupby(["run", "seed"])
    for run, seed, *chosen in choices[["run", "seed", "ece", "nll"]].itertuples(index=False):
        curve = by_seed.get_group((run, seed))
        heights = np.interp(chosen, curve["temperature"], curve["ece"])
        ax.plot(chosen[0], heights[0], zorder=3, **_marker(run))
        tick = {"marker": "|", "markersize": 13, "markeredgewidth": 1.8, "linestyle": "none"}
        ax.plot(chosen[1], heights[1], color=colour_of(run), zorder=4, **tick)
    ax.plot([], [], color=GREY, label="least NLL", **tick)
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=DASHED)
    ax.set(xscale="log", xlabel="temperature", ylabel="ECE on ID validation", ylim=(0, None))
    ticks = [t for t in (0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    return _finish(figure, ncols=6)


def learning_rate_curves(table: pd.DataFrame) -> Figure:
    """Accuracy and ECE, in distribution and under shift, against the learning rate.

    A line is the mean over seeds of a run, with a small point for each seed; the large mark is at
    the chosen rate.

    Args:
        table: columns run, seed, learning_rate, chosen (whether it is the rate of the run's row),
            id_val_accuracy, id_val_ece, ood_accuracy and ood_ece.
    """
    figure, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.7), sharex=True)
    panels = {
        "id_val_accuracy": "accuracy, ID validation",
        "ood_accuracy": "accuracy, OOD",
        "id_val_ece": "ECE, ID validation",
        "ood_ece": "ECE, OOD",
    }
    for ax, (column, label) in zip(axes.flat, panels.items(), strict=True):
        for run, part in table.groupby("run", sort=False):
            rate = part["learning_rate"]
            ax.plot(rate, part[column], zorder=2, **_seed_marker(run))
            means = part.groupby("learning_rate")[column].mean()
            ax.plot(means, zorder=2, **_line(run))
            ax.plot(means[rate[part["chosen"]].unique()], zorder=3, **_marker(run))
        ax.set(xscale="log", ylabel=label)
        ax.margins(y=0.12)
    rates = sorted(table["learning_rate"].unique())
    for ax in axes[1]:
        ax.set(xlabel="learning rate", ylim=(0, None))
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.minorticks_off()
    return _finish(figure)


def accuracy_ece_plane(points: Mapping[str, pd.DataFrame]) -> Figure:
    """ECE against accuracy of each run; lower right is best.

    A run's mark is its mean over seeds; behind it, pale, stands each seed with its intervals.
    Dashed lines are drawn through the mark of ZS.

    Args:
        points: by the title of the panel; rows named by run and seed, columns (acc, value),
            (acc, low), (acc, high), and the same of ece.
    """
    figure, axes = plt.subplots(1, len(points), figsize=(PAGE_WIDTH, 3.5), squeeze=False)
    for ax, (title, table) in zip(axes[0], points.items(), strict=True):
        for run, part in table.groupby(level="run", sort=False):
            look = {"color": colour_of(run), "linewidth": 0.9, "zorder": 2, "alpha": PALENESS}
            acc, ece = part["acc"], part["ece"]
            ax.hlines(ece["value"], acc["low"], acc["high"], **look)
            ax.vlines(acc["value"], ece["low"], ece["high"], **look)
            ax.plot(acc["value"], ece["value"], zorder=2, **_seed_marker(run))
            ax.plot(acc["value"].mean(), ece["value"].mean(), zorder=3, **_marker(run))
        middle = table.loc["zs"].mean()
        ax.axvline(middle["acc", "value"], color=GREY, lw=0.7, ls=DASHED, zorder=0)
        ax.axhline(middle["ece", "value"], color=GREY, lw=0.7, ls=DASHED, zorder=0)
        ax.set(title=title, xlabel="accuracy", ylabel="ECE", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.margins(x=0.12, y=0.1)
    return _finish(figure)


def pretraining_curves(history: pd.DataFrame) -> Figure:
    """Contrastive loss, as a running mean over 20 steps, and logit scale of the pre-training.

    Args:
        history: columns step, contrastive and logit_scale.
    """
    figure, (loss, scale) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    means = history["contrastive"].rolling(SMOOTHED, min_periods=1).mean()
    loss.plot(history["step"], means, color=UNDER)
    scale.plot(history["step"], history["logit_scale"], color=UNDER)
    loss.set(xlabel="optimizer step", ylabel="contrastive loss (nats)", ylim=(0, None))
    scale.set(xlabel="optimizer step", ylabel="logit scale", ylim=(0, None))
    for ax in (loss, scale):
        ax.grid()
    return figure


def training_curves(histories: pd.DataFrame) -> Figure:
    """Loss terms against the optimizer step, one panel each, as running means over 20 steps.

    With several seeds the line is their mean, in a band from the lowest to the highest.

    Args:
        histories: columns run, seed, step, learning_rate and one for each term, which is NaN for
            runs without it.
    """
    terms = histories.columns.drop(["run", "seed", "step", "learning_rate"])
    figure, axes = plt.subplots(1, len(terms), figsize=(PAGE_WIDTH, 2.6), squeeze=False)
    for ax, term in zip(axes[0], terms, strict=True):
        for run, table in histories.dropna(subset=term).groupby("run", sort=False):
            means = table.groupby("seed")[term].rolling(SMOOTHED, min_periods=1).mean()
            table = table.assign(loss=means.droplevel("seed"))
            _mean_line(ax, table, "step", "loss", run, label=RUN_NAMES[run])
        title = term.replace("_", " ")
        ax.set(title=title, xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    return _finish(figure)


def shift_profiles(tables: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> Figure:
    """Values of each run on each data set, side by side: sets have no order, so no lines join them.

    A run's mark is its mean over seeds; behind it, pale, stands each seed with its interval.

    Args:
        tables: by the label of the axis; columns run, seed, dataset, value, low, high; data sets in
            the order of drawing.
        runs: runs to draw, in this order.
    """
    size = (PAGE_WIDTH, 2.2 * len(tables) + 0.4)
    figure, axes = plt.subplots(len(tables), 1, figsize=size, sharex=True, squeeze=False)
    shifts = np.linspace(-0.3, 0.3, len(runs)) if len(runs) > 1 else [0.0]
    for ax, (label, table) in zip(axes[:, 0], tables.items(), strict=True):
        datasets = list(table["dataset"].unique())
        by_run = table.set_index(["run", "dataset"])
        for run, shift in zip(runs, shifts, strict=True):
            for place, dataset in enumerate(datasets):
                part, x = by_run.loc[[(run, dataset)]], place + shift
                look = {"color": colour_of(run), "linewidth": 0.9, "alpha": PALENESS}
                ax.vlines([x] * len(part), part["low"], part["high"], **look)
                ax.plot([x] * len(part), part["value"], zorder=2, **_seed_marker(run))
                ax.plot(x, part["value"].mean(), zorder=3, **_marker(run, size=5.5))
        names = [textwrap.fill(name, 12) for name in datasets]
        ax.set_xticks(range(len(datasets)), names)
        ax.tick_params(axis="x", length=0)
        for place in range(1, len(datasets)):
            ax.axvline(place - 0.5, color="#E2E2E2", linewidth=0.6, zorder=0)
        ax.set(ylabel=label, xlim=(-0.5, len(datasets) - 0.5), ylim=(0, None))
        ax.grid(axis="y")
    return _finish(figure, grid=False)


def wise_ft_curves(table: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Accuracy under shift against accuracy in distribution, and ECE against alpha.

    With several seeds lines are their means, those of the ECE in bands from the lowest to the
    highest.

    Args:
        table: columns run, seed, alpha, dataset, accuracy, ece, ece_noise_floor.
        names: names of the data sets, and of `ood`.

    Source: Wortsman et al. 2022, Figure 1 (left); CaRot, Section A.1 for alpha.
    """
    figure, (plane, errors) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.6))
    for run, part in table.groupby("run", sort=False):
        means = part.groupby(["dataset", "alpha"])[["accuracy", "ece_noise_floor"]].mean()
        inside, shifted = means.loc["id_test"], means.loc["ood", "accuracy"]
        mixed = f"wise_{run}"
        plane.plot(inside["accuracy"], shifted, marker="o", ms=3, **_line(mixed))
        for end, which in ((0, "zs"), (1, run)):
            plane.plot(inside["accuracy"][end], shifted[end], **_marker(which))
        label = RUN_NAMES[mixed]
        for name, look in (("id_test", {}), ("ood", {"alpha": 0.45, "linewidth": 2.5})):
            of_set = part[part["dataset"] == name]
            _mean_line(
                errors, of_set, "alpha", "ece", mixed, label=f"{label}, {names[name]}", **look
            )
        floor = inside["ece_noise_floor"]
        errors.plot(floor, color=GREY, lw=0.8, ls=":", label=f"noise floor, {names['id_test']}")
    plane.margins(0.12)
    plane.xaxis.set_major_locator(MaxNLocator(5))
    plane.set(xlabel=f"accuracy, {names['id_test']}", ylabel=f"accuracy, {names['ood']}")
    errors.set(xlabel="alpha, share of the fine-tuned weights", ylabel="ECE", ylim=(0, None))
    return _finish(figure, ncols=3)


def _finish(figure: Figure, ncols: int = 5, grid: bool = True) -> Figure:
    """Add grid lines and one legend below, with every label once."""
    handles = {}
    for ax in figure.axes:
        if grid:
            ax.grid()
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=ncols)
    return figure


def _mean_line(ax: Axes, table: pd.DataFrame, x: str, y: str, run: str, **options: Any) -> None:
    """The mean over seeds of a run as a line, in a band from the lowest to the highest."""
    look = {"errorbar": ("pi", 100), "legend": False, **_line(run), **options}
    sns.lineplot(table, x=x, y=y, ax=ax, **look)


def _seed_marker(run: str) -> dict[str, Any]:
    """Look of the markers of single seeds: small, pale, and not in the legend."""
    return _marker(run, size=3.0) | {"alpha": PALENESS, "label": "_"}


def _line(run: str) -> dict[str, str]:
    """Colour and dashes of a run's line: dashed with label smoothing."""
    return {"color": colour_of(run), "linestyle": "--" if run.endswith("_ls") else "-"}


def _marker(run: str, size: float = 6.5) -> dict[str, Any]:
    """Look and label of a run's markers, which are open with label smoothing."""
    colour, marker = colour_of(run), marker_of(run)
    return {
        "marker": marker,
        "markersize": size * 1.5 if marker == "*" else size,  # a star fills little of its size
        "markerfacecolor": "white" if run.endswith("_ls") else colour,
        "markeredgecolor": colour,
        "markeredgewidth": 1,
        "linestyle": "none",
        "label": RUN_NAMES[run],
    }
