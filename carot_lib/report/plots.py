"""All other figures: they draw the numbers that they are given."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carot_lib.report.names import RUN_NAMES
from carot_lib.report.styles import DASHED, GREY, PAGE_WIDTH, colour_of, marker_of

SMOOTHED = 20  # optimizer steps of a running mean


def contact_sheet(
    images: Mapping[str, Collection[UInt8[np.ndarray, "_ _ 3"] | None]],
    captions: Mapping[str, str],
    column_titles: Sequence[str] = (),
) -> Figure:
    """Rows of images, each with its name and a caption on the left.

    Args:
        images: images by the name of their row, the same number in each; None leaves a gap.
        captions: one line for each row.
        column_titles: one for each column, or none.

    Raises:
        ValueError: the rows do not have the same number of images.
    """
    counts = {len(row) for row in images.values()}
    if len(counts) != 1:
        raise ValueError(f"rows of different lengths: {sorted(counts)}")
    columns = counts.pop()
    size = (PAGE_WIDTH - 1.3) / columns
    height = (size + 0.05) * len(images) + 0.45 * bool(column_titles)
    figure, axes = plt.subplots(len(images), columns, figsize=(PAGE_WIDTH, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    text = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
    for row, (name, pictures) in zip(axes, images.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            if picture is not None:
                ax.imshow(picture, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        row[0].annotate(name, (0, 0.5), (-6, 1), weight="bold", va="bottom", **text)
        row[0].annotate(captions[name], (0, 0.5), (-6, -1), size=7, color=GREY, va="top", **text)
    for ax, title in zip(axes[0], column_titles, strict=False):
        title = textwrap.fill(title, 9, break_long_words=False)
        ax.set_title(title, size=6, weight="normal", color=GREY, pad=3)
    return figure


def temperature_curves(
    curves: Mapping[str, pd.DataFrame], temperatures: Mapping[str, float]
) -> Figure:
    """ECE against temperature of each run, with a marker at the chosen temperature.

    Args:
        curves: columns temperature and ece, by run.
        temperatures: chosen temperature of each run.
    """
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH, 2.9))
    for run, curve in curves.items():
        ax.plot(curve["temperature"], curve["ece"], **_line(run))
        ece = np.interp(temperatures[run], curve["temperature"], curve["ece"])
        ax.plot(temperatures[run], ece, zorder=3, **_marker(run))
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=DASHED)
    ax.set(xscale="log", xlabel="temperature", ylabel="ECE on ID validation", ylim=(0, None))
    ax.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    ax.minorticks_off()
    return _finish(figure)


def accuracy_ece_plane(points: Mapping[str, pd.DataFrame]) -> Figure:
    """ECE against accuracy, a point with intervals for each run; lower right is best.

    Dashed lines are drawn through the point of ZS.

    Args:
        points: by the title of the panel; rows named by run, columns (acc, value), (acc, low),
            (acc, high), and the same of ece.
    """
    figure, axes = plt.subplots(1, len(points), figsize=(PAGE_WIDTH, 3.4), squeeze=False)
    for ax, (title, table) in zip(axes[0], points.items(), strict=True):
        for run, row in table.iterrows():
            # lines from low to high instead of error bars, which cannot show an interval that does
            # not contain its value: the bootstrap of an ECE is biased upwards
            look = {"color": colour_of(run), "linewidth": 0.9, "zorder": 2}
            acc, ece = row["acc"], row["ece"]
            ax.hlines(ece["value"], acc["low"], acc["high"], **look)
            ax.vlines(acc["value"], ece["low"], ece["high"], **look)
            ax.plot(acc["value"], ece["value"], zorder=3, **_marker(run))
        ax.axvline(table.loc["zs", ("acc", "value")], color=GREY, lw=0.7, ls=DASHED, zorder=0)
        ax.axhline(table.loc["zs", ("ece", "value")], color=GREY, lw=0.7, ls=DASHED, zorder=0)
        ax.set(title=title, xlabel="accuracy", ylabel="ECE", ylim=(0, None))
        ax.margins(x=0.12, y=0.1)
    return _finish(figure)


def heat_maps(
    rows: Sequence[Mapping[str, Float[np.ndarray, "batch batch"]]],
    names: Sequence[str],
    scale: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Square matrices of one batch on one colour scale: images down, captions across.

    Args:
        rows: panels by title, for each row of the figure.
        names: what each image shows and each caption names.
        scale: values of the lightest and the darkest colour; values beyond are clipped.
    """
    columns = max(map(len, rows))
    size = min((PAGE_WIDTH - 2.2) / columns, 3)
    shape = {"figsize": (size * columns + 2.2, (size + 0.25) * len(rows) + 1.3), "squeeze": False}
    figure, axes = plt.subplots(len(rows), columns, sharex=True, sharey=True, **shape)
    options = {"square": True, "cmap": "Blues", "vmin": scale[0], "vmax": scale[1], "cbar": False}
    for i, (line, panels) in enumerate(zip(axes, rows, strict=True)):
        for ax, (title, matrix) in zip(line, panels.items(), strict=False):
            sns.heatmap(matrix, xticklabels=names, yticklabels=names, ax=ax, **options)
            ax.set_title(title, size=8)
            ax.set_xlabel("captions" if i == len(rows) - 1 else "")
            ax.set_ylabel("images" if ax is line[0] else "")
            ax.tick_params(length=0, pad=2, labelsize=6.5)
            sns.despine(ax=ax, top=False, right=False)
        for ax in line[len(panels) :]:
            ax.remove()
    bar = figure.colorbar(axes[0, 0].collections[0], ax=figure.axes, shrink=0.5, aspect=16)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5)
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
            look = {"errorbar": ("pi", 100), "label": RUN_NAMES[run], "legend": False, **_line(run)}
            sns.lineplot(table, x="step", y="loss", ax=ax, **look)
        title = term.replace("_", " ")
        ax.set(title=title, xlabel="optimizer step", ylabel="loss (nats)", ylim=(0, None))
    return _finish(figure)


def shift_profiles(tables: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> Figure:
    """Values of each run on each data set, as points joined by lines, with intervals.

    Args:
        tables: by the label of the axis; columns run, dataset, value, low, high; data sets in the
            order of drawing.
        runs: runs to draw, in this order.
    """
    size = (PAGE_WIDTH, 2.1 * len(tables) + 0.4)
    figure, axes = plt.subplots(len(tables), 1, figsize=size, sharex=True, squeeze=False)
    for ax, (label, table) in zip(axes[:, 0], tables.items(), strict=True):
        _points(ax, table, runs, "dataset", list(table["dataset"].unique()), linewidth=0.6)
        ax.set(xlabel="", ylabel=label)
        ax.grid(axis="y")
    return _finish(figure, grid=False)


def wise_ft_curves(table: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Accuracy under shift against accuracy in distribution, and ECE against alpha.

    Args:
        table: columns run, alpha, dataset, accuracy, ece, ece_noise_floor.
        names: names of the data sets, and of `ood`.

    Source: Wortsman et al. 2022, Figure 1 (left); CaRot, Section A.1 for alpha.
    """
    figure, (plane, errors) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.5))
    for run, part in table.groupby("run", sort=False):
        by_alpha = part.pivot(index="alpha", columns="dataset")
        accuracy, ece = by_alpha["accuracy"], by_alpha["ece"]
        mixed = f"wise_{run}"
        look = _line(mixed)
        plane.plot(accuracy["id_test"], accuracy["ood"], marker="o", ms=3, **look)
        for end, which in ((0, "zs"), (1, run)):
            place = accuracy.loc[end, ["id_test", "ood"]]
            plane.plot(*place, **_marker(which))
        label = RUN_NAMES[mixed]
        errors.plot(ece["id_test"], label=f"{label}, {names['id_test']}", **look)
        pale = {**look, "alpha": 0.45, "linewidth": 2.5}
        errors.plot(ece["ood"], label=f"{label}, {names['ood']}", **pale)
        floor = by_alpha["ece_noise_floor"]["id_test"]
        errors.plot(floor, color=GREY, lw=0.8, ls=":", label=f"noise floor, {names['id_test']}")
    plane.margins(0.12)
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


def _points(
    ax: Axes,
    table: pd.DataFrame,
    runs: Sequence[str],
    by: str,
    order: Sequence[str],
    horizontal: bool = False,
    **options: Any,
) -> None:
    """Draw the value and the interval of each run side by side in each category of column `by`.

    Seaborn would estimate both from samples: it is handed value, low and high as three samples.
    """
    wanted = pd.MultiIndex.from_product([runs, order], names=["run", by])
    stored = table.set_index(["run", by])[["value", "low", "high"]].loc[wanted]
    samples = stored.stack().reset_index(name="sample")
    sns.pointplot(
        samples,
        **({"x": "sample", "y": by} if horizontal else {"x": by, "y": "sample"}),
        hue="run",
        hue_order=runs,
        order=order,
        palette=[colour_of(run) for run in runs],
        estimator=lambda three: three.iloc[0],
        errorbar=lambda three: tuple(three.iloc[1:]),
        err_kws={"linewidth": 0.9},
        dodge=len(runs) > 1 and 0.1 * len(runs) - 0.1,
        legend=False,
        ax=ax,
        **options,
    )
    marked = (line for line in ax.lines if line.get_marker() not in ("", "None"))
    for line, run in zip(marked, runs, strict=True):
        line.set(**{**_marker(run, size=5.5), "linestyle": line.get_linestyle()})


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
