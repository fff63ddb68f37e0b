"""Stage `appendix`: render the executed notebooks as a site and as one PDF, for reading offline.

python -m carot_lib.stages.appendix --profile miniature

Reads appendix/, and notebooks/, figures/ and provenance.json of results/<profile>/; writes
site/<profile>/, to be opened at index.html, and results/<profile>/appendix.pdf.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from carot_lib.command import read_command
from carot_lib.files import atomic_write
from carot_lib.layout import Layout
from carot_lib.report.provenance import Provenance, read_provenance
from carot_lib.report.rendering import build_pdf, build_site
from carot_lib.schema import exit_on_bad_input

NOTEBOOKS = "[0-9][0-9]_*.ipynb"
LAB = "00_"  # the start of JupyterLab: no page of its own
PACKAGES = ("torch", "open_clip_torch", "numpy", "matplotlib", "dvc")
PDF = "appendix.pdf"


def render(layout: Layout) -> tuple[Path, Path]:
    """Build both or none; returns the page to open and the PDF.

    Raises:
        FileNotFoundError: the record of provenance, or a notebook's executed copy, is missing.
        ValueError: a notebook failed half way.
        RuntimeError: a fault in the pages; what it is stands on standard error.
    """
    notebooks, record = executed_notebooks(layout), read_provenance(layout)
    with tempfile.TemporaryDirectory() as folder:
        source, site, pdf = (Path(folder) / name for name in ("source", "site", PDF))
        shutil.copytree(layout.root / "appendix", source)
        for path in notebooks:
            shutil.copy(path, source)
        index = source / "index.md"
        text = index.read_text(encoding="utf-8")
        index.write_text(text.replace("{{ provenance }}", title_table(record)), encoding="utf-8")
        build_site(source, site)
        build_pdf(source, layout.results / "figures", pdf)
        shutil.copy(pdf, site)
        with atomic_write(layout.results / PDF) as temporary:
            shutil.copy(pdf, temporary)
        shutil.rmtree(layout.site, ignore_errors=True)
        shutil.copytree(site, layout.site)
    return layout.site / "index.html", layout.results / PDF


def executed_notebooks(layout: Layout) -> list[Path]:
    """Where the copies of all notebooks lie but the lab's start, in the order of their numbers.

    Raises:
        ValueError: one failed half way, or the project has none.
    """
    folder = layout.results / "notebooks"
    for failed in sorted(folder.glob("*.failed.ipynb")):
        name = failed.name.removesuffix(".failed.ipynb")
        command = f"python -m carot_lib.stages.run_notebook --profile {layout.profile}"
        raise ValueError(f"{failed}: it failed half way; run `{command} --notebook {name}` again")
    names = [path.name for path in sorted((layout.root / "notebooks").glob(NOTEBOOKS))]
    if not names:
        raise ValueError(f"{layout.root / 'notebooks'} holds no notebook")
    return [folder / name for name in names if not name.startswith(LAB)]


def title_table(record: Provenance) -> str:
    """What the numbers were made by, as a table."""
    changed = f", and files changed since: {len(record.uncommitted)}" if record.uncommitted else ""
    libraries = (f"{name} {record.libraries[name]}" for name in PACKAGES)
    rows = {
        "Profile": record.profile,
        "Commit": f"`{record.commit[:12]}`{changed}" if record.commit else "not under git",
        "Parameters": f"`{record.params[:12]}`",
        "Run on": f"{record.date:%d %B %Y}".lstrip("0"),
        "Machine": record.machine,
        "Software": ", ".join([f"Python {record.python}", *libraries]),
        "Seeds": ", ".join(map(str, record.seeds)),
    }
    lines = (f"* - {key}\n  - {value}" for key, value in rows.items())
    return "\n".join(["```{list-table}", *lines, "```"])


if __name__ == "__main__":
    with exit_on_bad_input():
        try:
            page, pdf = render(read_command(__doc__).layout)
        except RuntimeError as error:
            print(f"the appendix was not built: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        print(f"appendix: {page} and {pdf}")
