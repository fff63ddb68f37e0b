"""A headless Chromium, and a JupyterLab on a copy of the notebooks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_server import Lab

ROOT = Path(__file__).parents[2]
KEPT = ("data", "models", "predictions", "evaluations", "carot_lib", "site")  # read, never written
FILES = ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml")
FILES += ("params.yaml", "dvc.yaml", "dvc.lock", "README.md")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Debian's Chromium driven by Playwright; a line says what is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as drivers:
        chromium = drivers.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with notebooks that may be saved and results that may be drawn anew."""
    if not (ROOT / "results" / "miniature" / "wise_ft_curves").is_dir():
        pytest.skip("the miniature has no results here: run `make repro`")
    for name in KEPT[:4]:
        if not (ROOT / name).is_dir():
            pytest.skip(f"{name}/ is not here: run `make repro`")
    root = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "results", ".jupyter"):
        shutil.copytree(ROOT / name, root / name)
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc")
    for name in KEPT:
        (root / name).symlink_to(ROOT / name)
    for name in FILES:
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="session")
def lab(copy: Path) -> Iterator[Lab]:
    lab = Lab(copy)
    yield lab
    lab.stop()
