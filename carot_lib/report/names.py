"""How runs, calibrations and data sets are called in tables and figures."""

from collections.abc import Sequence

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
CALIBRATION_NAMES = {
    "none": "none",
    "temperature": "temperature, by ECE",
    "temperature_nll": "temperature, by NLL",
    "oracle": "oracle temperature",
}
_DATASET_NAMES = {
    "train": "Training",
    "id_val": "ID validation",
    "id_test": "ID test",
    "v2": "V2",
    "r": "R",
    "a": "A",
    "sketch": "Sketch",
    "objectnet": "ObjectNet",
    "handwritten": "Handwritten (real)",
}
_COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def dataset_names(ood: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Names of the shifted and extra sets of a profile, and of `ood`, the mean over the shifted.

    A set that the paper does not have gets its name from its folder.
    """
    names = dict(_DATASET_NAMES)
    names |= {f"imagenet_{key}": names[key] for key in ("v2", "r", "a", "sketch")}
    for key in (*ood, *extra):
        title = key[:1].upper() + key[1:].replace("_", " ")
        names.setdefault(key, f"{title} ({key})" if title in names.values() else title)
    count = dict(enumerate(_COUNTS, start=2)).get(len(ood), len(ood))
    return names | {"ood": f"OOD, mean of {count}" if len(ood) > 1 else "OOD"}
