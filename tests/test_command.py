"""The command line that all stages share."""

import sys
from pathlib import Path

import pytest

from carot_lib.command import read_command
from carot_lib.layout import Layout

TEXT = "Stage `train`: fine-tune by one run.\n\nA second paragraph that `--help` leaves out.\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "carot_lib").mkdir()
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Types a command line."""

    def type_in(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])

    return type_in


def test_the_profile_gives_the_layout_of_the_project_around(project: Path, typed):
    typed("--profile", "miniature")
    assert read_command(TEXT).layout == Layout(project, "miniature")


def test_options_are_read_with_their_types(project: Path, typed):
    typed("--seed", "7", "--run", "ft_ls", "--profile", "imagenet")
    arguments = read_command(TEXT, "run", "seed")
    assert (arguments.run, arguments.seed) == ("ft_ls", 7)
    typed("--profile", "miniature", "--notebook", "04_table1")
    assert read_command(TEXT, "notebook").notebook == "04_table1"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "the following arguments are required: --profile, --run, --seed"),
        (
            ["--profile", "miniature", "--run", "ft"],
            "the following arguments are required: --seed",
        ),
        (
            ["--profile", "miniature", "--run", "ft", "--seed", "one"],
            "argument --seed: invalid int value: 'one'",
        ),
        (
            ["--profile", "miniature", "--run", "ft", "--seed", "0", "--notebook", "x"],
            "unrecognized arguments: --notebook x",
        ),
        (["--profile"], "argument --profile: expected one argument"),
    ],
)
def test_a_wrong_command_is_said_with_exit_code_2(
    project: Path, typed, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
):
    typed(*words)
    with pytest.raises(SystemExit) as caught:
        read_command(TEXT, "run", "seed")
    assert caught.value.code == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ")
    assert last.endswith(f"error: {complaint}")


def test_help_says_what_the_stage_does_and_what_it_takes(
    project: Path, typed, capsys: pytest.CaptureFixture[str]
):
    typed("--help")
    with pytest.raises(SystemExit) as caught:
        read_command(TEXT, "run", "seed")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "Stage `train`: fine-tune by one run." in out
    assert "second paragraph" not in out
    assert "a row of the tables, as in params.yaml" in out
    assert "miniature, imagenet or folders" in out


def test_an_option_that_no_stage_has_is_a_programming_error(project: Path, typed):
    typed("--profile", "miniature")
    with pytest.raises(KeyError, match="rnu"):
        read_command(TEXT, "rnu")
