"""What can be checked about a number that stands in a table: does it come out, is it up to date."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from carot_lib.layout import Layout
from carot_lib.report.cells import Cell
from carot_lib.report.provenance import LockedStage, Provenance, params_hash

ROUNDING = 2e-6  # numbers in files have six decimals, and means of them are rounded again
NAMED = 4  # changed files at most; more are counted

Check = tuple[bool | None, str]  # holds, does not hold, could not be made; in words


def recomputation(cell: Cell, recomputed: float | None, lacking: str) -> Check:
    """Whether the number comes out again."""
    if recomputed is None:
        return None, f"not computed anew: {lacking} or `make repro`"
    agrees = abs(recomputed - cell.printed) <= ROUNDING
    words = "the number of the table" if agrees else f"the table has {cell.printed:g}"
    return agrees, f"computed anew from the predictions: {recomputed:.6f}, {words}"


def against_record(
    layout: Layout, path: Path, explanation: Mapping[str, Any], record: Provenance | None
) -> Iterator[Check]:
    """Whether images, table and parameters are those of the record."""
    if record is None:
        yield None, "not compared with the record: there is none"
        return
    used = [*explanation["predictions"], *explanation["calibrations"]]
    known = {name: one.fingerprint for name, one in record.sets.items()}
    other = {one["dataset"] for one in used if one["fingerprint"] != known.get(one["dataset"])}
    yield (
        not other,
        (
            f"recorded are other images of {', '.join(sorted(other))}: run stage `provenance`"
            if other
            else "the images are those of the record"
        ),
    )
    file = record.files.get(path.name)
    same = file is not None and file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    yield (
        same,
        (
            f"{path.name} is the file of the record"
            if same
            else f"{path.name} is not the file of the record: run stage `provenance`"
        ),
    )
    same = record.params == params_hash(layout)
    yield (
        same,
        (
            "params.yaml has the parameters of the record"
            if same
            else "params.yaml has other parameters than the record: `make repro` computes by them"
        ),
    )


def changes_since(layout: Layout, stages: Sequence[LockedStage]) -> dict[str, dict[str, str]]:
    """What DVC finds changed since stages were run, by stage: paths and parameters, and how.

    Like `dvc status` it takes DVC's lock for a moment.

    Raises:
        DvcException: DVC is at work here, or there is no dvc.yaml.
    """
    changed: dict[str, dict[str, str]] = {stage.name: {} for stage in stages}
    with Repo(str(layout.root)) as repo, repo.lock:
        today = {stage.name: stage for stage in repo.stage.load_all(str(layout.root / "dvc.yaml"))}
        for name, found in changed.items():
            if name not in today:
                found[name] = "no longer in dvc.yaml"
                continue
            for fault in next(iter(today[name].status().values()), []):
                if isinstance(fault, str):
                    found["command"] = "modified"
                    continue
                for paths in fault.values():
                    for path, how in paths.items():
                        found |= how if isinstance(how, dict) else {path: how}
    # a file that lies there as it should and of which DVC has no copy is no change
    return {
        name: {path: how for path, how in found.items() if how != "not in cache"}
        for name, found in changed.items()
    }


def against_lock(changed: Mapping[str, Mapping[str, str]]) -> Iterator[Check]:
    """Whether code, parameters and files are as they were when the stages ran.

    Args:
        changed: of `changes_since`.
    """
    found = {path: how for paths in changed.values() for path, how in paths.items()}
    missing = [path for path, how in found.items() if how == "deleted"]
    other = [path for path, how in found.items() if how != "deleted"]
    other.sort(key=lambda path: path.startswith("carot_lib/"))  # files and numbers first
    if other:
        more = f" and {len(other) - NAMED} more" if len(other) > NAMED else ""
        yield False, f"changed since the stages were run: {', '.join(other[:NAMED])}{more}"
    if missing:
        yield None, f"not on disk: {', '.join(missing)}; `make repro` makes them"
    if not found:
        count = len(changed)
        yield True, f"code, parameters and files of all {count} stages are those of dvc.lock"
