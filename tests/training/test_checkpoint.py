"""A killed run goes on and ends bit for bit where it would have ended."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor

from carot_lib.data.datasets import LabelledSet, read_set, write_set
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.models.clip import Clip, save_clip
from carot_lib.params import Run
from carot_lib.stages.train import train
from carot_lib.training import checkpoint as checkpoint_module
from carot_lib.training import loop as loop_module
from carot_lib.training.checkpoint import discard_checkpoint, fingerprint_of
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.loop import TrainingParams, fine_tune

ROOT = Path(__file__).parents[2]
NAMES = ["cat", "steam locomotive", "tea pot"]
STEPS = 15  # 5 epochs of 10 images in batches of 4, 4 and 2
TEACHER = {
    "momentum_start": 0.05,
    "momentum_end": 0.9,
    "warmup_fraction": 0.5,
    "update_every": 4,
    "update_at_step_0": False,
}
SHARED = {"learning_rate": 0.01}
RUNS = {
    "fine_tune": {"clip_gradient_norm": 1.0, "sampling": "epochs", "label_smoothing": 0.1},
    "flyp": {
        "clip_gradient_norm": None,
        "sampling": "pairs",
        "label_smoothing": 0.0,
        "max_logit_scale": None,
    },
    "carot": {
        "clip_gradient_norm": None,
        "sampling": "epochs",
        "distillation_weight": 0.75,
        "kd_reduction": "paper",
        "max_logit_scale": 12.0,
        "teacher": TEACHER,
    },
}
TRAINING = {"epochs": 5, "batch_size": 4, "weight_decay": 0.1, "warmup_steps": 2}
TRAINING |= {"validate_every": 4}
HARDWARE = {
    "accelerator": "cpu",
    "devices": 1,
    "nodes": 1,
    "precision": "32-true",
    "accumulation": 1,
    "workers": 0,
    "checkpoint_every": 3,
    "tensorboard": False,
}
KILLS = [  # 24 random places: kind, steps between two checkpoints, step that is not reached
    (kind, draw.randint(1, 5), draw.randint(1, STEPS))
    for draw in [random.Random(0)]
    for kind in RUNS
    for _ in range(8)
]


class KilledError(Exception):
    """What stands for a kill within this process."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps of a few milliseconds: on a busy machine two threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data folder of ten images."""
    folder = tmp_path_factory.mktemp("prepared")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(10, 32, 32, 3), dtype=np.uint8)
    write_set(folder, "train", generator.integers(0, 3, size=10), images)
    write_set(folder, "id_val", generator.integers(0, 3, size=10), images[::-1])
    write_json(folder / "classes.json", {"class_names": NAMES, "label_spaces": {}})
    return folder


@pytest.fixture(scope="module")
def train_set(prepared: Path) -> LabelledSet:
    return read_set(prepared, "train")


@pytest.fixture(scope="module")
def validation_set(prepared: Path) -> LabelledSet:
    return read_set(prepared, "id_val")


Outcome = tuple[dict[str, Tensor], list[dict[str, float]]]


@pytest.fixture(scope="module")
def run(
    make_clip: Callable[[], Clip],
    class_prompts: Tensor,
    train_set: LabelledSet,
    validation_set: LabelledSet,
):
    """Runs one method in this process: weights and history."""

    def run(kind: str, folder: Path | None = None, every: int = 3, **changes: object) -> Outcome:
        history: list[dict[str, float]] = []
        classifier = fine_tune(
            Run.model_validate({"kind": kind, **SHARED, **RUNS[kind], **changes}).root,
            TrainingParams.model_validate(TRAINING),
            HardwareParams.model_validate(HARDWARE | {"checkpoint_every": every}),
            make_clip(),
            class_prompts.repeat(1, 2, 1),  # eight templates: enough (image, template) pairs
            train_set,
            3,
            history.append,
            kind,
            folder,
            validation_set,
        )
        return classifier.state_dict(), history

    return run


@pytest.fixture(scope="module")
def whole(run: Callable[..., Outcome]) -> dict[str, Outcome]:
    """The runs as they end when nobody kills them."""
    return {kind: run(kind) for kind in RUNS}


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Kills the next run before this step; step numbers count from 1. A step of 0 kills none."""

    def kill_at(deadly: int) -> None:
        def track(data: Iterator, total: int, label: str, unit: str) -> Iterator:
            for step, batch in enumerate(data, start=STEPS - total + 1):
                if step == deadly:
                    raise KilledError
                yield batch

        monkeypatch.setattr(loop_module, "track", track)

    return kill_at


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    (weights, history), (expected, record) = ours, theirs
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights.items())
    assert history == record
    assert len(history) == STEPS
    assert [record["step"] for record in history if "id_val/ece" in record] == [4, 8, 12]


@pytest.mark.parametrize(("kind", "every", "step"), KILLS)
def test_a_run_killed_at_any_step_ends_in_the_same_bits(
    run, whole, kill_at, tmp_path: Path, capsys, kind: str, every: int, step: int
):
    kill_at(step)
    with pytest.raises(KilledError):
        run(kind, tmp_path, every)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # another process
        kill_at(0)
        assert_same(run(kind, tmp_path, every), whole[kind])
    kept = (step - 1) // every * every
    said = f"going on after step {kept}" in capsys.readouterr().err
    assert said == (kept > 0)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_killed_again_and_again_ends_in_the_same_bits(
    run, whole, kill_at, tmp_path: Path, kind: str
):
    for step in (5, 5, 9, 14):
        kill_at(step)
        with pytest.raises(KilledError):
            run(kind, tmp_path, every=2)
    kill_at(0)
    assert_same(run(kind, tmp_path, every=2), whole[kind])


def test_a_run_killed_while_it_saves_goes_on_from_the_state_before(
    run, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    save, calls = checkpoint_module.save_file, []

    def die(tensors: dict, path: Path, metadata: dict) -> None:
        calls.append(path)
        save(tensors, path, metadata=metadata)
        if len(calls) == 2:
            os.truncate(path, 1000)
            raise KilledError

    monkeypatch.setattr(checkpoint_module, "save_file", die)
    with pytest.raises(KilledError):
        run("carot", tmp_path)
    assert_same(run("carot", tmp_path), whole["carot"])
    assert "going on after step 3\n" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_leaves_the_last_good_state(
    run, whole, kill_at, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, fault: Exception
):
    save, calls = checkpoint_module.save_file, []

    def fill(tensors: dict, path: Path, metadata: dict) -> None:
        calls.append(path)
        if len(calls) > 2:
            path.write_bytes(b"as much as there was room for")
            raise fault
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint_module, "save_file", fill)
    kill_at(13)
    with pytest.raises(KilledError):  # and not OSError: the training goes on
        run("flyp", tmp_path)
    said = capsys.readouterr().err
    assert [f"step {step} is not kept" in said for step in (3, 6, 9, 12)] == [0, 0, 1, 1]
    assert "No space left on device" in said
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    kill_at(0)
    assert_same(run("flyp", tmp_path), whole["flyp"])
    assert "going on after step 6\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "other", [{"learning_rate": 0.02}, {"label_smoothing": 0.2}, {"clip_gradient_norm": 5.0}]
)
def test_the_state_of_another_run_is_not_used(
    run, whole, kill_at, tmp_path: Path, capsys, other: dict
):
    kill_at(8)
    with pytest.raises(KilledError):
        run("fine_tune", tmp_path, **other)
    kill_at(0)
    assert_same(run("fine_tune", tmp_path), whole["fine_tune"])
    assert "starting anew" in capsys.readouterr().err


def test_what_matters_to_no_weight_may_change_before_a_run_goes_on(
    run, whole, kill_at, tmp_path: Path, capsys
):
    kill_at(8)
    with pytest.raises(KilledError):
        run("carot", tmp_path, every=3)
    kill_at(0)
    assert_same(run("carot", tmp_path, every=5), whole["carot"])
    assert "going on after step 6" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_holds_no_state_is_not_used(run, whole, tmp_path: Path, capsys, content: bytes):
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    assert_same(run("flyp", tmp_path), whole["flyp"])
    assert "starting anew" in capsys.readouterr().err


def test_a_cut_file_is_not_used(run, whole, kill_at, tmp_path: Path, capsys):
    kill_at(8)
    with pytest.raises(KilledError):
        run("flyp", tmp_path)
    os.truncate(tmp_path / "checkpoint.safetensors", 50_000)
    kill_at(0)
    assert_same(run("flyp", tmp_path), whole["flyp"])
    assert "cannot be read" in capsys.readouterr().err


def test_a_fingerprint_tells_everything_apart():
    tensors = {"a": torch.zeros(2), "b": torch.tensor(1.0)}
    prints = [
        fingerprint_of(tensors, "x", "y"),
        fingerprint_of(tensors, "xy"),
        fingerprint_of(tensors, "x", "z"),
        fingerprint_of(tensors | {"a": torch.tensor([0.0, -0.0])}, "x", "y"),
        fingerprint_of({"c": torch.zeros(2), "b": torch.tensor(1.0)}, "x", "y"),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint_of(tensors, "x", "y") == prints[0]


def test_a_fingerprint_knows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = fingerprint_of({})
    changed = tmp_path / "losses.py"
    changed.write_text("# another loss")
    monkeypatch.setattr(sys.modules["carot_lib.methods.losses"], "__file__", str(changed))
    assert fingerprint_of({}) != before


def test_a_state_is_discarded_with_its_folder(tmp_path: Path):
    folder = tmp_path / "run" / "seed0"
    discard_checkpoint(folder)  # nothing there: nothing to do
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_text("state")
    discard_checkpoint(folder)
    assert not folder.exists()


def project(root: Path, prepared: Path, clip: Clip) -> Layout:
    """A project of its own in which stage `train` runs for 60 steps."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["miniature"]["training"] = {**TRAINING, "epochs": 20, "validate_every": 25}
    tree["miniature"]["hardware"] = {**HARDWARE, "checkpoint_every": 5}
    tree["miniature"]["runs"]["carot"] |= {"teacher": TEACHER}
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    (root / "carot_lib").symlink_to(ROOT / "carot_lib")
    (root / "data" / "prepared").mkdir(parents=True)
    layout = Layout(root, "miniature")
    layout.data.symlink_to(prepared)
    save_clip(clip, layout.pretrained)
    return layout


def files_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_stage_train_killed_by_the_system_ends_in_the_same_bytes(
    tmp_path: Path, prepared: Path, make_clip: Callable[[], Clip]
):
    killed = project(tmp_path / "killed", prepared, make_clip())
    command = [sys.executable, "-m", "carot_lib.stages.train", "--profile", "miniature"]
    command += ["--run", "carot", "--seed", "0"]
    state = killed.checkpoint("carot", 0) / "checkpoint.safetensors"
    alike = {"cwd": killed.root, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    live = killed.live("carot", 0) / "metrics.json"
    with subprocess.Popen(command, **alike, **silent) as process:
        while not (state.exists() and live.exists()):
            assert process.poll() is None, "ended before it kept a state"
            time.sleep(0.005)
        time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not killed.model("carot", 0).exists()
    done = subprocess.run(command, **alike, capture_output=True, text=True, check=True)
    assert "going on after step " in done.stderr
    assert not state.parent.exists()

    whole = project(tmp_path / "whole", prepared, make_clip())
    train(whole, "carot", 0)
    folders = [layout.model("carot", 0) for layout in (killed, whole)]
    for name in ("classifier.safetensors", "classifier.json", "history.csv"):
        ours, theirs = ((folder / name).read_bytes() for folder in folders)
        assert ours == theirs, name
    history = pd.read_csv(folders[0] / "history.csv")
    assert list(history) == ["step", "learning_rate", "contrastive", "distillation"]
    assert list(history["step"]) == list(range(1, 61))
    shown = [files_of(layout.live("carot", 0)) for layout in (killed, whole)]
    assert shown[0] == shown[1]
    assert set(shown[0]) == {"metrics.json"} | {
        f"plots/metrics/{name}.tsv"
        for name in (
            "learning_rate",
            "contrastive",
            "distillation",
            "model/logit_scale",
            "teacher/momentum",
            "id_val/accuracy",
            "id_val/ece",
        )
    }
    assert json.loads((folders[0] / "classifier.json").read_text())["embed_dim"] == 16
