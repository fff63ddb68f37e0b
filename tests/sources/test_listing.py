"""The listing of image files: it changes when a file does, and only then."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from carot_lib.files import read_json
from carot_lib.layout import Layout
from carot_lib.sources.listing import list_images, listing


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Three images in two folders, one of them a link, and a file of names."""
    images = tmp_path / "data" / "folders"
    for name, size in (("train/cat/1.png", 3), ("train/cat/2.png", 5), ("other/3.png", 7)):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(bytes(size))
    (images / "test").symlink_to(images / "other")
    (tmp_path / "names.csv").write_text("folder,name\ncat,lynx\n")
    write_data(tmp_path, kind="folders", folder="data/folders", class_names="names.csv")
    return Layout(tmp_path, "folders")


def write_data(root: Path, **data: object) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump({"folders": {"data": data}}))


def test_files_are_counted_where_they_are_found_and_hidden_ones_are_not(layout: Layout):
    (layout.root / "data" / "folders" / ".cache").mkdir()
    (layout.root / "data" / "folders" / ".cache" / "4.png").write_bytes(bytes(11))
    (layout.root / "data" / "folders" / "train" / "._1.png").write_bytes(bytes(13))
    found = listing(layout)
    assert found["files"] == 4  # the one in `other` also by its link
    assert found["bytes"] == 3 + 5 + 7 + 7
    assert len(found["class_names"]) == 64
    assert found["templates"] is None


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda top: (top / "train" / "cat" / "3.png").touch(), "hash"),
        (lambda top: (top / "train" / "cat" / "1.png").unlink(), "hash"),
        (lambda top: (top / "train" / "cat").rename(top / "train" / "dog"), "hash"),
        (lambda top: os.utime(top / "train" / "cat" / "1.png", (1, 1)), "hash"),
        (lambda top: (top / "other" / "3.png").write_bytes(bytes(8)), "hash"),
        (lambda top: (top.parents[1] / "names.csv").write_text("folder,name\n"), "class_names"),
        (lambda top: (top.parents[1] / "names.csv").unlink(), "class_names"),
    ],
    ids=["added", "removed", "renamed", "touched", "larger", "edited", "lost"],
)
def test_every_change_is_seen_and_nothing_else(
    layout: Layout, change: Callable[[Path], object], key: str
):
    before = listing(layout)
    assert listing(layout) == before
    change(layout.root / "data" / "folders")
    after = listing(layout)
    assert {name for name in before if before[name] != after[name]} - {"files", "bytes"} == {key}


def test_a_broken_link_and_a_missing_folder_are_no_error(layout: Layout):
    (layout.root / "data" / "folders" / "gone.png").symlink_to("nowhere")
    assert listing(layout)["files"] == 5
    write_data(layout.root, kind="folders", folder="nowhere")
    assert listing(layout)["files"] == 0


def test_of_shards_the_named_ones_are_listed_and_urls_are_not(layout: Layout):
    for name in ("a-0.tar", "a-1.tar", "b.tar", "unused.tar"):
        (layout.root / name).write_bytes(bytes(10))
    shards = {"train": "a-{0..1}.tar", "test": ["b.tar", "https://example.org/c.tar"]}
    write_data(layout.root, kind="shards", folder=".", shards=shards)
    before = listing(layout)
    assert (before["files"], before["bytes"]) == (3, 30)
    os.utime(layout.root / "unused.tar", (1, 1))
    assert listing(layout) == before
    os.utime(layout.root / "b.tar", (1, 1))
    assert listing(layout) != before


def test_where_nothing_is_read_from_disk_the_listing_is_empty(layout: Layout):
    write_data(layout.root, kind="pictograms", image_size=32)
    list_images(layout)
    assert read_json(layout.listed)["files"] == 0
    write_data(layout.root)
    with pytest.raises(ValueError, match=r"params\.yaml: folders\.data\.kind: missing"):
        list_images(layout)
