"""One look for all figures: names, colours and markers of runs, the style sheet, and saving."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from carot_lib.files import atomic_write

RUN_NAMES = {
    "zs": "ZS",
    "ft": "FT",
    "ft_ls": "FT w/ LS",
    "wise_ft": "WiSE-FT",
    "wise_ft_ls": "WiSE-FT w/ LS",
    "flyp": "FLYP",
    "flyp_ls": "FLYP w/ LS",
    "carot": "CaRot",
    "carot_every_step": "CaRot, every step",
    "carot_update_2x": "CaRot, double",
    "carot_frozen": "CaRot, never",
}
UPDATE_NAMES = {
    "every_step": "every step",
    "default": "default",
    "double": "twice the default",
    "never": "never",
}
_DATASET_NAMES = {
    "train": "Training",
    "id_val": "ID validation",
    "id_test": "ID test",
    "v2": "V2",
    "r": "R",
    "a": "A",
    "sketch": "Sketch",
    "imagenet_v2": "V2",
    "imagenet_r": "R",
    "imagenet_a": "A",
    "imagenet_sketch": "Sketch",
    "objectnet": "ObjectNet",
    "handwritten": "Handwritten (real)",
}
_COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CALIBRATION_NAMES = {
    "none": "none",
    "temperature": "temperature, by ECE",
    "temperature_nll": "temperature, by NLL",
    "vector": "vector scaling",
    "histogram": "histogram binning",
    "isotonic": "isotonic regression",
    "oracle": "oracle temperature",
}
# Okabe and Ito's colours, told apart by colour-blind readers; a smoothed run has its plain run's
# colour and an open marker.
_COLOURS = {
    "zs": "#555555",
    "ft": "#D55E00",
    "wise_ft": "#E69F00",
    "flyp": "#0072B2",
    "carot": "#00735C",
    "carot_every_step": "#56B4E9",
    "carot_update_2x": "#CC79A7",
    "carot_frozen": "#8A5A00",
}
_MARKERS = {
    "zs": "s",
    "ft": "o",
    "wise_ft": "^",
    "flyp": "D",
    "carot": "*",
    "carot_every_step": "v",
    "carot_update_2x": "P",
    "carot_frozen": "X",
}
OVER, UNDER = "#D55E00", "#00735C"  # over- and under-confident: apart in hue, lightness, hatch
INK, GREY, PALE = "#1A1A1A", "#6E6E6E", "#A9C4E0"

_STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


def colour_of(run: str) -> str:
    """Colour of a run in every figure."""
    return _COLOURS[run.removesuffix("_ls")]


def marker_of(run: str) -> str:
    """Marker of a run in every figure."""
    return _MARKERS[run.removesuffix("_ls")]


def dataset_names(ood: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Names of the sets of a profile, and of `ood`, the mean over the shifted ones.

    A set that is none of the paper's bears the name of its folder.

    Args:
        ood: the shifted sets.
        extra: sets reported by themselves.
    """
    names = dict(_DATASET_NAMES)
    for key in (*ood, *extra):
        written = key[:1].upper() + key[1:].replace("_", " ")
        names.setdefault(key, f"{written} ({key})" if written in names.values() else written)
    count = dict(enumerate(_COUNTS, start=2)).get(len(ood), len(ood))
    return names | {"ood": f"OOD, mean of {count}" if len(ood) > 1 else "OOD"}


def use_style() -> None:
    """Set the look of all figures that follow; for notebooks."""
    mpl.rcParams.update(_STYLE)


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures made inside; the settings before come back."""
    with plt.rc_context(_STYLE):
        yield


UNDATED = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None},
    "svg": {"Date": None},
}


def save_figure(
    figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png", "pdf")
) -> None:
    """Write `<name>.png` and `<name>.pdf`, each whole or not at all and without a date.

    Args:
        figure: what to write.
        folder: made if need be.
        name: of the files, without extension.
        formats: any of png, pdf and svg. The same figure gives the same bytes, but for svg, in
            which matplotlib numbers its clipping paths anew each time.
    """
    for extension in formats:
        with atomic_write(folder / f"{name}.{extension}") as temporary:
            figure.savefig(temporary, format=extension, metadata=UNDATED[extension])
