"""The whole pipeline in a shrunken world, by DVC, as a user runs it."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from shrunken_project import (
    ROOT,
    RUNS,
    change,
    changed_stages,
    make_project,
    repro,
    run,
    write_yaml,
)

METHODS = yaml.safe_load((ROOT / "params.yaml").read_text())["methods"]
TRAININGS = {
    kind: {f"{kind}@miniature-{name}-0" for name in METHODS[kind]}
    for kind in ("fine_tune", "flyp", "carot")
}
TABLES = Path("results", "miniature", "tables")
ALL_TRAININGS = set.union(*TRAININGS.values())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small world, after one `dvc repro`."""
    root = make_project(tmp_path_factory.mktemp("project"))
    repro(root)
    return root


def test_the_tables_have_their_rows_and_columns(project: Path):
    results = project / TABLES
    table1, table2 = pd.read_csv(results / "table1.csv"), pd.read_csv(results / "table2.csv")
    numbers = ["id_acc", "ood_acc", "id_ece", "ood_ece"]
    assert list(table1) == ["run", *numbers, "id_ece_ts", "ood_ece_ts", "temperature"]
    assert list(table1["run"]) == RUNS
    assert list(table2) == ["ema_update", *numbers]
    assert list(table2["ema_update"]) == ["every_step", "default", "double", "never"]
    metrics = pd.read_csv(results / "metrics.csv")
    expected = ["run", "seed", "dataset", "calibration", "metric", "value", "low", "high"]
    assert list(metrics) == expected
    assert metrics["run"].nunique() == 11
    assert set(metrics["calibration"]) == {"none", "temperature", "temperature_nll", "oracle"}
    calibrated = metrics[(metrics["dataset"] == "id_val") & (metrics["calibration"] != "none")]
    assert set(calibrated["metric"]) == {"temperature"}  # nothing is reported where it was chosen
    for name in ("paper_table1", "paper_table2", "replication", "differences"):
        assert len(pd.read_csv(results / f"{name}.csv"))


def test_the_tables_numbers_are_those_of_the_saved_predictions(project: Path):
    table = pd.read_csv(project / TABLES / "table1.csv").set_index("run")
    for name in RUNS:
        folder = project / "predictions" / "miniature" / name / "seed0"
        errors = {}
        for dataset in ("id_test", "v2", "r", "a", "sketch", "objectnet"):
            with np.load(folder / f"{dataset}.npz") as file:
                logits, labels = file["class_logits"].astype(float), file["labels"]
                groups = np.split(file["columns"], np.cumsum(file["columns_of_each"])[:-1])
            logits = np.stack([logits[:, group].max(axis=1) for group in groups], axis=1)
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            confidence = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
            right = logits.argmax(axis=1) == labels
            bins = np.clip(np.ceil(confidence * 10), 1, 10)
            gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(1, 11)]
            errors[dataset] = (right.mean(), sum(gaps) / len(labels))
        shifts = [errors[d] for d in ("v2", "r", "a", "sketch", "objectnet")]
        accuracy, ece = np.mean(shifts, axis=0)
        row = table.loc[name]
        assert [row["id_acc"], row["id_ece"]] == pytest.approx(errors["id_test"], abs=2e-6)
        assert [row["ood_acc"], row["ood_ece"]] == pytest.approx([accuracy, ece], abs=2e-6)


def test_every_notebook_ran_and_drew_its_figures(project: Path):
    notebooks = project / "results" / "miniature" / "notebooks"
    sources = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.parent.name for path in notebooks.glob("*/*.ipynb")} == sources
    for number in range(1, 6):
        for extension in ("png", "pdf"):
            (figure,) = notebooks.glob(f"*/figure{number}.{extension}")
            assert figure.stat().st_size > 1000
    assert (project / "site" / "miniature" / "index.html").exists()


def test_the_record_of_provenance_names_every_result_but_those_that_show_it(project: Path):
    results = project / "results" / "miniature"
    record = json.loads((results / "provenance.json").read_text())
    made = {path.relative_to(results).as_posix(): path for path in results.rglob("*.*")}
    assert set(made) - set(record["files"]) == {"provenance.json", "appendix.pdf"}
    for name, known in record["files"].items():
        assert known["sha256"] == hashlib.sha256(made[name].read_bytes()).hexdigest()
        assert "@miniature" in known["stage"]


def test_no_result_tells_of_the_machine(project: Path):
    for path in (project / "results").rglob("*"):
        if path.suffix in (".csv", ".md", ".tex", ".ipynb"):
            assert str(project) not in path.read_text(), path


def test_dvc_shows_the_numbers_of_every_run(project: Path):
    shown = run(project, "dvc", "metrics", "show", "--json")
    files = json.loads(shown.stdout)[""]["data"]
    assert len(files) == 11
    table = pd.read_csv(project / TABLES / "table1.csv").set_index("run")
    for name in RUNS:
        numbers = files[f"results/miniature/runs/{name}-seed0.json"]["data"]
        assert numbers == pytest.approx(table.loc[name].to_dict(), abs=2e-6)


def test_dvc_shows_the_curves_of_every_run_and_the_figures(project: Path):
    shown = run(project, "dvc", "plots", "show")
    assert shown.returncode == 0
    assert "failed" not in shown.stderr
    page = (project / "dvc_plots" / "index.html").read_text()
    for title in ("accuracy on id_val", "contrastive loss", "logit scale", "ECE on id_val by temp"):
        assert title in page
    for name in set(RUNS) - {"zs", "wise_ft_ls"}:  # not trained; of the colour of wise_ft
        assert name in page
    figures = re.findall(r'<img src="(.+?)"', page)
    assert len(figures) == 5
    assert all((project / "dvc_plots" / figure).stat().st_size > 1000 for figure in figures)


def test_a_second_run_has_nothing_to_do(project: Path):
    compiled = project / "carot_lib" / "methods" / "__pycache__" / "flyp.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)  # what Python leaves beside the code is no code
    compiled.write_bytes(b"bytes")
    done = run(project, "dvc", "repro")
    assert done.returncode == 0
    # that stage looks whether there are other images, and here it finds none
    assert re.findall("Running stage '(.+)'", done.stdout) == ["list_images@miniature"]


def test_a_number_of_one_row_changes_that_row_alone(project: Path):
    before = (project / "params.yaml").read_text()
    change(project, "miniature", "runs", "flyp_ls", "label_smoothing", value=0.2)
    changed = {name for name in changed_stages(project) if not name.startswith("notebook@")}
    (project / "params.yaml").write_text(before)
    # the record of provenance names the parameters of all rows
    assert changed == {"flyp@miniature-flyp_ls-0", "provenance@miniature"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new, 1))


def add_method(root: Path) -> None:
    (root / "carot_lib" / "methods" / "lp_ft.py").write_text('"""Another method."""\n')
    edit(root / "carot_lib" / "params.py", "MethodParams =", "AnotherMethod = None\nMethodParams =")


def add_row(root: Path) -> None:
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["rows"].append("carot_slow")
    tree["methods"]["carot"].append("carot_slow")
    tree["miniature"]["runs"]["carot_slow"] = tree["miniature"]["runs"]["carot"]
    write_yaml(root / "params.yaml", tree)


def reword_messages(root: Path) -> None:
    edit(root / "carot_lib" / "schema.py", '"unknown key"', '"there is no such key"')
    edit(root / "carot_lib" / "training" / "hardware.py", "CUDA devices", "GPUs")


def comment(*paths: str):
    def add_a_comment(root: Path) -> None:
        for path in paths:
            file = root / "carot_lib" / path
            file.write_text(file.read_text() + "\n# another comment\n")

    return add_a_comment


EDITS = {  # an edit, and the trainings that it makes stale
    "a new method": (add_method, set()),
    "a new row": (add_row, {"carot@miniature-carot_slow-0"}),
    "reworded messages": (reword_messages, set()),
    "another plot style": (comment("report/styles.py", "report/plots.py"), set()),
    "another metric": (comment("calibration/metrics.py", "calibration/bin_stats.py"), set()),
    "another progress bar": (comment("progress.py"), set()),
    "another monitor": (comment("training/monitor.py"), set()),
    "a loss": (comment("methods/losses.py"), TRAININGS["flyp"] | TRAININGS["carot"]),
    "the teacher": (comment("methods/carot.py"), TRAININGS["carot"]),
    "one method": (comment("methods/fine_tune.py"), TRAININGS["fine_tune"]),
    "the loop": (comment("training/loop.py"), ALL_TRAININGS),
    "the order of the samples": (comment("training/samples.py"), ALL_TRAININGS),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_exactly_the_trainings_stale_that_it_changes(
    project: Path, tmp_path: Path, name: str
):
    make_edit, stale = EDITS[name]
    kept = {path: path.read_bytes() for path in (project / "carot_lib").rglob("*.py")}
    kept[project / "params.yaml"] = (project / "params.yaml").read_bytes()
    make_edit(project)
    changed = changed_stages(project)
    for path in (project / "carot_lib").rglob("*.py"):
        if path not in kept:
            path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    trainings = {c for c in changed if c.split("@")[0] in TRAININGS}
    assert trainings == stale
    if name == "another plot style":
        assert changed
        assert {stage.split("@")[0] for stage in changed} == {"notebook"}


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("tables",), "results/miniature/tables"),
        (("evaluate", "--run", "ft", "--seed", "0"), "evaluations/miniature/ft/seed0/metrics.csv"),
        (("notebook", "--notebook", "04_table1"), "results/miniature/notebooks/04_table1"),
    ],
)
def test_what_stands_in_the_way_of_a_result_is_one_line(
    project: Path, words: tuple[str, ...], place: str
):
    path = project / place
    aside = path.with_name("aside")
    path.rename(aside)
    if aside.is_dir():
        path.write_text("a file where a folder should be")
    else:
        path.mkdir()
    name, *options = words
    module = ["-m", "carot_lib", name, "--profile", "miniature", *options]
    done = run(project, sys.executable, *module)
    path.unlink() if path.is_file() else path.rmdir()
    aside.rename(path)
    assert done.returncode == 2
    others = ("Warning", "temperature")  # the shrunken world has few images to choose by
    lines = [line for line in done.stderr.splitlines() if not any(o in line for o in others)]
    (line,) = lines
    assert line.startswith(str(path))
    assert line.endswith(("a file stands where a folder is to be made", "is a directory"))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(project: Path):
    before = (project / "params.yaml").read_text()
    change(project, "miniature", "runs", "ft", "learning_rate", value=1.0e30)
    module = ["-m", "carot_lib", "train", "--profile", "miniature", "--run", "ft"]
    done = run(project, sys.executable, *module, "--seed", "7")
    (project / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "the loss is not finite at step" in done.stderr
    assert "cross_entropy = " in done.stderr
    assert not (project / "models" / "miniature" / "ft" / "seed7").exists()


def test_a_wrong_key_is_one_line_and_exit_code_2(project: Path):
    before = (project / "params.yaml").read_text()
    change(project, "miniature", "runs", "carot", "update_evry", value=5)
    done = run(project, sys.executable, "-m", "carot_lib", "check_params")
    (project / "params.yaml").write_text(before)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line]
    assert lines == ["params.yaml: miniature.runs.carot.update_evry: unknown key"]


def test_a_profile_whose_images_are_not_there_says_so(project: Path):
    module = ["-m", "carot_lib", "data", "--profile", "imagenet"]
    done = run(project, sys.executable, *module)
    assert done.returncode == 2
    assert "imagenet" in done.stderr
    assert "Traceback" not in done.stderr
