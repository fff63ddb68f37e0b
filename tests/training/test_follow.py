"""The files in which a run can be followed."""

import json
import subprocess
from pathlib import Path

import lightning_fabric.loggers.tensorboard as tensorboard_module
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carot_lib.training import follow as follow_module
from carot_lib.training.follow import MetricLogger


def curve(folder: Path, name: str) -> list[list[float]]:
    table = pd.read_csv(folder / "plots" / "metrics" / f"{name}.tsv", sep="\t")
    assert list(table) == ["step", Path(name).name]
    return table.to_numpy().tolist()


def test_a_point_is_the_mean_over_ten_steps(tmp_path: Path):
    follower = MetricLogger(tmp_path / "live")
    for step in range(1, 24):
        follower({"step": step, "contrastive": float(step), "model/logit_scale": 14.0})
    # (1 + ... + 10) / 10 = 5.5
    assert curve(tmp_path / "live", "contrastive") == [[10, 5.5], [20, 15.5]]
    follower.show()  # the end: (21 + 22 + 23) / 3 = 22
    follower.show()  # nothing waits
    assert curve(tmp_path / "live", "contrastive") == [[10, 5.5], [20, 15.5], [23, 22.0]]
    assert curve(tmp_path / "live", "model/logit_scale") == [[10, 14.0], [20, 14.0], [23, 14.0]]
    assert json.loads((tmp_path / "live" / "metrics.json").read_text()) == {
        "step": 23,
        "contrastive": 22.0,
        "model": {"logit_scale": 14.0},
    }


def test_a_validation_is_shown_at_its_step(tmp_path: Path):
    follower = MetricLogger(tmp_path)
    follower({"step": 1, "loss": 3.0})
    follower({"step": 2, "loss": 1.0, "id_val/accuracy": 0.25, "id_val/ece": 0.5})
    for step in range(3, 11):
        follower({"step": step, "loss": 4.0})
    assert curve(tmp_path, "loss") == [[2, 2.0], [10, 4.0]]
    assert curve(tmp_path, "id_val/accuracy") == [[2, 0.25]]
    # the newest values that there are
    shown = json.loads((tmp_path / "metrics.json").read_text())
    assert shown == {"step": 10, "loss": 4.0, "id_val": {"accuracy": 0.25, "ece": 0.5}}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 35), st.integers(0, 35))
def test_a_run_that_goes_on_shows_what_a_whole_one_does(tmp_path_factory, steps: int, done: int):
    records = [{"step": step, "loss": step / 7} for step in range(1, steps + 1)]
    folders = [tmp_path_factory.mktemp("live") / "run" for _ in range(2)]
    MetricLogger(folders[0]).show()  # nothing happened: nothing is written
    assert not folders[0].exists()
    killed = MetricLogger(folders[0])
    for record in records[:done]:
        killed(record)
    for folder in folders:
        follower = MetricLogger(folder)
        for record in records:
            follower(record)
        follower.show()
    names = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_what_another_run_left_there_goes(tmp_path: Path):
    (tmp_path / "plots" / "metrics").mkdir(parents=True)
    (tmp_path / "plots" / "metrics" / "distillation.tsv").write_text("step\tdistillation\n1\t2\n")
    follower = MetricLogger(tmp_path)
    follower({"step": 10, "loss": 1.0})
    assert [path.name for path in (tmp_path / "plots" / "metrics").iterdir()] == ["loss.tsv"]


@pytest.mark.parametrize("git", [False, True])
def test_no_git_and_no_commit_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: bool):
    if git:
        subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
        (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    MetricLogger(tmp_path / "live")({"step": 10, "loss": 1.0})
    assert curve(tmp_path / "live", "loss") == [[10, 1.0]]
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == ({"live", ".git", ".dvc"} if git else {"live"})


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(follow_module, "is_first_rank", lambda: False)
    follower = MetricLogger(tmp_path / "live", tensorboard=True)
    for step in range(1, 101):
        follower({"step": step, "loss": 1.0})
    assert not (tmp_path / "live").exists()
    assert not follower.waiting


def test_tensorboard_is_written_beside(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follower = MetricLogger(tmp_path / "live", tensorboard=True)
    for step in range(1, 24):
        follower({"step": step, "loss": float(step), "id_val/ece": 0.5})
    follower.show()
    events = EventAccumulator(str(tmp_path / "live" / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["id_val/ece", "loss"]
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 24))
    assert curve(tmp_path / "live", "loss")[0] == [1, 1.0]  # a validation at every step


def test_tensorboard_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(tensorboard_module, name, False)
    with pytest.raises(ValueError, match=r"hardware\.tensorboard: .* pip install tensorboard$"):
        MetricLogger(tmp_path, tensorboard=True)
