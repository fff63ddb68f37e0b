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
from dvc.repo.graph import collect_pipeline
from dvc.repo.index import Index
from dvc.stage import Stage

from carot_lib.calibration.predictions import Predictions
from carot_lib.evaluation import EvaluationParams
from carot_lib.files import read_json
from carot_lib.layout import Layout
from carot_lib.report.cells import MetricKey, find_cell, recompute_from_predictions
from carot_lib.report.provenance import (
    Provenance,
    changes,
    file_hash,
    params_hash,
    pipeline,
    read_provenance,
)
from carot_lib.sources.listing import listing

ROUNDING = 2e-6  # numbers in files have six decimals, and means of them are rounded again
MARKS = {True: "ok", False: "NO", None: "--"}

Check = tuple[bool | None, str]  # holds, does not hold, or could not be checked; and in words


def explain(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """Everything behind one number of a table, ready for JSON.

    Models and predictions are named by the stages that wrote them, with the hashes in dvc.lock.

    Args:
        path: a CSV file of results/<profile>/tables.
        words: row and column, see `carot_lib.report.cells.find_cell`.

    Returns:
        Among others `numbers`: those of runs that it is computed from, of each set in a mean over
        sets, and temperatures; as in the long table, computed again from the predictions, and of
        which images. And `checks`: `ok` (True, False, or None where it could not be checked) and
        `what`; the first is whether the number of the table comes out again.

    Raises:
        FileNotFoundError: the table, or one behind it, is missing.
        ValueError: the number is unknown, and the message lists those known; or the files do not
            belong together.
    """
    cell = find_cell(path, words)
    folder = path.resolve().parent
    if folder.name != "tables" or folder.parents[1].name != "results":
        raise ValueError(f"{path}: no table of results/<profile>/tables/")
    layout = Layout(folder.parents[2], folder.parent.name)
    path = layout.tables / path.name
    long_table = pd.read_csv(layout.tables / "metrics.csv").set_index(list(MetricKey._fields))
    seeds = [cell.seed] if cell.seed is not None else long_table.index.unique("seed").tolist()
    used = cell.keys(seeds)
    if missing := [key for key in used if key not in long_table.index]:
        raise ValueError(f"metrics.csv has no {' '.join(map(str, missing[0]))}: run stage `tables`")
    with pipeline(layout) as index:
        stages = stages_behind(index, layout, path, used)
        changed = {stage.name: changes(stage) for stage in stages}
        unchanged = compare_with_last_run(stages, changed)
    params = params_of(stages)
    evaluation = EvaluationParams.model_validate(params[f"{layout.profile}.evaluation"])
    keys = keys_behind(used, evaluation.ood)
    recompute = recompute_from_predictions(layout, evaluation)
    try:
        recomputed, again = cell.value(recompute, seeds), [recompute(key) for key in keys]
        agrees = abs(recomputed - cell.printed) <= ROUNDING
        said = "the number of the table" if agrees else f"the table has {cell.printed:g}"
        reproduced = agrees, f"computed again from the predictions: {recomputed:.6f}, {said}"
    except FileNotFoundError as error:
        recomputed, again = None, None
        reproduced = None, f"not computed again: {error}"
    numbers = long_table.reindex(pd.MultiIndex.from_tuples(keys, names=MetricKey._fields))
    numbers = numbers.assign(recomputed=again).reset_index()
    numbers[["images", "fingerprint"]] = [images_of(layout, key) for key in keys]
    record = read_provenance(layout) if layout.provenance.exists() else None
    checks = [reproduced, *compare_with_record(layout, path, numbers, record)]
    checks += [*unchanged, *compare_with_listing(layout)]
    return {
        "table": path.relative_to(layout.root).as_posix(),
        "row": cell.row,
        "column": cell.column,
        "meaning": cell.meaning,
        "value": cell.printed,
        "interval": cell.interval,
        "recomputed": recomputed,
        "numbers": numbers.astype(object).where(numbers.notna(), None).to_dict("records"),
        "parameters": params,
        "stages": [
            {
                "stage": stage.name,
                "command": stage.cmd,
                "wrote": {out.def_path: out.hash_info.value for out in stage.outs},
                "changed": changed[stage.name],
            }
            for stage in stages
        ],
        "record": record and record.model_dump(mode="json", exclude={"files"}),
        "checks": [{"ok": ok, "what": what} for ok, what in checks],
    }


def as_text(explanation: Mapping[str, Any]) -> str:
    """The explanation as text for a terminal: a headline, then sections."""
    row = ", ".join(f"{key} {word}" for key, word in explanation["row"].items())
    interval = explanation["interval"] and " [{:g}, {:g}]".format(*explanation["interval"])
    numbers = pd.DataFrame(explanation["numbers"]).dropna(axis="columns", how="all")
    sections = {
        "Parameters, as in dvc.lock": explanation["parameters"],
        "Stages, in their order, with the MD5 of their outputs": {
            stage["command"]: stage["wrote"] for stage in explanation["stages"]
        },
        "Record of the run": explanation["record"] or "none; run stage `provenance`",
    }
    style = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 96}
    return "\n".join(
        [
            f"{explanation['meaning']} = {explanation['value']:g}{interval or ''}",
            f"{explanation['table']}: {row}, column {explanation['column']}",
            f"\nNumbers behind it\n{numbers.convert_dtypes().to_string(index=False, na_rep='-')}\n",
            *(yaml.safe_dump({title: content}, **style) for title, content in sections.items()),
            "Checks",
            *(f"  {MARKS[check['ok']]}  {check['what']}" for check in explanation["checks"]),
        ]
    )


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

    folders = dict.fromkeys(layout.evaluation(key.run, key.seed) for key in keys)
    of_runs = [stage for one in folders for stage in collect_pipeline(writer(one), index.graph)]
    return list(dict.fromkeys([*of_runs, writer(path)]))


def compare_with_last_run(
    stages: Sequence[Stage], changed: Mapping[str, Mapping[str, str]]
) -> list[Check]:
    """Whether code, parameters and files are as they were when the stages were run."""
    other = dict.fromkeys(name for of_stage in changed.values() for name in of_stage)
    entries = [entry for stage in stages for entry in [*stage.deps, *stage.outs]]
    missing = dict.fromkeys(entry.def_path for entry in entries if not entry.exists)
    checks: list[Check] = []
    if other:
        checks.append((False, f"changed since the stages were run: {', '.join(other)}"))
    if missing:
        checks.append((None, f"not on disk: {', '.join(missing)}; `make repro` makes them"))
    return checks or [(True, "code, parameters and files of all stages are those of dvc.lock")]


def compare_with_listing(layout: Layout) -> list[Check]:
    """Whether the user's own images and texts are those that were checked; [] without any."""
    names = {"hash": "image files", "class_names": "class names", "templates": "templates"}
    today = listing(layout)
    known = read_json(layout.listed) if layout.listed.exists() else None
    if known is not None and (other := [names[key] for key in names if today[key] != known[key]]):
        return [(False, f"changed on disk: {', '.join(other)}; `make repro` reads them again")]
    if not any(today[key] for key in ("files", "class_names", "templates")):
        return []
    if known is None:
        return [(None, "image files: stage `list_images` has not run")]
    return [(True, "image files, class names and templates: as when they were last listed")]


def params_of(stages: Sequence[Stage]) -> dict[str, Any]:
    """The branches of params.yaml by which stages were run; not again the twigs of a branch."""
    params: dict[str, Any] = {}
    for dependency in (one for stage in stages for one in stage.params):
        params |= dependency.hash_info.value or {}
    twigs = {key for key in params for other in params if key.startswith(f"{other}.")}
    return {key: value for key, value in params.items() if key not in twigs}


def keys_behind(used: Sequence[MetricKey], ood: Sequence[str]) -> list[MetricKey]:
    """The numbers used, those of each set in a mean over sets, and all their temperatures."""
    keys: list[MetricKey] = []
    for key in used:
        sets = ood if key.dataset == "ood" else []
        keys += [key, *(key._replace(dataset=name) for name in sets)]
    keys += [key.fitted for key in keys if key.calibration != "none" and key.dataset != "ood"]
    return list(dict.fromkeys(keys))


def images_of(layout: Layout, key: MetricKey) -> tuple[int | None, str | None]:
    """Number and fingerprint of the images of a set; None without predictions, as for a mean."""
    path = layout.predictions(key.run, key.seed, key.dataset)
    if not path.exists():
        return None, None
    predictions = Predictions.load(path)
    return len(predictions.labels), predictions.fingerprint


def compare_with_record(
    layout: Layout, path: Path, numbers: pd.DataFrame, record: Provenance | None
) -> list[Check]:
    """Whether images, table and parameters are those of the record."""
    if record is None:
        return [(None, "not compared with the record: there is none")]
    seen = numbers.dropna(subset="fingerprint")
    known = seen["dataset"].map({name: one.fingerprint for name, one in record.sets.items()})
    other = sorted(set(seen["dataset"][seen["fingerprint"] != known]))
    file = record.files.get(path.relative_to(layout.results).as_posix())
    same = {
        f"images of {', '.join(other)}" if other else "images": None if seen.empty else not other,
        path.name: file is not None and file.sha256 == file_hash(path),
        "parameters in params.yaml": record.params == params_hash(layout),
    }
    words = {True: "as in the record", False: "not as in the record", None: "no predictions"}
    return [(ok, f"{what}: {words[ok]}") for what, ok in same.items()]
