"""The notebooks as they are stored: no results, little code, one parameter, one question each."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbstripout import strip_output

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRACES = [  # of who looked at it and when
    "metadata.signature",
    "metadata.widgets",
    "metadata.papermill",
    "cell.metadata.collapsed",
    "cell.metadata.ExecuteTime",
    "cell.metadata.execution",
    "cell.metadata.heading_collapsed",
    "cell.metadata.hidden",
    "cell.metadata.papermill",
    "cell.metadata.scrolled",
]
LONGEST = 15  # lines of a cell, imports not counted

pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_it_is_a_valid_notebook_whose_cells_have_names_of_their_own(path: Path):
    notebook = read(path)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    number = path.stem.split("_")[0]
    assert ids == [f"{number}-{place:02}" for place in range(len(ids))]


def test_it_is_stored_without_results(path: Path):
    for cell in code(path):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_nbstripout_would_change_nothing(path: Path):
    stripped = strip_output(
        read(path), keep_output=False, keep_count=False, keep_id=True, extra_keys=TRACES
    )
    assert nbformat.writes(stripped) == nbformat.writes(read(path))
    assert nbformat.writes(stripped) + "\n" == path.read_text(encoding="utf-8")


def test_it_starts_with_a_title_and_says_what_it_is_about(path: Path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title, empty, *rest = first.source.splitlines()
    assert title.startswith("# ")
    assert not empty
    assert len(" ".join(rest)) > 80


def test_it_has_one_title(path: Path):
    texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    titles = [line for text in texts for line in text.splitlines() if line.startswith("# ")]
    assert len(titles) == 1


def test_its_one_parameter_is_the_profile(path: Path):
    tagged = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]
    assert [cell.source for cell in tagged] == ['profile = "miniature"']
    assert code(path)[0] == tagged[0]
    assert "remove-cell" in tagged[0].metadata.tags


def test_it_defines_nothing(path: Path):
    # what has a name and a body lives in carot_lib, where it is tested
    made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for cell in code(path):
        assert not [
            node.name for node in ast.walk(ast.parse(cell.source)) if isinstance(node, made)
        ]


def test_its_cells_are_short(path: Path):
    for cell in code(path):
        imported = [
            line
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, node.end_lineno + 1)
        ]
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) - len(imported) <= LONGEST, cell.id


def test_it_runs_in_any_python(path: Path):
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert "version" not in metadata["language_info"]


def test_it_finds_its_files_by_the_layout(path: Path):
    # neither a path of this machine nor one that fits one working directory only
    for cell in code(path):
        strings = [
            node.value
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if text.startswith(("/", "..", "results/", "data/"))]


def test_ruff_finds_no_fault(path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def shows(cell: nbformat.NotebookNode) -> str | None:
    """What a cell with hidden code shows, a `fig` or a `tab`; those that only prepare show none."""
    tags = cell.metadata.get("tags", [])
    if "hide-input" not in tags or "remove-cell" in tags:
        return None
    if re.search(r"\b(save|save_figure)\(figure", cell.source):
        return "fig"
    last = ast.parse(cell.source).body[-1]
    table = re.match(r"styled\(|shown\.set_table_styles\(|.*\.style\.", ast.unparse(last))
    return "tab" if table or isinstance(last, ast.If) else None


def test_every_figure_and_table_has_a_name_and_a_caption_that_can_be_read_alone(path: Path):
    for cell in code(path):
        if kind := shows(cell):
            given = cell.metadata.get("mystnb", {})
            assert given["figure"]["name"].startswith(f"{kind}-"), cell.id
            assert len(given["figure"]["caption"]) > 40, cell.id
            assert given["figure"]["caption"].endswith("."), cell.id


def test_every_figure_has_an_alternative_text(path: Path):
    for cell in code(path):
        given = cell.metadata.get("mystnb", {})
        if given and given["figure"]["name"].startswith("fig-"):
            assert len(given["image"]["alt"]) > 40, cell.id
            assert given["image"]["alt"].endswith("."), cell.id


def test_a_saved_figure_is_named_after_its_file(path: Path):
    # by that name the PDF finds the vectors
    for cell in code(path):
        for file in re.findall(r"\bsave(?:_figure)?\(figure,.*\"(\w+)\"\)", cell.source):
            assert cell.metadata["mystnb"]["figure"]["name"] == f"fig-{file}"


def test_names_are_given_once_and_every_reference_has_its_name(path: Path):
    names = [
        cell.metadata["mystnb"]["figure"]["name"]
        for other in PATHS
        for cell in code(other)
        if "mystnb" in cell.metadata
    ]
    assert len(names) == len(set(names))
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\{numref\}`([\w-]+)`", text)) <= set(names)
