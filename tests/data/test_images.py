"""One image: a file, or a part of another file on disk or behind a URL of any kind."""

from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from carot_lib.data.images import (
    Member,
    UnreadableImageError,
    inspect_image,
    locate,
    read_bytes,
    read_image,
    reason,
)


def test_a_path_is_a_file_without_shards():
    odd = "3:512:20:x.png"  # a folder may be called so
    assert locate(Path("a"), odd) == Path("a", odd)
    assert locate(Path("a"), "train/cat/1.png", ["x.tar"]) == Path("a/train/cat/1.png")


def test_a_path_may_name_a_part_of_a_shard():
    shards = ["x.tar", "s3://bucket/y.tar", "/else/where.tar"]
    places = [locate(Path("a/b"), f"{i}:512:20:c:d/e.png", shards) for i in range(3)]
    urls = ["a/b/x.tar", "s3://bucket/y.tar", "/else/where.tar"]
    assert places == [Member(url, 512, 20, "c:d/e.png") for url in urls]
    assert str(places[0]) == "a/b/x.tar: c:d/e.png"


@given(st.binary(max_size=40), st.data())
def test_any_part_is_read_from_a_disk_and_from_other_file_systems(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, drawn: st.DataObject
):
    start = drawn.draw(st.integers(0, len(content)))
    size = drawn.draw(st.integers(0, len(content) - start))
    here = tmp_path_factory.getbasetemp() / "whole"
    here.write_bytes(content)
    with fsspec.open("memory://whole", "wb") as file:
        file.write(content)
    for url in (str(here), f"file://{here}", "memory://whole"):
        assert read_bytes(url, start, size) == content[start : start + size]
        with pytest.raises(UnreadableImageError, match="bytes instead of 41"):
            read_bytes(url, start, 41)


@pytest.mark.parametrize("url", ["memory://nothing", "nowhere://x", "http://127.0.0.1:9/x.tar"])
def test_a_url_that_cannot_be_read_is_named_in_one_line(url: str):
    with pytest.raises(UnreadableImageError, match=rf"^{url}: cannot be read \(.+\)$"):
        read_bytes(url, 0, 1)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A grey picture between two other things, and a JPEG's first half behind them."""
    Image.new("L", (5, 4), 90).save(tmp_path / "x.png")
    Image.effect_noise((64, 64), 90).save(tmp_path / "x.jpg")
    half = (tmp_path / "x.jpg").read_bytes()[:600]
    (tmp_path / "whole").write_bytes(
        b"before" + (tmp_path / "x.png").read_bytes() + half + b"behind"
    )
    return tmp_path / "whole"


def test_an_image_in_a_shard_equals_its_file(shard: Path):
    file = shard.with_name("x.png")
    member = Member(str(shard), 6, file.stat().st_size, "x.png")
    assert inspect_image(member) == inspect_image(file)
    assert inspect_image(file).fault is None
    assert read_image(member).tobytes() == read_image(file).tobytes() == bytes([90]) * 60
    assert read_image(member, border=1).size == (3, 2)


@pytest.mark.parametrize(
    ("offset", "size", "message"),
    [
        (0, 6, "cannot identify image file"),
        (3, 0, "empty file"),
        (None, 600, "image file is truncated"),
    ],
)
def test_a_damaged_image_in_a_shard_is_named(
    shard: Path, offset: int | None, size: int, message: str
):
    offset = 6 + shard.with_name("x.png").stat().st_size if offset is None else offset
    member = Member(str(shard), offset, size, "y.jpg")
    assert inspect_image(member).fault.startswith(message)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(member)
    assert str(caught.value).startswith(f"{shard}: y.jpg: not a readable image (")
    assert "0x" not in str(caught.value)  # no address in memory


def test_an_unreadable_shard_is_no_damaged_image(shard: Path):
    # a check that skips damaged images must not skip those of a network that failed
    member = Member(str(shard), 6, 10**6, "x.png")
    for read in (inspect_image, read_image):
        with pytest.raises(UnreadableImageError, match=r"whole: returned \d+ bytes instead of"):
            read(member)


def test_the_content_of_an_image_decides_its_hash_and_its_name_does_not(tmp_path: Path):
    hashes = {}
    for name, value in (("a", 90), ("b", 90), ("c", 91)):
        Image.new("L", (5, 4), value).save(tmp_path / f"{name}.png")
        hashes[name] = inspect_image(tmp_path / f"{name}.png").content
    assert hashes["a"] == hashes["b"] != hashes["c"]
    assert len(hashes["a"]) == 16


def test_a_reason_is_one_line():
    assert reason(ValueError("two\n lines")) == "two lines"
    assert reason(TimeoutError()) == "TimeoutError"
