"""The whole pipeline in a shrunken world, by DVC, as a user runs it."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = ("carot_lib", "notebooks", "appendix", "data", "dvc.yaml", ".dvc", ".dvcignore")
MADE = shutil.ignore_patterns("prepared", "cache", "tmp", "__pycache__", "config.local")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GOMP_SPINCOUNT": "10000",
    "PYTHONWARNINGS": "default",
}
RUNS = ["zs", "ft", "ft_ls", "wise_ft", "wise_ft_ls", "flyp", "flyp_ls", "carot"]


def shrink(tree: dict) -> dict:
    """The miniature with a few pictures and steps."""
    world = tree["miniature"]
    world["data"]["subset_size"] = 5
    for drawn in world["data"]["sets"].values():
        drawn["images_per_class"] = 3
    world["data"]["reference"] |= {"images_per_class": 1, "epochs": 1}
    world["pretrained"] |= {"steps": 4, "batch_size": 32, "warmup_steps": 1, "scale_images": 64}
    world["training"] |= {"epochs": 1, "warmup_steps": 1, "validate_every": 2}
    for name, every in (("carot", 2), ("carot_update_2x", 4)):
        world["runs"][name]["teacher"]["update_every"] = every
    world["evaluation"]["bootstrap"]["resamples"] = 50
    return tree


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small world, after one `dvc repro`."""
    root = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=MADE)
        else:
            shutil.copy(source, root / part)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(shrink(tree), sort_keys=False))
    # as a source archive: there is no git repository around it
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    done = run(root, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return root


def run(root: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def change(root: Path, *keys: str, value: object) -> None:
    """Set one number of the copy's params.yaml."""
    path = root / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def changed_stages(root: Path) -> set[str]:
    return set(json.loads(run(root, "dvc", "status", "--json").stdout))


def test_the_tables_have_their_rows_and_columns(project: Path):
    results = project / "results" / "miniature"
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
    posthoc = pd.read_csv(results / "posthoc.csv")
    assert list(posthoc) == expected
    assert posthoc["run"].nunique() == 11
    assert set(posthoc["calibration"]) == {
        "none", "temperature", "temperature_nll", "vector", "histogram", "isotonic", "oracle"
    }  # fmt: skip
    calibrated = metrics[(metrics["dataset"] == "id_val") & (metrics["calibration"] != "none")]
    assert set(calibrated["metric"]) == {"temperature"}  # nothing is reported where it was chosen
    for name in ("paper_table1", "paper_table2", "replication", "differences"):
        assert len(pd.read_csv(results / f"{name}.csv"))


def test_the_tables_numbers_are_those_of_the_saved_predictions(project: Path):
    table = pd.read_csv(project / "results" / "miniature" / "table1.csv").set_index("run")
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
    results = project / "results" / "miniature"
    sources = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.name for path in (results / "notebooks").iterdir()} == sources
    for number in range(1, 6):
        for extension in ("png", "pdf"):
            assert (results / "figures" / f"figure{number}.{extension}").stat().st_size > 1000
    assert (project / "site" / "miniature" / "index.html").exists()


def test_the_record_of_provenance_names_every_result_but_those_that_show_it(project: Path):
    results = project / "results" / "miniature"
    record = json.loads((results / "provenance.json").read_text())
    made = {path.relative_to(results).as_posix(): path for path in results.rglob("*.*")}
    assert set(made) - set(record["files"]) == {"provenance.json", "appendix.pdf"}
    for name, known in record["files"].items():
        assert known["sha256"] == hashlib.sha256(made[name].read_bytes()).hexdigest()
        assert known["stage"] in record["stages"]


def test_no_result_tells_of_the_machine(project: Path):
    for path in (project / "results").rglob("*"):
        if path.suffix in (".csv", ".md", ".tex", ".ipynb"):
            assert str(project) not in path.read_text(), path


def test_dvc_shows_the_numbers_of_every_run(project: Path):
    shown = run(project, "dvc", "metrics", "show", "--json")
    files = json.loads(shown.stdout)[""]["data"]
    assert len(files) == 11
    table = pd.read_csv(project / "results" / "miniature" / "table1.csv").set_index("run")
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
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout


def test_a_number_of_one_run_changes_that_run_alone(project: Path):
    before = (project / "params.yaml").read_text()
    change(project, "miniature", "runs", "flyp_ls", "label_smoothing", value=0.2)
    # the record of provenance names the parameters of all runs
    assert changed_stages(project) == {"train@miniature-flyp_ls-0", "provenance@miniature"}
    (project / "params.yaml").write_text(before)


def test_a_plot_changes_its_notebooks_alone(project: Path):
    path = project / "carot_lib" / "report" / "plots.py"
    before = path.read_text()
    path.write_text(before + "\n# another comment\n")
    changed = changed_stages(project)
    path.write_text(before)
    assert changed
    assert all(stage.startswith("notebook_") for stage in changed)


def start(root: Path, stage: str) -> subprocess.Popen:
    """Run one stage anew, in a process group of its own."""
    return subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", stage],
        cwd=root,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what a shell starts in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stop(process: subprocess.Popen, root: Path, by: signal.Signals) -> None:
    """Signal the whole group, as a terminal does, and wait until nobody works there any more."""
    os.killpg(process.pid, by)
    process.stderr.close()
    assert process.wait(timeout=60) != 0
    deadline = time.monotonic() + 60
    while working := [
        p.info
        for p in psutil.process_iter(["pid", "name", "cwd"])
        if (p.info["cwd"] or "").startswith(str(root))
    ]:
        assert time.monotonic() < deadline, f"left behind: {working}"
        time.sleep(0.1)


def wait_for_line(process: subprocess.Popen, start: str) -> None:
    assert any(line.startswith(start) for line in process.stderr), f"no line {start!r}"


def wait_for_file(process: subprocess.Popen, path: Path) -> None:
    """Wait for a file that was removed when its stage started."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.005)


def forget(root: Path, stages: Iterable[str]) -> None:
    """As if stages were run for the first time: DVC would fetch what they once made."""
    shutil.rmtree(root / ".dvc" / "cache" / "runs")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    for stage in stages:
        del lock["stages"][stage]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def contents(root: Path) -> dict[str, bytes]:
    """Every result that git keeps."""
    return {str(p): p.read_bytes() for p in (root / "results").rglob("*") if p.is_file()}


def test_a_run_that_is_killed_goes_on_to_the_same_table(project: Path):
    table = project / "results" / "miniature" / "table1.csv"
    before = table.read_bytes()
    change(project, "miniature", "training", "epochs", value=40)
    process = start(project, "train@miniature-ft-0")
    wait_for_line(process, "training ft")  # killed in the middle of the training
    stop(process, project, signal.SIGKILL)
    assert not (project / "models" / "miniature" / "ft" / "seed0" / "classifier.json").exists()
    change(project, "miniature", "training", "epochs", value=1)
    done = run(project, "dvc", "repro")
    assert done.returncode == 0, done.stderr[-2000:]
    assert table.read_bytes() == before


def test_interrupted_and_killed_in_stages_of_every_kind_it_goes_on_to_the_same_results(
    project: Path,
):
    before = contents(project)
    stages = {
        "notebook_table1@miniature": signal.SIGKILL,
        "predict@miniature-carot-0": signal.SIGKILL,
        "data@miniature": signal.SIGKILL,
        "pretrain@miniature": signal.SIGINT,
    }
    forget(project, stages)
    copy = project / "results" / "miniature" / "notebooks" / "04_table1.ipynb"
    begun = copy.with_name("04_table1.failed.ipynb")
    begun.unlink(missing_ok=True)
    process = start(project, "notebook_table1@miniature")
    wait_for_file(process, begun)
    stop(process, project, stages["notebook_table1@miniature"])
    assert not copy.exists()

    folder = project / "predictions" / "miniature" / "carot" / "seed0"
    (folder / "id_val.npz").unlink()
    process = start(project, "predict@miniature-carot-0")
    wait_for_file(process, folder / "id_val.npz")
    stop(process, project, stages["predict@miniature-carot-0"])
    assert not (folder / "handwritten.npz").exists()  # the last

    folder = project / "data" / "prepared" / "miniature"
    (folder / "train.npz").unlink()
    process = start(project, "data@miniature")
    wait_for_file(process, folder / "train.npz")
    stop(process, project, stages["data@miniature"])
    assert not (folder / "classes.json").exists()  # the last

    change(project, "miniature", "pretrained", "steps", value=4000)
    process = start(project, "pretrain@miniature")
    wait_for_line(process, "pre-training: ")
    stop(process, project, stages["pretrain@miniature"])
    assert not (project / "models" / "miniature" / "pretrained" / "clip.json").exists()
    change(project, "miniature", "pretrained", "steps", value=4)

    done = run(project, "dvc", "repro")
    assert done.returncode == 0, done.stderr[-2000:]
    ran = set(re.findall(r"Running stage '(.+?)'", done.stdout))
    assert ran == set(stages)  # their results are the same again: nothing else has to run
    assert contents(project) == before


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("tables",), "results/miniature"),
        (("evaluate", "--run", "ft", "--seed", "0"), "evaluations/miniature/ft/seed0/metrics.csv"),
        (("run_notebook", "--notebook", "04_table1"), "results/miniature/notebooks"),
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
    module = ["-m", f"carot_lib.stages.{name}", "--profile", "miniature", *options]
    done = run(project, sys.executable, *module)
    path.unlink() if path.is_file() else path.rmdir()
    aside.rename(path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "Warning" not in line]
    assert line.startswith(str(path))
    assert line.endswith(("a file stands where a folder is to be made", "is a directory"))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(project: Path):
    before = (project / "params.yaml").read_text()
    change(project, "miniature", "runs", "ft", "learning_rate", value=1.0e30)
    module = ["-m", "carot_lib.stages.train", "--profile", "miniature", "--run", "ft"]
    done = run(project, sys.executable, *module, "--seed", "7")
    (project / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "the loss is not finite at step" in done.stderr
    assert "cross_entropy = " in done.stderr
    assert not (project / "models" / "miniature" / "ft" / "seed7").exists()


def test_a_wrong_key_is_one_line_and_exit_code_2(project: Path):
    before = (project / "params.yaml").read_text()
    change(project, "miniature", "runs", "carot", "teacher", "update_evry", value=5)
    done = run(project, sys.executable, "-m", "carot_lib.stages.check_params")
    (project / "params.yaml").write_text(before)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line]
    assert lines == ["params.yaml: miniature.runs.carot.teacher.update_evry: unknown key"]


def test_a_profile_whose_images_are_not_there_says_so(project: Path):
    module = ["-m", "carot_lib.stages.data", "--profile", "imagenet"]
    done = run(project, sys.executable, *module)
    assert done.returncode == 2
    assert "imagenet" in done.stderr
    assert "Traceback" not in done.stderr
