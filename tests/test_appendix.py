"""The rendered appendix: a small site of two notebooks, whole or not at all."""

import hashlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from carot_lib.layout import Layout
from carot_lib.stages.appendix import provenance, render

ROOT = Path(__file__).parents[1]
PIXEL = (  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)


def write(layout: Layout, name: str, title: str, text: str) -> None:
    """An executed notebook with a formula, a hidden cell and a picture."""
    cell = new_code_cell("print('seen')", id="02", metadata={"tags": ["hide-input"]})
    cell.outputs = [
        new_output("stream", name="stdout", text="seen\n"),
        new_output("display_data", {"image/png": PIXEL, "text/plain": "a figure"}),
    ]
    removed = new_code_cell("profile = 'secret'", id="01", metadata={"tags": ["remove-cell"]})
    cells = [new_markdown_cell(f"# {title}\n\n{text} $x^2$", id="00"), removed, cell]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    path = layout.results / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The project's settings with two notebooks in place of its own."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text("profile: miniature\n")
    (root / "carot_lib").symlink_to(ROOT / "carot_lib")
    shutil.copytree(ROOT / "appendix", root / "appendix")
    index = root / "appendix" / "index.md"
    ours = re.sub(r"^\d\d_\w+\n", "", index.read_text(), flags=re.MULTILINE)
    index.write_text(ours.replace(":numbered:\n\n", ":numbered:\n\n01_first\n02_second\n"))
    return Layout(root, "miniature")


def build(layout: Layout) -> subprocess.CompletedProcess:
    module = ["-m", "carot_lib.stages.appendix", "--profile", layout.profile]
    return subprocess.run(
        [sys.executable, *module], cwd=layout.root, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(layout: Layout) -> Path:
    write(layout, "01_first", "A first title", "Words of the first.")
    write(layout, "02_second", "A second title", "Words of the second.")
    write(layout, "02_second.failed", "A broken title", "Left by a failure.")
    done = build(layout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"appendix: {layout.site / 'index.html'}"
    return layout.site


def pages(site: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in site.glob("0*.html")}


def test_every_notebook_has_its_page_and_failed_ones_have_none(site: Path):
    found = pages(site)
    assert set(found) == {"01_first.html", "02_second.html"}
    assert "Words of the first." in found["01_first.html"]
    assert "Words of the second." in found["02_second.html"]


def test_a_page_shows_results_and_not_the_cells_that_are_to_be_removed(site: Path):
    page = pages(site)["01_first.html"]
    assert "seen" in page
    assert "secret" not in page
    (picture,) = re.findall(r'<img [^>]*src="(_images/[^"]+\.png)"', page)
    assert (site / picture).read_bytes()[:4] == b"\x89PNG"


def test_the_first_page_leads_to_all_and_says_what_made_the_numbers(site: Path, layout: Layout):
    page = (site / "index.html").read_text(encoding="utf-8")
    for name, title in (("01_first", "A first title"), ("02_second", "A second title")):
        assert f'href="{name}.html"' in page
        assert title in page
    assert "{{" not in page
    assert hashlib.sha256(b"profile: miniature\n").hexdigest()[:12] in page


class Sources(HTMLParser):
    """Collects what a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon"):
            self.found.append(values.get("href") or "")


def test_no_page_needs_the_network(site: Path):
    for path in site.glob("*.html"):
        sources = Sources()
        sources.feed(path.read_text(encoding="utf-8"))
        assert len(sources.found) > 5  # styles, scripts
        for source in sources.found:
            assert not re.match(r"(https?:)?//", source), f"{path.name} loads {source}"
            local = source.split("?")[0].split("#")[0]
            assert not local or (path.parent / local).exists(), f"{path.name} lacks {source}"
    formula = (site / "01_first.html").read_text(encoding="utf-8")
    assert re.search(r'<script[^>]* src="_static/[^"]*mathjax', formula, flags=re.IGNORECASE)


def test_nothing_of_the_making_is_published(site: Path, layout: Layout):
    assert not (site / ".doctrees").exists()
    assert not list(site.rglob("*.ipynb"))
    for path in site.rglob("*.html"):
        assert str(layout.root) not in path.read_text(encoding="utf-8")


def test_a_fault_that_sphinx_finds_leaves_the_old_site_alone(site: Path, layout: Layout):
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    stray = layout.results / "notebooks" / "03_stray.ipynb"
    write(layout, "03_stray", "In no table of contents", "Words.")
    done = build(layout)
    stray.unlink()
    assert done.returncode == 1
    assert "03_stray" in done.stderr  # Sphinx says which
    assert done.stderr.splitlines()[-1] == "the appendix was not built; Sphinx says why above"
    assert "Traceback" not in done.stderr
    after = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    assert after == before


def test_without_notebooks_it_says_what_to_run(tmp_path: Path):
    with pytest.raises(ValueError, match="notebooks holds no notebook: run `make repro`"):
        render(Layout(tmp_path, "miniature"))
    folder = tmp_path / "results" / "miniature" / "notebooks"
    folder.mkdir(parents=True)
    (folder / "01_first.failed.ipynb").touch()
    with pytest.raises(ValueError, match="holds no notebook"):
        render(Layout(tmp_path, "miniature"))


def test_the_provenance_is_of_this_environment(layout: Layout):
    lines = provenance(layout).splitlines()
    assert lines[:2] == ["| | |", "|---|---|"]
    rows = dict(line.strip("| ").split(" | ") for line in lines[2:])
    assert rows["Profile"] == "miniature"
    assert rows["Hash of params.yaml"] == hashlib.sha256(b"profile: miniature\n").hexdigest()[:12]
    assert rows["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert rows["torch"] == version("torch")


def test_the_projects_table_of_contents_lists_its_notebooks_in_order():
    index = (ROOT / "appendix" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d\d_\w+$", index, flags=re.MULTILINE)
    assert listed == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
