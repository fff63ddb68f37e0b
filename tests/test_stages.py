"""The stages' command lines: what is missing, damaged or in the way is one line, exit code 2."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from carot_lib.__main__ import exit_on_bad_input, main
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import write_set
from carot_lib.evaluation import load_evaluation
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.models.clip import Clip, save_classifier, save_clip

ROOT = Path(__file__).parents[1]
RUN = ("--run", "ft", "--seed", "0")
KEPT = (
    "params.yaml",
    "dvc.yaml",
    ".dvc/config",
    "data/adversarial.json",
    "data/miniature.yaml",
    "data/pictograms.csv",
    "data/paper",
)  # what git keeps


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The project as it is cloned: the inputs, and nothing made yet."""
    (tmp_path / "carot_lib").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    for name in KEPT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return Layout(tmp_path, "miniature")


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Runs `python -m carot_lib <name>` in this process: exit code and lines of complaint.

    A traceback would be an exception here, and fail the test.
    """

    def run(name: str, *words: str, profile: str = "miniature") -> tuple[int, list[str]]:
        code = 0
        try:
            main([name, "--profile", profile, *words])
        except SystemExit as end:
            code = end.code
        lines = capsys.readouterr().err.splitlines()
        # a warning: the logits are made up
        return code, [line for line in lines if not line.startswith("temperature")]

    return run


def predictions(layout: Layout, name: str = "id_val", run: str = "ft") -> Path:
    path = layout.predictions(run, 0, name)
    logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    Predictions(logits, np.arange(20) % 3, LabelSpace.identity(3), name, f"images of {name}").save(
        path
    )
    return path


def all_predictions(layout: Layout) -> None:
    for name in load_evaluation(layout).datasets:
        predictions(layout, name)


MISSING = [  # a stage, the first thing it misses in a fresh clone, and who makes that
    (("zero_shot", "--seed", "0"), "models/miniature/pretrained/clip.json", "pretrain@miniature"),
    (("train", *RUN), "models/miniature/pretrained/clip.json", "pretrain@miniature"),
    (("wise_ft", *RUN), "models/miniature/zs/seed0/classifier.json", "zero_shot@miniature-0"),
    (("predict", *RUN), "models/miniature/ft/seed0/classifier.json", "fine_tune@miniature-ft-0"),
    (
        ("predict", "--run", "carot_frozen", "--seed", "0"),
        "models/miniature/carot_frozen/seed0/classifier.json",
        "carot@miniature-carot_frozen-0",
    ),
    (
        ("predict", "--run", "wise_ft", "--seed", "0"),
        "models/miniature/wise_ft/seed0/classifier.json",
        "wise_ft@miniature-ft-0",
    ),
]


@pytest.mark.parametrize(("command", "missing", "maker"), MISSING)
def test_a_missing_input_is_named_with_the_stage_that_makes_it(
    layout: Layout, call: Callable, command: tuple[str, ...], missing: str, maker: str
):
    line = f"{layout.root / missing} is missing: run `dvc repro {maker}`"
    assert call(*command) == (2, [line])


def test_predictions_that_are_missing_are_named_with_their_stage(layout: Layout, call: Callable):
    line = f"{layout.predictions('ft', 0, 'id_val')} is missing: run stage `predict`"
    assert call("evaluate", *RUN) == (2, [line])


def test_what_no_stage_writes_today_is_said_alone(layout: Layout, call: Callable):
    missing = layout.model("zs", 9) / "classifier.json"  # params.yaml has no seed 9
    assert call("predict", "--run", "zs", "--seed", "9") == (2, [f"{missing} is missing"])


def test_a_stage_that_misses_several_inputs_names_the_next_when_the_first_is_there(
    layout: Layout, call: Callable, make_clip: Callable[[], Clip], class_prompts: object
):
    clip = make_clip()
    save_clip(clip, layout.pretrained)
    classes = layout.data / "classes.json"
    for command in (("zero_shot", "--seed", "0"), ("train", *RUN)):
        assert call(*command) == (2, [f"{classes} is missing: run `dvc repro data@miniature`"])
    save_classifier(clip.zero_shot_classifier(class_prompts), layout.model("ft", 0))
    code, (line,) = call("predict", *RUN)
    assert (code, line) == (2, f"{layout.data / 'id_val.npz'} is missing: run stage `data`")
    save_classifier(clip.zero_shot_classifier(class_prompts), layout.model("zs", 0))
    (layout.model("ft", 0) / "classifier.json").unlink()
    path = layout.model("ft", 0) / "classifier.json"
    line = f"{path} is missing: run `dvc repro fine_tune@miniature-ft-0`"
    assert call("wise_ft", *RUN) == (2, [line])


def test_two_devices_write_the_predictions_of_one(
    layout: Layout, call: Callable, make_clip: Callable[[], Clip], class_prompts: object
):
    def give(**hardware: int) -> None:
        tree = yaml.safe_load(layout.params.read_text())
        tree["miniature"]["hardware"] |= hardware
        layout.params.write_text(yaml.safe_dump(tree))

    def written() -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        shutil.rmtree(folder)
        return found

    folder = layout.predictions("ft", 0, "id_val").parent
    save_classifier(make_clip().zero_shot_classifier(class_prompts), layout.model("ft", 0))
    write_json(layout.data / "classes.json", {"class_names": list("abc"), "label_spaces": {}})
    chance, names = np.random.default_rng(0), load_evaluation(layout).datasets
    for name in names:
        size = 1100 if name == "id_val" else 7  # three batches, or one
        images = chance.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        write_set(layout.data, name, np.arange(size) % 3, images=images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes below
    give(nodes=2)  # without SLURM or torchrun nobody waits for the other machine
    code, lines = call("predict", *RUN)
    torch.set_num_threads(threads)
    assert code == 0
    assert any(line.startswith("predicting id_val: 3/3 batches") for line in lines)
    one = written()
    assert set(one) == {f"{name}.npz" for name in names}
    give(devices=2)
    done = subprocess.run(
        [sys.executable, "-m", "carot_lib", "predict", "--profile", "miniature", *RUN],
        cwd=layout.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("predicting id_val: 2/2") == 1  # the first process reports
    assert written() == one


def test_hardware_that_is_not_there_is_a_line(
    layout: Layout, call: Callable, make_clip: Callable[[], Clip], class_prompts: object
):
    save_classifier(make_clip().zero_shot_classifier(class_prompts), layout.model("ft", 0))
    tree = yaml.safe_load(layout.params.read_text())
    tree["miniature"]["hardware"] |= {"accelerator": "cuda", "devices": 99}
    layout.params.write_text(yaml.safe_dump(tree))
    code, (line,) = call("predict", *RUN)
    assert code == 2
    assert line.startswith("hardware: 99 CUDA devices are asked for, but torch finds ")


@pytest.mark.parametrize("name", ["tables", "appendix"])
def test_a_stage_that_reads_everything_says_what_to_run(layout: Layout, call: Callable, name: str):
    if name == "appendix":  # which reads what the notebooks of the project have become
        (layout.root / "notebooks").mkdir()
        (layout.root / "notebooks" / "01_world.ipynb").touch()
    code, (line,) = call(name)
    assert code == 2
    assert "run `" in line or "run stage `" in line
    assert str(layout.root) in line


def test_a_notebook_that_is_not_there_is_named(layout: Layout, call: Callable):
    line = f"{layout.root / 'notebooks' / '08_more.ipynb'}: no such notebook"
    assert call("notebook", "--notebook", "08_more") == (2, [line])


@pytest.mark.parametrize("name", ["data", "pretrain"])
def test_a_list_that_belongs_to_the_project_is_named_alone(
    layout: Layout, call: Callable, name: str
):
    layout.pictograms.unlink()
    assert call(name) == (2, [f"{layout.pictograms} is missing"])


def test_the_recipes_of_the_miniature_that_are_missing_are_named(layout: Layout, call: Callable):
    (layout.root / "data" / "miniature.yaml").unlink()
    code, (line,) = call("data")
    assert code == 2
    assert "data/miniature.yaml" in line


@pytest.mark.parametrize("command", [command for command, *_ in MISSING if "--run" in command])
def test_a_profile_that_is_not_there_is_said(
    layout: Layout, call: Callable, command: tuple[str, ...]
):
    code, (line,) = call(*command, profile="tiny")
    assert code == 2
    assert "tiny" in line


def test_a_row_that_params_yaml_lacks_is_said(layout: Layout, call: Callable):
    line = "params.yaml: runs.fty: missing in this profile"
    assert call("train", "--run", "fty", "--seed", "0") == (2, [line])


@pytest.mark.parametrize(
    "command",
    [("check_params",), ("data",), ("pretrain",), ("train", *RUN), ("evaluate", *RUN), ("tables",)],
)
def test_a_folder_in_place_of_params_yaml_is_said(
    layout: Layout, call: Callable, command: tuple[str, ...]
):
    layout.params.unlink()
    layout.params.mkdir()
    assert call(*command) == (2, [f"{layout.params}: is a directory"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("profile: [", "not YAML: "),
        ("", "Input should be a valid dictionary"),
        ("\xff".encode("latin-1"), "not UTF-8 text (invalid start byte)"),
        ("profile: miniature\n", "seeds: missing"),
    ],
)
def test_params_that_are_none_are_said_before_anything_runs(
    layout: Layout, call: Callable, content: str | bytes, said: str
):
    layout.params.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, lines = call("check_params")
    assert code == 2
    assert all(line.startswith("params.yaml: ") for line in lines)
    assert said in lines[0]


def test_good_params_are_passed_over_in_silence(layout: Layout, call: Callable):
    assert call("check_params") == (0, [])


def test_every_fault_of_params_has_its_line(layout: Layout, call: Callable):
    tree = yaml.safe_load(layout.params.read_text())
    tree["miniature"]["runs"]["carot"]["update_evry"] = 5
    tree["miniature"]["training"]["epochs"] = 0
    layout.params.write_text(yaml.safe_dump(tree))
    code, lines = call("check_params")
    assert code == 2
    assert sorted(lines) == [
        "params.yaml: miniature.runs.carot.update_evry: unknown key",
        "params.yaml: miniature.training.epochs: Input should be greater than 0, not 0",
    ]


@pytest.mark.parametrize(
    ("branch", "changes", "line"),
    [
        (
            "hardware",
            {"accelerator": "cuda", "devices": 99},
            "params.yaml: imagenet.hardware: 99 CUDA devices are asked for, but torch finds ",
        ),
        (
            "hardware",
            {"nodes": 2},
            "params.yaml: imagenet.hardware: 2 nodes are asked for, but neither SLURM nor torchrun",
        ),
        (
            "pretrained",
            {"architecture": "ViT-B-16-quickglu"},
            "params.yaml: imagenet.pretrained: architecture: open_clip knows no",
        ),
        (
            "pretrained",
            {"weights": "opnai"},
            "params.yaml: imagenet.pretrained: weights: 'opnai' is neither a file (looked at ",
        ),
        (
            "pretrained",
            {"architecture": "ViT-B-16"},
            "params.yaml: imagenet.pretrained: architecture: the weights ",
        ),
    ],
)
def test_what_a_later_stage_would_refuse_is_said_before_the_first(
    layout: Layout, call: Callable, monkeypatch, branch: str, changes: dict, line: str
):
    for name in ("SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    tree = json.loads(json.dumps(yaml.safe_load(layout.params.read_text())))
    tree["imagenet"][branch] |= changes
    layout.params.write_text(yaml.safe_dump(tree))
    code, (said,) = call("check_params", profile="imagenet")
    assert code == 2
    assert said.startswith(line)
    assert call("check_params") == (0, [])  # the other profiles are for other machines


def test_from_a_shell_it_is_the_same(layout: Layout):
    done = subprocess.run(
        [sys.executable, "-m", "carot_lib", "evaluate", "--profile", "miniature", *RUN],
        cwd=layout.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    missing = layout.predictions("ft", 0, "id_val")
    assert done.returncode == 2
    assert done.stderr == f"{missing} is missing: run stage `predict`\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    "damage", [b"", b"PK\x03\x04 cut", b"labels,logits\n1,2\n"], ids=["empty", "cut", "text"]
)
def test_damaged_predictions_are_named(layout: Layout, call: Callable, damage: bytes):
    path = predictions(layout)
    path.write_bytes(damage)
    code, (line,) = call("evaluate", *RUN)
    assert code == 2
    assert line.startswith(f"{path} does not hold predictions (")


@pytest.mark.parametrize("name", ["clip.safetensors", "clip.json"])
def test_a_damaged_model_is_named(
    layout: Layout, call: Callable, make_clip: Callable[[], Clip], name: str
):
    save_clip(make_clip(), layout.pretrained)
    path = layout.pretrained / name
    path.write_bytes(path.read_bytes()[:100])
    code, (line,) = call("zero_shot", "--seed", "0")
    assert code == 2
    assert line.startswith(f"{path} is damaged (")


def test_a_file_in_place_of_the_folder_of_results_is_named(layout: Layout, call: Callable):
    all_predictions(layout)
    folder = layout.evaluation("ft", 0)
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    line = f"{folder}: a file stands where a folder is to be made"
    assert call("evaluate", *RUN) == (2, [line])
    assert folder.read_text() == "in the way"


def test_a_file_in_place_of_a_folder_farther_up_is_named(layout: Layout, call: Callable):
    all_predictions(layout)
    (layout.root / "evaluations").write_text("in the way")
    line = f"{layout.evaluation('ft', 0)}: not a directory"
    assert call("evaluate", *RUN) == (2, [line])


def test_a_folder_in_place_of_a_result_is_named_and_nothing_is_left_behind(
    layout: Layout, call: Callable
):
    all_predictions(layout)
    path = layout.evaluation("ft", 0) / "temperature.json"
    path.mkdir(parents=True)
    assert call("evaluate", *RUN) == (2, [f"{path}: is a directory"])
    assert not list(path.parent.glob(".*"))


def test_a_full_disk_is_said(layout: Layout, call: Callable):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full, on which every write fails")
    all_predictions(layout)
    folder = layout.evaluation("ft", 0)
    folder.mkdir(parents=True)
    (folder / ".temperature.json.unfinished").symlink_to("/dev/full")
    path = folder / "temperature.json"
    assert call("evaluate", *RUN) == (2, [f"{path}: no space left on device"])
    assert not (folder / "temperature.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_is_named(layout: Layout, call: Callable):
    all_predictions(layout)
    folder = layout.evaluation("ft", 0)
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    code, (line,) = call("evaluate", *RUN)
    folder.chmod(0o700)
    assert code == 2
    assert line.endswith(": permission denied")
    assert str(folder) in line


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("seeds: missing"), 2, "seeds: missing"),
        (FileNotFoundError("x is missing: run stage `data`"), 2, "x is missing: run stage `data`"),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), 2, "/x/y is missing"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: permission denied"),
        (OSError(28, "No space left on device"), 2, "no space left on device"),
        (OSError("a.jpg: not a readable image"), 2, "a.jpg: not a readable image"),
        (IsADirectoryError(21, "Is a directory", ".y.unfinished", None, "y"), 2, "y: is a directo"),
        (FloatingPointError("the loss is nan at step 2"), 1, "the loss is nan at step 2"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_fault_of_the_input_the_disk_or_the_numbers_is_a_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
):
    with pytest.raises(SystemExit) as caught, exit_on_bad_input():
        raise error
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), AssertionError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)), exit_on_bad_input():
        raise error


def test_what_no_stage_makes_is_said_alone(layout: Layout, capsys: pytest.CaptureFixture[str]):
    write_json(layout.root / "elsewhere" / "x.json", 1)
    with pytest.raises(SystemExit), exit_on_bad_input():
        (layout.root / "elsewhere" / "y.json").read_text()
    assert capsys.readouterr().err == f"{layout.root / 'elsewhere' / 'y.json'} is missing\n"
