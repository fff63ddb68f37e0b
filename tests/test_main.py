"""The command line: every command, its help, and what a mistyped one gets."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from carot_lib import __main__ as command_line
from carot_lib.__main__ import COMMANDS, main
from carot_lib.layout import Layout

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "carot_lib").mkdir()
    (tmp_path / "params.yaml").write_text("profile: folders\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Layout, dict]]:
    """What a command's function is called with, instead of the call."""
    calls: list[tuple[Layout, dict]] = []

    class Module:
        def __getattr__(self, name: str):
            return lambda layout, **options: calls.append((layout, options))

    monkeypatch.setattr(command_line, "import_module", lambda name: Module())
    return calls


def test_options_are_passed_on_with_their_types(project: Path, called: list):
    main(["train", "--seed", "7", "--run", "ft_ls", "--profile", "imagenet"])
    main(["notebook", "--profile", "miniature", "--notebook", "04_table1"])
    assert called == [
        (Layout(project, "imagenet"), {"run": "ft_ls", "seed": 7}),
        (Layout(project, "miniature"), {"notebook": "04_table1"}),
    ]


def test_the_profile_is_the_one_that_params_yaml_chooses(project: Path, called: list):
    main(["tables"])
    (project / "params.yaml").write_text("profile: [")  # the command itself says what is wrong
    main(["tables"])
    assert called == [(Layout(project, "folders"), {}), (Layout(project, "miniature"), {})]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "the following arguments are required: command"),
        (["train", "--run", "ft"], "the following arguments are required: --seed"),
        (["train", "--run", "ft", "--seed", "one"], "argument --seed: invalid int value: 'one'"),
        (["tables", "--notebook", "x"], "unrecognized arguments: --notebook x"),
        (["tables", "--profile"], "argument --profile: expected one argument"),
    ],
)
def test_a_mistyped_command_ends_with_exit_code_2(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: python -m carot_lib")
    assert last.endswith(f"error: {complaint}")


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, command in COMMANDS.items():
        assert f" {name} {command.help}" in shown


def test_every_command_has_its_function():
    for name, command in COMMANDS.items():
        module, function = command.function.split(":")
        module = module if "." in module else f"carot_lib.stages.{module}"
        assert callable(getattr(import_module(module), function)), name


def test_every_stage_of_the_pipeline_calls_a_command():
    for stage in STAGES.values():
        words = stage["cmd"].split()
        assert words[:3] == ["python", "-m", "carot_lib"]
        options = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert options == {"profile", *COMMANDS[words[3]].options}


@pytest.mark.parametrize("name", ["evaluate", "tables", "explain", "notebook", "repro"])
def test_commands_that_compute_no_predictions_do_not_import_torch(name: str):
    module = COMMANDS[name].function.split(":")[0]
    module = module if "." in module else f"carot_lib.stages.{module}"
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_trainings_import_what_trains():
    stages = "predict, wise_ft, zero_shot"
    code = f"import sys; from carot_lib.stages import {stages}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torch" in done.stdout.split()
    assert not {"lightning_fabric", "dvclive", "torchmetrics"} & set(done.stdout.split())
