"""Prepared sets: what is written is read, and pictures reach the model as CLIP wants them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from carot_lib.datasets import (
    ArrayImages,
    FileImages,
    normalise,
    read_class_names,
    read_set,
    write_set,
)
from carot_lib.label_space import LabelSpace

NAMES = ["cat", "dog", "tea pot"]
OWN = {"names": ["animal", "pot"], "columns": [[0, 1], [2]]}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = {"class_names": NAMES, "label_spaces": {"objectnet": OWN}}
    (tmp_path / "classes.json").write_text(json.dumps(content))
    return tmp_path


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)


LABELS = np.array([0, 1, 2, 1])


def test_a_white_pixel_by_hand():
    # (1 - mean) / std: .51854534 / .26862954, .5421725 / .26130258, .59178927 / .27577711
    white = normalise(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor([1.930336, 2.074883, 2.145897]))
    black = normalise(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))
    # -.48145466 / .26862954, ...
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-1.792262, -1.752097, -1.480220]))


def test_normalised_pictures_are_torchvisions():
    images = torch.from_numpy(pictures(3))
    planes = images.permute(0, 3, 1, 2)
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    torch.testing.assert_close(normalise(images), transform(planes))


def test_a_set_of_pictures_comes_back(folder: Path):
    write_set(folder, "id_val", LABELS, images=pictures(4))
    read = read_set(folder, "id_val")
    assert read.name == "id_val"
    np.testing.assert_array_equal(read.labels, LABELS)
    np.testing.assert_array_equal(read.images, pictures(4))
    assert read.images.dtype == np.uint8
    assert read.paths is None
    assert read.label_space == LabelSpace.identity(3)
    assert read.class_names == NAMES == read_class_names(folder)
    assert not list(folder.glob(".*"))  # nothing unfinished


def test_a_set_of_paths_comes_back(folder: Path):
    paths = ["val/n01/1.jpg", "val/n02/long name, ü.jpg"]
    write_set(folder, "id_val", LABELS[:2], paths=paths)
    read = read_set(folder, "id_val")
    assert read.images is None
    assert read.paths.tolist() == paths
    with pytest.raises(ValueError, match="set id_val holds no images but paths"):
        read.open_images()


def test_a_set_with_classes_of_its_own(folder: Path):
    write_set(folder, "objectnet", np.array([1, 0]), images=pictures(2))
    read = read_set(folder, "objectnet")
    assert read.class_names == ["animal", "pot"]
    assert read.label_space == LabelSpace(3, ((0, 1), (2,)))


def test_a_set_that_was_not_prepared_names_the_stage_to_run(folder: Path):
    with pytest.raises(FileNotFoundError, match=r"sketch\.npz is missing: run stage `data`"):
        read_set(folder, "sketch")


def fingerprint(folder: Path, labels: np.ndarray, **content: object) -> str:
    write_set(folder, "id_val", labels, **content)
    return read_set(folder, "id_val").fingerprint


def test_equal_sets_have_equal_fingerprints_whatever_their_name(folder: Path):
    write_set(folder, "v2", LABELS, images=pictures(4))
    first = fingerprint(folder, LABELS, images=pictures(4))
    assert len(first) == 16
    assert first == fingerprint(folder, LABELS.copy(), images=pictures(4))
    assert first == read_set(folder, "v2").fingerprint


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 59), st.integers(1, 255))
def test_one_changed_label_pixel_or_path_changes_the_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, sample: int, position: int, change: int
):
    folder = tmp_path_factory.getbasetemp() / "fingerprints"
    folder.mkdir(exist_ok=True)
    content = {"class_names": NAMES, "label_spaces": {}}
    (folder / "classes.json").write_text(json.dumps(content))
    before = fingerprint(folder, LABELS, images=pictures(4))
    labels, images = LABELS.copy(), pictures(4)
    labels[sample] = (labels[sample] + 1) % 3
    images[sample].reshape(-1)[position] ^= np.uint8(change)  # some bits turned
    assert fingerprint(folder, labels, images=pictures(4)) != before
    assert fingerprint(folder, LABELS, images=images) != before
    paths = [f"{i}.jpg" for i in range(4)]
    moved = [path if i != sample else f"9{path}" for i, path in enumerate(paths)]
    assert fingerprint(folder, LABELS, paths=paths) != fingerprint(folder, LABELS, paths=moved)


def test_another_order_is_another_set(folder: Path):
    before = fingerprint(folder, LABELS, images=pictures(4))
    assert fingerprint(folder, LABELS[::-1].copy(), images=pictures(4)[::-1].copy()) != before


def test_pictures_in_memory_come_in_the_order_asked_for():
    images = ArrayImages(pictures(6))
    assert len(images) == 6
    torch.testing.assert_close(
        images[[4, 0, 4]], normalise(torch.from_numpy(pictures(6)))[[4, 0, 4]]
    )
    loader = DataLoader(images, batch_size=None, sampler=[[5], [1, 2, 3]])
    assert [batch.shape for batch in loader] == [(1, 3, 4, 5), (3, 3, 4, 5)]


TRANSFORM = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def test_files_come_in_the_order_asked_for(tmp_path: Path):
    for i, image in enumerate(pictures(3)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")  # without loss
    files = FileImages([str(tmp_path / f"{i}.png") for i in range(3)], TRANSFORM)
    assert len(files) == 3
    expected = torch.from_numpy(pictures(3)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(files[[2, 0]], expected[[2, 0]])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    assert torch.equal(FileImages([str(path)], TRANSFORM)[[0]], torch.ones(1, 3, 4, 5))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str):
    path = tmp_path / "x.jpg"
    Image.fromarray(np.tile(pictures(1)[0], (20, 20, 1))).save(path)
    whole = path.read_bytes()
    content = {"empty": b"", "text": b"not found", "cut": whole[: len(whole) // 2]}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    with pytest.raises(OSError, match=r"x\.jpg: not a readable image"):
        FileImages([str(path)], TRANSFORM)[[0]]


def test_a_write_that_fails_leaves_the_old_set(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write_set(folder, "id_val", LABELS, images=pictures(4))

    def fail(file: object, **arrays: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_set(folder, "id_val", LABELS, images=pictures(4, seed=1))
    np.testing.assert_array_equal(read_set(folder, "id_val").images, pictures(4))
