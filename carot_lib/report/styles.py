"""The look shared by all figures: theme, colours and markers of runs, and saving."""

from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure

from carot_lib.files import atomic_write

# Okabe and Ito's colours, which colour-blind readers can tell apart. A run with label smoothing
# has the colour and marker of the run without it, with dashes and an open marker.
_LOOKS = {
    "zs": ("#555555", "s"),
    "ft": ("#D55E00", "o"),
    "wise_ft": ("#E69F00", "^"),
    "flyp": ("#0072B2", "D"),
    "carot": ("#00735C", "*"),
    "carot_every_step": ("#56B4E9", "v"),
    "carot_update_2x": ("#CC79A7", "P"),
    "carot_frozen": ("#8A5A00", "X"),
}
OVER, UNDER = "#D55E00", "#00735C"  # over- and under-confident: apart in hue, lightness, hatch
INK, GREY, PALE = "#1A1A1A", "#6E6E6E", "#A9C4E0"
DASHED = (0, (4, 3))
PAGE_WIDTH = 6.6  # inches: figures of this width are printed at their own size in the appendix

_RC = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text
}
# without a date, so that the same figure gives the same bytes
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}


def colour_of(run: str) -> str:
    """Colour of a run in every figure."""
    return _LOOKS[run.removesuffix("_ls")][0]


def marker_of(run: str) -> str:
    """Marker of a run in every figure."""
    return _LOOKS[run.removesuffix("_ls")][1]


def use_style() -> None:
    """Set the theme of all figures that follow; for notebooks."""
    sns.set_theme("paper", "ticks", "colorblind", color_codes=False, rc=_RC)


def save_figure(figure: Figure, folder: Path | str | None, name: str) -> None:
    """Write `<name>.png` and `<name>.pdf` into a folder, each atomically and without a date.

    In a notebook that is only read, `folder` is None and nothing is written.
    """
    if folder is None:
        return
    for extension, metadata in _METADATA.items():
        with atomic_write(Path(folder) / f"{name}.{extension}") as temporary:
            figure.savefig(temporary, format=extension, metadata=metadata)
