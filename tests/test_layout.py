"""Where everything lies: names that dvc.yaml knows too, and the project's folder from anywhere."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from carot_lib import layout as layout_module
from carot_lib.layout import Layout, find_root

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
HOME = Layout(Path("/anywhere"), "miniature")


def written(layout: Layout, run: str = "ft", seed: int = 3) -> dict[str, Path]:
    """Every path that a stage writes."""
    return {
        "listed": layout.listed.parent,
        "checked": layout.checked,
        "data": layout.data,
        "pretrained": layout.pretrained,
        "model": layout.model(run, seed),
        "live": layout.live(run, seed),
        "predictions": layout.predictions(run, seed, "id_val"),
        "evaluation": layout.evaluation(run, seed),
        "summary": layout.summary(run, seed),
        "results": layout.results,
        "tables": layout.tables,
        "curve": layout.wise_ft_curve(run, seed),
        "notebook": layout.notebook("04_table1").parent,
        "site": layout.site,
    }


def outs(stage: dict) -> list[str]:
    listed = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


@pytest.mark.parametrize("name", STAGES)
def test_dvc_looks_for_what_a_stage_writes_where_it_writes_it(name: str):
    words = {"profile": "miniature", "run": "ft", "seed": "3", "name": "04_table1"}
    places = written(HOME)
    places |= {
        "checked": HOME.checked.parent,  # the report and what the data stage needs of it
        "zero-shot": HOME.model("zs", 3),
        "mixed": HOME.model("wise_ft", 3),
        "predicted": HOME.predictions("ft", 3, "id_val").parent,
    }
    known = [path.relative_to(HOME.root) for path in places.values()]
    for out in outs(STAGES[name]):
        path = Path(re.sub(r"\$\{item\.(\w+)\}", lambda match: words[match[1]], out))
        assert any(path == place or place in path.parents for place in known), out


names = st.text("abc_", min_size=1, max_size=4)


@given(names, names, st.integers(0, 20), st.integers(0, 20))
def test_no_two_runs_or_seeds_share_a_file(run: str, other: str, seed: int, second: int):
    per_run = ("model", "predictions", "evaluation")
    first, again = written(HOME, run, seed), written(HOME, other, second)
    for name in per_run:
        assert (first[name] == again[name]) == ((run, seed) == (other, second))


def test_the_profiles_share_no_file():
    other = written(Layout(HOME.root, "imagenet"))
    for name, path in written(HOME).items():
        assert path != other[name]
        assert "miniature" in path.parts


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "carot_lib" / "stages").mkdir(parents=True)
    (root / "notebooks" / "deep").mkdir(parents=True)
    (root / "params.yaml").touch()
    return root


@pytest.mark.parametrize("below", [".", "notebooks", "notebooks/deep", "carot_lib/stages"])
def test_the_root_is_found_from_any_folder_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, below: str
):
    monkeypatch.chdir(project / below)
    assert find_root() == project


def test_the_nearest_project_is_taken(project: Path, monkeypatch: pytest.MonkeyPatch):
    inner = project / "notebooks" / "deep"
    (inner / "carot_lib").mkdir()
    (inner / "params.yaml").touch()
    monkeypatch.chdir(inner / "carot_lib")
    assert find_root() == inner


@pytest.mark.parametrize("stray", ["params.yaml", "carot_lib/x.py"])
def test_half_a_project_is_none(project: Path, monkeypatch: pytest.MonkeyPatch, stray: str):
    folder = project / "notebooks" / "deep"
    (folder / stray).parent.mkdir(exist_ok=True)
    (folder / stray).touch()
    monkeypatch.chdir(folder)
    assert find_root() == project


def test_elsewhere_the_installed_package_tells_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert find_root() == ROOT


def test_no_project_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout_module, "__file__", str(tmp_path / "carot_lib" / "layout.py"))
    with pytest.raises(FileNotFoundError, match=r"no params\.yaml in .* or any folder above it"):
        find_root()
