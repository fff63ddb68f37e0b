"""How one number of a table came about, from images and parameters to the table, and what changed.

What lies on disk is checked: the number is computed again from the predictions, and DVC compares
the files with those of its last run. On a fresh clone, to which git brings only the results, the
rest is read from dvc.lock and the record of provenance.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dvc.exceptions import DvcException
from dvc.repo.graph import collect_pipeline
from dvc.repo.index import Index
from dvc.stage import Stage

from carot_lib.calibration.predictions import Predictions
from carot_lib.evaluation import EvaluationParams
from carot_lib.layout import Layout
from carot_lib.report.cells import Cell, MetricKey, find_cell, recompute_from_predictions
from carot_lib.report.provenance import (
    Provenance,
    file_hash,
    params_hash,
    pipeline,
    read_provenance,
)

ROUNDING = 2e-6  # numbers in files have six decimals, and means of them are rounded again
MAX_LISTED = 4  # changed files that are named; more are counted
MAX_BRANCH = 800  # characters of a branch of parameters that is printed
MARKS = {True: "ok", False: "NO", None: "--"}

Check = tuple[bool | None, str]  # holds, does not hold, or could not be checked; and in words


def explain(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """Everything behind one number of a table, ready for JSON.

    Models and predictions are named by the stages that wrote them, with the hashes in dvc.lock.

    Args:
        path: a CSV file of results/<profile>/tables.
        words: row and column, see `carot_lib.report.cells.find_cell`.

    Returns:
        Among others `checks`, a list of dicts with `ok` (True, False, or None where it could not be
        checked) and `what`. The first is whether the number comes out again.

    Raises:
        FileNotFoundError: the table, one behind it, or dvc.lock is missing.
        ValueError: the number is unknown, and the message lists those known; or the files do not
            belong together.
    """
    cell = find_cell(path, words)
    folder = path.resolve().parent
    if folder.name != "tables" or folder.parents[1].name != "results":
        raise ValueError(f"{path}: no table of results/<profile>/tables/")
    layout = Layout(folder.parents[2], folder.parent.name)
    path = layout.tables / path.name
    source = "posthoc.csv" if path.stem == "posthoc" else "metrics.csv"
    numbers = pd.read_csv(layout.tables / source).set_index(list(MetricKey._fields))
    seeds = [cell.seed] if cell.seed is not None else numbers.index.unique("seed").tolist()
    used = cell.keys(seeds)
    if missing := [key for key in used if key not in numbers.index]:
        raise ValueError(f"{source} has no {' '.join(map(str, missing[0]))}: run stage `tables`")
    with pipeline(layout) as index:
        stages = stages_behind(index, layout, path, used)
        changed, unchanged = compare_with_last_run(index, stages)
        params = params_of(stages)
        listed = [
            {
                "stage": stage.name,
                "command": stage.cmd,
                "wrote": {out.def_path: out.hash_info.value for out in stage.outs},
                "changed": changed and changed[stage.name],
            }
            for stage in stages
        ]
    evaluation = EvaluationParams.model_validate(params[f"{layout.profile}.evaluation"])
    recompute = recompute_from_predictions(layout, evaluation)
    recomputed, reproduced = compare_with_predictions(cell, recompute, seeds)
    record = read_provenance(layout) if layout.provenance.exists() else None
    keys = [
        key._replace(dataset=name)
        for key in used
        for name in (evaluation.ood if key.dataset == "ood" else [key.dataset])
    ]
    predictions = [
        key._asdict()
        | {"value": float(numbers.loc[key, "value"])}
        | {"recomputed": None if recomputed is None else recompute(key)}
        | images_of(layout, key, record)
        for key in keys
    ]
    fitted = [
        key._replace(dataset=key.fitted_on, metric="temperature")
        for key in keys
        if key.calibration != "none"
    ]
    calibrations = [
        {"run": key.run, "seed": key.seed, "calibration": key.calibration}
        | {"temperature": float(numbers["value"][key]) if key in numbers.index else None}
        | {"dataset": key.dataset, **images_of(layout, key, record)}
        for key in dict.fromkeys(fitted)
    ]
    compared = compare_with_record(layout, path, [*predictions, *calibrations], record)
    return {
        "table": path.relative_to(layout.root).as_posix(),
        "row": cell.row,
        "column": cell.column,
        "meaning": cell.meaning,
        "value": cell.printed,
        "interval": cell.interval,
        "recomputed": recomputed,
        "seeds": [value_of_seed(cell, seed, numbers) for seed in seeds],
        "predictions": predictions,
        "calibrations": calibrations,
        "parameters": params,
        "stages": listed,
        "record": record and record.model_dump(mode="json", exclude={"files", "stages"}),
        "checks": [{"ok": ok, "what": what} for ok, what in [reproduced, *compared, *unchanged]],
    }


def as_text(explanation: Mapping[str, Any]) -> str:
    """The explanation as text for a terminal: a headline, then sections."""
    row = ", ".join(f"{key} {word}" for key, word in explanation["row"].items())
    interval = explanation["interval"] and " [{:g}, {:g}]".format(*explanation["interval"])
    parameters = {
        key: value if len(str(value)) <= MAX_BRANCH else "long: see --json"
        for key, value in explanation["parameters"].items()
    }
    sections = {
        "Value": explanation["seeds"],
        "Predictions": explanation["predictions"],
        "Calibration": explanation["calibrations"],
        "Parameters, as in dvc.lock": parameters,
        "Stages, in their order, with the MD5 of their outputs": {
            stage["command"]: stage["wrote"] for stage in explanation["stages"]
        },
        "Record of the run": explanation["record"] or {"none": "run stage `provenance`"},
    }
    lines = [
        f"{explanation['meaning']} = {explanation['value']:g}{interval or ''}",
        f"{explanation['table']}: {row}, column {explanation['column']}",
    ]
    for title, content in sections.items():
        if content:
            lines += ["", title, *(f"  {line}" for line in _lines(content))]
    lines += ["", "Checks"]
    lines += [f"  {MARKS[check['ok']]}  {check['what']}" for check in explanation["checks"]]
    return "\n".join(lines)


def stages_behind(
    index: Index, layout: Layout, path: Path, keys: Sequence[MetricKey]
) -> list[Stage]:
    """The stages behind a table's number, in order: those of its runs, and the table's own.

    Raises:
        ValueError: no stage that was run writes the table, or what it was made of.
    """

    def writer(path: Path) -> Stage:
        name = path.relative_to(layout.root)
        for out in index.outs:
            if out.hash_info and name.is_relative_to(out.def_path):
                return out.stage
        raise ValueError(f"dvc.lock knows no {name.as_posix()}: run `make repro`")

    stages: list[Stage] = []
    for folder in dict.fromkeys(layout.evaluation(key.run, key.seed) for key in keys):
        stages += collect_pipeline(writer(folder), index.graph)
    return list(dict.fromkeys([*stages, writer(path)]))


def params_of(stages: Sequence[Stage]) -> dict[str, Any]:
    """The branches of params.yaml by which stages were run; not again the twigs of a branch."""
    params: dict[str, Any] = {}
    for dependency in (one for stage in stages for one in stage.params):
        params |= dependency.hash_info.value or {}
    twigs = {key for key in params for other in params if key.startswith(f"{other}.")}
    return {key: value for key, value in params.items() if key not in twigs}


def compare_with_last_run(
    index: Index, stages: Sequence[Stage]
) -> tuple[dict[str, dict[str, str]] | None, list[Check]]:
    """Whether code, parameters and files are as they were when the stages were run.

    Like `dvc status` it takes DVC's lock for a moment.

    Returns:
        By stage, what changed (paths and parameters) and how; None where DVC is at work. And the
        checks.
    """
    changed: dict[str, dict[str, str]] = {}
    try:
        with index.repo.lock:
            for stage in stages:
                of_stage = {"command": "modified"} if stage.changed_stage() else {}
                for entry in [*stage.deps, *stage.outs]:
                    for how in entry.workspace_status().values():
                        of_stage |= how if isinstance(how, dict) else {entry.def_path: how}
                changed[stage.name] = of_stage
    except DvcException as error:
        return None, [(None, f"not compared with dvc.lock: {str(error).split('. ')[0]}")]
    every = {path: how for of_stage in changed.values() for path, how in of_stage.items()}
    deleted = [path for path, how in every.items() if how == "deleted"]
    other = sorted(every.keys() - deleted, key=lambda path: (path.startswith("carot_lib/"), path))
    checks: list[Check] = []
    if other:
        more = f" and {len(other) - MAX_LISTED} more" if len(other) > MAX_LISTED else ""
        listed = ", ".join(other[:MAX_LISTED]) + more
        checks.append((False, f"changed since the stages were run: {listed}"))
    if deleted:
        checks.append((None, f"not on disk: {', '.join(deleted)}; `make repro` makes them"))
    same = "code, parameters and files of all stages are those of dvc.lock"
    return changed, checks or [(True, same)]


def compare_with_predictions(
    cell: Cell, recompute: Any, seeds: Sequence[int]
) -> tuple[float | None, Check]:
    """The number, computed again from the predictions, and whether it is that of the table."""
    try:
        value = cell.value(recompute, seeds)
    except FileNotFoundError as error:
        return None, (None, f"not computed again: {error}")
    agrees = abs(value - cell.printed) <= ROUNDING
    words = "the number of the table" if agrees else f"the table has {cell.printed:g}"
    return value, (agrees, f"computed again from the predictions: {value:.6f}, {words}")


def compare_with_record(
    layout: Layout, path: Path, used: Sequence[Mapping[str, Any]], record: Provenance | None
) -> list[Check]:
    """Whether images, table and parameters are those of the record."""
    if record is None:
        return [(None, "not compared with the record: there is none")]
    known = {name: one.fingerprint for name, one in record.sets.items()}
    other = {one["dataset"] for one in used if one["fingerprint"] != known.get(one["dataset"])}
    file = record.files.get(path.relative_to(layout.results).as_posix())
    same = {
        f"images of {', '.join(sorted(other))}" if other else "images": not other,
        path.name: file is not None and file.sha256 == file_hash(path),
        "parameters in params.yaml": record.params == params_hash(layout),
    }
    return [(ok, f"{what}: {'as' if ok else 'not as'} in the record") for what, ok in same.items()]


def value_of_seed(cell: Cell, seed: int, numbers: pd.DataFrame) -> dict[str, Any]:
    """The number of one training seed, with its interval where it is one of metrics.csv."""
    keys = cell.keys([seed])
    ends = numbers.loc[keys[0], ["low", "high"]].dropna().to_dict() if len(keys) == 1 else {}
    return {"seed": seed, "value": cell.value(numbers["value"].__getitem__, [seed]), **ends}


def images_of(layout: Layout, key: MetricKey, record: Provenance | None) -> dict[str, Any]:
    """Number and fingerprint of the images behind a number: of the predictions, or recorded."""
    path = layout.predictions(key.run, key.seed, key.dataset)
    images = fingerprint = None
    if path.exists():
        predictions = Predictions.load(path)
        images, fingerprint = len(predictions.labels), predictions.fingerprint
    elif record and key.dataset in record.sets:
        images, fingerprint = record.sets[key.dataset].images, record.sets[key.dataset].fingerprint
    return {"images": images, "fingerprint": fingerprint}


def _lines(content: Any) -> list[str]:
    """YAML of a mapping, or a table of records."""
    if isinstance(content, dict):
        style = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None}
        return yaml.safe_dump(content, width=96, **style).splitlines()
    return pd.DataFrame(content).to_string(index=False, na_rep="-").splitlines()
