"""Atomic writes: also when the block fails and when the process is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from carot_lib.files import atomic_write, read_json, reading, write_json, write_text

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start(code: str, path: Path) -> subprocess.Popen:
    """A new Python process that runs `code` on `path`."""
    head = "import os, signal, sys, time\nfrom pathlib import Path\n"
    head += "from carot_lib.files import atomic_write\npath = Path(sys.argv[1])\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )


def test_the_file_appears_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "table.csv"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == tmp_path  # a rename is atomic within one file system only
    assert path.read_text() == "new"
    assert names(tmp_path) == {"table.csv"}


def test_the_old_file_stands_until_the_block_ends(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_folders_are_made(tmp_path: Path):
    write_text(tmp_path / "a" / "b" / "c.txt", "deep")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "deep"


@pytest.mark.parametrize(("mask", "permissions"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_every_file_has_the_permissions_that_the_user_gives_to_new_ones(
    tmp_path: Path, mask: int, permissions: int
):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "table.csv", "text")
        with atomic_write(tmp_path / "weights.safetensors") as temporary:
            save_file({"weight": torch.zeros(2)}, temporary)
        assert os.umask(mask) == mask  # it was asked, and is as before
    finally:
        os.umask(before)
    for name in ("table.csv", "weights.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == permissions, name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_names_the_file_whoever_writes_it(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    (tmp_path / ".weights.safetensors.unfinished").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_text(path, "text")
    assert caught.value.filename == str(path)

    def save() -> None:  # what safetensors raises then
        raise SafetensorError("Error while serializing: No space left on device")

    with pytest.raises(OSError, match=f"{path}: Error while serializing"), atomic_write(path):
        save()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("hal")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"table.csv"}


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match="unfinished"), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_a_process_killed_in_the_block_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "with atomic_write(path) as temporary:\n"
        "    temporary.write_text('hal')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with start(code, path) as process:
        assert process.stdout.readline() == b"half\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    leftover = names(tmp_path) - {"table.csv"}
    assert len(leftover) == 1  # so the kill came in the middle
    assert not leftover.pop().endswith(".csv")  # no `*.csv` matches it
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == {"table.csv"}  # the next write replaced the leftover


def test_a_process_killed_before_the_bytes_are_safe_leaves_the_old_file(tmp_path: Path):
    # the new bytes must be on the disk before the rename: the process is killed at the fsync
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with atomic_write(path) as temporary:\n"
        "    temporary.write_text('new')\n"
    )
    with start(code, path) as process:
        assert process.wait() == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011, 0.03])
def test_a_process_killed_at_any_time_leaves_a_whole_file(tmp_path: Path, delay: float):
    path, size = tmp_path / "table.csv", 3_000_000
    path.write_text("a" * size)
    code = (
        "print('go', flush=True)\n"
        "while True:\n"
        "    for letter in 'bc':\n"
        "        with atomic_write(path) as temporary:\n"
        f"            temporary.write_text(letter * {size})\n"
    )
    with start(code, path) as process:
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
    text = path.read_text()
    assert len(text) == size
    assert len(set(text)) == 1


def test_a_reader_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with path.open() as reader:
        write_text(path, "new and longer")
        assert reader.read() == "old"


def test_text_is_utf8_whatever_the_locale(tmp_path: Path):
    write_text(tmp_path / "a.txt", "λ ± 1")
    assert (tmp_path / "a.txt").read_bytes() == b"\xce\xbb \xc2\xb1 1"


def test_json_is_readable_and_ends_in_a_newline(tmp_path: Path):
    write_json(tmp_path / "a.json", {"λ": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n "λ": [\n  1,\n  null\n ]\n}\n'
    )


def test_what_json_cannot_hold_leaves_the_old_file_alone(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"path": tmp_path})
    assert json.loads(path.read_text()) == 1
    assert names(tmp_path) == {"a.json"}


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(trees)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, tree: object):
    path = tmp_path_factory.getbasetemp() / f"tree-{os.getpid()}.json"
    write_json(path, tree)
    assert json.loads(path.read_text(encoding="utf-8")) == tree
    assert read_json(path) == tree


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"no JSON\nof two lines"])
def test_a_damaged_json_file_is_one_line_that_names_it(tmp_path: Path, content: bytes):
    path = tmp_path / "temperature.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged") as caught:
        read_json(path)
    line = str(caught.value)
    assert line.startswith(f"{path} is damaged (")
    assert line.endswith("): `make repro` makes it anew")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (pd.read_csv, b""),
        (pd.read_csv, b"a,b\n1,2\n1,2,3,4\n"),
        (load_file, b""),
        (load_file, b"no tensors at all"),
        (lambda path: {}["head.weight"], b""),
    ],
)
def test_any_damaged_file_is_one_line_that_names_it(tmp_path: Path, read, content: bytes):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged") as caught, reading(path):
        read(path)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_stays_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError), reading(tmp_path / "x"):
        load_file(tmp_path / "x")
