"""A copy of the project with a world of a few pictures and steps, for a real `dvc repro`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PARTS = ("carot_lib", "notebooks", "appendix", "data", "params.yaml", "dvc.yaml", ".dvc")
# notebook 07 compares the verdicts in these two profiles
REGIMES = [
    f"results/{profile}/tables/replication.csv"
    for profile in ("miniature", "miniature_underconfident")
]
GENERATED = shutil.ignore_patterns(
    *("prepared", "listed", "checked", "imagenet", "folders"),
    *("cache", "tmp", "__pycache__", "config.local"),
)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GOMP_SPINCOUNT": "10000",
    "PYTHONWARNINGS": "default",
}
RUNS = ["zs", "ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls", "carot"]


def make_project(root: Path) -> Path:
    """A copy with the shrunken world, as a source archive: without a git repository around it."""
    for part in (*PARTS, ".dvcignore", *REGIMES):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=GENERATED)
        else:
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / part)
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    world = yaml.safe_load((root / "data" / "miniature.yaml").read_text())
    for drawn in world["sets"].values():
        drawn["images_per_class"] = 3
    write_yaml(root / "data" / "miniature.yaml", world)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    scale = json.loads(json.dumps(tree["miniature"]))  # without aliases into other profiles
    scale["data"]["subset_size"] = 5
    scale["pretrained"] |= {"steps": 4, "batch_size": 32, "warmup_steps": 1}
    scale["training"] |= {"epochs": 1, "images_per_class": 2, "validate_every": 2}
    scale["runs"]["carot"]["update_every"] = 2
    scale["runs"]["carot_update_2x"]["update_every"] = 4
    scale["evaluation"]["bootstrap"]["resamples"] = 50
    write_yaml(root / "params.yaml", tree | {"seeds": [0], "miniature": scale})
    return root


def write_yaml(path: Path, tree: dict) -> None:
    """Write a YAML file in the order of its keys."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def run(root: Path, *words: str) -> subprocess.CompletedProcess:
    """Run a command in the project, whatever its exit code."""
    return subprocess.run(
        words, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def repro(root: Path) -> subprocess.CompletedProcess:
    """Run `dvc repro`, which must succeed."""
    done = run(root, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def change(root: Path, *keys: str, value: object) -> None:
    """Set one number of the copy's params.yaml."""
    path = root / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    write_yaml(path, tree)


def changed_stages(root: Path) -> set[str]:
    """The stages that `dvc status` would run again, but for the one that always runs."""
    status = json.loads(run(root, "dvc", "status", "--json").stdout)
    return {name for name, why in status.items() if why != ["always changed"]}
