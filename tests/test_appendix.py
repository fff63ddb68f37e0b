"""The rendered appendix: a small site of two notebooks and its PDF, both whole or not at all."""

import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pypdf import PdfReader

from carot_lib.layout import Layout
from carot_lib.report.provenance import Provenance
from carot_lib.report.styles import PAGE_HEIGHT, PAGE_WIDTH
from carot_lib.stages.appendix import appendix, executed_notebooks, title_table

ROOT = Path(__file__).parents[1]
PIXEL = (  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)
TABLE = (
    "<table><thead><tr><th>Method</th><th>ECE</th></tr></thead>"
    "<tbody><tr><th>ZS</th><td><strong>-0.1234</strong></td></tr></tbody></table>"
)
RECORD = Provenance(
    profile="miniature",
    commit="0123456789abcdef0123456789abcdef01234567",
    uncommitted=[],
    params="fedcba9876543210",
    date="2026-03-09",
    machine="Linux x86_64, A Processor, 2 cores, no GPU",
    python="3.11.7",
    libraries={"torch": "2.15.0", "open_clip_torch": "3.3.0", "numpy": "2.4.6"}
    | {"matplotlib": "3.11.2", "dvc": "3.67.1"},
    rows=["zs"],
    seeds=[0, 1],
    sets={},
    files={},
)


def shown(name: str, caption: str, mime: str, content: str, alt: str = "") -> dict:
    """A cell with hidden code that shows a figure or a table."""
    options = {"figure": {"name": name, "caption": caption}}
    if alt:
        options["image"] = {"alt": alt}
    metadata = {"tags": ["hide-input"], "mystnb": options}
    cell = new_code_cell("folded_code()", metadata=metadata)
    cell.outputs = [new_output("display_data", {mime: content, "text/plain": "plain"})]
    return cell


def write(layout: Layout, name: str, *cells: dict) -> Path:
    """An executed notebook behind its source."""
    removed = new_code_cell("profile = 'secret'", metadata={"tags": ["remove-cell"]})
    notebook = new_notebook(cells=[*cells[:1], removed, *cells[1:]])
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{number:02}"
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    path = layout.notebook(name)
    source = layout.root / "notebooks" / path.name
    for folder in (path.parent, source.parent):
        folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    source.touch()
    return path


def first() -> list[dict]:
    words = "$x^2$ and\n\n$$ y = \\frac{1}{2} x . $$ (eq-half)\n\nas {cite:t}`oh2023` say."
    return [
        new_markdown_cell(f"# A first title\n\n{words}"),
        shown("fig-two_words", "A vector figure.", "image/png", PIXEL, alt='A "dot"'),
        shown("tab-table1", "A table; see {numref}`fig-two_words`.", "text/html", TABLE),
    ]


def second() -> list[dict]:
    words = "See {numref}`tab-table1`, {numref}`fig-two_words`, {eq}`eq-half`, {doc}`01_first`."
    return [
        new_markdown_cell(f"# A second title\n\n{words}\n\n## A part of it\n\nMore."),
        new_code_cell("visible_code()"),
        shown("tab-verdicts", "Another table.", "text/html", TABLE),
        shown("fig-pixel", "A figure of pixels.", "image/png", PIXEL, alt="Another dot"),
    ]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The project's appendix with two notebooks in place of its own, and the lab's start."""
    layout = Layout(tmp_path_factory.mktemp("project"), "miniature")
    (layout.root / "carot_lib").symlink_to(ROOT / "carot_lib")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, layout.root)
    (layout.root / ".dvc").mkdir()
    (layout.root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    shutil.copytree(ROOT / "appendix", layout.root / "appendix")
    write(layout, "00_start", new_markdown_cell("# The lab starts here"))
    write(layout, "01_first", *first())
    write(layout, "02_second", *second())
    figures = layout.notebook("01_first").parent
    figure = Figure(figsize=(PAGE_WIDTH, PAGE_HEIGHT))
    figure.text(0.1, 0.5, "drawn as vectors", size=10)
    with mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(figures / "two_words.pdf", metadata={"CreationDate": None})
    (layout.results / "provenance.json").write_text(RECORD.model_dump_json())
    return layout


def build(layout: Layout) -> subprocess.CompletedProcess:
    module = ["-m", "carot_lib", "appendix", "--profile", layout.profile]
    return subprocess.run(
        [sys.executable, *module], cwd=layout.root, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(layout: Layout) -> Path:
    done = build(layout)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pdf = layout.results / "appendix.pdf"
    assert done.stdout == f"appendix: {layout.site / 'index.html'} and {pdf}\n"
    return layout.site


@pytest.fixture(scope="module")
def pdf(site: Path, layout: Layout) -> bytes:
    return (layout.results / "appendix.pdf").read_bytes()


def html(site: Path, name: str) -> str:
    """A page's article, without its menus."""
    page = (site / f"{name}.html").read_text(encoding="utf-8")
    return page[page.index("<article") : page.index("</article>")]


def words(pdf: bytes) -> str:
    """All the text of a PDF in one line."""
    text = " ".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages)
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_every_notebook_has_its_page_but_the_labs_start(site: Path):
    pages = {path.stem for path in site.glob("*.html")}
    assert pages == {"index", "01_first", "02_second", "references", "genindex", "search"}
    assert "A first title" in html(site, "01_first")
    assert "secret" not in html(site, "01_first")
    assert "folded_code" in html(site, "01_first")


def test_figures_tables_and_equations_have_numbers_by_chapter_and_captions(site: Path):
    numbers = {
        name: re.findall(r'class="caption-number">(.*?) ?<', html(site, name))
        for name in ("01_first", "02_second")
    }
    assert numbers == {
        "01_first": ["Figure 1.1", "Table 1.1"],
        "02_second": ["Table 2.1", "Figure 2.1"],
    }
    page = html(site, "01_first")
    assert 'class="eqno">(1.1)' in page
    # the caption of a table stands above it
    figure = page[page.index('id="tab-table1"') :]
    assert figure.index("<figcaption>") < figure.index("<table")


def test_references_lead_to_other_pages_by_their_numbers(site: Path):
    links = re.findall(r'href="([^"]*)"[^>]*>(?:<span[^>]*>)?([^<]*)<', html(site, "02_second"))
    assert [link for link in links if link[0].startswith("01_first")] == [
        ("01_first.html#tab-table1", "Table 1.1"),
        ("01_first.html#fig-two-words", "Figure 1.1"),
        ("01_first.html#equation-eq-half", "(1.1)"),
        ("01_first.html", "A first title"),
    ]
    assert "Changdae Oh" in html(site, "references")


def test_every_image_has_an_alternative_text(site: Path):
    alts = [re.findall(r'<img alt="(.*?)"', html(site, name)) for name in ("01_first", "02_second")]
    assert alts == [["A &quot;dot&quot;"], ["Another dot"]]


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


def test_nothing_of_the_making_is_published(site: Path, layout: Layout, pdf: bytes):
    assert not (site / ".doctrees").exists()
    assert not list(site.rglob("*.ipynb"))
    assert not list(site.rglob("*.lua"))
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert str(layout.root) not in text
    assert str(layout.root).encode() not in pdf
    assert tempfile.gettempdir().encode() not in pdf


def test_the_title_page_says_what_the_numbers_were_made_by(site: Path, pdf: bytes):
    title = PdfReader(BytesIO(pdf)).pages[0].extract_text().replace("\N{NO-BREAK SPACE}", " ")
    page = html(site, "index")
    for text in (page, " ".join(title.split())):
        for said in ("0123456789ab", "fedcba987654", "9 March 2026", "A Processor", "torch 2.15.0"):
            assert said in text
    assert "{{" not in page
    assert (site / "appendix.pdf").read_bytes() == pdf


def test_uncommitted_files_and_no_git_are_said():
    changed = RECORD.model_copy(update={"uncommitted": ["params.yaml"]})
    assert "`0123456789ab`, and files changed since: 1" in title_table(changed)
    assert "not under git" in title_table(RECORD.model_copy(update={"commit": None}))


def test_the_pdf_has_bookmarks_pages_and_a_title(pdf: bytes):
    reader = PdfReader(BytesIO(pdf))
    assert reader.metadata.title == "CaRot, reproduced"

    def titles(outline: list) -> list:
        return [titles(x) if isinstance(x, list) else x.title for x in outline]

    assert titles(reader.outline) == [
        "1. A first title",
        "2. A second title",
        ["2.1. A part of it"],
        "References",
    ]
    # contents and chapters follow the title on its page; the figure fills one of its own
    assert len(reader.pages) == 3


def test_the_pdf_has_the_numbers_of_the_site_vector_figures_and_no_folded_code(pdf: bytes):
    text = words(pdf)
    assert "Figure 1.1 A vector figure." in text
    assert "Table 1.1 A table; see Figure 1.1." in text
    assert "See Table 1.1, Figure 1.1, (1.1), A first title." in text
    assert "Figure 2.1 A figure of pixels." in text
    assert "−0.1234" in text  # a minus where the table has a hyphen
    assert "Changdae Oh" in text
    assert "drawn as vectors" in text
    assert "visible_code" in text
    assert "folded_code" not in text


def test_a_figure_of_the_size_of_a_page_is_not_scaled(pdf: bytes):
    sizes = []

    def visit(text: str, cm: list[float], tm: list[float], font: object, size: float) -> None:
        if "drawn as vectors" in text:
            sizes.append(size * abs(tm[3] * cm[3]))

    for page in PdfReader(BytesIO(pdf)).pages:
        page.extract_text(visitor_text=visit)
    assert sizes == [pytest.approx(10, rel=0.001)]


def test_the_links_of_the_pdf_lead_to_pages_of_it(pdf: bytes):
    reader = PdfReader(BytesIO(pdf))
    targets = []
    for number, page in enumerate(reader.pages):
        for annotation in page.get("/Annots", []):
            link = annotation.get_object()
            place = link["/Dest"] if "/Dest" in link else link["/A"]["/D"]
            if isinstance(place, str):
                place = reader.named_destinations[place].dest_array
            targets.append((number, reader.get_page_number(place[0].get_object())))
    assert len(targets) > 10  # contents, references and citations
    assert all(place is not None for _, place in targets)
    assert (0, 2) in targets  # the title page cites the paper, the references are on the last


def test_alternative_texts_are_in_the_pdf(pdf: bytes):
    objects = PdfReader(BytesIO(pdf))
    alts = {
        str(thing["/Alt"])
        for number in range(1, objects.trailer["/Size"])
        if isinstance(thing := objects.get_object(number), dict) and "/Alt" in thing
    }
    assert {'A "dot"', "Another dot"} <= alts


def test_the_same_results_give_the_same_pdf(layout: Layout, pdf: bytes):
    assert build(layout).returncode == 0
    assert (layout.results / "appendix.pdf").read_bytes() == pdf


def test_a_reference_that_leads_nowhere_leaves_the_old_site_and_pdf_alone(
    site: Path, layout: Layout
):
    def kept() -> dict[Path, bytes]:
        places = [*layout.site.rglob("*"), layout.results / "appendix.pdf"]
        return {path: path.read_bytes() for path in places if path.is_file()}

    before = kept()
    broken = write(layout, "03_third", new_markdown_cell("# Third\n\nSee {numref}`fig-nowhere`."))
    done = build(layout)
    broken.unlink()
    (layout.root / "notebooks" / broken.name).unlink()
    assert done.returncode == 1
    assert "fig-nowhere" in done.stderr
    said = "the appendix was not built: see the messages of Sphinx above"
    assert done.stderr.splitlines()[-1] == said
    assert "Traceback" not in done.stderr
    assert kept() == before


def test_a_notebook_that_failed_half_way_is_named(layout: Layout):
    failed = layout.notebook("02_second").with_name("02_second.failed.ipynb")
    failed.touch()
    with pytest.raises(ValueError, match=r"02_second\.failed\.ipynb: it failed half-way; run"):
        executed_notebooks(layout)
    failed.unlink()
    assert [path.stem for path in executed_notebooks(layout)] == ["01_first", "02_second"]


def test_a_notebook_that_was_not_run_is_said_with_its_stage(layout: Layout):
    source = layout.root / "notebooks" / "04_table1.ipynb"
    source.touch()
    done = build(layout)
    source.unlink()
    assert done.returncode == 2
    path = layout.notebook("04_table1")
    stage = "notebook@miniature-04_table1"
    assert done.stderr == f"{path} is missing: run `dvc repro {stage}`\n"


def test_without_a_record_or_notebooks_it_says_what_to_run(tmp_path: Path):
    empty = Layout(tmp_path, "miniature")
    with pytest.raises(ValueError, match="holds no notebook"):
        appendix(empty)
    write(empty, "01_first", *first())
    with pytest.raises(FileNotFoundError, match=r"provenance\.json is missing: run stage"):
        appendix(empty)
