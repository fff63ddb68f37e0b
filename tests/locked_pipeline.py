"""A pipeline of DVC with its lock file, as if its stages had run."""

from contextlib import chdir
from pathlib import Path

from dvc.repo import Repo
from dvc.stage.serialize import to_lockfile

from carot_lib.files import write_json, write_text


def write_pipeline(root: Path, text: str, not_run: str = "") -> None:
    """Write dvc.yaml, and dvc.lock for all of its stages but one, whose results lie on disk."""
    write_text(root / "dvc.yaml", text)
    write_text(root / ".dvc" / "config", "[core]\n    no_scm = true\n    analytics = false\n")
    locked = {}
    with chdir(root), Repo() as repo, repo.lock:
        for stage in repo.stage.load_all("dvc.yaml"):
            if stage.name != not_run:
                stage.save(run_cache=False)
                locked |= to_lockfile(stage)
    write_json(root / "dvc.lock", {"schema": "2.0", "stages": locked})
