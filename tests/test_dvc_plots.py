"""What `dvc plots show` is told to show: results of the pipeline, in the colours of the figures."""

import json
from pathlib import Path

import pytest
import yaml

from carot_lib.report.styles import colour_of

ROOT = Path(__file__).parents[1]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
TRAINED = [run for kind, runs in PARAMS["methods"].items() if kind != "wise_ft" for run in runs]
CURVES = {
    name: definition
    for plot in PIPELINE["plots"]
    if isinstance(plot, dict)
    for name, definition in plot.items()
}


def runs_of(definition: dict) -> list[str]:
    return [path.split("/")[2] for path in definition["y"]]


def results() -> set[str]:
    """Every result of every stage, of one seed."""
    found = set()
    for stage in PIPELINE["stages"].values():
        for out in stage.get("outs", []):
            shape = out if isinstance(out, str) else next(iter(out))
            shape = shape.replace("${item.profile}", "${profile}")
            for run in (*PARAMS["rows"], *PIPELINE["stages"]["notebook"]["matrix"]["name"]):
                path = shape.replace("${item.run}", run).replace("${item.name}", run)
                found.add(path.replace("${item.seed}", "${seeds[0]}"))
    return found


def test_everything_shown_is_a_result():
    images = [plot for plot in PIPELINE["plots"] if isinstance(plot, str)]
    made = results()
    for path in [*images, *(path for curve in CURVES.values() for path in curve["y"])]:
        assert any(str(place) in made for place in (Path(path), *Path(path).parents)), path


def test_every_trained_run_is_shown():
    assert runs_of(CURVES["id_val accuracy"]) == TRAINED
    assert runs_of(CURVES["id_val ECE"]) == TRAINED
    kinds = {run: PARAMS["miniature"]["runs"][run]["kind"] for run in TRAINED}
    terms = {
        "cross-entropy": {"fine_tune"},
        "contrastive loss": {"flyp", "carot"},
        "logit scale": {"flyp", "carot"},
        "distillation loss": {"carot"},
    }
    for name, of_kinds in terms.items():
        assert runs_of(CURVES[name]) == [run for run, kind in kinds.items() if kind in of_kinds]


@pytest.mark.parametrize("name", CURVES)
def test_the_column_is_that_of_the_file(name: str):
    assert CURVES[name]["template"] == "curves"
    for path, column in CURVES[name]["y"].items():
        assert column == ("ece" if "temperature" in path else Path(path).stem)


def test_runs_have_the_colours_of_the_figures():
    template = json.loads((ROOT / ".dvc" / "plots" / "curves.json").read_text())
    scale = template["encoding"]["color"]["scale"]
    assert scale["range"] == [colour_of(run) for run in scale["domain"]]
    assert {run for curve in CURVES.values() for run in runs_of(curve)} == set(scale["domain"])
