"""Stage `notebook`: execute one notebook by papermill and keep the executed copy.

Reads notebooks/<notebook>.ipynb; writes the executed copy and its figures to
results/<profile>/notebooks/<notebook>/. Executed twice, it gives the same bytes: what only tells
when and where it ran is left out.
"""

import copy
import os
import re

import nbformat
import papermill
from nbformat import NotebookNode

from carot_lib.files import StageError, write_text
from carot_lib.layout import Layout

WIDGET = "application/vnd.jupyter.widget-view+json"


def run_notebook(layout: Layout, notebook: str) -> None:
    """Execute a notebook and write the copy.

    Raises:
        ValueError: there is no such notebook, or no cell of it is tagged `parameters`.
        StageError: a cell failed; the copy up to there is kept in place of the good one, as
            `<notebook>.failed.ipynb`.
    """
    source = layout.root / "notebooks" / f"{notebook}.ipynb"
    if not source.exists():
        raise ValueError(f"{source}: no such notebook")
    if not {"profile", "figures"} <= papermill.inspect_notebook(str(source)).keys():
        raise ValueError(f"{source}: no cell tagged `parameters` sets `profile` and `figures`")
    out = layout.notebook(notebook)
    failed = out.with_name(f"{notebook}.failed.ipynb")
    failed.parent.mkdir(parents=True, exist_ok=True)
    os.environ["TQDM_DISABLE"] = "1"  # a progress bar does not belong on a page
    try:
        papermill.execute_notebook(
            str(source),
            str(failed),
            parameters={
                "profile": layout.profile,
                "figures": out.parent.relative_to(layout.root).as_posix(),
            },
            kernel_name="python3",
            progress_bar=False,
            record_timing=False,
            cwd=str(layout.root),
            extra_arguments=["--log-level=ERROR"],  # a kernel's warnings about its sockets
        )
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {' '.join(error.evalue.split())}"
        where = f"notebook {notebook}, cell {error.exec_count}"
        raise StageError(f"{where}: {reason} (see {failed})") from None
    executed = reproducible(nbformat.read(failed, as_version=4))
    write_text(out, nbformat.writes(executed) + "\n")
    failed.unlink()


def reproducible(notebook: NotebookNode) -> NotebookNode:
    """A copy without times, random ids, warnings on standard error and paths of the machine.

    Widgets need a kernel and have random ids: only the picture that a cell gives for one stays.
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
            tags.append("remove-cell")  # the title page names the profile
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and _is_still(o)]
        for data in (output.get("data", {}) for output in cell.outputs):
            # pandas gives a styled table a random id, and says its address
            if "pandas.io.formats.style.Styler" in data.get("text/plain", ""):
                data["text/plain"] = "a table"
                data["text/html"] = re.sub(r"\bT_[0-9a-f]{5}", f"T_{cell.id}", data["text/html"])
    return clean


def _is_still(output: NotebookNode) -> bool:
    """Whether something is left of an output without its widget, which is removed."""
    data = output.get("data", {})
    return data.pop(WIDGET, None) is None or set(data) > {"text/plain"}
