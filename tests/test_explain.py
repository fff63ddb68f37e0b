"""How a number came about: what is told of it, with all files at hand and on a fresh clone."""

import hashlib
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from dvc.stage.serialize import to_lockfile

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_set, write_set
from carot_lib.evaluation import load_evaluation
from carot_lib.files import write_json, write_text
from carot_lib.layout import Layout
from carot_lib.report.explanation import explain
from carot_lib.report.explanation_text import as_text
from carot_lib.report.recompute import Recomputation
from carot_lib.stages.calibrate import calibrate
from carot_lib.stages.evaluate import evaluate
from carot_lib.stages.posthoc import posthoc
from carot_lib.stages.provenance import provenance

ROOT = Path(__file__).parents[1]
SHIFTS = ["v2", "r", "a", "sketch", "objectnet"]
SETS = ["id_val", "id_test", *SHIFTS]
RUNS, SEEDS = ["zs", "ft"], [0, 1]
CODE = "carot_lib/stages/evaluate.py"  # the one file of code that stages depend on here
MADE = ("predictions", "models", "evaluations", "data/prepared", "data/checked")  # not in git
STAGES = ("check_data", "data", "pretrain", "zero_shot", "train", "predict", "calibrate")
STAGES += ("evaluate", "posthoc", "tables", "replicate")
CLAIM = ("1", "OOD accuracy: FT - ZS")


def judge(layout: Layout, run: str, seed: int) -> None:
    """Predictions of 60 images a set, chance with a signal, and what stages make of them."""
    write_text(layout.model(run, seed) / "classifier.safetensors", f"{run} {seed}")
    for name in SETS:
        images = read_set(layout.data, name)
        chance = np.random.default_rng([RUNS.index(run), seed, SETS.index(name)])
        logits = chance.normal(0, 2, size=(60, 5))
        logits[np.arange(60), images.labels] += 2 + RUNS.index(run)
        space = LabelSpace.identity(5)
        predictions = Predictions(logits, images.labels, space, name, images.fingerprint)
        predictions.save(layout.predictions(run, seed, name))
    calibrate(layout, run, seed)
    evaluate(layout, run, seed)
    if (run, seed) == ("zs", 0):
        posthoc(layout, run, seed)
    else:  # nobody looks at those, and they would take long
        shutil.copy(layout.evaluation("zs", 0) / "posthoc.csv", layout.evaluation(run, seed))


def number(metrics: pd.DataFrame, run: str, *place: str) -> float:
    """Mean of the seeds."""
    rows = metrics[metrics["run"] == run].set_index(["dataset", "calibration", "metric"])
    return rows.loc[[place], "value"].mean()


def write_results(layout: Layout) -> None:
    """Tables of these two runs, by hand; of what nobody reads, a word."""
    every = [layout.evaluation(run, seed) / "metrics.csv" for run in RUNS for seed in SEEDS]
    metrics = pd.concat(map(pd.read_csv, every))
    claim = {"claim": CLAIM[0], "part": CLAIM[1], "low": -0.5, "high": 0.5}
    claim["value"] = number(metrics, "ft", "ood", "none", "accuracy") - number(
        metrics, "zs", "ood", "none", "accuracy"
    )
    table1 = [
        {
            "run": run,
            "id_ece": number(metrics, run, "id_test", "none", "ece"),
            "ood_ece_ts": number(metrics, run, "ood", "temperature", "ece"),
            "temperature": number(metrics, run, "id_val", "temperature", "temperature"),
        }
        for run in RUNS
    ]
    files = {
        "metrics.csv": metrics,
        "posthoc.csv": pd.read_csv(layout.evaluation("zs", 0) / "posthoc.csv"),
        "table1.csv": pd.DataFrame(table1),
        "replication.csv": pd.DataFrame([claim]),
    }
    for name in ("tables", "replicate"):
        for out in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["outs"]:
            write_text(layout.results / Path(next(iter(out))).name, "word")
    for name, table in files.items():
        write_text(layout.results / name, table.to_csv(index=False, float_format="%.6g"))


def write_dvc(root: Path) -> None:
    """The project's dvc.yaml, without notebooks and with one file of code, as if it had run."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    stages = {name: stages[name] for name in STAGES}
    for stage in stages.values():
        stage["deps"] = [d for d in stage["deps"] if d == CODE or not d.startswith("carot_lib/")]
        for part in ("outs", "metrics", "plots"):
            outs = stage.get(part, [])
            paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
            kept = (*MADE, "results")
            stage[part] = [o for o, p in zip(outs, paths, strict=True) if p.startswith(kept)]
    write_text(root / "dvc.yaml", yaml.safe_dump({"stages": stages}, sort_keys=False))
    write_text(root / CODE, "# code\n")
    write_text(root / ".dvc" / "config", "[core]\n    no_scm = true\n    analytics = false\n")
    locked = {}
    with chdir(root), Repo() as repo, repo.lock:
        for stage in repo.stage.load_all("dvc.yaml"):
            stage.save(run_cache=False)
            locked |= to_lockfile(stage)
    write_json(root / "dvc.lock", {"schema": "2.0", "stages": locked})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A project of two runs whose models are words and whose predictions are chance."""
    layout = Layout(tmp_path_factory.mktemp("world"), "miniature")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree |= {"rows": RUNS, "trained": ["ft"], "seeds": SEEDS}
    tree["miniature"]["evaluation"]["bootstrap"]["resamples"] = 20
    tree["miniature"]["evaluation"]["temperature"]["step"] = 0.1
    tree["miniature"]["evaluation"]["extra"] = []
    tree["miniature"] |= {"data": {"kind": "pictograms"}, "pretrained": {"kind": "pretrain"}}
    write_text(layout.params, yaml.safe_dump(tree))
    shutil.copytree(ROOT / "data" / "paper", layout.root / "data" / "paper")
    shutil.copy(ROOT / "data" / "pictograms.csv", layout.root / "data")
    write_json(layout.checked, {})
    write_json(layout.data / "classes.json", {"class_names": list("abcde"), "label_spaces": {}})
    for i, name in enumerate(("train", *SETS)):
        pictures = np.full((60, 2, 2, 3), i, np.uint8)
        write_set(layout.data, name, np.arange(60) % 5, pictures)
    write_text(layout.pretrained / "clip.safetensors", "pre-trained")
    for run in RUNS:
        for seed in SEEDS:
            judge(layout, run, seed)
    write_results(layout)
    write_dvc(layout.root)
    provenance(layout)
    return layout


def told(layout: Layout, table: str, *words: str) -> dict:
    explanation = explain(layout.results / table, words)
    assert json.loads(json.dumps(explanation))["value"] == explanation["value"]
    return explanation


def checks(explanation: dict) -> list[bool | None]:
    return [check["ok"] for check in explanation["checks"]]


def test_a_number_of_table_1_is_told_down_to_the_files(world: Layout):
    found = told(world, "table1.csv", "ft", "id_ece")
    printed = pd.read_csv(world.results / "table1.csv").set_index("run").loc["ft", "id_ece"]
    assert found["value"] == printed == pytest.approx(found["recomputed"], abs=2e-6)
    assert [one["value"] for one in found["by_seed"].values()] == pytest.approx(
        [one["recomputed"] for one in found["predictions"]], abs=2e-6
    )
    assert list(found["by_seed"]) == SEEDS
    for seed, one in zip(SEEDS, found["predictions"], strict=True):
        path = world.predictions("ft", seed, "id_test")
        assert one["file"] == f"predictions/miniature/ft/seed{seed}/id_test.npz"
        assert one["md5"] == hashlib.md5(path.read_bytes()).hexdigest()
        assert (one["bytes"], one["images"]) == (path.stat().st_size, 60)
        assert one["fingerprint"] == read_set(world.data, "id_test").fingerprint
    assert found["calibrations"] == []
    assert found["parameters"]["miniature.runs.ft"]["kind"] == "fine_tune"
    assert not any(key.startswith("miniature.evaluation.") for key in found["parameters"])
    assert [stage["stage"].split("@")[0] for stage in found["stages"]] == [
        *("check_data", "data", "pretrain", "train", "predict", "calibrate", "evaluate"),  # seed 0
        *("train", "predict", "calibrate", "evaluate"),  # seed 1
        "tables",
    ]
    assert list(found["stages"][-1]["wrote"]) == ["results/miniature/table1.csv"]
    assert checks(found) == [True] * 5


def test_a_mean_over_shifts_names_every_set_and_the_temperature_of_each_seed(world: Layout):
    found = told(world, "table1.csv", "zs", "ood_ece_ts")
    assert [one["dataset"] for one in found["predictions"]] == SHIFTS * 2
    # the mean over seeds of means over sets: all have the same weight
    assert found["value"] == pytest.approx(
        np.mean([one["value"] for one in found["predictions"]]), abs=2e-6
    )
    assert len(found["calibrations"]) == len(SEEDS)
    for seed, one in zip(SEEDS, found["calibrations"], strict=True):
        chosen = json.loads((world.evaluation("zs", seed) / "temperature.json").read_text())
        assert one["temperature"] == chosen["temperature"]
        assert one["dataset"] == chosen["selected_on"]["dataset"] == "id_val"
        assert one["fingerprint"] == chosen["selected_on"]["fingerprint"]
    assert checks(found) == [True] * 5


@pytest.mark.parametrize("part", ["1", CLAIM[1]])
def test_a_part_of_a_claim_names_both_of_its_runs(world: Layout, part: str):
    found = told(world, "replication.csv", CLAIM[0], part)
    assert found["interval"] == (-0.5, 0.5)
    pairs = {(one["run"], one["seed"]) for one in found["predictions"]}
    assert pairs == {(run, seed) for run in RUNS for seed in SEEDS}
    assert found["recomputed"] == pytest.approx(found["value"], abs=2e-6)
    names = {stage["stage"].split("@")[0] for stage in found["stages"]}
    assert {"zero_shot", "train", "replicate"} <= names
    assert not {"evaluate", "tables"} & names  # claims are judged from predictions


def test_every_number_of_a_run_comes_out_again(world: Layout):
    anew = Recomputation(world, load_evaluation(world))
    for file in ("metrics.csv", "posthoc.csv"):
        table = pd.read_csv(world.evaluation("zs", 0) / file)
        table = table[table["dataset"].isin(["id_val", "id_test", "ood"])]
        heavy = table["metric"].isin(["ece_p_value", "ece_noise_floor"])
        table = table[~heavy | (table["dataset"] == "id_test")]
        assert len(table) > 40
        for row in table.itertuples():
            place = ("zs", 0, row.dataset, row.calibration, row.metric)
            assert anew.value(*place) == pytest.approx(row.value, abs=1e-6), place


@pytest.mark.parametrize(
    ("table", "words", "line"),
    [
        ("table1.csv", ["clip", "id_ece"], "no run 'clip'; there are: zs, ft"),
        ("table1.csv", ["ft"], "name a column; there are: id_ece, ood_ece_ts, temperature"),
        ("table1.csv", ["ft", "x"], "no column 'x'; there are: id_ece, ood_ece_ts, temperature"),
        ("table1.csv", ["ft", "id_ece", "x"], "'x' is one word too many after run"),
        ("metrics.csv", ["ft", "7"], "no seed '7'; there are: 0, 1"),
        ("metrics.csv", ["ft", "0", "mars"], f"no dataset 'mars'; there are: {', '.join(SETS)}"),
        ("replication.csv", ["1", "2"], f"no part '2'; there are: {CLAIM[1]}"),
    ],
)
def test_what_is_unknown_is_a_line_that_says_what_there_is(
    world: Layout, table: str, words: list[str], line: str
):
    with pytest.raises(ValueError, match=r"there are|too many") as error:
        explain(world.results / table, words)
    assert str(error.value).startswith(f"{world.results / table}: {line}")


def test_other_files_are_no_tables(world: Layout, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no table that can be explained; there are: table1.csv"):
        explain(world.results / "search.csv", ["ft"])
    shutil.copy(world.results / "table1.csv", tmp_path)
    with pytest.raises(ValueError, match="no table of results/<profile>/"):
        explain(tmp_path / "table1.csv", ["ft", "id_ece"])


@pytest.fixture
def copy(world: Layout, tmp_path: Path) -> Layout:
    """A copy that a test may spoil."""
    shutil.copytree(world.root, tmp_path / "copy")
    return Layout(tmp_path / "copy", "miniature")


def test_on_a_fresh_clone_all_is_told_but_what_needs_the_predictions(copy: Layout, world: Layout):
    for folder in MADE:
        shutil.rmtree(copy.root / folder)
    found, full = (told(layout, "table1.csv", "ft", "ood_ece_ts") for layout in (copy, world))
    assert found["recomputed"] is None
    for one, other in zip(found["predictions"], full["predictions"], strict=True):
        assert one["md5"] is one["bytes"] is one["recomputed"] is None
        assert {k: one[k] for k in ("file", "images", "fingerprint", "value")} == {
            k: other[k] for k in ("file", "images", "fingerprint", "value")
        }
    assert found["calibrations"] == full["calibrations"]
    assert found["parameters"] == full["parameters"]
    assert [s["command"] for s in found["stages"]] == [s["command"] for s in full["stages"]]
    assert checks(found) == [None, True, True, True, None]
    first, *_, last = (check["what"] for check in found["checks"])
    assert first == (
        "not computed anew: predictions/miniature/ft/seed0/v2.npz is missing: "
        "run stage `predict` or `make repro`"
    )
    assert last.startswith("not on disk: data/checked/miniature")
    assert "predictions/miniature/ft/seed0" in last
    assert as_text(found)


def test_what_changed_since_is_said(copy: Layout):
    tree = yaml.safe_load(copy.params.read_text())
    tree["miniature"]["training"]["epochs"] += 1
    write_text(copy.params, yaml.safe_dump(tree))
    write_text(copy.root / CODE, "# other code\n")
    found = told(copy, "table1.csv", "ft", "id_ece")
    assert checks(found) == [True, True, True, False, False]
    assert found["checks"][3]["what"].startswith("params.yaml has other parameters than the record")
    assert found["checks"][4]["what"] == (
        f"changed since the stages were run: miniature.training, {CODE}"
    )
    changed = {stage["stage"]: stage["changed"] for stage in found["stages"]}
    assert changed["train@miniature-ft-0"] == {"miniature.training": "modified"}
    assert changed["evaluate@miniature-ft-1"] == {CODE: "modified"}
    assert changed["tables@miniature"] == {}


def test_other_images_and_a_table_by_other_hands_are_found(copy: Layout):
    path = copy.predictions("ft", 1, "id_test")
    one = Predictions.load(path)
    other = "0" * 16
    Predictions(one.class_logits, one.labels, one.label_space, one.dataset, other).save(path)
    with (copy.results / "table1.csv").open("a") as file:
        file.write("more,0,0,1\n")
    found = told(copy, "table1.csv", "ft", "id_ece")
    assert checks(found) == [True, False, False, True, False]
    assert "other images of id_test" in found["checks"][1]["what"]
    assert found["checks"][2]["what"].startswith("table1.csv is not the file of the record")
    assert "predictions/miniature/ft/seed1" in found["checks"][4]["what"]


def test_without_a_record_the_rest_is_told(copy: Layout):
    (copy.results / "provenance.json").unlink()
    found = told(copy, "table1.csv", "ft", "id_ece")
    assert checks(found) == [True, None, True]
    assert "none: run stage `provenance`" in as_text(found)


def test_without_a_lock_file_it_says_what_to_run(copy: Layout):
    lock = copy.root / "dvc.lock"
    lock.unlink()
    with pytest.raises(FileNotFoundError, match=r"dvc.lock is missing: run `make repro` first"):
        explain(copy.results / "table1.csv", ["ft", "id_ece"])
    write_text(lock, "stages: {}")
    with pytest.raises(
        ValueError, match=r"dvc\.lock knows no evaluations/miniature/ft/seed0/metric"
    ):
        explain(copy.results / "table1.csv", ["ft", "id_ece"])
    write_text(lock, "<<<<<<< ours\n")
    with pytest.raises(ValueError, match="no lock file of DVC"):
        explain(copy.results / "table1.csv", ["ft", "id_ece"])


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `python -m carot_lib.stages.explain` in this process: exit code and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        path, code = ROOT / "carot_lib" / "stages" / "explain.py", 0
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_for_people_and_for_programs(world: Layout, command: Callable):
    with chdir(world.root):  # as the README has it, a path from the project's folder
        words = ("results/miniature/table1.csv", "ft", "temperature")
        code, text, errors = command(*words)
        assert (code, errors) == (0, "")
        assert text.startswith("temperature of FT = ")
        assert "results/miniature/table1.csv: run ft, column temperature" in text
        for title in ("Value", "Predictions", "Calibration", "Models", "Parameters", "Stages"):
            assert f"\n{title}" in text
        assert text.count("\n  ok  ") == 5
        assert str(world.root) not in text
        code, text, _ = command(*words, "--json")
    assert code == 0
    assert json.loads(text)["column"] == "temperature"


def test_a_number_that_does_not_come_out_again_is_exit_code_1(copy: Layout, command: Callable):
    path = copy.results / "table1.csv"
    table = pd.read_csv(path)
    table.loc[1, "id_ece"] += 0.001
    write_text(path, table.to_csv(index=False))
    code, text, _ = command(str(path), "ft", "id_ece")
    assert code == 1
    assert "NO  computed anew from the predictions" in text


def test_bad_words_are_a_line_and_exit_code_2(world: Layout, command: Callable):
    path = world.results / "table1.csv"
    line = f"{path}: no run 'clip'; there are: zs, ft\n"
    assert command(str(path), "clip", "id_ece") == (2, "", line)
    code, _, errors = command(str(path.with_name("table2.csv")), "default", "id_ece")
    assert code == 2  # the word in its place is no table
    assert "no column 'ema_update'" in errors
