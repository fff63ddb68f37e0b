"""One image, in a folder or in the middle of another file, here or behind a URL of any kind."""

from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from carot_lib.data.images import (
    Member,
    UnreadableImageError,
    locate,
    read_part,
    read_picture,
    reason,
    why_unreadable,
)


def test_a_path_is_a_file_where_there_are_no_shards():
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
def test_any_part_is_read_from_a_disk_and_from_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, drawn: st.DataObject
):
    start = drawn.draw(st.integers(0, len(content)))
    size = drawn.draw(st.integers(0, len(content) - start))
    here = tmp_path_factory.getbasetemp() / "whole"
    here.write_bytes(content)
    with fsspec.open("memory://whole", "wb") as file:
        file.write(content)
    for url in (str(here), f"file://{here}", "memory://whole"):
        assert read_part(url, start, size) == content[start : start + size]
        with pytest.raises(UnreadableImageError, match="bytes came instead of 41"):
            read_part(url, start, 41)


@pytest.mark.parametrize("url", ["memory://nothing", "nowhere://x", "http://127.0.0.1:9/x.tar"])
def test_what_does_not_come_is_said_in_a_line(url: str):
    with pytest.raises(UnreadableImageError, match=rf"^{url}: does not come \(.+\)$"):
        read_part(url, 0, 1)


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


def test_a_picture_in_a_shard_is_that_of_its_file(shard: Path):
    file = shard.with_name("x.png")
    member = Member(str(shard), 6, file.stat().st_size, "x.png")
    assert why_unreadable(member) is why_unreadable(file) is None
    assert read_picture(member).tobytes() == read_picture(file).tobytes() == bytes([90]) * 60
    assert read_picture(member, border=1).size == (3, 2)


@pytest.mark.parametrize(
    ("offset", "size", "said"),
    [
        (0, 6, "cannot identify image file"),
        (3, 0, "empty file"),
        (None, 600, "image file is truncated"),
    ],
)
def test_a_damaged_picture_in_a_shard_is_named(
    shard: Path, offset: int | None, size: int, said: str
):
    offset = 6 + shard.with_name("x.png").stat().st_size if offset is None else offset
    member = Member(str(shard), offset, size, "y.jpg")
    assert why_unreadable(member).startswith(said)
    with pytest.raises(UnreadableImageError) as caught:
        read_picture(member)
    assert str(caught.value).startswith(f"{shard}: y.jpg: not a readable image (")
    assert "0x" not in str(caught.value)  # no place in memory: reports are the same each time


def test_a_shard_that_does_not_come_is_no_damaged_picture(shard: Path):
    # a check that skips damaged pictures must not skip those of a network that failed
    member = Member(str(shard), 6, 10**6, "x.png")
    for read in (why_unreadable, read_picture):
        with pytest.raises(UnreadableImageError, match=r"whole: \d+ bytes came instead of 1000000"):
            read(member)


def test_a_reason_is_one_line():
    assert reason(ValueError("two\n lines")) == "two lines"
    assert reason(TimeoutError()) == "TimeoutError"
