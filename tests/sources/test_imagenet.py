"""ImageNet and its shifts on a tiny tree of the same form: labels, label spaces, all problems."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from handwritten_digits import ROOT, change, prepared
from PIL import Image
from test_shards import write_shard

from carot_lib.evaluation import load_evaluation
from carot_lib.layout import Layout
from carot_lib.sources import imagenet
from carot_lib.sources.imagenet import ImagenetParams, read_objectnet_mapping
from carot_lib.stages.data import check_data, prepare

WORDNET_IDS = ["n01440764", "n01443537", "n02123045", "n03063599"]
NAMES = ["tench", "goldfish", "tabby cat", "coffee mug"]
SETS = {  # the real table with the counts of the tree below
    "train": (("train",), 20, 4),
    "id_test": (("val_dirs", "val"), 8, 4),
    "imagenet_v2": (("imagenetv2-matched-frequency-format-val",), 24, 12),
    "imagenet_r": (("imagenet-r",), 3, 2),
    "imagenet_a": (("imagenet-a",), 5, 2),
    "imagenet_sketch": (("sketch",), 4, 4),
    "objectnet": (("objectnet-1.0/images",), 5, 2),
}
V2_CLASSES = 12  # so that 10 comes before 2 in the order of text
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())
TREE["imagenet"]["training"] |= {"epochs": 1, "batch_size": 4}  # for a few images
TREE["imagenet"]["data"]["validation_per_class"] = 2
PARAMS = yaml.safe_dump(TREE)


def fill(folder: Path, n: int, extension: str = "JPEG") -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        picture = Image.new("RGB", (12, 10), (i, 2 * i, 3 * i))
        picture.save(folder / f"{folder.name}_{i}.{extension}")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A project with a tiny ImageNet, all of its sets complete."""
    monkeypatch.setattr(imagenet, "SETS", SETS)
    monkeypatch.setattr(imagenet, "PER_CLASS", {"id_test": 2, "imagenet_v2": 2})
    monkeypatch.setattr(imagenet, "CLASS_NAMES", NAMES)
    (tmp_path / "params.yaml").write_text(PARAMS)
    top = tmp_path / "data" / "imagenet"
    for wnid in WORDNET_IDS:
        fill(top / "train" / wnid, 5)
        fill(top / "val" / wnid, 2)
        fill(top / "sketch" / wnid, 1)
    for label in range(V2_CLASSES):
        fill(top / "imagenetv2-matched-frequency-format-val" / str(label), 2, "jpeg")
    for wnid, n in (("n01443537", 1), ("n03063599", 2)):
        fill(top / "imagenet-r" / wnid, n, "jpg")
    for wnid, n in (("n01440764", 2), ("n02123045", 3)):
        fill(top / "imagenet-a" / wnid, n, "jpg")
    for name, n in (("mug", 2), ("air_freshener", 4), ("fish_or_cat", 3)):
        fill(top / "objectnet-1.0" / "images" / name, n, "png")
    write_mappings(top / "objectnet-1.0" / "mappings")
    return Layout(tmp_path, "imagenet")


def write_mappings(folder: Path) -> None:
    """ObjectNet's four files in their own form; 2012 ids are not in the order of WordNet's."""
    folder.mkdir()
    lines = ["coffee mug", "tabby, tabby cat", "goldfish, Carassius auratus", "tench, Tinca tinca"]
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    for name, content in {
        "pytorch_to_imagenet_2012_id": {"0": 3, "1": 2, "2": 1, "3": 0},
        "folder_to_objectnet_label": {
            "mug": "Mug",
            "air_freshener": "Air freshener",
            "fish_or_cat": "A fish / cat",
        },
        "objectnet_to_imagenet_1k": {
            "Mug": "coffee mug",
            "A fish / cat": "tabby, tabby cat; tench, Tinca tinca",
        },
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def top(layout: Layout) -> Path:
    return layout.root / "data" / "imagenet"


def test_a_complete_tree_has_no_problem_and_is_counted(
    layout: Layout, capsys: pytest.CaptureFixture[str]
):
    assert check_data(layout) == []
    printed = capsys.readouterr().out.splitlines()
    assert "id_test: val: 8 of 8 images in 4 of 4 classes" in printed
    assert "objectnet: objectnet-1.0/images: 5 of 5 images in 2 of 2 classes" in printed
    counts = json.loads(layout.checked.read_text())["sets"]
    assert counts["imagenet_r"] == {"images": 3, "classes": 2}


def test_the_labels_are_those_of_the_sorted_wordnet_ids(layout: Layout):
    for name in ("train", "id_val", "id_test", "imagenet_sketch"):
        one = prepared(layout, name)
        folders = [Path(path).parent.name for path in one.paths]
        assert [WORDNET_IDS[label] for label in one.labels] == folders
        assert one.label_space.is_identity
        assert one.class_names == NAMES
        assert (one.image_folder / one.paths[0]).is_file()


def test_the_labels_of_v2_are_the_numbers_of_its_folders(layout: Layout):
    one = prepared(layout, "imagenet_v2")
    assert [int(Path(path).parent.name) for path in one.paths] == one.labels.tolist()
    assert one.labels.tolist() == [label for label in range(V2_CLASSES) for _ in range(2)]


def test_r_and_a_have_the_columns_of_their_folders(layout: Layout):
    r, a = prepared(layout, "imagenet_r"), prepared(layout, "imagenet_a")
    assert (r.label_space.columns, r.labels.tolist()) == (((1,), (3,)), [0, 1, 1])
    assert (a.label_space.columns, a.labels.tolist()) == (((0,), (2,)), [0, 0, 1, 1, 1])
    assert r.class_names == ["goldfish", "coffee mug"]


def test_objectnet_has_its_own_classes_and_a_border(layout: Layout):
    one = prepared(layout, "objectnet")
    assert one.class_names == ["A fish / cat", "Mug"]  # in the order of the folders
    assert one.label_space.columns == ((2, 0), (3,))
    assert [Path(path).parent.name for path in one.paths] == ["fish_or_cat"] * 3 + ["mug"] * 2
    assert one.labels.tolist() == [0, 0, 0, 1, 1]
    assert one.border == 2
    logits = np.array([[1.0, 9.0, 2.0, 0.0]])
    assert one.label_space.project(logits).tolist() == [[2.0, 0.0]]  # the larger of two ids


def test_all_problems_are_reported_at_once_each_with_what_to_do(
    layout: Layout, top: Path, capsys: pytest.CaptureFixture[str]
):
    (top / "train" / WORDNET_IDS[0] / "n01440764_0.JPEG").unlink()  # half extracted
    (top / "train" / "n04591713.tar").touch()
    (top / "val" / WORDNET_IDS[1]).rename(top / "val" / "goldfish")
    v2 = top / "imagenetv2-matched-frequency-format-val"
    (v2 / "7").rename(v2 / "seven")
    next((v2 / "2").iterdir()).rename(v2 / "3" / "third.jpeg")
    shutil.rmtree(top / "imagenet-r")
    fill(top / "imagenet-a" / "n99999999", 1)
    cut = top / "sketch" / WORDNET_IDS[2] / "n02123045_0.JPEG"
    Image.effect_noise((64, 64), 90).save(cut)
    cut.write_bytes(cut.read_bytes()[:-500])
    (top / "objectnet-1.0" / "mappings" / "imagenet_to_label_2012_v2").unlink()
    report = check_data(layout)
    for start in (
        "train: 19 images, not 20: unpack its archive again",
        "train: 1 archives are not unpacked (n04591713.tar): unpack each",
        "id_test: 1 folders are not WordNet ids like n01440764 (goldfish): remove them",
        "id_test: 1 classes of train are missing (n01443537): unpack its archive again",
        "imagenet_v2: 1 folders are not named by a number from 0 to 11 (seven): take the",
        "imagenet_v2: 1 classes are missing (7): unpack its archive again",
        "imagenet_v2: 2 classes do not have 2 images (2 has 1, 3 has 3): unpack its archive",
        f"imagenet_r: not found: put it at {top}/imagenet-r",
        "imagenet_a: 1 folders are none of train's classes (n99999999)",
        "imagenet_a: 3 class folders, not 2: unpack its archive again",
        f"{cut}: image file is truncated",
        "objectnet: its mappings are missing or do not match ([Errno 2] No such file",
    ):
        assert any(line.startswith(start) for line in report), (start, report)
    assert not layout.checked.exists()
    assert "id_test: val: 8 of 8 images in 4 of 4 classes" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="run stage `check_data`"):
        prepare(layout)
    assert not layout.data.exists()


def test_a_damaged_mapping(layout: Layout, top: Path):
    mappings = top / "objectnet-1.0" / "mappings"
    (mappings / "objectnet_to_imagenet_1k.json").write_text('{"Mug": "no such thing"}')
    with pytest.raises(KeyError, match="no such thing"):
        read_objectnet_mapping(mappings)
    assert any("do not match ('no such thing')" in line for line in check_data(layout))


def test_a_set_that_is_not_evaluated_need_not_be_there(layout: Layout, top: Path):
    shutil.rmtree(top / "objectnet-1.0")
    tree = yaml.safe_load(PARAMS)
    tree["imagenet"]["evaluation"]["ood"].remove("objectnet")
    layout.params.write_text(yaml.safe_dump(tree))
    with pytest.raises(FileNotFoundError, match=r"objectnet\.npz"):
        prepared(layout, "objectnet")


def test_no_data_at_all_is_reported_set_by_set(layout: Layout, top: Path):
    shutil.rmtree(top)
    report = check_data(layout)
    assert [line.split(":")[0] for line in report] == list(SETS)
    assert all("not found: put it at" in line for line in report)


def test_unreadable_files_are_named_or_left_out(
    layout: Layout, top: Path, capsys: pytest.CaptureFixture[str]
):
    broken = [top / "train" / WORDNET_IDS[3] / f"n03063599_{i}.JPEG" for i in (0, 4)]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(b"<html>not found</html>")
    report = check_data(layout)
    assert [line.split(": ")[0] for line in report] == [str(path) for path in broken]
    assert "empty file" in report[0]
    assert all("on_error: skip" in line for line in report)
    change(layout, on_error="skip")
    capsys.readouterr()
    left = [*prepared(layout, "train").paths, *prepared(layout, "id_val").paths]
    printed = capsys.readouterr()
    assert "2 unreadable files that will be left out:" in printed.out
    assert all(str(path) in printed.out for path in broken)
    assert "2 unreadable files are left out" in printed.err
    assert len(left) == 18
    assert not {str(path.relative_to(top)) for path in broken} & set(left)


def test_a_class_without_a_readable_file_leaves_nothing_half_made(layout: Layout, top: Path):
    change(layout, on_error="skip")
    for path in (top / "train" / WORDNET_IDS[1]).iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="train: the readable files do not cover its classes"):
        prepared(layout, "train")
    assert not layout.data.exists()


def test_the_real_table_is_the_papers():
    counts = {name: (images, classes) for name, (_, images, classes) in imagenet.SETS.items()}
    assert counts == {
        "train": (1_281_167, 1000),
        "id_test": (50_000, 1000),
        "imagenet_v2": (10_000, 1000),
        "imagenet_r": (30_000, 200),
        "imagenet_a": (7_500, 200),
        "imagenet_sketch": (50_889, 1000),
        "objectnet": (18_574, 113),
    }
    evaluated = load_evaluation(Layout(ROOT, "imagenet")).ood
    assert list(counts) == ["train", "id_test", *evaluated]
    assert len(imagenet.CLASS_NAMES) == 1000
    assert imagenet.CLASS_NAMES[:2] == ["tench", "goldfish"]


def test_the_number_of_held_out_images_must_be_given():
    numbers = {"kind": "imagenet", "folder": "x", "train_shards": None, "seed": 0}
    with pytest.raises(ValueError, match="validation_per_class"):
        ImagenetParams(**numbers, validation_per_class=None, on_error="stop")


def to_shards(layout: Layout, top: Path) -> None:
    """Move train into two shards, and say so."""
    files = sorted((top / "train").rglob("*.JPEG"))
    for number, part in enumerate((files[:9], files[9:])):
        labels = [str(WORDNET_IDS.index(file.parent.name)).encode() for file in part]
        pairs = zip(part, labels, strict=True)
        samples = [(file.stem, {"jpg": file.read_bytes(), "cls": label}) for file, label in pairs]
        write_shard(top / f"train-{number}.tar", samples)
    shutil.rmtree(top / "train")
    change(layout, train_shards="train-{0,1}.tar")


def test_train_may_be_in_shards(layout: Layout, top: Path, capsys: pytest.CaptureFixture[str]):
    names = ("train", "id_val", "id_test", "imagenet_r", "objectnet")
    folders = {name: prepared(layout, name) for name in names}
    pictures = {name: one.thumbnails(range(len(one.labels))) for name, one in folders.items()}
    shutil.rmtree(layout.data)
    to_shards(layout, top)
    for name in names:
        one = prepared(layout, name)
        np.testing.assert_array_equal(one.labels, folders[name].labels)
        assert one.label_space == folders[name].label_space
        assert all(map(np.array_equal, one.thumbnails(range(len(one.labels))), pictures[name]))
    printed = capsys.readouterr().out
    assert "train: train-{0,1}.tar: 20 of 20 images in 4 of 4 classes" in printed


def test_problems_of_train_in_shards_are_reported_with_the_others(layout: Layout, top: Path):
    to_shards(layout, top)
    whole = (top / "train-1.tar").read_bytes()
    (top / "train-1.tar").write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(top / "val" / WORDNET_IDS[1])
    report = check_data(layout)
    # R and Sketch show the class that val lacks
    sets = [*["train"] * 3, *["id_test"] * 2, "imagenet_r", "imagenet_sketch"]
    assert [line.split(": ")[0] for line in report] == sets
    assert report[0].startswith(f"train: {top}/train-1.tar: no complete tar file (")
    assert "images, not 20" in "".join(report[:3])
    assert report[3].startswith("id_test: 3 class folders, not 4")
