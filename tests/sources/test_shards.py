"""Images in tar shards on disk and behind a URL: found as in folders, read in parts, problems."""

import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from handwritten_digits import (
    CLASSES,
    ROOT,
    SHIFTS,
    change,
    digit_params,
    prepared,
    write_digits,
)
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg
from PIL import Image
from webdataset import TarWriter
from webdataset.tariterators import group_by_keys, tar_file_expander

from carot_lib.data.datasets import LabelledSet, read_set, read_templates
from carot_lib.data.images import locate
from carot_lib.layout import Layout
from carot_lib.sources.shards import index_shard
from carot_lib.stages.data import check_data
from carot_lib.training.samples import batches, draw_pairs

SMALL = PreprocessCfg(size=16)
Sample = tuple[str, dict[str, bytes]]  # its name, and its members by ending


def write_shard(path: Path, samples: Sequence[Sample]) -> Path:
    """Write a tar file as the format is described, by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, members in samples:
            for ending, content in members.items():
                head = tarfile.TarInfo(f"{name}.{ending}")
                head.size = len(content)
                tar.addfile(head, io.BytesIO(content))
    return path


def picture(i: int, side: int = 6) -> bytes:
    """A PNG file, another for each number."""
    pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def sample(i: int, label: object) -> Sample:
    return f"{i:06d}", {"png": picture(i), "cls": str(label).encode()}


DATA = """
kind: shards
folder: data/shards
shards: {train: "train-{0..1}.tar", test: test.tar, few: [few.tar]}
class_names: names.txt
templates: null
validation_per_class: 1
seed: 0
on_error: stop
"""
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())
TREE["folders"]["data"] = yaml.safe_load(DATA)
TREE["folders"]["evaluation"]["ood"] = ["few"]
TREE["folders"]["training"] = TREE["folders"]["training"] | {"epochs": 1, "batch_size": 4}
NUMBERS = yaml.safe_dump(TREE)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A project with a few images of three classes: 12 of train in two shards, 6, and 2 of two."""
    (tmp_path / "params.yaml").write_text(NUMBERS)
    (tmp_path / "names.txt").write_text("cat\nsteam locomotive\ntea pot\n")
    folder = tmp_path / "data" / "shards"
    write_shard(folder / "train-0.tar", [sample(i, i % 3) for i in range(6)])
    write_shard(folder / "train-1.tar", [sample(i, i % 3) for i in range(6, 12)])
    write_shard(folder / "test.tar", [sample(i, i % 3) for i in range(20, 26)])
    write_shard(folder / "few.tar", [sample(30, 2), sample(31, 0)])
    return Layout(tmp_path, "folders")


@pytest.fixture
def top(layout: Layout) -> Path:
    return layout.root / "data" / "shards"


def contents(one: LabelledSet) -> list[bytes]:
    """The files of a set, byte for byte."""
    return [locate(one.image_folder, path, one.shards).open().read() for path in one.paths]


def test_every_image_is_found_once_with_its_label(layout: Layout, capsys: pytest.CaptureFixture):
    test = prepared(layout, "id_test")
    printed = capsys.readouterr().out.splitlines()
    assert "train: train-{0..1}.tar: 12 images in 3 classes" in printed
    assert "few: few.tar: 2 images in 2 classes" in printed
    assert test.class_names == ["cat", "steam locomotive", "tea pot"]
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    # 20 % 3 = 2: the files of label 0 are 21 and 24, of label 1 22 and 25, of label 2 20 and 23
    assert contents(test) == [picture(i) for i in (21, 24, 22, 25, 20, 23)]
    train, held = prepared(layout, "train"), prepared(layout, "id_val")
    assert sorted(contents(train) + contents(held)) == sorted(picture(i) for i in range(12))
    assert held.labels.tolist() == [0, 1, 2]
    few = prepared(layout, "few")
    assert few.class_names == ["cat", "tea pot"]
    assert few.label_space.columns == ((0,), (2,))
    assert contents(few) == [picture(31), picture(30)]


def test_a_project_that_is_moved_as_a_whole_finds_its_shards(layout: Layout, tmp_path: Path):
    prepared(layout, "few")
    moved = layout.root.rename(tmp_path.with_name(f"{tmp_path.name} elsewhere"))
    assert contents(prepared(Layout(moved, "folders"), "few")) == [picture(31), picture(30)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The handwritten digits of test_folders.py, prepared from folders and from shards of them."""
    root = tmp_path_factory.mktemp("digits")
    folders = root / "data" / "folders"
    write_digits(folders)
    for one in folders.iterdir():
        files = sorted(one.rglob("*.png"))
        samples = [
            (f"{file.parent.name}/{file.stem}", {
                "png": file.read_bytes(), "cls": str(CLASSES.index(file.parent.name)).encode()
            })
            for file in files
        ]  # fmt: skip
        for number, rows in enumerate(np.array_split(np.arange(len(files)), 3)):
            write_shard(root / f"data/shards/{one.name}-{number}.tar", [samples[i] for i in rows])
    (root / "names.txt").write_text("\n".join(name.replace("_", " ") for name in CLASSES))
    layout, folders = Layout(root, "folders"), []
    layout.params.write_text(yaml.safe_dump(digit_params()))
    in_shards = {
        "kind": "shards",
        "folder": "data/shards",
        "shards": {name: f"{name}-{{0..2}}.tar" for name in ("train", "test", *SHIFTS)},
        "class_names": "names.txt",
    }
    for kind in ({}, in_shards):
        change(layout, **kind)
        prepared(layout, "train")
        folders.append(layout.data.rename(layout.data.with_name(f"prepared{len(folders)}")))
    return tuple(folders)


@pytest.mark.parametrize("name", ["train", "id_val", "id_test", "subset"])
def test_the_digits_are_the_same_from_folders_and_from_shards(both: tuple[Path, Path], name: str):
    folders, shards = (read_set(folder, name) for folder in both)
    np.testing.assert_array_equal(folders.labels, shards.labels)
    assert folders.label_space == shards.label_space
    assert folders.class_names == shards.class_names
    pictures = [one.open_images(SMALL)[range(len(one.labels))] for one in (folders, shards)]
    assert torch.equal(*pictures)
    assert all(map(np.array_equal, folders.thumbnails([3, 1]), shards.thumbnails([3, 1])))
    assert folders.fingerprint != shards.fingerprint


def test_training_gets_the_same_batches_from_folders_and_from_shards(both: tuple[Path, Path]):
    seen = []
    for folder in both:
        train = read_set(folder, "train")
        draws = draw_pairs(len(train.labels), 5, 1, 100, np.random.default_rng(0))
        images = train.open_images(SMALL, training=True)
        # read by other processes, from the middle of the run
        seen.append(list(batches(images, train.labels, draws, workers=2, seed=3, start_step=4)))
    assert len(seen[0]) == 4
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.templates, other.templates)


def test_shards_are_read_as_the_library_webdataset_does(tmp_path: Path):
    path = tmp_path / "x.tar"
    with TarWriter(str(path)) as writer:
        for i in range(5):
            rest = {"json": {"i": i}} if i % 2 else {"txt": "a caption"}
            writer.write({"__key__": f"a/{i}", "left.JPG": picture(i), "cls": i % 3, **rest})
    with tarfile.open(path, "a") as tar:  # which the library skips as well
        for name in ("__meta__", "README", "._a.jpg"):
            tar.addfile(tarfile.TarInfo(name))
        folder = tarfile.TarInfo("a.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    index = index_shard(str(path), 3)
    assert (index.problem, index.invalid) == (None, {})
    with path.open("rb") as file:
        theirs = list(group_by_keys(tar_file_expander([{"url": "x", "stream": file}])))
    assert [one["__key__"] for one in theirs] == [f"a/{i}" for i in range(5)]
    for (where, label), one in zip(index.images, theirs, strict=True):
        offset, size, _ = where.split(":", 2)
        assert path.read_bytes()[int(offset) :][: int(size)] == one["left.jpg"]
        assert label == int(one["cls"])


names = st.text("abcÄ .-_:/0", min_size=1, max_size=8).filter(
    lambda name: re.fullmatch(r"(?:.*/)?[^./]+", name) is not None and "//" not in name
)
endings = st.sampled_from(["png", "jpg", "JPEG", "cls", "txt", "seg.png"])


@given(st.lists(st.tuples(names, st.sets(endings), st.integers(0, 4)), max_size=8))
def test_whatever_the_members_images_are_found_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, set[str], int]]
):
    samples, expected = [], []
    for i, (name, kinds, label) in enumerate(drawn):
        content = {e: b"%d %b" % (i, e.encode()) * (i + 1) for e in sorted(kinds)}
        if "cls" in content:
            content["cls"] = b" %d\n" % label
        samples.append((f"{i}{name}", content))  # no two neighbours of one name
        images = [e for e in content if e not in ("cls", "txt")]
        if len(images) == 1 and "cls" in content and label < 3:
            expected.append((f"{i}{name}.{images[0]}", content[images[0]], label))
    path = write_shard(tmp_path_factory.getbasetemp() / "drawn.tar", samples)
    index = index_shard(str(path), 3)
    assert index.problem is None
    found = []
    for where, label in index.images:
        member = locate(path.parent, f"0:{where}", [path.name])
        found.append((member.name, member.open().read(), label))
    assert found == expected
    odd = sum(len(odd) for odd in index.invalid.values())
    assert odd == sum(1 for _, content in samples if content) - len(expected)


@given(st.integers(0, 6 * 3 * 512 - 1))
def test_a_shard_that_is_cut_off_anywhere_is_a_problem(
    tmp_path_factory: pytest.TempPathFactory, length: int
):
    # six samples, an image and a label each: a header and two blocks, a header and one block
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    samples = [sample(i, i % 3) for i in range(6)]
    whole = write_shard(path, samples).read_bytes()
    path.write_bytes(whole[:length])
    index = index_shard(str(path), 3)
    assert index.problem.startswith("no complete tar file (")
    assert index.problem.endswith("download it again; if it is compressed, unpack it")
    assert len(index.images) < 6
    for (where, _), (_, content) in zip(index.images, samples, strict=False):
        offset, size, _ = where.split(":", 2)
        assert whole[int(offset) :][: int(size)] == content["png"]
        assert int(offset) + int(size) <= length


def test_a_damaged_header_is_no_end(layout: Layout, top: Path):
    path = top / "test.tar"
    content = bytearray(path.read_bytes())
    content[4 * 512 + 10] ^= 1  # in the header of the second sample
    path.write_bytes(content)
    index = index_shard(str(path), 3)
    message = "no complete tar file (no end mark; the last good sample: 000020)"
    assert index.problem.startswith(message)
    assert len(index.images) == 1


NO_IMAGE = "not exactly one image (000090): make each image a sample of its own"
NO_LABEL = "not exactly one label (000090): give each one member .cls with the number"
NO_CLASS = "a label that is no class's number (000090 has {}): class_names lists the"
INVALID = [
    ({"png": b"x"}, NO_LABEL),
    ({"png": b"x", "cls": b"1", "CLS": b"1"}, NO_LABEL),
    ({"cls": b"1"}, NO_IMAGE),
    ({"png": b"x", "jpg": b"y", "cls": b"1"}, NO_IMAGE),
    ({"png": b"x", "cls": b"3"}, NO_CLASS.format(3)),
    ({"png": b"x", "cls": b"-1"}, NO_CLASS.format(-1)),
    ({"png": b"x", "cls": b"cat"}, NO_CLASS.format("cat")),
    ({"png": b"x", "cls": b""}, NO_CLASS.format("")),
]


@pytest.mark.parametrize(("members", "message"), INVALID)
def test_an_invalid_sample_is_named_or_left_out(
    layout: Layout, top: Path, capsys: pytest.CaptureFixture, members: dict, message: str
):
    path = top / "test.tar"
    write_shard(path, [*(sample(i, i % 3) for i in range(20, 26)), ("000090", members)])
    (line,) = check_data(layout)
    assert line.startswith(f"id_test: {path}: 1 samples have {message}")
    assert not layout.checked.exists()
    change(layout, on_error="skip")
    assert len(prepared(layout, "id_test").labels) == 6
    assert line in capsys.readouterr().out.splitlines()


def test_unreadable_images_are_named_or_left_out(
    layout: Layout, top: Path, capsys: pytest.CaptureFixture
):
    path = top / "train-1.tar"
    bad = {"text": b"<html>", "void": b"", "half": picture(50, side=40)[:-700]}
    samples = [(name, {"png": content, "cls": b"0"}) for name, content in bad.items()]
    write_shard(path, [*(sample(i, i % 3) for i in range(6, 12)), *samples])
    report = check_data(layout)
    reasons = ("cannot identify image file", "empty file", "image file is truncated")
    for name, reason, line in zip(bad, reasons, report, strict=True):
        assert line.startswith(f"{path}: {name}.png: {reason}")
    change(layout, on_error="skip")
    assert len(prepared(layout, "train").labels) + len(prepared(layout, "id_val").labels) == 12
    assert "3 unreadable files that will be left out:" in capsys.readouterr().out
    assert len(json.loads(layout.checked.read_text())["unreadable"]) == 3


def test_all_problems_are_reported_at_once(layout: Layout, top: Path):
    (top / "train-0.tar").unlink()
    whole = (top / "train-1.tar").read_bytes()
    (top / "train-1.tar").write_bytes(whole[:2600])
    write_shard(top / "test.tar", [("a", {"png": picture(1)}), sample(2, 7)])
    (top / "few.tar").write_bytes(b"\x1f\x8b packed")
    write_shard(top / "void.tar", [])
    change(layout, shards={
        "train": "train-{0..1}.tar", "test": "test.tar", "few": "few.tar", "id_val": "test.tar",
        "ood": "ood.tar", "void": "void.tar",
        "away": "http://127.0.0.1:9/x.tar", "cloud": "nowhere://x/y.tar",
    }, templates="captions.txt")  # fmt: skip
    (layout.root / "captions.txt").write_text("a scan\n")
    report = check_data(layout)
    for start in (
        f"train: {top}/train-0.tar: does not exist or cannot be reached: check the path",
        f"train: {top}/train-1.tar: no complete tar file (unexpected end of data; the last good "
        "sample: 000006): download it again",
        f"id_test: {top}/test.tar: 1 samples have not exactly one label (a): give each one",
        f"id_test: {top}/test.tar: 1 samples have a label that is no class's number (000002",
        f"few: {top}/few.tar: no complete tar file (",
        "void: its shards hold no image with a label",
        "away: http://127.0.0.1:9/x.tar: does not exist or cannot be reached",
        "cloud: nowhere://x/y.tar: parts of it cannot be read (Protocol not known: nowhere",
        "shards: test.tar: listed twice",
        "shards: id_val, ood: this name is reserved",
        "templates: captions.txt: every line needs {}",
        "validation_per_class: 1, but there is a set `val` as well",
    ):
        assert any(line.startswith(start) for line in report), (start, report)
    assert not layout.checked.exists()


VAL = {"train": "train-{0..1}.tar", "test": "test.tar", "val": "few.tar"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": VAL, "validation_per_class": None}, "id_val: 1 classes have no image (1): add"),
        ({"shards": {"few": "few.tar"}}, "train: not found: list its shards under `shards`"),
        ({"validation_per_class": 4}, "train: 3 classes are too small to hold out 4 images (0 has"),
    ],
)
def test_problems_of_the_listed_sets(layout: Layout, changes: dict, message: str):
    change(layout, **changes)
    assert any(line.startswith(message) for line in check_data(layout))


NAMELESS = "class_names: names.txt: every line must name a class"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "class_names: names.txt: not readable ("),
        (b"\xff", "class_names: names.txt: not readable ("),
        (b"", NAMELESS),
        (b"cat\n\ntea pot\n", NAMELESS),
        (b"cat\ndog\npot\nunicorn\n", "train: 1 classes have no image (3): see class_names"),
    ],
)
def test_a_wrong_file_of_class_names(layout: Layout, content: bytes | None, message: str):
    names = layout.root / "names.txt"
    names.unlink() if content is None else names.write_bytes(content)
    (line,) = check_data(layout)
    assert line.replace(str(names), names.name).startswith(message)


def test_shards_of_val_are_the_validation_set_and_captions_come_from_a_file(
    layout: Layout, top: Path
):
    write_shard(top / "val.tar", [sample(i, i % 3) for i in range(40, 46)])
    (layout.root / "captions.txt").write_text("a scan of {}.\n")
    sets = TREE["folders"]["data"]["shards"] | {"val": "val.tar"}
    change(layout, shards=sets, validation_per_class=None, templates="captions.txt")
    assert len(prepared(layout, "id_val").labels) == 6
    assert len(prepared(layout, "train").labels) == 12
    assert [template("x") for template in read_templates(layout.data)] == ["a scan of x."]


def test_a_shard_that_has_changed_is_named(layout: Layout, top: Path):
    few, path = prepared(layout, "few"), top / "few.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"few\.tar: returned \d+ bytes instead of \d+: the"):
        list(few.read_images(SMALL, 2))
    path.unlink()
    with pytest.raises(ValueError, match=r"few\.tar: cannot be read \("):
        few.open_images(SMALL)[[0]]


# ------------------------------------------------------------------------------- over HTTP ------


class WholeFiles(SimpleHTTPRequestHandler):
    """A server that gives whole files only, as Python's own does."""

    def log_message(self, *words: object) -> None:
        """Be quiet."""


class Parts(WholeFiles):
    """A server that gives parts of files, and counts the bytes of each answer."""

    sent: list[int]

    def do_GET(self) -> None:
        """Answer a request for a part."""
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        with open(self.translate_path(self.path), "rb") as file:
            whole = file.read()
        part = whole[int(first) : int(last) + 1]
        self.sent.append(len(part))
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def serve(layout: Layout, top: Path) -> Iterator[Callable[[type[WholeFiles]], str]]:
    """Serves the shards from here on; returns where."""
    servers = []

    def start(handler: type[WholeFiles]) -> str:
        bound = partial(handler, directory=str(top))
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), bound))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_port}"
        remote = {"train": f"{address}/train-{{0..1}}.tar", "few": f"{address}/few.tar"}
        change(layout, shards={**remote, "test": "test.tar"})
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_shards_behind_a_url_are_read_as_those_on_disk(layout: Layout, serve: Callable):
    on_disk = {}
    for name in ("train", "few"):
        one = prepared(layout, name)
        sizes = sorted(map(len, contents(one)))
        on_disk[name] = one.labels, sizes, one.open_images(SMALL)[range(len(one.labels))]
    shutil.rmtree(layout.data)
    Parts.sent = []
    serve(Parts)
    for name, (labels, sizes, images) in on_disk.items():
        one = prepared(layout, name)
        assert one.shards[0].startswith("http://127.0.0.1")
        np.testing.assert_array_equal(one.labels, labels)
        Parts.sent.clear()
        # in this process, then in others that are forked from it, connections and all
        assert torch.equal(one.open_images(SMALL)[range(len(labels))], images)
        assert sorted(Parts.sent) == sizes  # an image takes its own bytes, no more
        assert torch.equal(torch.cat(list(one.read_images(SMALL, 1))), images)


def test_a_server_without_range_requests(layout: Layout, serve: Callable):
    address = serve(WholeFiles)
    report = check_data(layout)
    for line, name in zip(report, ("train-0", "train-1", "few"), strict=True):
        assert f"{address}/{name}.tar: parts of it cannot be read (" in line
        assert "its server does not support range requests" in line
        assert line.endswith("download it and give its path")
