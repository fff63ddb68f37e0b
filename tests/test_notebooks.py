"""The notebooks as they are stored: no results, little code, one parameter, one question each."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbstripout import strip_output

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {
    path: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
CODE = [cell for one in NOTEBOOKS.values() for cell in one.cells if cell.cell_type == "code"]
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


def test_they_are_valid_and_their_cells_are_named_by_notebook_and_position():
    assert len(NOTEBOOKS) >= 11
    for path, notebook in NOTEBOOKS.items():
        nbformat.validate(notebook)
        number = path.stem.split("_")[0]
        ids = [cell.id for cell in notebook.cells]
        assert ids == [f"{number}-{place:02}" for place in range(len(ids))]


def test_they_are_stored_without_results_and_nbstripout_would_change_nothing():
    for path, notebook in NOTEBOOKS.items():
        stored = path.read_text(encoding="utf-8")
        copy = nbformat.read(path, as_version=4)
        options = {"keep_output": False, "keep_count": False, "keep_id": True}
        stripped = strip_output(copy, **options, extra_keys=TRACES)
        assert nbformat.writes(stripped) + "\n" == stored, path.name
        assert notebook.metadata.kernelspec.name == "python3"  # any of them
        assert "version" not in notebook.metadata.language_info


def test_each_starts_with_its_only_title_and_says_what_it_is_about():
    for path, notebook in NOTEBOOKS.items():
        texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        assert notebook.cells[0].source == texts[0], path.name
        title, empty, *rest = texts[0].splitlines()
        titles = [line for text in texts for line in text.splitlines() if line.startswith("# ")]
        assert titles == [title], path.name
        assert not empty
        assert len(" ".join(rest)) > 80, path.name


def test_the_parameters_of_each_are_the_profile_and_the_folder_of_its_figures():
    for notebook in NOTEBOOKS.values():
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        profile, figures = code[0].source.splitlines()
        assert profile == 'profile = "miniature"'
        assert figures.startswith("figures = None  # ")
        tagged = [cell.id for cell in code if "parameters" in cell.metadata.get("tags", [])]
        assert tagged == [code[0].id]
        assert "remove-cell" in code[0].metadata.tags


def test_cells_are_short_define_nothing_and_find_files_by_the_layout():
    for cell in CODE:
        tree = ast.parse(cell.source)
        # what has a name and a body belongs into carot_lib, where it is tested
        made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node.name for node in ast.walk(tree) if isinstance(node, made)], cell.id
        # neither a path of one machine nor one that fits one working directory only
        constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        texts = [value for value in constants if isinstance(value, str)]
        assert not [t for t in texts if t.startswith(("/", "..", "results/", "data/"))], cell.id
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imported = sum(node.end_lineno - node.lineno + 1 for node in imports)
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) - imported <= LONGEST, cell.id


def test_ruff_finds_no_problem():
    command = [sys.executable, "-m", "ruff", "check", "notebooks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def shows(cell: nbformat.NotebookNode) -> str | None:
    """What a cell with hidden code shows, `fig` or `tab`; None if it only prepares something."""
    tags = cell.metadata.get("tags", [])
    if "hide-input" not in tags or "remove-cell" in tags:
        return None
    if re.search(r"\b(save|save_figure)\(figure", cell.source):
        return "fig"
    last = ast.parse(cell.source).body[-1]
    table = re.match(r"styled\(|shown\.set_table_styles\(|.*\.style\.", ast.unparse(last))
    return "tab" if table or isinstance(last, ast.If) else None


def test_every_figure_and_table_has_a_name_a_caption_and_an_alternative_text():
    for cell in CODE:
        given = cell.metadata.get("mystnb")
        if kind := shows(cell):
            assert given["figure"]["name"].startswith(f"{kind}-"), cell.id
        if given:
            texts = [given["figure"]["caption"]]
            if given["figure"]["name"].startswith("fig-"):
                texts.append(given["image"]["alt"])
            for text in texts:  # each can be read alone
                assert len(text) > 40, cell.id
                assert text.endswith("."), cell.id


def test_a_saved_figure_is_named_after_its_file():
    # by that name the PDF finds the vectors
    for cell in CODE:
        for file in re.findall(r"\bsave(?:_figure)?\(figure,.*\"(\w+)\"\)", cell.source):
            assert cell.metadata["mystnb"]["figure"]["name"] == f"fig-{file}"


def test_names_are_given_once_and_every_reference_has_its_name():
    given = [cell.metadata["mystnb"] for cell in CODE if "mystnb" in cell.metadata]
    names = [one["figure"]["name"] for one in given]
    assert len(names) == len(set(names))
    for path in NOTEBOOKS:
        used = re.findall(r"\{numref\}`([\w-]+)`", path.read_text(encoding="utf-8"))
        assert set(used) <= set(names), path.name
