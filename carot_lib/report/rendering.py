"""From a folder of MyST pages and executed notebooks to a site, and to one typeset PDF.

Sphinx reads, numbers and resolves references for both, so they agree. For the PDF it writes all
pages as one, pandoc turns that into Typst's markup by the filter appendix/typst.lua and the
template appendix/pdf.typ, and Typst sets it. None of them needs a network.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pypandoc
import typst
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

PLAIN = {"html_theme": "basic", "html_theme_options": {}, "html_css_files": []}


def build_site(source: Path, out: Path) -> None:
    """Write a page for each page and notebook, to be opened at index.html.

    Args:
        source: with conf.py.
        out: an empty folder or none.

    Raises:
        RuntimeError: Sphinx found a fault, a reference that leads nowhere for example; it is on
            standard error.
    """
    _run_sphinx(source, out, "html", {})
    shutil.rmtree(out / ".doctrees", ignore_errors=True)


def build_pdf(source: Path, figures: Path, out: Path) -> None:
    """Set all pages as one PDF; the same pages give the same bytes.

    A figure named fig-x is drawn from figures/x.pdf, if there is one, and else as on the site.

    Args:
        source: with conf.py, typst.lua and pdf.typ.
        figures: vector figures.
        out: the PDF.

    Raises:
        RuntimeError: Sphinx, pandoc or Typst found a fault.
    """
    page = out.parent / "one_page"
    _run_sphinx(source, page, "singlehtml", PLAIN)
    for path in figures.glob("*.pdf"):  # Sphinx writes names with hyphens
        shutil.copy(path, page / f"fig-{path.name.replace('_', '-')}")
    pypandoc.convert_file(
        str(page / "index.html"),
        "typst",
        format="html+tex_math_single_backslash",
        outputfile=str(page / "index.typ"),
        extra_args=[
            "--standalone",
            f"--lua-filter={source / 'typst.lua'}",
            f"--template={source / 'pdf.typ'}",
        ],
        cworkdir=str(page),
    )
    try:
        typst.compile(page / "index.typ", output=out, ignore_system_fonts=True)
    except typst.TypstError as error:
        raise RuntimeError(f"Typst: {error}") from error


def _run_sphinx(source: Path, out: Path, builder: str, settings: Mapping[str, Any]) -> None:
    with patch_docutils(source), docutils_namespace():
        app = Sphinx(
            source,
            source,
            out,
            out / ".doctrees",
            builder,
            confoverrides=dict(settings),
            status=None,
            warning=sys.stderr,
            warningiserror=True,
        )
        app.build()
    if app.statuscode:
        raise RuntimeError("Sphinx says why above")
