"""Stage `provenance`: record what made the results, beside them.

python -m carot_lib.stages.provenance --profile miniature

Reads dvc.lock, params.yaml, data/prepared/<profile>/, results/<profile>/ and git; writes
results/<profile>/provenance.json, which `carot_lib.report.provenance` describes. DVC runs it again
when a result, or what one was made from, has other bytes. So a clone that computes the same keeps
the record of the first run; day and machine are the only parts that another run may change.
"""

import datetime
import hashlib
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

from carot_lib.command import read_command
from carot_lib.data.datasets import read_set, usable_cores
from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.report.provenance import (
    FileRecord,
    Provenance,
    SetRecord,
    StageRecord,
    params_hash,
    read_lock,
    record_path,
)
from carot_lib.schema import exit_on_bad_input

CODE = ("carot_lib", "notebooks")
SOURCES = (*CODE, "data", "params.yaml", "dvc.yaml", "requirements.txt", ":(exclude)*.md")


def provenance(layout: Layout) -> Provenance:
    """Write and return the record of a profile.

    Raises:
        FileNotFoundError: data or results are not there yet; the message says what to run.
    """
    rows, files, stages = load_rows(layout), {}, {}
    own = str(record_path(layout).relative_to(layout.root))
    for stage in read_lock(layout).values():
        if own in stage.reads or own in stage.writes:  # the rendered appendix shows the record
            continue
        for out in sorted(stage.writes):
            path = layout.root / out
            if layout.results in path.parents and path.exists():
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                name = str(path.relative_to(layout.results))
                files[name] = FileRecord(sha256=digest, stage=stage.name)
                inputs = {p: h for p, h in stage.reads.items() if Path(p).parts[0] not in CODE}
                stages[stage.name] = StageRecord(command=stage.command, reads=inputs)
    commit, uncommitted = commit_of(layout.root)
    made = Provenance(
        profile=layout.profile,
        commit=commit,
        uncommitted=uncommitted,
        params=params_hash(layout),
        date=datetime.datetime.now(datetime.UTC).date(),
        machine=machine(),
        python=platform.python_version(),
        libraries=libraries(),
        rows=rows.rows,
        seeds=rows.seeds,
        sets=sets(layout),
        files=files,
        stages=stages,
    )
    write_text(record_path(layout), made.model_dump_json(indent=1) + "\n")
    return made


def sets(layout: Layout) -> dict[str, SetRecord]:
    """Every prepared set that is trained on or predicted."""
    found = {}
    for name in ("train", *load_evaluation(layout).datasets):
        one = read_set(layout.data, name)
        found[name] = SetRecord(
            images=len(one.labels), classes=len(one.class_names), fingerprint=one.fingerprint
        )
    return found


def commit_of(root: Path) -> tuple[str | None, list[str]]:
    """The last commit that changed SOURCES, and which of them differ from the commit checked out.

    Args:
        root: the project's folder.

    Returns:
        None and no file where there is no git, no repository, or another one around the folder.
    """
    try:
        commit = _git(root, "log", "-1", "--format=%H", "--", *SOURCES).strip()
        changed = _git(root, "diff", "--name-only", "--relative", "-z", "HEAD", "--", *SOURCES)
        new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return None, []
    if not commit:
        return None, []
    return commit, sorted(filter(None, (changed + new).split("\0")))


def machine() -> str:
    """System, processor, cores and GPUs in words."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux alone has this file, and x86 alone the line
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(x for x in lines if x.startswith("model name")).split(": ")[1].strip()
    cores = usable_cores()
    devices = range(torch.cuda.device_count())
    gpus = [torch.cuda.get_device_name(device) for device in devices] or ["no GPU"]
    system = f"{platform.system()} {platform.machine()}"
    return ", ".join([system, processor, f"{cores} core{'s' if cores > 1 else ''}", *gpus])


def libraries() -> dict[str, str]:
    """Versions of the direct requirements that are installed."""
    found = {}
    for requirement in requires("carot-compendium") or []:
        name = requirement.split("==")[0]
        with suppress(PackageNotFoundError):  # where nothing is tested some are not needed
            found[name] = version(name)
    return found


def _git(root: Path, *words: str) -> str:
    """What a git command says about a folder, whoever owns it."""
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    with exit_on_bad_input():
        provenance(read_command(__doc__).layout)
