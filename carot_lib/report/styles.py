"""The look shared by all figures: theme, colours and markers of runs, and saving."""

from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine, PlaceHolderLayoutEngine

from carot_lib.files import atomic_write

# After Okabe and Ito's colours, which colour-blind readers can tell apart; the pale ones are darker
# here, for a contrast of 3:1 on white. A run with label smoothing has the colour and marker of the
# run without it, with dashes and an open marker.
_LOOKS = {
    "zs": ("#555555", "s"),
    "ft": ("#D55E00", "o"),
    "wise_ft": ("#BD8400", "^"),
    "flyp": ("#0072B2", "D"),
    "carot": ("#00735C", "*"),
    "carot_every_step": ("#2C93D1", "v"),
    "carot_update_2x": ("#CC79A7", "P"),
    "carot_frozen": ("#8A5A00", "X"),
}
OVER, UNDER = "#D55E00", "#00735C"  # over- and under-confident: apart in hue, lightness, hatch
INK, GREY, PALE = "#1A1A1A", "#6E6E6E", "#A9C4E0"
DASHED = (0, (4, 3))
PAGE_WIDTH = 6.6  # inches: the appendix prints figures of this width, and of at most this height,
PAGE_HEIGHT = 8.7  # at their own size
SMALL = 7  # points: the smallest text of a figure

_RC = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
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
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
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


def tinted(text: str, colour: str) -> str:
    """HTML of a coloured text for a cell of a table; the site and the PDF both show the colour."""
    return f'<span style="color: {colour}">{text}</span>'


def use_style() -> None:
    """Set the theme of all figures that follow; for notebooks."""
    sns.set_theme("paper", "ticks", "colorblind", color_codes=False, rc=_RC)


def fixed_layout() -> LayoutEngine:
    """A layout engine that leaves everything in its place, in the first saved file and the next.

    With no engine at all, matplotlib would apply that of the theme after the first saving.
    """
    return PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)


def save_figure(figure: Figure, folder: Path | str | None, name: str) -> None:
    """Write `<name>.png` and `<name>.pdf` into a folder, each atomically and without a date.

    In a notebook that is only read, `folder` is None and nothing is written.
    """
    if folder is None:
        return
    for extension, metadata in _METADATA.items():
        with atomic_write(Path(folder) / f"{name}.{extension}") as temporary:
            figure.savefig(temporary, format=extension, metadata=metadata)
