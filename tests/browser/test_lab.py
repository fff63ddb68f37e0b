"""JupyterLab as a person uses it: it opens, runs and follows the slider."""

import re
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_server import Lab
from PIL import Image

pytestmark = [
    pytest.mark.browser,
    # pytest names objects that Playwright leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SLOW = 300_000  # ms: a busy machine
ANOTHER_PICTURE = "old => document.querySelector('img.widget-image').src !== old"


@pytest.fixture
def page(browser, lab: Lab) -> Iterator:
    """A page that is logged in, with all that it complained of at hand."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(SLOW)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    page.close()


def open_notebook(page, lab: Lab, name: str) -> None:
    """Open a notebook and wait for its kernel; a question for the kernel would stop it here."""
    page.goto(re.sub(r"[^/]+\.ipynb", f"{name}.ipynb", lab.address))
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for()
    page.get_by_text(re.compile(r"Python 3 \(ipykernel\) \| Idle")).wait_for()


def run_all(page) -> None:
    """Run > Run All Cells, and wait for the end."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    cells = page.locator(".jp-NotebookPanel:visible .jp-CodeCell .jp-InputPrompt")
    last = cells.nth(cells.count() - 1)
    deadline = time.monotonic() + SLOW / 1000
    while not re.fullmatch(r"\[\d+\]:", last.inner_text().strip()):
        assert time.monotonic() < deadline, "the last cell did not end"
        page.wait_for_timeout(100)
    fault = page.locator(".jp-NotebookPanel:visible [data-mime-type*='stderr']")
    assert fault.all_inner_texts() == []


def test_the_start_notebook_opens_and_runs(page, lab: Lab):
    page.goto(lab.address)
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for()
    print(f"from make lab to an open notebook: {time.monotonic() - lab.started:.1f} s")
    assert "notebooks/00_start.ipynb" in lab.address
    page.get_by_role("heading", name="Start here").wait_for()
    page.get_by_text(re.compile(r"Python 3 \(ipykernel\) \| Idle")).wait_for()
    run_all(page)
    table = page.locator(".jp-OutputArea-output table")
    assert "predict" in table.inner_text()
    assert page.locator(".jp-Dialog").count() == 0
    page.get_by_role("link", name="01_world").click()
    page.get_by_role("heading", name="The world and its data").wait_for()
    assert page.complaints == []


def test_the_temperature_slider_moves_the_picture(page, lab: Lab):
    open_notebook(page, lab, "08_explore_calibration")
    run_all(page)
    picture = page.locator("img.widget-image").first
    picture.scroll_into_view_if_needed()
    handle = page.locator(".noUi-handle").first
    reading = page.locator(".widget-readout").first
    assert reading.inner_text() == "1.00"
    handle.focus()
    waits = []
    for _ in range(9):
        before, pressed = picture.get_attribute("src"), time.monotonic()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(ANOTHER_PICTURE, arg=before)
        waits.append(1000 * (time.monotonic() - pressed))
    print(f"from the key to the picture: {statistics.median(waits):.0f} ms (median of nine)")
    assert float(reading.inner_text()) > 1
    page.get_by_role("button", name="as chosen").click()
    page.wait_for_function("document.querySelector('.widget-readout').innerText !== '1.00'")
    assert 0.5 <= float(reading.inner_text()) <= 10
    assert page.complaints == []


def upload(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:  # the widget keeps its input out of the page
        page.locator("button.widget-upload").click()
    chooser.value.set_files(path)


def test_a_picture_of_ones_own_and_what_is_no_picture(page, lab: Lab, tmp_path: Path):
    open_notebook(page, lab, "09_explore_mistakes")
    run_all(page)
    text, red = tmp_path / "notes.txt", tmp_path / "red.png"
    text.write_text("words")
    Image.new("RGB", (60, 40), "red").save(red)
    upload(page, text)
    page.get_by_text("notes.txt is not an image that can be read").wait_for()
    picture = page.locator("img.widget-image").last
    before = picture.get_attribute("src")
    upload(page, red)
    page.wait_for_function(
        "old => [...document.querySelectorAll('img.widget-image')].at(-1).src !== old", arg=before
    )
    assert page.get_by_text("is not an image").count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type*=error]").count() == 0
    picture.screenshot(path=str(tmp_path / "own.png"))
    print(tmp_path / "own.png")


def test_a_port_in_use_is_left_for_another(copy: Path, lab: Lab):
    used = int(re.search(r":(\d+)/", lab.address)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("localhost", used)) == 0  # somebody listens there
    second = Lab(copy)
    try:
        assert int(re.search(r":(\d+)/", second.address)[1]) != used
    finally:
        second.stop()
