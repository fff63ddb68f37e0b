"""All that is behind one number of a table: what stage `explain` tells."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.exceptions import DvcException

from carot_lib.calibration.predictions import Predictions
from carot_lib.evaluation import VALIDATION, EvaluationParams
from carot_lib.layout import Layout
from carot_lib.report.cells import Cell, Place, find_cell
from carot_lib.report.checks import against_lock, against_record, changes_since, recomputation
from carot_lib.report.provenance import (
    LockedStage,
    Provenance,
    read_lock,
    read_provenance,
    stages_behind,
    writer_of,
)
from carot_lib.report.recompute import ORACLE, Recomputation

JUDGED = {"posthoc": "posthoc.csv", "replication": "temperature.json"}  # others: metrics.csv
JUDGED["differences"] = JUDGED["replication"]  # both come from predictions and temperatures


def explain(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """Everything behind one number of a table, ready for JSON.

    Args:
        path: of a CSV file in results/<profile>.
        words: as of `carot_lib.report.cells.find_cell`.

    Raises:
        FileNotFoundError: the table, one behind it, or dvc.lock is missing.
        ValueError: the number is unknown, and the message says what there is; or the files do not
            belong together.
    """
    cell = find_cell(path, words)
    folder = path.resolve().parent
    if folder.parent.name != "results":
        raise ValueError(f"{path}: no table of results/<profile>/")
    layout = Layout(folder.parents[1], folder.name)
    path = layout.results / path.name
    table = inside(layout, path)
    source = "posthoc.csv" if path.stem == "posthoc" else "metrics.csv"
    numbers = pd.read_csv(layout.results / source).set_index(list(Place._fields))
    printed = numbers["value"]
    seeds = [cell.seed] if cell.seed is not None else printed.index.unique("seed").tolist()
    asked = cell.places(seeds)
    if missing := [place for place in asked if place not in printed.index]:
        raise ValueError(f"{source} has no {' '.join(map(str, missing[0]))}: run stage `tables`")
    stages = chain(layout, path, asked)
    params = params_of(stages)
    evaluation = EvaluationParams.model_validate(params[f"{layout.profile}.evaluation"])
    places = [
        place._replace(dataset=name)
        for place in asked
        for name in (evaluation.ood if place.dataset == "ood" else [place.dataset])
    ]
    record = record_of(layout)
    anew = Recomputation(layout, evaluation)
    try:
        recomputed, lacking = cell.value(lambda place: anew.value(*place), seeds), ""
    except FileNotFoundError as error:
        recomputed, lacking = None, str(error).removeprefix(f"{layout.root}/")
    try:
        changed, unknown = changes_since(layout, stages), ""
    except DvcException as error:
        changed, unknown = None, f"not compared with dvc.lock: {str(error).split('. ')[0]}"
    explanation = {
        "table": table,
        "row": cell.row,
        "column": cell.column,
        "meaning": cell.meaning,
        "value": cell.printed,
        "interval": cell.interval,
        "recomputed": recomputed,
        "by_seed": {
            seed: {
                "value": cell.value(printed.__getitem__, [seed]),
                "interval": interval_of(cell, seed, numbers),
            }
            for seed in seeds
        },
        "evaluation": evaluation.model_dump(),
        "predictions": [
            place._asdict()
            | {"value": float(printed[place])}
            | {"recomputed": None if lacking else anew.value(*place)}
            | file_of(layout, layout.predictions(*place[:3]))
            | images_of(layout, place, record)
            for place in places
        ],
        "calibrations": calibrations(layout, places, printed, record),
        "models": [
            {"run": run, "seed": seed}
            | file_of(layout, layout.model(run, seed) / "classifier.safetensors")
            for run, seed in runs_of(places)
        ],
        "parameters": params,
        "stages": [
            {"stage": stage.name, "command": stage.command, "wrote": wrote(stage, table)}
            | {"changed": changed and changed[stage.name]}
            for stage in stages
        ],
        "record": record and record.model_dump(mode="json", exclude={"files", "stages"}),
    }
    checks = [recomputation(cell, recomputed, lacking)]
    checks += against_record(layout, path, explanation, record)
    checks += against_lock(changed) if changed else [(None, unknown)]
    return explanation | {"checks": [{"ok": ok, "what": what} for ok, what in checks]}


def chain(layout: Layout, path: Path, places: Sequence[Place]) -> list[LockedStage]:
    """The stages behind a table's number, in order: of its runs, and the one that wrote the table.

    Raises:
        ValueError: dvc.lock does not know who wrote the table, or what it was made of.
    """
    locked, writers = read_lock(layout), []
    judged = JUDGED.get(path.stem, "metrics.csv")
    for file in [*(layout.evaluation(*run) / judged for run in runs_of(places)), path]:
        writers.append(writer_of(locked, inside(layout, file)))
        if writers[-1] is None:
            raise ValueError(f"dvc.lock knows no {inside(layout, file)}: run `make repro`")
    return [locked[name] for name in stages_behind(locked, writers)]


def params_of(stages: Sequence[LockedStage]) -> dict[str, Any]:
    """The branches of params.yaml that stages ran by; not again the twigs of such a branch."""
    params = {key: value for stage in stages for key, value in stage.params.items()}
    inside_another = {k for k in params for other in params if k.startswith(f"{other}.")}
    return {key: params[key] for key in params if key not in inside_another}


def wrote(stage: LockedStage, table: str) -> dict[str, str]:
    """What a stage wrote, with its hashes; of the one that wrote the table, the table alone."""
    return {
        path: h for path, h in stage.writes.items() if table not in stage.writes or path == table
    }


def runs_of(places: Sequence[Place]) -> list[tuple[str, int]]:
    """The runs and seeds of numbers, each once."""
    return list(dict.fromkeys((place.run, place.seed) for place in places))


def interval_of(cell: Cell, seed: int, numbers: pd.DataFrame) -> list[float] | None:
    """The bootstrap interval of one seed, where the number is that of one run on one set."""
    places = cell.places([seed])
    if len(places) > 1 or numbers.loc[places[0]].isna().any():
        return None
    return numbers.loc[places[0], ["low", "high"]].tolist()


def images_of(layout: Layout, place: Place, record: Provenance | None) -> dict[str, Any]:
    """Number and fingerprint of the images behind a number: of the predictions, or recorded."""
    path = layout.predictions(*place[:3])
    if path.exists():
        predictions = Predictions.load(path)
        return {"images": len(predictions.labels), "fingerprint": predictions.fingerprint}
    if record and place.dataset in record.sets:
        return record.sets[place.dataset].model_dump(include={"images", "fingerprint"})
    return {"images": None, "fingerprint": None}


def calibrations(
    layout: Layout, places: Sequence[Place], printed: pd.Series, record: Provenance | None
) -> list[dict[str, Any]]:
    """What was fitted on which images, for the numbers with a calibration."""
    chosen = {}
    for place in places:
        if place.calibration != "none":
            dataset = place.dataset if place.calibration == ORACLE else VALIDATION
            chosen[place._replace(dataset=dataset, metric="temperature")] = None
    return [
        {"run": place.run, "seed": place.seed, "calibration": place.calibration}
        | {"temperature": float(printed[place]) if place in printed.index else None}
        | {"dataset": place.dataset, **images_of(layout, place, record)}
        for place in chosen
    ]


def file_of(layout: Layout, path: Path) -> dict[str, Any]:
    """Path, size in bytes and MD5 (as DVC's) of a file; of a missing one the path alone."""
    if not path.exists():
        return {"file": inside(layout, path), "bytes": None, "md5": None}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    return {"file": inside(layout, path), "bytes": path.stat().st_size, "md5": digest}


def inside(layout: Layout, path: Path) -> str:
    """A path from the project's folder, as dvc.lock has it."""
    return path.relative_to(layout.root).as_posix()


def record_of(layout: Layout) -> Provenance | None:
    """The record of provenance, if there is one."""
    try:
        return read_provenance(layout)
    except FileNotFoundError:
        return None
