"""What made the results: a record beside them, and the stages with their last run.

The record, results/<profile>/provenance.json, is committed with the results, so it cannot name the
commit that holds it. It names the last commit that changed anything the results are computed from
(SOURCES): whoever checks out that commit or one of results after it computes from the same files.
"""

import datetime
import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import yaml
from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.stage import PipelineStage
from pydantic import BaseModel, ConfigDict, ValidationError

from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.processes import usable_cores

SOURCES = ("carot_lib", "notebooks", "data", "params.yaml", "dvc.yaml", "requirements.txt")
NO_GIT = {"core": {"no_scm": True}}  # also works in a copy that git does not know


class SetRecord(BaseModel):
    """One set of images."""

    images: int
    classes: int
    fingerprint: str


class FileRecord(BaseModel):
    """One result and the stage that wrote it."""

    sha256: str
    stage: str


class Provenance(BaseModel):
    """What made the results of a profile."""

    model_config = ConfigDict(frozen=True)

    profile: str
    commit: str | None  # the last that changed SOURCES; None without git
    uncommitted: list[str]  # files of SOURCES that differ from the commit checked out
    params: str  # see `params_hash`
    date: datetime.date  # day of the run, UTC
    machine: str  # system, processor, cores and GPUs where this record was written
    python: str  # version
    libraries: dict[str, str]  # versions of the direct requirements
    rows: list[str]  # rows of the tables
    seeds: list[int]  # training seeds of each row
    sets: dict[str, SetRecord]  # by name
    files: dict[str, FileRecord]  # by path in results/<profile>


def write_provenance(layout: Layout) -> Provenance:
    """Write and return the record of a profile.

    Raises:
        FileNotFoundError: data or results are missing; the message says what to run.
        ValueError: DVC cannot read the pipeline.
    """
    from carot_lib.data.datasets import read_set  # here: torch takes seconds; readers need none

    sets = {}
    for name in ("train", *load_evaluation(layout).datasets):
        one = read_set(layout.data, name)
        images, classes = len(one.labels), len(one.class_names)
        sets[name] = SetRecord(images=images, classes=classes, fingerprint=one.fingerprint)
    commit, uncommitted = commit_of(layout.root)
    record = Provenance(
        profile=layout.profile,
        commit=commit,
        uncommitted=uncommitted,
        params=params_hash(layout),
        date=datetime.datetime.now(datetime.UTC).date(),
        machine=machine(),
        python=platform.python_version(),
        libraries=library_versions(),
        sets=sets,
        files=files_of_stages(layout),
        **load_rows(layout).model_dump(),
    )
    write_text(layout.provenance, record.model_dump_json(indent=1) + "\n")
    return record


def files_of_stages(layout: Layout) -> dict[str, FileRecord]:
    """Every file that a stage wrote to results/<profile>, by its path in there.

    Left out are the record itself and what is made from it, the appendix.
    """
    files, record = {}, layout.provenance.relative_to(layout.root).as_posix()
    with pipeline(layout) as index:
        for out in index.outs:
            folder = layout.root / out.def_path
            shows_record = record in (entry.def_path for entry in [*out.stage.deps, out])
            if out.hash_info and folder.is_relative_to(layout.results) and not shows_record:
                for file in [folder, *sorted(folder.rglob("*"))]:
                    if file.is_file():
                        name = file.relative_to(layout.results).as_posix()
                        files[name] = FileRecord(sha256=file_hash(file), stage=out.stage.name)
    if not files:
        raise FileNotFoundError(f"dvc.lock knows no file of {layout.results}: run `make repro`")
    return files


def read_provenance(layout: Layout) -> Provenance:
    """Read the record beside the results.

    Raises:
        FileNotFoundError: there is none; the message names the stage to run.
        ValueError: the file is not such a record.
    """
    path = layout.provenance
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run stage `provenance`")
    try:
        return Provenance.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no record of provenance: run stage `provenance`") from error


@contextmanager
def pipeline(layout: Layout) -> Iterator[Index]:
    """The stages of a profile as DVC knows them: from dvc.yaml, with what dvc.lock says about them.

    It also works beside a running pipeline: DVC writes each stage to dvc.lock when it is done, and
    a stage sees all that ran before it. DVC's lock is held while dvc.lock is read, which another
    stage may be writing. Whoever keeps it for longer than three seconds is doing something else.

    Raises:
        ValueError: DVC cannot read the pipeline, as after a merge with conflicts.
    """
    try:
        with Repo(str(layout.root), config=NO_GIT) as repo:
            file = load_file(repo, str(layout.root / "dvc.yaml"))
            file.resolver.context["profile"] = layout.profile  # whatever params.yaml chooses now
            with ExitStack() as reading:
                with suppress(LockError):
                    reading.enter_context(repo.lock)
                stages = list(file.stages.values())
            yield Index(repo, stages=stages)
    except DvcException as error:
        raise ValueError(f"{layout.root}: DVC cannot read the pipeline: {error}") from error


def changes(stage: PipelineStage) -> dict[str, str]:
    """What differs from the last run of a stage, and how, by path or parameter.

    Missing files are left out: the stage that makes them knows why.
    """
    found = {f"command of {stage.name}": "modified"} if stage.changed_stage() else {}
    for entry in [*stage.deps, *stage.outs]:
        for how in entry.workspace_status().values() if entry.exists else ():
            found |= how if isinstance(how, dict) else {entry.def_path: how}
    return found


def params_hash(layout: Layout) -> str:
    """SHA-256 of the parameters that the results of a profile depend on, in hexadecimal digits.

    These are the lists of rows, which all profiles share, and the profile's branch except `search`.
    Comments, order and other profiles do not matter.

    Raises:
        ValueError: params.yaml has no such branch.
    """
    tree = yaml.safe_load(layout.params.read_text(encoding="utf-8"))
    if layout.profile not in tree:
        raise ValueError(f"{layout.params.name}: {layout.profile}: missing")
    branch = tree[layout.profile]
    profiles = {key for key, value in tree.items() if "pretrained" in value}
    kept = {key: value for key, value in tree.items() if key not in {"profile", *profiles}}
    kept[layout.profile] = {key: value for key, value in branch.items() if key != "search"}
    if branch["pretrained"]["kind"] == "miniature":  # starts from the model of that profile
        kept["miniature"] = {key: tree["miniature"][key] for key in ("data", "pretrained")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_of(root: Path) -> tuple[str | None, list[str]]:
    """The last commit that changed SOURCES, and which of them differ from the commit checked out.

    None and no file where there is no git, no repository, or another one around the folder.
    """
    paths = ("--", *SOURCES, ":(exclude)*.md")
    try:
        commit = _git(root, "log", "-1", "--format=%H", *paths).strip()
        changed = _git(root, "diff", "--name-only", "--relative", "-z", "HEAD", *paths)
        new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", *paths)
    except (OSError, subprocess.CalledProcessError):
        return None, []
    files = sorted(filter(None, (changed + new).split("\0")))
    return (commit, files) if commit else (None, [])


def machine() -> str:
    """System, processor, cores and GPUs in words."""
    import torch

    system, processor = f"{platform.system()} {platform.machine()}", platform.processor()
    with suppress(OSError, TypeError):  # only Linux has this file, and only x86 the line
        info = Path("/proc/cpuinfo").read_text()
        processor = re.search(r"^model name\s*: (.*\S)", info, re.MULTILINE)[1]
    cores = f"{usable_cores()} core{'s' if usable_cores() > 1 else ''}"
    gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    return ", ".join([system, processor or platform.machine(), cores, *(gpus or ["no GPU"])])


def library_versions() -> dict[str, str]:
    """Versions of the direct requirements that are installed."""
    versions = {}
    for requirement in requires("carot-compendium") or []:
        if "extra ==" not in requirement:  # of the tests
            name = requirement.split("==")[0]
            with suppress(PackageNotFoundError):
                versions[name] = version(name)
    return versions


def _git(root: Path, *words: str) -> str:
    """What a git command says about a folder, whoever owns it."""
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
