"""Prepared sets are read as they were written, and images are preprocessed as CLIP does."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg
from PIL import Image
from torch.utils.data import DataLoader

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.data.datasets import (
    LabelledSet,
    normalise,
    read_class_names,
    read_set,
    read_templates,
    write_set,
)
from carot_lib.data.images import UnreadableImageError, read_image
from carot_lib.data.prompts import clip_templates

NAMES = ["cat", "dog", "tea pot"]
COARSE = {"names": ["animal", "pot"], "columns": [[0, 1], [2]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = {"class_names": NAMES, "label_spaces": {"objectnet": COARSE}}
    (tmp_path / "classes.json").write_text(json.dumps(content))
    return tmp_path


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)


LABELS = np.array([0, 1, 2, 1])


def test_normalised_pixels_by_hand():
    # (1 - mean) / std: .51854534 / .26862954, .5421725 / .26130258, .59178927 / .27577711
    white = normalise(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor([1.930336, 2.074883, 2.145897]))
    black = normalise(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))
    # -.48145466 / .26862954, ...
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-1.792262, -1.752097, -1.480220]))


def test_a_set_is_read_as_written(folder: Path):
    write_set(folder, "id_val", LABELS, images=pictures(4))
    read = read_set(folder, "id_val")
    assert (read.name, read.paths) == ("id_val", None)
    np.testing.assert_array_equal(read.labels, LABELS)
    np.testing.assert_array_equal(read.images, pictures(4))
    assert read.images.dtype == np.uint8
    assert read.label_space == LabelSpace.identity(3)
    assert read.class_names == NAMES == read_class_names(folder)
    paths = ["val/n01/1.jpg", "val/n02/long name, ü.jpg"]
    write_set(folder, "objectnet", LABELS[:2], paths=paths)
    read = read_set(folder, "objectnet")
    assert read.images is None
    assert read.paths.tolist() == paths
    assert read.class_names == ["animal", "pot"]
    assert read.label_space == LabelSpace(3, ((0, 1), (2,)))
    assert not list(folder.glob(".*"))  # nothing unfinished


def test_a_missing_set_names_the_stage_to_run(folder: Path):
    with pytest.raises(FileNotFoundError, match=r"sketch\.npz is missing: run stage `data`"):
        read_set(folder, "sketch")


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04 half of one"])
def test_a_damaged_set_is_named_with_what_to_do(folder: Path, damage: bytes):
    (folder / "v2.npz").write_bytes(damage)
    with pytest.raises(ValueError, match=r"v2\.npz is damaged .*`make repro` makes it anew"):
        read_set(folder, "v2")


@pytest.mark.parametrize(
    "arrays", [{"labels": LABELS}, {"labels": LABELS, "images": pictures(3)}, {"images": LABELS}]
)
def test_a_set_without_an_image_for_each_label_is_damaged(folder: Path, arrays: dict):
    np.savez(folder / "v2.npz", **arrays)
    with pytest.raises(ValueError, match=r"v2\.npz is damaged \((no image for|'labels)"):
        read_set(folder, "v2")


@pytest.mark.parametrize("damage", ["", '{"class_names": ["c', "[]", '{"label_spaces": {}}'])
@pytest.mark.parametrize("read", [read_class_names, read_templates, partial(read_set, name="v2")])
def test_a_damaged_classes_json_is_named_with_what_to_do(folder: Path, damage: str, read: Callable):
    write_set(folder, "v2", LABELS, images=pictures(4))
    (folder / "classes.json").write_text(damage)
    with pytest.raises(ValueError, match=r"classes\.json is damaged .*`make repro` makes it anew"):
        read(folder)


def fingerprint(folder: Path, labels: np.ndarray, name: str = "id_val", **content: object) -> str:
    write_set(folder, name, labels, **content)
    return read_set(folder, name).fingerprint


@given(st.integers(0, 3), st.integers(0, 59), st.integers(1, 255))
def test_one_changed_label_pixel_or_path_changes_the_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, sample: int, position: int, change: int
):
    folder = tmp_path_factory.getbasetemp() / "fingerprints"
    folder.mkdir(exist_ok=True)
    content = {"class_names": NAMES, "label_spaces": {}}
    (folder / "classes.json").write_text(json.dumps(content))
    before = fingerprint(folder, LABELS, images=pictures(4))
    assert len(before) == 16
    assert before == fingerprint(folder, LABELS.copy(), "v2", images=pictures(4))  # another name
    labels, images = LABELS.copy(), pictures(4)
    labels[sample] = (labels[sample] + 1) % 3
    images[sample].reshape(-1)[position] ^= np.uint8(change)  # some bits flipped
    assert fingerprint(folder, labels, images=pictures(4)) != before
    assert fingerprint(folder, LABELS, images=images) != before
    paths = [f"{i}.jpg" for i in range(4)]
    moved = [path if i != sample else f"9{path}" for i, path in enumerate(paths)]
    assert fingerprint(folder, LABELS, paths=paths) != fingerprint(folder, LABELS, paths=moved)


def test_the_first_images_of_each_class_in_the_order_of_the_set_by_hand(folder: Path):
    labels = np.array([2, 0, 1, 0, 2, 2, 1, 0])
    write_set(folder, "train", labels, images=pictures(8))
    read = read_set(folder, "train")
    part = read.first_per_class(2)
    # of class 0 the images 1 and 3 (not 7), of class 1: 2 and 6, of class 2: 0 and 4 (not 5)
    assert part.labels.tolist() == [2, 0, 1, 0, 2, 1]
    np.testing.assert_array_equal(part.images, pictures(8)[[0, 1, 2, 3, 4, 6]])
    assert (part.name, part.class_names) == (read.name, read.class_names)
    prints = {read.fingerprint, part.fingerprint, read.first_per_class(1).fingerprint}
    assert len(prints) == 3
    message = "training.images_per_class: dog has 2 images in set train, not 3"
    with pytest.raises(ValueError, match=f"^{message}$"):
        read.first_per_class(3)


def test_a_class_without_an_image_is_named(folder: Path):
    write_set(folder, "train", np.array([0, 1, 1]), paths=["a", "b", "c"])
    read = read_set(folder, "train")
    with pytest.raises(ValueError, match="tea pot has 0 images in set train, not 1"):
        read.first_per_class(1)
    write_set(folder, "train", np.array([1, 0, 2, 1]), paths=["a", "b", "c", "d"])
    assert read_set(folder, "train").first_per_class(1).paths.tolist() == ["a", "b", "c"]


def test_images_in_memory_are_indexed_by_lists_and_read_in_batches(folder: Path):
    write_set(folder, "id_val", LABELS, images=pictures(4))
    read, expected = read_set(folder, "id_val"), normalise(torch.from_numpy(pictures(4)))
    for training in (False, True):
        images = read.open_images(SMALL, training)
        torch.testing.assert_close(images[[3, 0, 3]], expected[[3, 0, 3]])
    loader = DataLoader(images, batch_size=None, sampler=[[3], [1, 2, 0]])
    assert [batch.shape for batch in loader] == [(1, 3, 4, 5), (3, 3, 4, 5)]
    batches = list(read.read_images(SMALL, batch_size=3))
    assert [len(batch) for batch in batches] == [3, 1]
    torch.testing.assert_close(torch.cat(batches), expected)


SMALL = PreprocessCfg(size=8)  # of a model that takes 8 x 8 pixels


def saved(folder: Path, image: Image.Image, name: str = "x.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def set_of(*files: Path, border: int = 0) -> LabelledSet:
    """A set of image files of one folder."""
    labels, paths = np.zeros(len(files), int), np.array([file.name for file in files])
    space, folder = LabelSpace.identity(1), files[0].parent
    return LabelledSet("x", labels, None, paths, space, ["cat"], "f", folder, border)


def opened(path: Path, training: bool = False, border: int = 0) -> torch.Tensor:
    """One file as the small model takes it."""
    return set_of(path, border=border).open_images(SMALL, training)[[0]]


def squares(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_a_set_of_paths_opens_its_files_from_any_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    far = tmp_path_factory.mktemp("pictures")
    (far / "dog").mkdir()
    for i, image in enumerate(squares(2)):
        saved(far / "dog", Image.fromarray(image), f"{i}.png")
    content = json.loads((folder / "classes.json").read_text())
    content |= {"image_folder": os.path.relpath(far, folder), "borders": {"v2": 2}}
    (folder / "classes.json").write_text(json.dumps(content))
    for name in ("id_val", "v2"):
        write_set(folder, name, LABELS[:2], paths=["dog/0.png", "dog/1.png"])
    monkeypatch.chdir(far.parent)
    expected = normalise(torch.from_numpy(squares(2)))
    read = read_set(folder, "id_val")
    torch.testing.assert_close(read.open_images(SMALL)[[1, 0]], expected[[1, 0]])
    batches = list(read.read_images(SMALL, batch_size=1))  # decoded by other processes
    torch.testing.assert_close(torch.cat(batches), expected)
    assert read_set(folder, "v2").border == 2


def test_the_evaluation_transform_by_hand(tmp_path: Path):
    # 16 x 24: the shorter side is 16 -> 8, the longer one 24 -> 12; 2 are cut off either end
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (16, 24, 3), np.uint8))
    whole = np.asarray(picture.resize((12, 8), Image.Resampling.BICUBIC))[:, 2:10]
    expected = normalise(torch.from_numpy(whole.copy())[None])
    torch.testing.assert_close(opened(saved(tmp_path, picture)), expected)


def test_the_training_transform_is_a_random_crop_and_nothing_else(tmp_path: Path):
    # left half black, right half white: a flip or a change of colour would show
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, 20:] = 255
    path = saved(tmp_path, Image.fromarray(halves))
    files = set_of(path).open_images(SMALL, training=True)
    black, white = normalise(torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 1, 3, 1).mT)[
        0, :, 0
    ].T
    crops = []
    for seed in range(20):
        torch.manual_seed(seed)
        crops.append(files[[0]][0])
        torch.testing.assert_close(crops[-1][:, :, 0], black[:, None].expand(3, 8))
        torch.testing.assert_close(crops[-1][:, :, -1], white[:, None].expand(3, 8))
    assert len({crop.numpy().tobytes() for crop in crops}) > 5
    torch.manual_seed(0)
    assert torch.equal(files[[0]][0], crops[0])


def test_a_border_is_cut_off_before_the_resize(tmp_path: Path):
    framed = np.full((20, 20, 3), (255, 0, 0), np.uint8)
    framed[2:-2, 2:-2] = 90
    grey = normalise(torch.full((1, 8, 8, 3), 90, dtype=torch.uint8))
    path = saved(tmp_path, Image.fromarray(framed))
    torch.testing.assert_close(opened(path, border=2), grey)
    assert not torch.allclose(opened(path), grey)
    with pytest.raises(UnreadableImageError, match=r"x\.png: 20 x 20 pixels are nothing"):
        opened(path, border=10)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_image_mode_becomes_rgb(tmp_path: Path, mode: str):
    name = "x.tif" if mode == "CMYK" else "x.png"
    path = saved(tmp_path, Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode), name)
    white = normalise(torch.full((1, 8, 8, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(opened(path), white)
    torch.testing.assert_close(opened(path, training=True), white)


def test_odd_files_are_read(tmp_path: Path):
    palette = Image.new("P", (5, 4))
    palette.putpalette([255, 255, 255, 0, 0, 0])
    path = saved(tmp_path, palette, transparency=bytes([0, 255]))
    assert opened(path).shape == (1, 3, 8, 8)
    path = saved(tmp_path, Image.fromarray(np.array([[90, 300], [90, 65535]], np.uint16)))
    assert np.asarray(read_image(path)).max(axis=2).tolist() == [[90, 255], [90, 255]]  # clipped
    path = saved(tmp_path, Image.new("RGB", (1, 1), (0, 0, 0)))
    black = normalise(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    torch.testing.assert_close(opened(path), black)
    torch.testing.assert_close(opened(path, training=True), black)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, which is not applied
    path = saved(tmp_path, Image.new("RGB", (6, 4)), "x.jpg", exif=exif)
    assert read_image(path).size == (6, 4)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "missing"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, damage: str, workers: int):
    path = saved(tmp_path, Image.fromarray(np.tile(pictures(1)[0], (20, 20, 1))), "x.jpg")
    whole = path.read_bytes()
    content = {"empty": b"", "text": b"not found", "cut": whole[: len(whole) // 2]}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    files = set_of(path).open_images(SMALL)
    with pytest.raises(UnreadableImageError, match=r"x\.jpg: not a readable image") as caught:
        list(DataLoader(files, batch_size=None, sampler=[[0]], num_workers=workers))
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_the_templates_are_clips_unless_the_folder_has_some(folder: Path):
    assert [t("cat") for t in read_templates(folder)] == [t("cat") for t in clip_templates()]
    content = json.loads((folder / "classes.json").read_text())
    content["templates"] = ["a {}.", "a {} of {words}, or a {}."]
    (folder / "classes.json").write_text(json.dumps(content))
    assert [t("cat") for t in read_templates(folder)] == ["a cat.", "a cat of {words}, or a cat."]


def test_a_write_that_fails_leaves_the_old_set(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write_set(folder, "id_val", LABELS, images=pictures(4))

    def fail(file: object, **arrays: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_set(folder, "id_val", LABELS, images=pictures(4, seed=1))
    np.testing.assert_array_equal(read_set(folder, "id_val").images, pictures(4))
