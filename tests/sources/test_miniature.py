"""The miniature's sets: classes and labels, filtered pictures, random streams, and its file."""

import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from handwritten_digits import ROOT, WORDS
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn

from carot_lib.data.datasets import normalise, read_class_names, read_set
from carot_lib.sources import miniature
from carot_lib.sources.miniature import (
    DrawnSetParams,
    PictogramParams,
    ReferenceParams,
    World,
    adversarial_filter,
    draw_sets,
    handwritten,
    load_world,
    make_generator,
    plan_set,
    train_reference,
)
from carot_lib.sources.pictograms import GlyphBank, Pictogram, Recipe

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
    small = {"kind": "pictograms", "world": "world.yaml", "image_size": 16, "seed": 0}
    return PictogramParams.model_validate(small | {"subset_size": 3} | changes)


def world(**changes: object) -> World:
    """The project's recipes, three sets of a few pictures, a reference of two epochs."""
    sets = {
        "train": {"recipe": "photo", "images_per_class": 2, "classes": "all"},
        "a": {"recipe": "photo", "images_per_class": 2, "classes": "subset"},
        "objectnet": {"recipe": "scene", "images_per_class": 3, "classes": "objects"},
    }
    sets = {name: {"filtered": name == "a"} | drawn for name, drawn in sets.items()}
    reference = {"images_per_class": 4, "epochs": 2, "batch_size": 16, "learning_rate": 3.0e-3}
    return World.model_validate(REAL | {"sets": sets, "reference": reference} | changes)


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


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_a_subset_is_the_seeds_choice_in_the_order_of_the_classes(size: int, each: int, seed: int):
    chosen = params(subset_size=size, seed=seed)
    shown, labels, space = plan_set(drawn("subset", each), DIGITS, chosen)
    subset = [group[0] for group in space["columns"]]
    assert len(subset) == min(size, len(DIGITS))
    assert subset == sorted(set(subset))
    assert space["names"] == [DIGITS[i].name for i in subset]
    assert shown.tolist() == [i for i in subset for _ in range(each)]
    assert labels.tolist() == [k for k in range(len(subset)) for _ in range(each)]


def test_all_subsets_of_a_world_are_the_same_and_another_seed_has_another():
    # unlike ImageNet-R and -A: so that `r` and `a` differ in the shift alone
    first, other = (plan_set(drawn("subset"), DIGITS, params(seed=seed))[2] for seed in (0, 1))
    assert first != other
    assert first == plan_set(drawn("subset", 5), DIGITS, params())[2]


def test_each_set_has_a_random_stream_of_its_own():
    streams = [(seed, number) for seed in range(30) for number in (*range(30), 1000)]
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


@pytest.fixture(scope="module")
def glyphs() -> GlyphBank:
    return GlyphBank(DIGITS, world().faces)


class Stubborn(nn.Module):
    """Predicts the class `seen` for dark pictures, `otherwise` for the others."""

    def __init__(self, seen: int, otherwise: int, brightness: float = math.inf):
        super().__init__()
        self.seen, self.otherwise, self.brightness = seen, otherwise, brightness

    def forward(self, images: Tensor) -> Tensor:
        dark = images.mean(dim=(1, 2, 3)) < self.brightness
        guess = torch.where(dark, self.seen, self.otherwise)
        return nn.functional.one_hot(guess, len(DIGITS)).float()


PHOTO = world().recipes["photo"]


def deceive(glyphs: GlyphBank, reference: nn.Module, shown: list[int], seed: int = 0) -> Tensor:
    draw = partial(glyphs.draw, recipe=PHOTO, size=16, generator=Generator().manual_seed(seed))
    return adversarial_filter(reference, draw, torch.tensor(shown), "a")


def test_pictures_are_drawn_until_each_one_deceives(glyphs: GlyphBank):
    # dark pictures are taken for threes: a three must be bright, a four deceives at once
    reference = Stubborn(3, 8, brightness=0.0)
    shown = [3] * 20 + [4] * 20
    images = deceive(glyphs, reference, shown)
    guesses = reference(normalise(images)).argmax(dim=1)
    assert (guesses != torch.tensor(shown)).all()
    assert (normalise(images[:20]).mean(dim=(1, 2, 3)) >= 0).all()
    assert not (normalise(images[20:]).mean(dim=(1, 2, 3)) >= 0).all()
    assert len(images.flatten(1).unique(dim=0)) == 40


def test_the_first_picture_that_deceives_is_kept(glyphs: GlyphBank):
    # every picture deceives at the first try: the same pictures as without a filter
    images = deceive(glyphs, Stubborn(0, 0), [4, 5, 6], seed=9)
    plain = glyphs.draw(torch.tensor([4, 5, 6]), PHOTO, 16, Generator().manual_seed(9))
    assert torch.equal(images, plain)


def test_a_class_that_never_deceives_is_an_error(
    glyphs: GlyphBank, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(miniature, "MAX_ROUNDS", 3)
    message = (
        r"set a: after 3 rounds 2 of 3 pictures still do not deceive .* fewer epochs or images"
    )
    with pytest.raises(ValueError, match=message):
        deceive(glyphs, Stubborn(5, 5), [5, 5, 6])


def test_the_reference_learns_its_pictures():
    patient = {"images_per_class": 30, "epochs": 4, "batch_size": 16, "learning_rate": 1.0e-2}
    easy = {"contrast": {"low": 0.6, "high": 0.9}, "rotation": 0, "noise": {"low": 0, "high": 0.02}}
    recipe = Recipe.model_validate(REAL["recipes"]["photo"] | easy)
    glyphs = GlyphBank(PIECES, world().faces)
    reference = train_reference(ReferenceParams(**patient), glyphs, recipe, params())
    assert not reference.training
    labels = torch.arange(5).repeat(40)
    images = glyphs.draw(labels, recipe, 16, Generator().manual_seed(77))  # new ones
    accuracy = (reference(normalise(images)).argmax(dim=1) == labels).float().mean()
    assert accuracy > 0.45  # chance: .2


def test_the_seed_alone_determines_the_reference(glyphs: GlyphBank):
    def state(seed: int) -> dict[str, Tensor]:
        model = train_reference(world().reference, glyphs, PHOTO, params(seed=seed))
        return model.state_dict()

    first = state(0)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # torch's global generator does not matter
        again = state(0)
    other = state(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


ALL = [*PIECES, *DIGITS, CAPTION]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "prepared"
    draw_sets(params(), world(), ALL, folder)
    return folder


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


def test_every_picture_of_a_filtered_set_deceives_the_reference(folder: Path):
    glyphs, one = GlyphBank(ALL[:-1], world().faces), read_set(folder, "a")
    reference = train_reference(world().reference, glyphs, PHOTO, params())
    guesses = reference(normalise(torch.from_numpy(one.images))).argmax(dim=1)
    truth = torch.tensor([one.label_space.columns[label][0] for label in one.labels])
    assert (guesses != truth).all()


def test_a_set_added_at_the_end_leaves_the_bytes_of_the_others_alone(folder: Path, tmp_path: Path):
    sets = {name: one.model_dump() for name, one in world().sets.items()}
    draw_sets(params(), world(sets=sets | {"v2": sets["train"]}), ALL, tmp_path)
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
    ],
)
def test_an_invalid_world_is_refused_with_file_and_key(tmp_path: Path, change: dict, message: str):
    (tmp_path / "world.yaml").write_text(yaml.safe_dump(REAL | change))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_world(tmp_path, params())
