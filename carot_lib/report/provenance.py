"""What made the results: a record beside them, and the stages as DVC's lock file knows them.

The record, results/<profile>/provenance.json, is written by stage `provenance` once every table
and figure is there, and is committed with them. So it cannot name the commit that holds it. It
names the last commit that changed anything the results are computed from: the code, the notebooks,
the data in git, params.yaml, dvc.yaml and requirements.txt. A commit of results changes none of
these, so the record says the same before and after it, and whoever checks out either computes from
the same files.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from carot_lib.layout import Layout

MINIATURE = ("data", "pretrained")  # of its branch, where another profile starts from its model
UNUSED = "search"  # of a profile's branch: tried by `make search` alone


class SetRecord(BaseModel):
    """One set of images.

    Attributes:
        images: how many.
        classes: of the set's own.
        fingerprint: of its labels and images (or their paths).
    """

    model_config = ConfigDict(frozen=True)

    images: int
    classes: int
    fingerprint: str


class FileRecord(BaseModel):
    """One result.

    Attributes:
        sha256: of its bytes.
        stage: that wrote it.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    stage: str


class StageRecord(BaseModel):
    """One stage that writes results.

    Attributes:
        command: as it was run.
        reads: its inputs but for code and notebooks, which the commit holds, with their hashes in
            dvc.lock.
    """

    model_config = ConfigDict(frozen=True)

    command: str
    reads: dict[str, str]


class Provenance(BaseModel):
    """What made the results of a profile.

    Attributes:
        profile: `miniature`, `imagenet` or `folders`.
        commit: the last one that changed what they are computed from; None without git.
        uncommitted: files among those that were changed and not committed; none: a clean tree.
        params: hash of the parameters, see `params_hash`.
        date: day of the run, UTC.
        machine: system, processor, cores and GPUs of the machine that wrote this record.
        python: its version.
        libraries: versions of the direct requirements.
        rows: of the tables.
        seeds: of each row.
        sets: every set of images, by name.
        files: every table, figure and notebook that a stage wrote, by path in results/<profile>.
        stages: that wrote them, by name.
    """

    model_config = ConfigDict(frozen=True)

    profile: str
    commit: str | None
    uncommitted: list[str]
    params: str
    date: datetime.date
    machine: str
    python: str
    libraries: dict[str, str]
    rows: list[str]
    seeds: list[int]
    sets: dict[str, SetRecord]
    files: dict[str, FileRecord]
    stages: dict[str, StageRecord]


def record_path(layout: Layout) -> Path:
    """Where the record lies."""
    return layout.results / "provenance.json"


def read_provenance(layout: Layout) -> Provenance:
    """The record beside the results.

    Raises:
        FileNotFoundError: there is none yet; the message names the stage to run.
        ValueError: the file is no such record.
    """
    path = record_path(layout)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run stage `provenance`")
    try:
        return Provenance.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no record of provenance: run stage `provenance`") from error


def params_hash(layout: Layout) -> str:
    """SHA-256 of the parameters that the results of a profile depend on, in hexadecimal digits.

    These are the lists that all profiles share and the profile's own branch but for `search`.
    Comments, order and other profiles do not matter.

    Raises:
        ValueError: params.yaml has no such branch.
    """
    tree = yaml.safe_load(layout.params.read_text(encoding="utf-8"))
    if layout.profile not in tree:
        raise ValueError(f"{layout.params.name}: {layout.profile}: missing")
    branch = tree[layout.profile]
    kept = {key: value for key, value in tree.items() if isinstance(value, list)}
    kept[layout.profile] = {key: value for key, value in branch.items() if key != UNUSED}
    if branch["pretrained"]["kind"] == "miniature":
        kept["miniature"] = {key: tree["miniature"][key] for key in MINIATURE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class LockedStage:
    """One stage as it was run last.

    Attributes:
        name: for example `train@miniature-carot-0`.
        command: as it was run.
        reads: hash of each dependency.
        writes: hash of each output.
        params: values by dotted key.
    """

    name: str
    command: str
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    params: Mapping[str, Any]


def read_lock(layout: Layout) -> dict[str, LockedStage]:
    """The stages of a profile by name, as dvc.lock has them.

    While the pipeline runs, DVC writes each stage there when it is done: a stage sees all that ran
    before it.

    Raises:
        FileNotFoundError: nothing was run yet.
        ValueError: the file is no YAML, as after a merge with conflicts.
    """
    path = layout.root / "dvc.lock"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make repro` first")
    try:
        locked = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: no lock file of DVC ({' '.join(str(error).split())})") from error
    stages = {}
    for name, stage in locked.items():
        if name.partition("@")[2].split("-")[0] == layout.profile:
            reads, writes = (
                {one["path"]: one["md5"] for one in stage.get(part, [])}
                for part in ("deps", "outs")
            )
            params = stage.get("params", {}).get("params.yaml", {})
            stages[name] = LockedStage(name, stage["cmd"], reads, writes, params)
    return stages


def writer_of(stages: Mapping[str, LockedStage], path: str) -> str | None:
    """Name of the stage that wrote a file, or a folder around it; None: none did.

    Args:
        stages: of `read_lock`.
        path: from the project's folder.
    """
    places = {path, *(str(parent) for parent in Path(path).parents)}
    return next((name for name in stages if not places.isdisjoint(stages[name].writes)), None)


def stages_behind(stages: Mapping[str, LockedStage], names: Iterable[str]) -> list[str]:
    """Stages and all that came before them, each after those it reads from.

    A folder that many stages write into is followed no further: who asks for one row of a table
    wants the stages of that row.
    """
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        for path in stages[name].reads:
            writer = writer_of(stages, path)
            if writer is not None and writer not in order:
                visit(writer)
        order[name] = None

    for name in names:
        visit(name)
    return list(order)
