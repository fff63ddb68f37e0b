"""How a number came about: what is said about it, with all files at hand and on a fresh clone."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from locked_pipeline import write_pipeline

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_set, write_set
from carot_lib.evaluation import TABLE1_COLUMNS, load_evaluation
from carot_lib.files import write_json, write_text
from carot_lib.layout import Layout
from carot_lib.report.cells import MetricKey, recompute_from_predictions
from carot_lib.report.explain import as_text, explain
from carot_lib.report.names import CALIBRATION_NAMES
from carot_lib.report.provenance import write_provenance
from carot_lib.sources.listing import list_images
from carot_lib.stages.evaluate import evaluate

# DVC's graph of stages uses a property that a library of it will rename
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

ROOT = Path(__file__).parents[1]
SHIFTS = ["v2", "r", "a", "sketch", "objectnet"]
SETS = ["id_val", "id_test", *SHIFTS]
RUNS, SEEDS = ["zs", "ft"], [0, 1]
CODE = "carot_lib/evaluate.py"  # the one file of code that stages depend on here
MADE = ("predictions", "models", "evaluations", "data/prepared")  # not in git
CLAIM = ("1", "OOD accuracy: FT - ZS")
PIPELINE = """
stages:
  data:
    matrix: {profile: ["${profile}"]}
    cmd: data ${item.profile}
    params: ["${item.profile}.data"]
    outs: ["data/prepared/${item.profile}"]
  fine_tune:
    matrix: {profile: ["${profile}"], run: "${rows}", seed: "${seeds}"}
    cmd: fine_tune ${item.profile} ${item.run} ${item.seed}
    params: ["${item.profile}.training", "${item.profile}.training.epochs"]
    deps: ["data/prepared/${item.profile}"]
    outs: ["models/${item.profile}/${item.run}/seed${item.seed}"]
  predict:
    matrix: {profile: ["${profile}"], run: "${rows}", seed: "${seeds}"}
    cmd: predict ${item.profile} ${item.run} ${item.seed}
    deps: ["data/prepared/${item.profile}", "models/${item.profile}/${item.run}/seed${item.seed}"]
    outs: ["predictions/${item.profile}/${item.run}/seed${item.seed}"]
  evaluate:
    matrix: {profile: ["${profile}"], run: "${rows}", seed: "${seeds}"}
    cmd: evaluate ${item.profile} ${item.run} ${item.seed}
    params: ["${item.profile}.evaluation"]
    deps: ["predictions/${item.profile}/${item.run}/seed${item.seed}", carot_lib/evaluate.py]
    outs: ["evaluations/${item.profile}/${item.run}/seed${item.seed}"]
  tables:
    matrix: {profile: ["${profile}"]}
    cmd: tables ${item.profile}
    params: [seeds, rows, "${item.profile}.evaluation"]
    deps: ["evaluations/${item.profile}", data/paper]
    outs: [{"results/${item.profile}/tables": {cache: false}}]
"""


def predict_and_evaluate(layout: Layout, run: str, seed: int) -> None:
    """Predictions for 60 images a set, noise with a signal, and their evaluation."""
    write_text(layout.model(run, seed) / "classifier.safetensors", f"{run} {seed}")
    for name in SETS:
        images = read_set(layout.data, name)
        rng = np.random.default_rng([RUNS.index(run), seed, SETS.index(name)])
        logits = rng.normal(0, 2, size=(60, 5))
        logits[np.arange(60), images.labels] += 2 + RUNS.index(run)
        space = LabelSpace.identity(5)
        predictions = Predictions(logits, images.labels, space, name, images.fingerprint)
        predictions.save(layout.predictions(run, seed, name))
    evaluate(layout, run, seed)


def write_results(layout: Layout) -> None:
    """Tables of these two runs, without the other rows."""
    every = [layout.evaluation(run, seed) / "metrics.csv" for run in RUNS for seed in SEEDS]
    metrics = pd.concat(map(pd.read_csv, every))
    of_seeds = metrics.groupby(["run", "dataset", "calibration", "metric"])["value"].mean()
    columns = {name: TABLE1_COLUMNS[name] for name in ("id_ece", "ood_ece_ts", "temperature")}
    table1 = [
        {"run": run} | {name: of_seeds[(run, *key)] for name, key in columns.items()}
        for run in RUNS
    ]
    claim = {"claim": CLAIM[0], "part": CLAIM[1], "low": -0.5, "high": 0.5}
    ft, zs = (of_seeds[run, "ood", "none", "accuracy"] for run in ("ft", "zs"))
    files = {
        "metrics.csv": metrics,
        "table1.csv": pd.DataFrame(table1),
        "replication.csv": pd.DataFrame([claim | {"value": ft - zs}]),
    }
    for name, table in files.items():
        write_text(layout.tables / name, table.to_csv(index=False, float_format="%.6g"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A project of two runs whose models are words and whose predictions are noise."""
    layout = Layout(tmp_path_factory.mktemp("world"), "miniature")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree |= {"rows": RUNS, "trained": ["ft"], "seeds": SEEDS}
    tree["miniature"]["evaluation"]["bootstrap"]["resamples"] = 20
    tree["miniature"]["evaluation"]["temperature"]["step"] = 0.1
    tree["miniature"]["evaluation"]["extra"] = []
    tree["miniature"] |= {"data": {"kind": "pictograms"}, "pretrained": {"kind": "pretrain"}}
    tree["miniature"]["training"] = {"epochs": 10}
    write_text(layout.params, yaml.safe_dump(tree))
    shutil.copytree(ROOT / "data" / "paper", layout.root / "data" / "paper")
    write_json(layout.data / "classes.json", {"class_names": list("abcde"), "label_spaces": {}})
    for i, name in enumerate(("train", *SETS)):
        pictures = np.full((60, 2, 2, 3), i, np.uint8)
        write_set(layout.data, name, np.arange(60) % 5, pictures)
    for run in RUNS:
        for seed in SEEDS:
            predict_and_evaluate(layout, run, seed)
    write_results(layout)
    write_text(layout.root / CODE, "# code\n")
    write_pipeline(layout.root, PIPELINE)
    write_provenance(layout)
    return layout


def explained(layout: Layout, table: str, *words: str) -> dict:
    explanation = explain(layout.tables / table, words)
    assert json.loads(json.dumps(explanation))["value"] == explanation["value"]
    assert as_text(explanation).startswith(explanation["meaning"])
    return explanation


def checks(explanation: dict) -> list[bool | None]:
    return [check["ok"] for check in explanation["checks"]]


def test_a_number_of_table_1_is_explained_down_to_the_files(world: Layout):
    found = explained(world, "table1.csv", "ft", "id_ece")
    printed = pd.read_csv(world.tables / "table1.csv").set_index("run").loc["ft", "id_ece"]
    assert found["value"] == printed == pytest.approx(found["recomputed"], abs=2e-6)
    for seed, one in zip(SEEDS, found["numbers"], strict=True):
        assert (one["run"], one["seed"], one["dataset"]) == ("ft", seed, "id_test")
        assert one["low"] < one["value"] < one["high"]
        assert one["value"] == pytest.approx(one["recomputed"], abs=2e-6)
        assert one["images"] == 60
        assert one["fingerprint"] == read_set(world.data, "id_test").fingerprint
    assert found["parameters"]["miniature.training"] == {"epochs": 10}
    assert "miniature.training.epochs" not in found["parameters"]
    assert [stage["stage"] for stage in found["stages"]] == [
        "data@miniature",
        *(f"{stage}@miniature-ft-0" for stage in ("fine_tune", "predict", "evaluate")),
        *(f"{stage}@miniature-ft-1" for stage in ("fine_tune", "predict", "evaluate")),
        "tables@miniature",
    ]
    assert list(found["stages"][1]["wrote"]) == ["models/miniature/ft/seed0"]
    assert list(found["stages"][-1]["wrote"]) == ["results/miniature/tables"]
    assert checks(found) == [True] * 5


def test_a_mean_over_shifts_names_every_set_and_the_temperature_of_each_seed(world: Layout):
    found = explained(world, "table1.csv", "zs", "ood_ece_ts")
    numbers = pd.DataFrame(found["numbers"])
    assert numbers["recomputed"].tolist() == pytest.approx(numbers["value"].tolist(), abs=2e-6)
    assert numbers["dataset"].tolist() == ["ood", *SHIFTS] * 2 + ["id_val"] * 2
    # the mean over seeds of means over sets: all have the same weight
    of_sets = numbers["value"][numbers["dataset"].isin(SHIFTS)]
    assert found["value"] == pytest.approx(of_sets.mean(), abs=2e-6)
    for seed, one in zip(SEEDS, found["numbers"][-2:], strict=True):
        chosen = json.loads((world.evaluation("zs", seed) / "temperature.json").read_text())
        assert (one["seed"], one["value"]) == (seed, chosen["temperature"])
        assert one["dataset"] == chosen["selected_on"]["dataset"] == "id_val"
        assert one["fingerprint"] == chosen["selected_on"]["fingerprint"]
    assert checks(found) == [True] * 5


@pytest.mark.parametrize("part", ["1", CLAIM[1]])
def test_a_part_of_a_claim_names_both_of_its_runs(world: Layout, part: str):
    found = explained(world, "replication.csv", CLAIM[0], part)
    assert found["interval"] == (-0.5, 0.5)
    pairs = {(one["run"], one["seed"]) for one in found["numbers"]}
    assert pairs == {(run, seed) for run in RUNS for seed in SEEDS}
    assert found["recomputed"] == pytest.approx(found["value"], abs=2e-6)
    names = {stage["stage"] for stage in found["stages"]}
    assert {"fine_tune@miniature-zs-0", "fine_tune@miniature-ft-1"} <= names


def test_an_oracle_names_the_temperature_of_the_reported_set(world: Layout):
    found = explained(world, "metrics.csv", "zs", "0", "id_test", "oracle", "ece")
    first, last = found["numbers"]
    assert found["recomputed"] == pytest.approx(first["value"], abs=2e-6)
    assert (last["dataset"], last["metric"]) == ("id_test", "temperature")
    assert last["value"] == pytest.approx(last["recomputed"], abs=2e-6)


def test_every_number_of_a_run_comes_out_again(world: Layout):
    recompute = recompute_from_predictions(world, load_evaluation(world))
    table = pd.read_csv(world.evaluation("zs", 0) / "metrics.csv")
    table = table[table["dataset"].isin(["id_val", "id_test", "ood"])]
    heavy = table["metric"].isin(["ece_p_value", "ece_noise_floor"])
    table = table[~heavy | (table["dataset"] == "id_test")]
    assert set(table["calibration"]) == set(CALIBRATION_NAMES)
    for row in table.itertuples():
        key = MetricKey("zs", 0, row.dataset, row.calibration, row.metric)
        assert recompute(key) == pytest.approx(row.value, abs=1e-6, nan_ok=True), key


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
        explain(world.tables / table, words)
    assert str(error.value).startswith(f"{world.tables / table}: {line}")


def test_other_files_are_no_tables(world: Layout, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no table that can be explained; there are: table1.csv"):
        explain(world.tables / "search.csv", ["ft"])
    shutil.copy(world.tables / "table1.csv", tmp_path)
    with pytest.raises(ValueError, match="no table of results/<profile>/tables/"):
        explain(tmp_path / "table1.csv", ["ft", "id_ece"])
    (tmp_path / "table1.csv").rename(tmp_path / "table2.csv")
    with pytest.raises(ValueError, match="no column 'ema_update'"):
        explain(tmp_path / "table2.csv", ["default", "id_ece"])


@pytest.fixture
def copy(world: Layout, tmp_path: Path) -> Layout:
    """A copy that a test may spoil."""
    shutil.copytree(world.root, tmp_path / "copy")
    return Layout(tmp_path / "copy", "miniature")


def test_on_a_fresh_clone_all_is_explained_but_what_needs_the_predictions(
    copy: Layout, world: Layout
):
    for folder in MADE:
        shutil.rmtree(copy.root / folder)
    found, full = (explained(layout, "table1.csv", "ft", "ood_ece_ts") for layout in (copy, world))
    assert found["recomputed"] is None
    made = {"recomputed": None, "images": None, "fingerprint": None}
    assert found["numbers"] == [one | made for one in full["numbers"]]
    assert found["record"]["sets"]["v2"] == {
        "images": 60,
        "classes": 5,
        "fingerprint": full["numbers"][1]["fingerprint"],
    }
    assert found["parameters"] == full["parameters"]
    assert [s["command"] for s in found["stages"]] == [s["command"] for s in full["stages"]]
    assert checks(found) == [None, None, True, True, None]
    first, images, *_, last = (check["what"] for check in found["checks"])
    assert first.startswith("not computed again: ")
    assert first.endswith("predictions/miniature/ft/seed0/v2.npz is missing: run stage `predict`")
    assert images == "images: no predictions"
    assert last.startswith("not on disk: data/prepared/miniature")
    assert "predictions/miniature/ft/seed0" in last


def test_what_changed_since_is_said(copy: Layout):
    tree = yaml.safe_load(copy.params.read_text())
    tree["miniature"]["training"]["epochs"] += 1
    write_text(copy.params, yaml.safe_dump(tree))
    write_text(copy.root / CODE, "# other code\n")
    found = explained(copy, "table1.csv", "ft", "id_ece")
    assert checks(found) == [True, True, True, False, False]
    assert found["checks"][3]["what"] == "parameters in params.yaml: not as in the record"
    assert found["checks"][4]["what"] == (
        f"changed since the stages were run: miniature.training, miniature.training.epochs, {CODE}"
    )
    changed = {stage["stage"]: stage["changed"] for stage in found["stages"]}
    assert changed["fine_tune@miniature-ft-0"] == {
        "miniature.training": "modified",
        "miniature.training.epochs": "modified",
    }
    assert changed["evaluate@miniature-ft-1"] == {CODE: "modified"}
    assert changed["tables@miniature"] == {}


def test_other_images_and_an_edited_table_are_found(copy: Layout):
    path = copy.predictions("ft", 1, "id_test")
    one = Predictions.load(path)
    other = "0" * 16
    Predictions(one.class_logits, one.labels, one.label_space, one.dataset, other).save(path)
    with (copy.tables / "table1.csv").open("a") as file:
        file.write("more,0,0,1\n")
    found = explained(copy, "table1.csv", "ft", "id_ece")
    assert checks(found) == [True, False, False, True, False]
    assert found["checks"][1]["what"] == "images of id_test: not as in the record"
    assert found["checks"][2]["what"] == "table1.csv: not as in the record"
    assert "predictions/miniature/ft/seed1" in found["checks"][4]["what"]


def test_images_and_texts_on_disk_are_compared_with_those_that_were_listed(copy: Layout):
    (copy.root / "images").mkdir()
    image, captions = copy.root / "images" / "1.png", copy.root / "captions.txt"
    write_text(image, "an image")
    write_text(captions, "a scan of {}.")
    tree = yaml.safe_load(copy.params.read_text())
    data = {"kind": "folders", "folder": "images", "templates": "captions.txt"}
    tree["miniature"]["data"] = data
    write_text(copy.params, yaml.safe_dump(tree))

    def last_check() -> tuple[bool | None, str]:
        return tuple(explained(copy, "table1.csv", "ft", "id_ece")["checks"][-1].values())

    assert last_check() == (None, "image files: stage `list_images` has not run")
    list_images(copy)
    words = "image files, class names and templates: as when they were last listed"
    assert last_check() == (True, words)
    write_text(captions, "a drawing of {}.")
    changed = "changed on disk: {}; `make repro` reads them again"
    assert last_check() == (False, changed.format("templates"))
    image.unlink()
    assert last_check() == (False, changed.format("image files, templates"))


def test_without_a_record_the_rest_is_explained(copy: Layout):
    copy.provenance.unlink()
    found = explained(copy, "table1.csv", "ft", "id_ece")
    assert checks(found) == [True, None, True]
    assert "Record of the run: none; run stage `provenance`" in as_text(found)


def test_without_a_lock_file_it_says_what_to_run(copy: Layout):
    lock = copy.root / "dvc.lock"
    lock.unlink()
    with pytest.raises(ValueError, match=r"dvc\.lock knows no evaluations/miniature/ft/seed0: run"):
        explain(copy.tables / "table1.csv", ["ft", "id_ece"])
    write_text(lock, "<<<<<<< ours\n")
    with pytest.raises(ValueError, match="DVC cannot read the pipeline"):
        explain(copy.tables / "table1.csv", ["ft", "id_ece"])


def test_the_profile_that_params_yaml_chooses_does_not_matter(copy: Layout):
    tree = yaml.safe_load(copy.params.read_text())
    write_text(copy.params, yaml.safe_dump(tree | {"profile": "imagenet"}))
    assert checks(explained(copy, "table1.csv", "ft", "id_ece")) == [True] * 5


def test_a_path_from_the_working_directory_is_enough(world: Layout):
    with chdir(world.tables.parent):
        explanation = explain(Path("tables/table1.csv"), ["ft", "temperature"])
    text = as_text(explanation)
    assert text.startswith("temperature on id_val, calibration temperature: FT = ")
    assert "results/miniature/tables/table1.csv: run ft, column temperature" in text
    for title in ("Numbers", "Parameters", "Stages", "Record", "Checks"):
        assert f"\n{title}" in text
    assert str(world.root) not in text
    assert checks(explanation) == [True] * 5


def test_a_number_that_does_not_come_out_again_is_said(copy: Layout):
    path = copy.tables / "table1.csv"
    table = pd.read_csv(path)
    table.loc[1, "id_ece"] += 0.001
    write_text(path, table.to_csv(index=False))
    found = explained(copy, "table1.csv", "ft", "id_ece")
    assert found["checks"][0]["ok"] is False
    assert "computed again from the predictions" in as_text(found)
