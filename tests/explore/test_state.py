"""Which results are there and made by today's numbers, in a pipeline of three stages."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from carot_lib.explore.state import GOOD, MISSING, OTHER, START, headline, state, styled_state
from carot_lib.layout import Layout

ROOT = Path(__file__).parents[2]
MATRIX = {"profile": ["${profile}"]}
STAGES = {
    "train": {"desc": "train", "matrix": {**MATRIX, "run": "${trained}", "seed": "${seeds}"}},
    "tables": {"desc": "tables", "matrix": MATRIX},
    "other": {"desc": "reads nothing", "matrix": MATRIX},
    START: {"desc": "this very notebook", "matrix": MATRIX},
    "appendix": {"desc": "comes after it", "matrix": MATRIX},
}
PARAMS = {
    "profile": "tiny",
    "seeds": [0],
    "trained": ["ft", "flyp"],
    "tiny": {"runs": {"ft": {"rate": 0.1}, "flyp": {"rate": 0.2}}, "training": {"epochs": 3}},
}


def entry(out: str, *deps: str, **params: Any) -> dict:
    """What dvc.lock says of one run."""
    return {
        "deps": [{"path": path} for path in deps],
        "params": {"params.yaml": params},
        "outs": [{"path": out}],
    }


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """All of it has run."""
    lock = {
        f"train@tiny-{run}-0": entry(
            f"models/{run}",
            **{f"tiny.runs.{run}": PARAMS["tiny"]["runs"][run], "tiny.training": {"epochs": 3}},
        )
        for run in PARAMS["trained"]
    }
    lock["tables@tiny"] = entry("results/table.csv", "models")
    lock["other@tiny"] = entry("results/other.csv", "models_of_others")
    files = {"dvc.yaml": {"stages": STAGES}, "dvc.lock": {"stages": lock}, "params.yaml": PARAMS}
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
    for one in lock.values():
        path = tmp_path / one["outs"][0]["path"]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return Layout(tmp_path, "tiny")


def change(layout: Layout, *keys: str, value: object) -> None:
    tree = copy.deepcopy(PARAMS)
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    layout.params.write_text(yaml.safe_dump(tree))


def test_all_is_well(layout: Layout):
    table = state(layout)
    assert list(table.index) == ["train", "tables", "other"]  # nothing from the notebook on
    assert list(table["state"]) == [GOOD] * 3
    assert list(table["runs"]) == ["2", "1", "1"]
    assert not table["because"].any()
    assert not table["command"].any()
    assert headline(table) == "Every result is here and was made by today's params.yaml."
    assert GOOD in styled_state(table).to_html()


def test_another_number_reaches_what_reads_the_result_and_nothing_else(layout: Layout):
    change(layout, "tiny", "runs", "flyp", "rate", value=0.5)
    table = state(layout)
    assert list(table["state"]) == [OTHER, OTHER, GOOD]
    why = "tiny.runs.flyp.rate: 0.5, was 0.2"
    assert list(table["because"]) == [why, why, ""]
    assert list(table["runs"]) == ["1 of 2", "1 of 1", "1"]
    commands = ["dvc repro train@tiny-flyp-0", "dvc repro tables@tiny", ""]
    assert list(table["command"]) == commands
    said = "Missing, or made by other parameters than today's: train, tables. Run `make repro`."
    assert headline(table) == said


@pytest.mark.parametrize("value", [{"epochs": 3, "warmup": 1}, {}, None])
def test_a_number_more_or_less_is_another_number(layout: Layout, value: object):
    change(layout, "tiny", "training", value=value)
    assert list(state(layout)["state"]) == [OTHER, OTHER, GOOD]


def test_a_result_that_is_gone_is_missing_and_harms_no_other(layout: Layout):
    (layout.root / "models" / "ft").unlink()
    table = state(layout)
    assert list(table["state"]) == [MISSING, GOOD, GOOD]
    assert table.loc["train", "because"] == "models/ft is not here"
    assert table.loc["train", "command"] == "dvc repro train@tiny-ft-0"
    assert headline(table) == "Not here yet: train. `make repro` makes what is missing."


def test_a_row_that_is_new_has_not_run(layout: Layout):
    change(layout, "trained", value=["ft", "flyp", "carot"])
    table = state(layout)
    assert table.loc["train", ["state", "because", "command"]].tolist() == [
        MISSING, "it has not run yet", "dvc repro train@tiny-carot-0",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [None, "", "schema: '2.0'\n"])
def test_before_the_first_run_all_is_missing(layout: Layout, text: str | None):
    lock = layout.root / "dvc.lock"
    lock.unlink() if text is None else lock.write_text(text)
    assert set(state(layout)["state"]) == {MISSING}
    assert set(state(Layout(layout.root, "huge"))["because"]) == {"it has not run yet"}


def test_the_projects_own_pipeline_is_read_as_dvc_reads_it():
    names = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    table = state(Layout(ROOT, "miniature"))
    assert list(table.index) == list(names)[: list(names).index(START)]
    counts = table["runs"].str.split().str[-1].astype(int)
    assert counts["train"] == 8  # rows that are trained, one seed
    assert counts["predict"] == 11  # every row
    assert counts["tables"] == 1
