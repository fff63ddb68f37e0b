"""Stage `notebook`: execute one notebook with papermill and keep the executed copy.

python -m carot_lib.stages.run_notebook --profile miniature --notebook 04_table1

Reads notebooks/<notebook>.ipynb; writes results/<profile>/notebooks/<notebook>.ipynb. Executed
twice, it gives the same bytes: what only tells when and where it ran is left out.
"""

import copy
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill

from carot_lib.command import read_command
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.schema import exit_on_bad_input

WIDGET = "application/vnd.jupyter.widget-view+json"


def run_notebook(layout: Layout, name: str) -> Path:
    """Execute and write the copy; returns its path.

    Raises:
        ValueError: there is no such notebook, or no cell of it is tagged `parameters`.
        papermill.PapermillExecutionError: a cell failed; the copy up to there is kept beside the
            place of the good one, as `<notebook>.failed.ipynb`.
    """
    source = layout.root / "notebooks" / f"{name}.ipynb"
    if not source.exists():
        raise ValueError(f"{source}: no such notebook")
    known = papermill.inspect_notebook(str(source))
    if "profile" not in known:
        raise ValueError(f"{source}: no cell tagged `parameters` sets `profile`")
    out = layout.results / "notebooks" / f"{name}.ipynb"
    failed = out.with_name(f"{name}.failed.ipynb")
    failed.parent.mkdir(parents=True, exist_ok=True)
    os.environ["TQDM_DISABLE"] = "1"  # a bar is no part of a page
    papermill.execute_notebook(
        str(source),
        str(failed),
        parameters={"profile": layout.profile},
        kernel_name="python3",
        progress_bar=False,
        record_timing=False,
        cwd=str(layout.root),
        extra_arguments=["--log-level=ERROR"],  # what a kernel warns of (its sockets) is no news
    )
    executed = reproducible(nbformat.read(failed, as_version=4))
    write_text(out, nbformat.writes(executed) + "\n")
    failed.unlink()
    return out


def reproducible(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy without times, random ids, warnings on standard error and paths of the machine.

    Widgets need a kernel and have random ids: the picture that a cell gives for one stays.
    """
    clean = copy.deepcopy(notebook)
    clean.metadata.pop("papermill", None)
    clean.metadata.pop("widgets", None)
    clean.metadata.get("language_info", {}).pop("version", None)
    for cell in clean.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
            tags.append("remove-cell")  # the page's title says the profile
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and _is_still(o)]
            for output in cell.outputs:
                _name_tables(output.get("data", {}), cell.id)
    return clean


def _is_still(output: nbformat.NotebookNode) -> bool:
    """Whether something is left of an output without its widget, which is taken away."""
    data = output.get("data", {})
    return data.pop(WIDGET, None) is None or set(data) > {"text/plain"}


def _name_tables(data: dict, name: str) -> None:
    """Name a styled table after its cell: pandas gives a random id, and an address as text."""
    if "pandas.io.formats.style.Styler" in data.get("text/plain", ""):
        data["text/plain"] = "a table"
        data["text/html"] = re.sub(r"\bT_[0-9a-f]{5}", f"T_{name}", data["text/html"])


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "notebook")
        try:
            run_notebook(arguments.layout, arguments.notebook)
        except papermill.PapermillExecutionError as error:
            kept = arguments.layout.results / "notebooks" / f"{arguments.notebook}.failed.ipynb"
            fault = f"{error.ename}: {' '.join(error.evalue.split())}"
            print(
                f"notebook {arguments.notebook}, cell {error.exec_count}: {fault} (see {kept})",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
