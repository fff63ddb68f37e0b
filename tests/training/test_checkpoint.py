"""A killed run resumes and ends with the same bits as an uninterrupted one."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from tiny import KINDS, hardware, labelled_set, training
from torch import Tensor

from carot_lib.layout import Layout
from carot_lib.models.clip import Clip, save_clip
from carot_lib.stages.train import train
from carot_lib.training import checkpoint as checkpoint_module
from carot_lib.training import loop as loop_module
from carot_lib.training.checkpoint import FILE_NAME, discard_checkpoint, fingerprint_of

ROOT = Path(__file__).parents[2]
STEPS = 15  # 5 epochs of 10 images in batches of 4, 4 and 2
CHANGES = {
    "fine_tune": {"clip_gradient_norm": 1.0},
    "flyp": {"sampling": "pairs"},
    "carot": {"max_logit_scale": 12.0, "update_every": 4},
}
KILLS = [  # 24 random kills: kind, steps between two checkpoints, step that is not reached
    pytest.param(kind, draw.randint(1, 5), draw.randint(1, STEPS), marks=marks)
    for draw in [random.Random(0)]
    for kind in KINDS
    for marks in [()] + 7 * [pytest.mark.slow]
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


Outcome = tuple[dict[str, Tensor], list[dict[str, float]]]


@pytest.fixture(scope="module")
def run(make_clip: Callable[[], Clip], class_prompts: Tensor) -> Callable[..., Outcome]:
    """Runs one method in this process: weights and history."""

    def run(kind: str, folder: Path | None = None, every: int = 3, **changes: object) -> Outcome:
        history: list[dict[str, float]] = []
        classifier = tiny.trained(
            tiny.run(kind, **CHANGES[kind] | changes),
            make_clip(),
            class_prompts.repeat(1, 2, 1),  # eight templates: enough (image, template) pairs
            history.append,
            training(epochs=5, warmup=2, validate_every=4),
            hardware(checkpoint_every=every),
            seed=3,
            checkpoints=folder,
            validation_set=labelled_set("id_val", seed=1),
        )
        return classifier.state_dict(), history

    return run


@pytest.fixture(scope="module")
def expected(run: Callable[..., Outcome]) -> dict[str, Outcome]:
    """The runs without a kill."""
    return {kind: run(kind) for kind in KINDS}


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


@pytest.fixture
def killed(run: Callable[..., Outcome], kill_at: Callable[[int], None]) -> Callable[..., None]:
    """Runs one method and kills it before a step; the next run is not killed."""

    def killed(step: int, kind: str, folder: Path, **changes: object) -> None:
        kill_at(step)
        with pytest.raises(KilledError):
            run(kind, folder, **changes)
        kill_at(0)

    return killed


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    (weights, history), (expected, record) = ours, theirs
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights.items())
    assert history == record
    assert len(history) == STEPS
    assert [record["step"] for record in history if "id_val/ece" in record] == [4, 8, 12]


@pytest.mark.parametrize(("kind", "every", "step"), KILLS)
def test_a_run_killed_at_any_step_ends_with_the_same_bits(
    run, expected, killed, tmp_path: Path, capsys, kind: str, every: int, step: int
):
    killed(step, kind, tmp_path, every=every)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # another process
        assert_same(run(kind, tmp_path, every), expected[kind])
    saved = (step - 1) // every * every
    assert (f"resuming after step {saved}\n" in capsys.readouterr().err) == (saved > 0)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    run, expected, killed, tmp_path: Path
):
    for step in (5, 5, 9, 14):
        killed(step, "carot", tmp_path, every=2)
    assert_same(run("carot", tmp_path, every=2), expected["carot"])


def test_a_run_killed_while_it_saves_resumes_from_the_state_before(
    run, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    save, calls = torch.save, []

    def die(state: dict, file: object) -> None:
        calls.append(file)
        save(state, file)
        if len(calls) == 2:
            file.truncate(1000)
            raise KilledError

    monkeypatch.setattr(checkpoint_module.torch, "save", die)
    with pytest.raises(KilledError):
        run("carot", tmp_path)
    assert_same(run("carot", tmp_path), expected["carot"])
    assert "resuming after step 3\n" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_good_state(
    run, expected, killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    save, calls = torch.save, []

    def fill(state: dict, file: object) -> None:
        calls.append(file)
        if len(calls) > 2:
            file.write(b"as much as there was room for")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(checkpoint_module.torch, "save", fill)
    killed(13, "flyp", tmp_path)  # and no OSError: the training goes on
    errors = capsys.readouterr().err
    assert [f"after step {step} was not saved" in errors for step in (3, 6, 9, 12)] == [0, 0, 1, 1]
    assert "No space left on device" in errors
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert_same(run("flyp", tmp_path), expected["flyp"])
    assert "resuming after step 6\n" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_raises_the_error_that_is_caught():
    with pytest.raises(OSError, match="No space"), Path("/dev/full").open("wb") as file:
        torch.save({"weights": torch.zeros(100_000)}, file)


@pytest.mark.parametrize(
    "other", [{"learning_rate": 0.02}, {"label_smoothing": 0.2}, {"clip_gradient_norm": 5.0}]
)
def test_the_state_of_another_run_is_not_used(
    run, expected, killed, tmp_path: Path, capsys, other: dict
):
    killed(8, "fine_tune", tmp_path, **other)
    assert_same(run("fine_tune", tmp_path), expected["fine_tune"])
    assert "starting from the beginning" in capsys.readouterr().err


def test_what_affects_no_weight_may_change_before_a_run_resumes(
    run, expected, killed, tmp_path: Path, capsys
):
    killed(8, "carot", tmp_path, every=3)
    assert_same(run("carot", tmp_path, every=5), expected["carot"])
    assert "resuming after step 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"no tensors", b"\x80\x02junk", b"PK\x03\x04", "cut", "other"]
)
def test_a_damaged_file_is_not_used(
    run, expected, killed, tmp_path: Path, capsys, content: bytes | str
):
    path = tmp_path / FILE_NAME
    if content == "cut":
        killed(8, "flyp", tmp_path)
        os.truncate(path, 50_000)
    elif content == "other":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    assert_same(run("flyp", tmp_path), expected["flyp"])
    errors = capsys.readouterr().err
    assert "cannot be read" in errors
    assert "starting from the beginning" in errors


def test_a_fingerprint_distinguishes_everything():
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


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("methods.losses", True),
        ("models.clip", True),
        ("training.loop", True),
        ("data.datasets", True),
        ("training.monitor", False),
        ("calibration.bin_stats", False),
        ("schema", False),
    ],
)
def test_a_fingerprint_depends_on_the_code_that_determines_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, counts: bool
):
    before = fingerprint_of({})
    changed = tmp_path / "changed.py"
    changed.write_text("# other code")
    monkeypatch.setattr(sys.modules[f"carot_lib.{module}"], "__file__", str(changed))
    assert (fingerprint_of({}) != before) == counts


def test_a_state_is_discarded_with_its_folder(tmp_path: Path):
    folder = tmp_path / "run" / "seed0"
    discard_checkpoint(folder)  # nothing to do
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_text("state")
    discard_checkpoint(folder)
    assert not folder.exists()


def project(root: Path, clip: Clip) -> Layout:
    """A project of its own in which stage `train` runs for 60 steps."""
    layout = tiny.project(
        root,
        labelled_set("train"),
        labelled_set("id_val"),
        training={**tiny.TRAINING, "epochs": 20, "validate_every": 25},
        hardware={**tiny.HARDWARE, "checkpoint_every": 5},
    )
    save_clip(clip, layout.pretrained)
    return layout


def files_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_stage_train_killed_by_the_system_ends_with_the_same_bytes(
    tmp_path: Path, make_clip: Callable[[], Clip]
):
    killed = project(tmp_path / "killed", make_clip())
    command = [sys.executable, "-m", "carot_lib", "train", "--profile", "miniature"]
    command += ["--run", "carot", "--seed", "0"]
    state = killed.checkpoint("carot", 0) / FILE_NAME
    alike = {"cwd": killed.root, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    live = killed.live("carot", 0) / "metrics.json"
    with subprocess.Popen(command, **alike, **silent) as process:
        while not (state.exists() and live.exists()):
            assert process.poll() is None, "ended before it saved a state"
            time.sleep(0.005)
        time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not killed.model("carot", 0).exists()
    done = subprocess.run(command, **alike, capture_output=True, text=True, check=True)
    assert "resuming after step " in done.stderr
    assert not state.parent.exists()

    expected = project(tmp_path / "expected", make_clip())
    train(expected, "carot", 0)
    models = [files_of(layout.model("carot", 0)) for layout in (killed, expected)]
    assert models[0] == models[1]
    assert set(models[0]) == {"classifier.safetensors", "classifier.json", "history.csv"}
    history = pd.read_csv(killed.model("carot", 0) / "history.csv")
    assert list(history) == ["step", "learning_rate", "contrastive", "distillation"]
    assert list(history["step"]) == list(range(1, 61))
    live_files = [files_of(layout.live("carot", 0)) for layout in (killed, expected)]
    assert live_files[0] == live_files[1]
    metrics = ("learning_rate", "contrastive", "distillation", "model/logit_scale")
    metrics += ("teacher/momentum", "id_val/accuracy", "id_val/ece")
    curves = {f"plots/metrics/{name}.tsv" for name in metrics}
    assert set(live_files[0]) == {"metrics.json", *curves}
