"""The start notebook leads to everything, and comes last among the notebooks."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
CELLS = json.loads((ROOT / "notebooks" / "00_start.ipynb").read_text())["cells"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS)
LINKS = sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT)))


@pytest.mark.parametrize("link", LINKS)
def test_every_link_leads_somewhere(link: str):
    assert (ROOT / "notebooks" / link).exists()


def test_every_other_notebook_is_on_the_map():
    assert NOTEBOOKS[0] == "00_start.ipynb"
    assert set(NOTEBOOKS[1:]) <= set(LINKS)


def test_its_stage_waits_for_every_other_notebook():
    # so that all whose state it shows have run when it is executed
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    waits = {Path(dep).name for dep in stages["notebook_start"]["deps"] if "results/" in dep}
    assert waits == set(NOTEBOOKS[1:])
    before = list(stages)[: list(stages).index("notebook_start")]
    assert {name for name in stages if name.startswith("notebook_")} <= {*before, "notebook_start"}
