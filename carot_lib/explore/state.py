"""Which results are there, and whether today's params.yaml made them: a look that takes a moment.

dvc.lock holds, for every stage that ran, the parameters it ran with. Nothing is hashed: changed
code and changed data are `dvc status`'s business.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pandas.io.formats.style import Styler

from carot_lib.layout import Layout
from carot_lib.report.styles import GREY, OVER, UNDER

GOOD, MISSING, OTHER = "up to date", "missing", "other parameters"
COLOURS = {GOOD: UNDER, MISSING: GREY, OTHER: OVER}
START = "notebook_start"  # stages from here on show the state, so they have none to be shown


def state(layout: Layout) -> pd.DataFrame:
    """One row a kind of stage, in the order of dvc.yaml: makes, runs, state, because, command.

    `state` is the worst of its runs: `missing` (it has not run, or its results are not here),
    `other parameters` (it, or what it reads, was made by others than today's), or `up to date`.

    Raises:
        FileNotFoundError: there is no dvc.yaml or params.yaml.
    """
    params = _read(layout.params)
    stages = _read(layout.root / "dvc.yaml")["stages"]
    lock = layout.root / "dvc.lock"
    ran = (_read(lock) or {}).get("stages", {}) if lock.exists() else {}
    stale: dict[str, str] = {}  # results made by other parameters: because of which
    rows = []
    for kind, stage in itertools.takewhile(lambda item: item[0] != START, stages.items()):
        names = _names(kind, stage["matrix"], params | {"profile": layout.profile})
        faults = {name: _fault(ran.get(name), params, stale, layout.root) for name in names}
        worst = min(names, key=lambda name: (faults[name][0] == GOOD, faults[name][0] != MISSING))
        found, because = faults[worst]
        command = "" if found == GOOD else f"dvc repro {worst}"
        bad = sum(fault != GOOD for fault, _ in faults.values())
        runs = f"{bad} of {len(names)}" if bad else f"{len(names)}"
        rows.append((kind, stage["desc"], runs, found, because, command))
    columns = ["stage", "makes", "runs", "state", "because", "command"]
    return pd.DataFrame(rows, columns=columns).set_index("stage")


def headline(table: pd.DataFrame) -> str:
    """What to do about a `state`, in a sentence."""
    bad = table[table["state"] != GOOD]
    if bad.empty:
        return "Every result is here and was made by today's params.yaml."
    stages = ", ".join(bad.index)
    if (bad["state"] == MISSING).all():
        return f"Not here yet: {stages}. `make repro` makes what is missing."
    return f"Missing, or made by other parameters than today's: {stages}. Run `make repro`."


def styled_state(table: pd.DataFrame) -> Styler:
    """The table with coloured states, for a notebook."""
    return table.style.map(
        lambda found: f"color: {COLOURS[found]}; font-weight: bold", subset=["state"]
    ).set_properties(**{"text-align": "left"})


def _names(kind: str, matrix: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """`train@miniature-ft-0`, ...: the runs that a stage of dvc.yaml stands for."""
    choices = []
    for values in matrix.values():
        if isinstance(values, str):  # "${seeds}"
            values = params[values.strip("${}")]
        choices.append([params[v.strip("${}")] if str(v).startswith("${") else v for v in values])
    return [f"{kind}@{'-'.join(map(str, picked))}" for picked in itertools.product(*choices)]


def _fault(
    entry: Mapping[str, Any] | None, params: Mapping[str, Any], stale: dict[str, str], root: Path
) -> tuple[str, str]:
    """State of one run and why; its results join the stale ones if they are."""
    if entry is None:
        return MISSING, "it has not run yet"
    outs = [out["path"] for out in entry.get("outs", [])]
    recorded = itertools.chain.from_iterable(d.items() for d in entry.get("params", {}).values())
    changed = (_difference(key, value, _look_up(params, key)) for key, value in recorded)
    read = [dep["path"] for dep in entry.get("deps", [])]
    old = (why for out, why in stale.items() if any(_within(out, path) for path in read))
    if because := next(filter(None, itertools.chain(changed, old)), ""):
        stale.update(dict.fromkeys(outs, because))
    if gone := [path for path in outs if not (root / path).exists()]:
        return MISSING, f"{gone[0]} is not here"
    return (OTHER, because) if because else (GOOD, "")


def _difference(key: str, then: Any, now: Any) -> str:
    """`miniature.runs.ft.learning_rate: 0.002, was 0.001`: the first number that is another."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        inner = (_difference(f"{key}.{k}", then.get(k), now.get(k)) for k in {**now, **then})
        return next(filter(None, inner), "")
    return "" if then == now else f"{key}: {now}, was {then}"


def _look_up(params: Any, key: str) -> Any:
    """The value at `miniature.runs.ft`; None if there is none."""
    for word in key.split("."):
        params = params.get(word) if isinstance(params, Mapping) else None
    return params


def _within(one: str, other: str) -> bool:
    """Whether one path is the other, or lies in it, or holds it."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _read(path: Path) -> Any:
    # the C parser, for dvc.lock is long
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
