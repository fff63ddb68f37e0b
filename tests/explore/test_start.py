"""The start notebook leads to everything."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
CELLS = json.loads((ROOT / "notebooks" / "00_start.ipynb").read_text())["cells"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS)
LINKS = set(re.findall(r"\]\(([^)]+)\)", TEXT))


def test_every_link_leads_somewhere():
    assert [link for link in LINKS if not (ROOT / "notebooks" / link).exists()] == []


def test_every_other_notebook_is_on_the_map():
    assert NOTEBOOKS[0] == "00_start.ipynb"
    assert set(NOTEBOOKS[1:]) <= LINKS
