"""Executing notebooks: the same bytes twice, and a failure that spares the good copy."""

import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from shrunken_project import run

from carot_lib.layout import Layout
from carot_lib.stages.notebook import reproducible, run_notebook

ROOT = Path(__file__).parents[1]
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
TABLE = (
    "import pandas as pd\n"
    "pd.DataFrame({'x': [1.0, 2.0]}).style.highlight_max(props='font-weight: bold')"
)
NOISE = (
    "import sys, os\nprint('careful', file=sys.stderr)\n"
    "print(profile, figures, os.getcwd() == root)"
)


def write(root: Path, name: str, *cells: str, tags: tuple[str, ...] = ("parameters",)) -> Path:
    """A notebook of code cells behind the one that sets the profile."""
    first = new_code_cell(
        'profile = "nobody"\nfigures = None', metadata={"tags": list(tags)}, id="00"
    )
    rest = [new_code_cell(cell, id=f"{i:02}") for i, cell in enumerate(cells, start=1)]
    notebook = new_notebook(cells=[new_markdown_cell("# A title", id="title"), first, *rest])
    notebook.metadata["kernelspec"] = KERNEL
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").touch()
    (root / "carot_lib").symlink_to(ROOT / "carot_lib")
    return root


def execute(root: Path, name: str) -> subprocess.CompletedProcess:
    """As DVC does it: a process of its own, warnings shown."""
    command = ["-m", "carot_lib", "notebook", "--profile", "miniature", "--notebook", name]
    return run(root, "python", *command)


@pytest.fixture(scope="module")
def executed(project: Path) -> Path:
    """The copy of a notebook that went well."""
    write(project, "good", f"root = {str(project)!r}", NOISE, TABLE)
    done = execute(project, "good")
    assert done.returncode == 0, done.stderr
    return project / "results" / "miniature" / "notebooks" / "good" / "good.ipynb"


def outputs(path: Path) -> list[list]:
    notebook = nbformat.read(path, as_version=4)
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def test_the_copy_has_the_profile_and_what_the_cells_said(project: Path, executed: Path):
    # the cell `parameters`, the injected one, the root, the noise, the table
    *silent, noise, table = outputs(executed)
    assert silent == [[], [], []]
    # the kernel works in the project's folder; standard error is left out
    assert [(one.name, one.text) for one in noise] == [
        ("stdout", "miniature results/miniature/notebooks/good True\n")
    ]
    assert "font-weight: bold" in table[0].data["text/html"]
    assert table[0].data["text/plain"] == "a table"
    nbformat.validate(nbformat.read(executed, as_version=4))
    # nothing else is left among the results, and the source stays without outputs
    assert not list(executed.parent.glob("good.f*"))
    assert not list(executed.parent.glob(".*"))
    assert not any(outputs(project / "notebooks" / "good.ipynb"))


def test_a_failure_spares_the_good_copy_and_is_kept_apart_until_all_is_well(
    project: Path, executed: Path
):
    before, source = executed.read_bytes(), project / "notebooks" / "good.ipynb"
    good = source.read_text()
    write(project, "good", "print('so far')", "raise ValueError('no such\\ncolumn')", "print(3)")
    done = execute(project, "good")
    source.write_text(good)
    failed = executed.with_name("good.failed.ipynb")
    assert done.returncode == 1
    assert executed.read_bytes() == before
    # one line says which cell and why; the whole traceback stands in the copy
    said = f"notebook good, cell 4: ValueError: no such column (see {failed})"
    assert [line for line in done.stderr.splitlines() if "notebook" in line] == [said]
    assert "Traceback" not in done.stderr
    cells = outputs(failed)
    texts = [[one.get("text") or one.get("ename") for one in cell] for cell in cells]
    assert ["so far\n"] in texts
    assert ["ValueError"] in texts
    assert ["3\n"] not in texts
    executed.unlink()
    assert execute(project, "good").returncode == 0
    assert not failed.exists()
    assert executed.read_bytes() == before  # executed twice, it has the same bytes


@pytest.mark.parametrize("tags", [(), ("hide-input",)])
def test_no_notebook_or_one_without_parameters_is_refused(project: Path, tags: tuple[str, ...]):
    layout = Layout(project, "miniature")
    with pytest.raises(ValueError, match=r"notebooks/none\.ipynb: no such notebook"):
        run_notebook(layout, "none")
    write(project, "untagged", "print(profile)", tags=tags)
    said = r"untagged\.ipynb: no cell tagged `parameters` sets `profile`"
    with pytest.raises(ValueError, match=said):
        run_notebook(layout, "untagged")
    assert not layout.notebook("untagged").parent.exists()


def styled(number: str) -> str:
    return f'<style>#T_{number}_row0 {{}}</style><table id="T_{number}"><td id="T_{number}_x">1'


def test_a_copy_loses_what_tells_of_time_and_machine_and_keeps_the_rest():
    code = new_code_cell("x", id="04", execution_count=3, metadata={"tags": ["hide-input"]})
    code.metadata |= {"papermill": {"duration": 1.5}, "execution": {"iopub.execute": "2026"}}
    address = "<pandas.io.formats.style.Styler at 0x7f00>"
    code.outputs = [
        new_output("stream", name="stderr", text="a warning in /somewhere/x.py"),
        new_output("stream", name="stdout", text="a result"),
        new_output("execute_result", {"text/plain": address, "text/html": styled("1a2b3")}),
        new_output("display_data", {"text/plain": "T_1a2b3", "image/png": "QUJD"}),
    ]
    injected = new_code_cell("profile = 'x'", metadata={"tags": ["injected-parameters"]}, id="9f8e")
    notebook = new_notebook(cells=[new_markdown_cell("# A title", id="00"), injected, code])
    notebook.metadata = nbformat.from_dict(
        {
            "papermill": {"start_time": "now"},
            "language_info": {"name": "python", "version": "3.11.9"},
            "kernelspec": KERNEL,
        }
    )
    before = nbformat.writes(notebook)
    clean = reproducible(notebook)
    assert nbformat.writes(notebook) == before  # the original is left as it was
    assert clean.metadata == {
        "language_info": {"name": "python"},
        "kernelspec": KERNEL,
    }
    title, first, last = clean.cells
    assert title.source == "# A title"
    assert first.id == "injected-parameters"
    assert first.metadata.tags == ["injected-parameters", "remove-cell"]
    assert last.metadata == {"tags": ["hide-input"]}
    assert [one.get("name") for one in last.outputs] == ["stdout", None, None]
    assert last.outputs[1].data == {"text/plain": "a table", "text/html": styled("04")}
    assert last.outputs[2].data == {"text/plain": "T_1a2b3", "image/png": "QUJD"}


def test_a_copy_without_metadata_is_a_copy():
    notebook = new_notebook(cells=[new_code_cell("1", id="00")])
    assert nbformat.writes(reproducible(notebook)) == nbformat.writes(notebook)


def test_of_a_widget_the_copy_keeps_the_picture():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "b32a"}, "text/plain": "A()"}
    cell = new_code_cell("slider", id="01")
    cell.outputs = [
        new_output("display_data", view | {"image/png": "cGl4ZWxz"}),
        new_output("display_data", view),
        new_output("display_data", {"text/plain": "a word"}),
    ]
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"state": {"b32a": {}}}})
    clean = reproducible(notebook)
    assert [dict(output.data) for output in clean.cells[0].outputs] == [
        {"text/plain": "A()", "image/png": "cGl4ZWxz"},
        {"text/plain": "a word"},
    ]
    assert "widgets" not in clean.metadata
    assert "b32a" in nbformat.writes(notebook)  # the notebook itself is left alone
