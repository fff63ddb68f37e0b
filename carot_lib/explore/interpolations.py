"""WiSE-FT along alpha: the curve from the zero-shot model to the fine-tuned one, and a slider."""

from collections.abc import Iterable

import ipywidgets as widgets
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from carot_lib.explore.exhibit import SHARPNESS, Canvas, InteractiveFigure
from carot_lib.report.results import Report, read_table
from carot_lib.report.styles import GREY, INK, RUN_NAMES, colour_of, style


def read_interpolations(report: Report) -> pd.DataFrame:
    """The tables of all interpolated runs, of the first seed.

    Columns run, seed, alpha, dataset, accuracy, ece, ece_noise_floor.

    Raises:
        FileNotFoundError: stage `interpolations` has not run.
    """
    folder = report.layout.results / "interpolations"
    runs = [row.removeprefix("wise_") for row in report.rows.rows if row.startswith("wise_")]
    tables = (read_table(folder / f"{run}_seed{report.seed}.csv") for run in runs)
    return pd.concat(tables, ignore_index=True)


def interpolation_curves(axes: Iterable[Axes], table: pd.DataFrame, names: dict[str, str]) -> None:
    """Accuracy under shift against accuracy in distribution, and ECE against alpha.

    Args:
        axes: two.
        table: as `read_interpolations` gives it.
        names: of the sets, and of `ood`.

    Source: Wortsman et al. 2022, Figure 1 (left); CaRot, Section A.1 for alpha.
    """
    plane, errors = axes
    for run in table["run"].unique():
        inside, shifted = (_along(table, run, name) for name in ("id_test", "ood"))
        look = {"color": colour_of(f"wise_{run}"), "linestyle": "--" if "_ls" in run else "-"}
        label = RUN_NAMES[f"wise_{run}"]
        plane.plot(inside["accuracy"], shifted["accuracy"], marker="o", ms=3, label=label, **look)
        errors.plot(inside.index, inside["ece"], label=f"{label}, {names['id_test']}", **look)
        pale = {**look, "alpha": 0.45, "linewidth": 2.5}
        errors.plot(shifted.index, shifted["ece"], label=f"{label}, {names['ood']}", **pale)
        errors.plot(inside.index, inside["ece_noise_floor"], color=GREY, lw=0.8, ls=":")
        for alpha, text in ((0.0, RUN_NAMES["zs"]), (1.0, RUN_NAMES[run])):
            place = inside.loc[alpha, "accuracy"], shifted.loc[alpha, "accuracy"]
            plane.plot(*place, marker="o", ms=6, color=colour_of(run if alpha else "zs"))
            if alpha or run == table["run"].iloc[0]:
                offset = {"xytext": (-9 if alpha else 0, 0 if alpha else 9), "size": 7.5}
                side = {"ha": "right" if alpha else "center", "va": "center"}
                plane.annotate(text, place, textcoords="offset points", **offset, **side)
    plane.margins(0.12)
    plane.set(xlabel=f"accuracy, {names['id_test']}", ylabel=f"accuracy, {names['ood']}")
    errors.set(xlabel="alpha, share of the fine-tuned weights", ylabel="ECE", ylim=(0, None))
    errors.plot([], [], color=GREY, lw=0.8, ls=":", label="noise floor, ID test")
    for ax in axes:
        ax.grid()


def explore_interpolations(report: Report) -> InteractiveFigure:
    """Choose the run and drag alpha: marks move along the curves.

    Raises:
        FileNotFoundError: stage `interpolations` has not run.
    """
    table = read_interpolations(report)
    alphas = sorted(table["alpha"].unique().tolist())
    runs = [(RUN_NAMES[run], run) for run in table["run"].unique()]
    run = widgets.Dropdown(options=runs, description="fine-tuned by")
    run.style.description_width, run.layout.width = "90px", "240px"
    alpha = widgets.SelectionSlider(
        options=[(f"{value:g}", value) for value in alphas],
        value=min(alphas, key=lambda value: abs(value - 0.5)),
        description="alpha",
        layout=widgets.Layout(width="420px"),
    )
    with style():
        figure = Figure(figsize=(7.4, 3.7), dpi=100 * SHARPNESS)
        axes = figure.subplots(1, 2)
        interpolation_curves(axes, table, report.names)
        mark = {"marker": "o", "ms": 9, "mfc": "none", "mec": INK, "mew": 1.6, "ls": "none"}
        place, errors = axes[0].plot([], [], **mark)[0], axes[1].plot([], [], **mark)[0]
        line = axes[1].axvline(0.5, color=INK, linewidth=0.8)
        words = axes[0].text(
            0.03, 0.04, "alpha", transform=axes[0].transAxes, va="bottom", size=8, linespacing=1.5
        )
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        canvas = Canvas(figure, [line, place, errors, words])

    def draw() -> Image.Image:
        inside, shifted = (
            _along(table, run.value, name).loc[alpha.value] for name in ("id_test", "ood")
        )
        place.set_data([inside["accuracy"]], [shifted["accuracy"]])
        errors.set_data([alpha.value] * 2, [inside["ece"], shifted["ece"]])
        line.set_xdata([alpha.value] * 2)
        lines = [f"{RUN_NAMES['wise_' + run.value]}, alpha = {alpha.value:g}"]
        for name, row in (("ID", inside), ("OOD", shifted)):
            lines.append(f"{name}: accuracy {row['accuracy']:.4f}, ECE {row['ece']:.4f}")
        words.set_text("\n".join(lines))
        return canvas.picture()

    return InteractiveFigure([widgets.HBox([run, alpha])], draw, [run, alpha])


def _along(table: pd.DataFrame, run: str, dataset: str) -> pd.DataFrame:
    """Values of one run on one set, by alpha."""
    chosen = (table["run"] == run) & (table["dataset"] == dataset)
    return table[chosen].set_index("alpha").sort_index()
