"""The rendered appendix in a browser without a network: mathematics, figures, no complaint."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site" / "miniature"
PAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))[1:]  # 00 has no page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("name", ["index", *PAGES])
def test_a_page_shows_its_mathematics_and_figures_offline(browser, name: str):
    if not (SITE / "index.html").exists():
        pytest.skip("there is no site: run `dvc repro appendix`")
    context = browser.new_context(offline=True)
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("requestfailed", lambda request: complaints.append(f"{request.url} failed"))
    page.goto((SITE / f"{name}.html").as_uri(), wait_until="load")
    if page.locator(".math").count():
        page.locator("mjx-container").first.wait_for(timeout=60_000)
        page.wait_for_function(
            "document.querySelectorAll('.math').length <= "
            "document.querySelectorAll('mjx-container').length"
        )
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    broken = page.evaluate(
        "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
    )
    assert broken == []
    assert page.locator("article h1").inner_text()
    assert complaints == []
    context.close()
