"""Validation during a run, which must not affect its training, and the files that show it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import KINDS, labelled_set, run, training

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet
from carot_lib.methods.base import Setup
from carot_lib.models.inference import predict_logits
from carot_lib.training import monitor as monitor_module
from carot_lib.training.global_batch import set_training_mode
from carot_lib.training.monitor import MetricLogger, validate

CPU = torch.device("cpu")


@pytest.fixture
def trained(make_clip, class_prompts) -> Callable[..., tuple]:
    """Classifier and records of a run of nine steps, validated after so many steps."""

    def train(kind: str, every: object, validation_set: LabelledSet | None, n_bins: int) -> tuple:
        records = []
        numbers = training(epochs=3, validate_every=every)
        validation = {"validation_set": validation_set, "n_bins": n_bins}
        clip = make_clip()
        return tiny.trained(
            run(kind), clip, class_prompts, records.append, numbers, **validation
        ), records

    return train


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("every", "steps"), [(1, range(1, 10)), (0.45, (4, 8))])  # 4.05 steps
def test_a_validated_run_has_the_same_bits(trained, kind: str, every: object, steps: range):
    validation_set = labelled_set("id_val", seed=1)
    plain, records = trained(kind, None, validation_set, 10)
    validated, logged = trained(kind, every, validation_set, 10)
    expected = plain.state_dict()  # including the running statistics of BatchNorm
    assert all(torch.equal(value, expected[key]) for key, value in validated.state_dict().items())
    assert [r["step"] for r in logged if "id_val/ece" in r] == list(steps)
    without = [{k: v for k, v in r.items() if not k.startswith("id_val/")} for r in logged]
    assert without == records


@pytest.mark.parametrize(("kind", "n_bins"), [("fine_tune", 10), ("flyp", 4), ("carot", 3)])
def test_the_last_validation_is_that_of_the_finished_model(trained, kind: str, n_bins: int):
    validation_set = labelled_set("id_val", seed=1)
    classifier, records = trained(kind, 3, validation_set, n_bins)
    logits, labels = predict_logits(classifier, validation_set, CPU), validation_set.labels
    stats = BinStats.from_logits(logits, labels, n_bins)
    assert records[-1]["id_val/accuracy"] == stats.mean_accuracy()
    assert records[-1]["id_val/ece"] == pytest.approx(stats.ece(), abs=1e-9)


def test_a_run_goes_on_where_its_curves_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(logger: MetricLogger) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricLogger, "_write", fail)
    logger = MetricLogger(tmp_path / "live")
    for step in range(1, 31):
        logger({"step": step, "loss": 1.0})
    assert len(logger.history) == 30
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith(f"{tmp_path / 'live'}: no more curves are written: ")


def test_without_a_validation_set_nothing_is_validated(trained):
    _, records = trained("flyp", 1, None, 10)
    assert not any(name.startswith("id_val/") for record in records for name in record)


@pytest.mark.parametrize("kind", KINDS)
def test_a_validation_restores_modes_and_generators(make_clip, class_prompts, kind: str):
    method = run(kind).build(Setup(make_clip(), class_prompts, 10))
    set_training_mode(method.model)
    modes = [module.training for module in method.modules()]
    state = {key: value.clone() for key, value in method.state_dict().items()}
    generator = torch.get_rng_state()
    dataset = labelled_set("id_val", seed=1)
    assert validate(method, dataset, 10, CPU) == validate(method, dataset, 10, CPU)
    assert [module.training for module in method.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_set_with_its_own_classes_is_evaluated_in_them(make_clip, class_prompts):
    # the classes 0 and 2 of three: logits of class 1 play no part
    space = {"names": ["cat", "tea pot"], "columns": [[0], [2]]}
    dataset = labelled_set("id_val", seed=1, space=space)
    method = run("flyp").build(Setup(make_clip(), class_prompts, 10))
    values = validate(method, dataset, 10, CPU)
    logits = predict_logits(method.classifier(), dataset, CPU)[:, [0, 2]]
    assert values["id_val/accuracy"] == (logits.argmax(axis=1) == dataset.labels).mean()


def curve(folder: Path, name: str) -> list[list[float]]:
    table = pd.read_csv(folder / "plots" / "metrics" / f"{name}.tsv", sep="\t")
    assert list(table) == ["step", Path(name).name]
    return table.to_numpy().tolist()


def test_a_point_is_the_mean_over_ten_steps(tmp_path: Path):
    logger = MetricLogger(tmp_path / "live")
    for step in range(1, 24):
        logger({"step": step, "contrastive": float(step), "model/logit_scale": 14.0})
    # (1 + ... + 10) / 10 = 5.5
    assert curve(tmp_path / "live", "contrastive") == [[10, 5.5], [20, 15.5]]
    logger.flush()  # the end: (21 + 22 + 23) / 3 = 22
    logger.flush()  # nothing is pending
    assert curve(tmp_path / "live", "contrastive") == [[10, 5.5], [20, 15.5], [23, 22.0]]
    assert curve(tmp_path / "live", "model/logit_scale") == [[10, 14.0], [20, 14.0], [23, 14.0]]
    assert json.loads((tmp_path / "live" / "metrics.json").read_text()) == {
        "step": 23,
        "contrastive": 22.0,
        "model": {"logit_scale": 14.0},
    }


def test_a_validation_is_written_at_its_step(tmp_path: Path):
    logger = MetricLogger(tmp_path)
    logger({"step": 1, "loss": 3.0})
    logger({"step": 2, "loss": 1.0, "id_val/accuracy": 0.25, "id_val/ece": 0.5})
    for step in range(3, 11):
        logger({"step": step, "loss": 4.0})
    assert curve(tmp_path, "loss") == [[2, 2.0], [10, 4.0]]
    assert curve(tmp_path, "id_val/accuracy") == [[2, 0.25]]
    # the latest values of all metrics
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values == {"step": 10, "loss": 4.0, "id_val": {"accuracy": 0.25, "ece": 0.5}}


@given(st.integers(1, 35), st.integers(0, 35))
def test_a_resumed_run_writes_the_files_of_an_uninterrupted_one(
    tmp_path_factory, steps: int, start: int
):
    records = [{"step": step, "loss": step / 7} for step in range(1, steps + 1)]
    folders = [tmp_path_factory.mktemp("live") / "run" for _ in range(2)]
    MetricLogger(folders[0]).flush()
    assert not folders[0].exists()
    killed = MetricLogger(folders[0])
    for record in records[:start]:
        killed(record)
    for folder in folders:
        logger = MetricLogger(folder)
        for record in records:
            logger(record)
        logger.flush()
    names = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_files_of_an_earlier_run_are_removed(tmp_path: Path):
    (tmp_path / "plots" / "metrics").mkdir(parents=True)
    (tmp_path / "plots" / "metrics" / "distillation.tsv").write_text("step\tdistillation\n1\t2\n")
    MetricLogger(tmp_path)({"step": 10, "loss": 1.0})
    assert [path.name for path in (tmp_path / "plots" / "metrics").iterdir()] == ["loss.tsv"]


@pytest.mark.parametrize("git", [False, True])
def test_no_git_and_no_commit_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: bool):
    if git:
        subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
        (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    MetricLogger(tmp_path / "live")({"step": 10, "loss": 1.0})
    assert curve(tmp_path / "live", "loss") == [[10, 1.0]]
    assert {path.name for path in tmp_path.iterdir()} - {".git", ".dvc"} == {"live"}


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor_module, "rank", lambda: 1)
    logger = MetricLogger(tmp_path / "live")
    for step in range(1, 101):
        logger({"step": step, "loss": 1.0})
    assert not (tmp_path / "live").exists()
    assert not logger.pending


def test_a_validation_is_written_at_once(tmp_path: Path):
    logger = MetricLogger(tmp_path / "live")
    logger({"step": 1, "loss": 1.0, "id_val/ece": 0.5})
    assert curve(tmp_path / "live", "loss") == [[1, 1.0]]
