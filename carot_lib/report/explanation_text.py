"""An explanation of one number, as stage `explain` makes it, set as text for a terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 100  # columns of the terminal
DIGITS = 12  # of a hash
FIRST = 14  # libraries that are named, in the order of requirements.txt: those of the numbers
LONG = 20  # parameters of one branch: more are counted, not listed

Explanation = Mapping[str, Any]
Row = tuple[str, ...]


def as_text(explanation: Explanation) -> str:
    """The explanation in sections: the number, what is behind it, and what was checked."""
    row = ", ".join(f"{key} {word}" for key, word in explanation["row"].items())
    lines = textwrap.wrap(f"{explanation['meaning']} = {explanation['value']:g}", WIDTH)
    lines.append(f"{explanation['table']}: {row}, column {explanation['column']}")
    profile = explanation["table"].split("/")[1]
    for title, body in (
        ("Value", _aligned(_value(explanation))),
        (
            f"Predictions, of predictions/{profile}/<run>/seed<seed>/<set>.npz",
            _aligned(_predictions(explanation["predictions"])),
        ),
        ("Calibration", _aligned(_calibrations(explanation))),
        ("Models", _aligned(_models(explanation["models"]))),
        ("Parameters, as in dvc.lock", _parameters(explanation["parameters"], profile)),
        (
            "Stages, in their order, with the MD5 of what they wrote",
            _aligned(_stages(explanation["stages"])),
        ),
        ("Record of the run", _record(explanation["record"])),
        ("Checked now", _checks(explanation["checks"])),
    ):
        if body:
            lines += ["", title, *(f"  {line}" for line in body)]
    return "\n".join(lines)


def _value(explanation: Explanation) -> list[Row]:
    """The number of each seed, of all, and how it was measured."""
    evaluation, of_all = explanation["evaluation"], explanation["interval"]
    bootstrap, of_seeds = evaluation["bootstrap"], explanation["by_seed"]
    alone = of_all if len(of_seeds) == 1 else None
    rows = [
        (f"seed {seed}", f"{one['value']:.6f}", _interval(one["interval"] or alone, bootstrap))
        for seed, one in of_seeds.items()
    ]
    if len(rows) > 1:
        rows.append(("all", f"{explanation['value']:.6f}", _interval(of_all, bootstrap)))
    metrics = {one["metric"] for one in explanation["predictions"]}
    if any("ece" in metric or metric in ("mce", "temperature") for metric in metrics):
        rows.append(("bins", f"{evaluation['n_bins']}", "of equal width, each closed on the right"))
    return rows


def _interval(ends: Sequence[float] | None, bootstrap: Mapping[str, Any]) -> str:
    if not ends:
        return ""
    level, resamples = f"{100 * bootstrap['level']:g} %", f"{bootstrap['resamples']:,}"
    return f"{level} of {resamples} bootstrap resamples: {ends[0]:.6f} to {ends[1]:.6f}"


def _predictions(predictions: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = [
        ("run", "seed", "set", "images", "fingerprint", "number", "value", "anew", "size", "md5")
    ]
    for one in predictions:
        scaled = "" if one["calibration"] == "none" else f", {one['calibration']}"
        rows.append(
            (
                one["run"],
                str(one["seed"]),
                one["dataset"],
                _count(one["images"]),
                one["fingerprint"] or "-",
                one["metric"] + scaled,
                f"{one['value']:.6f}",
                "-" if one["recomputed"] is None else f"{one['recomputed']:.6f}",
                _size(one["bytes"]),
                _short(one["md5"]),
            )
        )
    return rows


def _calibrations(explanation: Explanation) -> list[Row]:
    """The temperature of each run and what chose it, or the set another calibrator learnt from."""
    grid = explanation["evaluation"]["temperature"]
    scale = f"{grid['low']:g} to {grid['high']:g}"
    rows = []
    for one in explanation["calibrations"]:
        what = f"{one['calibration']}: "
        if one["temperature"] is not None:
            by_nll = one["calibration"].endswith("nll")
            least = (
                f"least NLL of {scale}" if by_nll else f"least ECE of {scale} by {grid['step']:g}"
            )
            what += f"{one['temperature']:g}, {least}, "
        what += f"on {one['dataset']}, {_count(one['images'])} images, {one['fingerprint'] or '-'}"
        rows.append((one["run"], f"seed {one['seed']}", what))
    return rows


def _models(models: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [(one["file"], _size(one["bytes"]), _short(one["md5"])) for one in models]


def _parameters(parameters: Mapping[str, Any], profile: str) -> list[str]:
    """Each branch as `name value, name value`; what all profiles share is no matter of a number."""
    rows = []
    for branch in sorted(key for key in parameters if "." in key):
        leaves = _flat(parameters[branch])
        text = ", ".join(f"{key} {value}" for key, value in leaves.items())
        text = text if len(leaves) <= LONG else f"{len(leaves)} numbers: see --json"
        rows.append((branch.removeprefix(f"{profile}."), text))
    return _fields(rows)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """The leaves of a tree by dotted path; a list is one leaf."""
    if not isinstance(value, dict):
        text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
        return {path: "null" if value is None else text}
    leaves = {}
    for key, one in value.items():
        leaves |= _flat(one, f"{path}.{key}".strip("."))
    return leaves


def _stages(stages: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A command a line, with the hashes of what it wrote."""
    return [
        (stage["command"], " ".join(_short(digest) for digest in stage["wrote"].values()))
        for stage in stages
    ]


def _record(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["none: run stage `provenance`"]
    changed = record["uncommitted"]
    commit = (record["commit"] or "none: not in git") + (
        f", and {len(changed)} uncommitted: {', '.join(changed[:3])}{' ...' if changed[3:] else ''}"
        if changed
        else ""
    )
    libraries = [f"{name} {version}" for name, version in record["libraries"].items()]
    more = [f"{len(libraries) - FIRST} more: see --json"] if len(libraries) > FIRST else []
    return _fields(
        [
            ("commit", commit),
            ("date", record["date"]),
            ("machine", record["machine"]),
            ("parameters", record["params"]),
            ("Python", record["python"]),
            ("libraries", ", ".join(libraries[:FIRST] + more)),
        ]
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    marks = {True: "ok", False: "NO", None: "--"}  # holds, does not hold, could not be made
    return _fields([(marks[check["ok"]], check["what"]) for check in checks])


def _fields(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names in a column, and beside each its text, as many lines as it needs."""
    indent = 2 + max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - 2 - indent, break_on_hyphens=False)
        lines += [name.ljust(indent) + wrapped[0], *(" " * indent + line for line in wrapped[1:])]
    return lines


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _count(images: int | None) -> str:
    return "-" if images is None else f"{images:,}"


def _short(digest: str | None) -> str:
    return digest[:DIGITS] if digest else "missing"


def _size(size: int | None) -> str:
    """Bytes in the unit that leaves the fewest digits."""
    if size is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
