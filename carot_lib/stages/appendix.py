"""Stage `appendix`: render the executed notebooks as a site and as one PDF, to be read offline.

Reads appendix/ and, in results/<profile>/, notebooks/ and provenance.json; writes site/<profile>/,
to be opened at index.html, and results/<profile>/appendix.pdf. Sphinx reads, numbers and resolves
references for both, so they agree. For the PDF it writes all pages as one, pandoc turns that into
Typst's markup by the filter appendix/typst.lua and the template appendix/pdf.typ, and Typst
typesets it. None of them needs a network.
"""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pypandoc
import typst
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from carot_lib.files import StageError, atomic_write
from carot_lib.layout import Layout
from carot_lib.report.provenance import Provenance, read_provenance

NOTEBOOKS = "[0-9][0-9]_*.ipynb"
LAB = "00_"  # the start page of JupyterLab: not a chapter
PACKAGES = ("torch", "open_clip_torch", "numpy", "matplotlib", "dvc")
PDF = "appendix.pdf"
PLAIN = {"html_theme": "basic", "html_theme_options": {}, "html_css_files": []}


def appendix(layout: Layout) -> None:
    """Render both or none, and print their paths.

    Raises:
        FileNotFoundError: the record of provenance, or a notebook's executed copy, is missing.
        ValueError: a notebook failed half-way.
        StageError: the pages have an error; standard error says which.
    """
    notebooks, record = executed_notebooks(layout), read_provenance(layout)
    with tempfile.TemporaryDirectory() as folder:
        source, site, pdf = (Path(folder) / name for name in ("source", "site", PDF))
        shutil.copytree(layout.root / "appendix", source)
        for path in notebooks:
            shutil.copy(path, source)
        index = source / "index.md"
        text = index.read_text(encoding="utf-8").replace("{{ provenance }}", title_table(record))
        index.write_text(text, encoding="utf-8")
        try:
            _run_sphinx(source, site, "html", {})
            _build_pdf(source, layout.results / "notebooks", pdf)
        except RuntimeError as error:
            raise StageError(f"the appendix was not built: {error}") from error
        shutil.copy(pdf, site)
        with atomic_write(layout.results / PDF) as temporary:
            shutil.copy(pdf, temporary)
        shutil.rmtree(layout.site, ignore_errors=True)
        shutil.copytree(site, layout.site)
    print(f"appendix: {layout.site / 'index.html'} and {layout.results / PDF}")


def executed_notebooks(layout: Layout) -> list[Path]:
    """The executed copies of all chapters, in order; ValueError if one failed or there is none."""
    names = [path.stem for path in sorted((layout.root / "notebooks").glob(NOTEBOOKS))]
    if not names:
        raise ValueError(f"{layout.root / 'notebooks'} holds no notebook")
    for name in names:
        failed = layout.notebook(name).with_name(f"{name}.failed.ipynb")
        if failed.exists():
            command = f"python -m carot_lib notebook --profile {layout.profile} --notebook {name}"
            raise ValueError(f"{failed}: it failed half-way; run `{command}` again")
    return [layout.notebook(name) for name in names if not name.startswith(LAB)]


def title_table(record: Provenance) -> str:
    """What the numbers were computed by, as a table."""
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


def _build_pdf(source: Path, figures: Path, out: Path) -> None:
    """Set all pages as one PDF; the same pages give the same bytes.

    A figure named fig-x is taken from x.pdf in a folder of `figures`, or else as on the site.
    """
    page = out.parent / "one_page"
    _run_sphinx(source, page, "singlehtml", PLAIN)
    for path in figures.glob("*/*.pdf"):  # Sphinx writes names with hyphens
        shutil.copy(path, page / f"fig-{path.name.replace('_', '-')}")
    pypandoc.convert_file(
        str(page / "index.html"),
        "typst",
        format="html+tex_math_single_backslash",
        outputfile=str(page / "index.typ"),
        extra_args=["--lua-filter", source / "typst.lua", "--template", source / "pdf.typ"],
        cworkdir=str(page),
    )
    try:
        typst.compile(page / "index.typ", output=out, ignore_system_fonts=True)
    except typst.TypstError as error:
        raise RuntimeError(f"Typst: {error}") from error


def _run_sphinx(source: Path, out: Path, builder: str, settings: Mapping[str, Any]) -> None:
    """Build pages; a warning, as of a reference without a target, is an error."""
    doctrees = out.with_name(f"{out.name}_doctrees")  # not among the pages
    with patch_docutils(source), docutils_namespace():
        app = Sphinx(
            source,
            source,
            out,
            doctrees,
            builder,
            confoverrides=dict(settings),
            status=None,
            warning=sys.stderr,
            warningiserror=True,
        )
        app.build()
    if app.statuscode:
        raise RuntimeError("see the messages of Sphinx above")
