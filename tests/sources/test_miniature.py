"""The miniature's sets: classes and labels, chosen pictures, random streams, and its file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from handwritten_digits import ROOT, WORDS
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from carot_lib.data.datasets import read_class_names, read_set
from carot_lib.sources.miniature import (
    DrawnSetParams,
    PictogramParams,
    World,
    candidates,
    draw_sets,
    handwritten,
    load_world,
    make_generator,
    plan_set,
)
from carot_lib.sources.pictograms import GlyphBank, Pictogram

REAL = yaml.safe_load((ROOT / "data" / "miniature.yaml").read_text())
DIGITS = [Pictogram(str(i), f"digit {word}", True, "") for i, word in enumerate(WORDS)]
PIECES = [
    Pictogram("♛", "queen", True, "piece"),
    Pictogram("☂", "umbrella", True, "thing"),
    Pictogram("♚", "king", True, "piece"),
    Pictogram("⚓", "anchor", True, "thing"),
    Pictogram("☃", "snowman", True, ""),
]
CAPTION = Pictogram("☀", "sun", False, "")


def params(**changes: object) -> PictogramParams:
    small = {"kind": "pictograms", "world": "world.yaml", "adversarial": "adversarial.json"}
    small |= {"image_size": 16, "seed": 0, "subset_size": 3}
    return PictogramParams.model_validate(small | changes)


def world(**changes: object) -> World:
    """The project's recipes, and three sets of a few pictures."""
    sets = {
        "train": {"recipe": "photo", "images_per_class": 2, "classes": "all"},
        "a": {"recipe": "web", "images_per_class": 2, "classes": "second_subset"},
        "objectnet": {"recipe": "scene", "images_per_class": 3, "classes": "objects"},
    }
    sets = {name: {"filtered": name == "a"} | drawn for name, drawn in sets.items()}
    return World.model_validate(REAL | {"sets": sets} | changes)


def drawn(classes: str, images_per_class: int = 2) -> DrawnSetParams:
    return DrawnSetParams(
        recipe="photo", images_per_class=images_per_class, classes=classes, filtered=False
    )


def test_sets_of_all_classes_and_of_objects_by_hand():
    shown, labels, space = plan_set(drawn("all"), PIECES[:3], params())
    assert shown.tolist() == labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert space is None
    # piece: queen (0) and king (2); thing: umbrella (1) and anchor (3); the snowman is neither
    shown, labels, space = plan_set(drawn("objects"), PIECES, params())
    assert space == {"names": ["piece", "thing"], "columns": [[0, 2], [1, 3]]}
    assert shown.tolist() == [0, 0, 2, 2, 1, 1, 3, 3]
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_world_that_lacks_objects_or_digits_is_refused():
    with pytest.raises(ValueError, match="every class of a label space needs at least one column"):
        plan_set(drawn("objects"), DIGITS, params())
    with pytest.raises(ValueError, match="set handwritten: not among the classes: digit zero, dig"):
        handwritten([*PIECES, *DIGITS[2:]], 32)


SUBSETS = ["first_subset", "second_subset"]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_two_subsets_are_the_seeds_choice_in_the_order_of_the_classes(
    size: int, each: int, seed: int
):
    chosen = params(subset_size=size, seed=seed)
    seen = []
    for kind in SUBSETS:
        shown, labels, space = plan_set(drawn(kind, each), DIGITS, chosen)
        subset = [group[0] for group in space["columns"]]
        assert len(subset) == size
        assert subset == sorted(set(subset))
        assert space["names"] == [DIGITS[i].name for i in subset]
        assert shown.tolist() == [i for i in subset for _ in range(each)]
        assert labels.tolist() == [k for k in range(len(subset)) for _ in range(each)]
        seen += subset
    assert len(set(seen)) == 2 * size  # no class is in both


@pytest.mark.parametrize("kind", SUBSETS)
def test_a_subset_is_the_same_for_all_sets_and_another_for_another_seed(kind: str):
    first, other = (plan_set(drawn(kind), DIGITS, params(seed=seed))[2] for seed in (0, 1))
    assert first != other
    assert first == plan_set(drawn(kind, 5), DIGITS, params())[2]


@pytest.mark.parametrize("size", [6, 10, 11])
@pytest.mark.parametrize("kind", SUBSETS)
def test_two_subsets_that_do_not_fit_into_the_classes_are_refused(size: int, kind: str):
    message = f"data.subset_size: two disjoint subsets of {size} need {2 * size} classes, and there"
    with pytest.raises(ValueError, match=f"^{message} are 10$"):
        plan_set(drawn(kind), DIGITS, params(subset_size=size))


def test_the_classes_of_r_and_a_are_disjoint():
    sets = World.model_validate(REAL).sets
    assert {sets["r"].classes, sets["a"].classes} == set(SUBSETS)


def test_each_set_and_each_candidate_has_a_random_stream_of_its_own():
    streams = [(seed, number) for seed in range(30) for number in (*range(30), 1000)]
    streams += [(0, 5, shown, number) for shown in range(10) for number in range(1, 20)]
    assert len({make_generator(*stream).initial_seed() for stream in streams}) == len(streams)
    assert make_generator(0, 1).initial_seed() == make_generator(0, 1).initial_seed()


def test_handwritten_digits_are_scikit_learns_by_class():
    images, labels, space = handwritten([*PIECES, *DIGITS], image_size=32)
    assert images.shape == (1797, 32, 32, 3)
    assert labels.tolist() == sorted(load_digits().target.tolist())
    assert space["names"] == [f"digit {word}" for word in WORDS]
    assert space["columns"] == [[5 + i] for i in range(10)]  # behind the five others
    assert (images == images[..., :1]).all()  # grey


@pytest.mark.parametrize("size", [16, 31, 32])
def test_handwritten_digits_are_dark_on_white_with_a_margin(size: int):
    images, labels, _ = handwritten(DIGITS, size)
    margin = (size - size * 3 // 4) // 2
    inside = np.zeros((size, size), dtype=bool)
    inside[margin:, margin:][: size * 3 // 4, : size * 3 // 4] = True
    assert (images[:, ~inside] == 255).all()
    assert images.min() == 51  # 255 * (1 - .8)
    # 24 pixels of 32 for 8 of the scan: a mean over 3 x 3 is nearly the scan's pixel again
    if size == 32:
        scan = load_digits()
        first = scan.images[scan.target == 0][0] / 16
        ink = (255 - images[labels == 0][0, margin:-margin, margin:-margin, 0]) / 255 / 0.8
        means = ink.reshape(8, 3, 8, 3).mean(axis=(1, 3))
        assert np.abs(means - first).max() < 0.15


ALL = [*PIECES, *DIGITS, CAPTION]


CHOSEN = {one.name: [9, 0, 4] for one in ALL if one.is_class}  # of which a set of two takes two


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "prepared"
    draw_sets(params(), world(), ALL, {"a": CHOSEN}, folder)
    return folder


@pytest.fixture(scope="module")
def glyphs() -> GlyphBank:
    return GlyphBank(ALL[:-1], world().faces)


def test_a_world_holds_every_set_and_the_names(folder: Path):
    names = {"train", "a", "objectnet", "handwritten"}
    files = {path.name for path in folder.iterdir()}
    assert files == {f"{name}.npz" for name in names} | {"classes.json"}
    assert read_class_names(folder) == [one.name for one in ALL[:-1]]  # the sun is no class
    spaces = json.loads((folder / "classes.json").read_text())["label_spaces"]
    assert set(spaces) == {"a", "objectnet", "handwritten"}
    sizes = {name: len(read_set(folder, name).labels) for name in names}
    # 15 classes by 2; 3 classes by 2; 4 classes with an object by 3
    assert sizes == {"train": 30, "a": 6, "objectnet": 12, "handwritten": 1797}
    for name in names:
        one = read_set(folder, name)
        assert one.images.shape == (len(one.labels), 16, 16, 3)
        assert one.labels.max() == len(one.label_space.columns) - 1


def test_a_candidate_has_its_bytes_whichever_others_are_drawn(glyphs: GlyphBank):
    draw = candidates(params(), world(), glyphs, "a")
    images = draw(3, range(6))
    assert images.shape == (6, 16, 16, 3)
    assert len(images.flatten(1).unique(dim=0)) == 6
    assert torch.equal(draw(3, [4, 1]), images[[4, 1]])
    assert not torch.equal(draw(4, [1]), images[[1]])  # another class
    other = candidates(params(seed=1), world(), glyphs, "a")
    assert not torch.equal(other(3, [1]), images[[1]])


@pytest.mark.parametrize("classes", ["second_subset", "objects", "all"])
def test_a_filtered_set_holds_the_first_candidates_of_its_choice(
    glyphs: GlyphBank, tmp_path: Path, classes: str
):
    sets = {name: one.model_dump() for name, one in world().sets.items()}
    changed = world(sets=sets | {"a": sets["a"] | {"classes": classes}})
    draw_sets(params(), changed, ALL, {"a": CHOSEN}, tmp_path)
    one, draw = read_set(tmp_path, "a"), candidates(params(), changed, glyphs, "a")
    groups = [[column] for column in range(len(ALL) - 1)]
    if classes != "all":
        groups = json.loads((tmp_path / "classes.json").read_text())["label_spaces"]["a"]["columns"]
    expected = [(label, column) for label, group in enumerate(groups) for column in group]
    assert one.labels.tolist() == [label for label, _ in expected for _ in range(2)]
    images = torch.cat([draw(column, [9, 0]) for _, column in expected])
    assert torch.equal(torch.from_numpy(one.images), images)


def test_a_set_added_at_the_end_leaves_the_bytes_of_the_others_alone(folder: Path, tmp_path: Path):
    sets = {name: one.model_dump() for name, one in world().sets.items()}
    more = world(sets=sets | {"v2": sets["train"]})
    draw_sets(params(), more, ALL, {"a": CHOSEN}, tmp_path)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    # the same recipe drawn anew is another set
    assert read_set(tmp_path, "v2").fingerprint != read_set(folder, "train").fingerprint


@pytest.mark.parametrize("change", [{"image_size": 0}, {"subset_size": 0}, {"colour": 1}])
def test_invalid_params_are_refused(change: dict):
    with pytest.raises(ValueError, match=next(iter(change))):
        params(**change)


def test_a_world_is_read_from_its_file(tmp_path: Path):
    with pytest.raises(ValueError, match=r"world\.yaml: no such file"):
        load_world(tmp_path, params())
    (tmp_path / "world.yaml").write_text(yaml.safe_dump(REAL))
    read = load_world(tmp_path, params())
    assert read == World.model_validate(REAL)
    assert read.faces[:2] == ["DejaVuSans", "DejaVuSans-Bold"]  # the first recipe's
    assert len(read.faces) == len(set(read.faces)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "world.yaml: colour: unknown key"),
        (
            {"recipes": {"photo": REAL["recipes"]["photo"] | {"size": {"low": 3, "high": 1}}}},
            "world.yaml: recipes.photo.size.low (3.0) is above high (1.0)",
        ),
        (
            {"sets": {"v2": REAL["sets"]["v2"] | {"recipe": "v3"}}},
            "world.yaml: sets.v2.recipe: no recipe named 'v3'",
        ),
        (
            {"reference": REAL["reference"] | {"recipe": "v3"}},
            "world.yaml: reference.recipe: no recipe named 'v3'",
        ),
        (
            {"sets": {"v2": REAL["sets"]["v2"] | {"classes": "subset"}}},
            "world.yaml: sets.v2.classes: Input should be 'all', 'first_subset', 'second_subset' "
            "or 'objects', not 'subset'",
        ),
    ],
)
def test_an_invalid_world_is_refused_with_file_and_key(tmp_path: Path, change: dict, message: str):
    (tmp_path / "world.yaml").write_text(yaml.safe_dump(REAL | change))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_world(tmp_path, params())
