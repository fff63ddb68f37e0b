"""The pictures that a reference classifier gets wrong: which ones, and how they are kept."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from handwritten_digits import ROOT, WORDS
from torch import Generator, Tensor, nn

from carot_lib.data.datasets import normalise
from carot_lib.layout import Layout
from carot_lib.params import load_scale
from carot_lib.sources import adversarial
from carot_lib.sources.adversarial import (
    Choices,
    choose_adversarial,
    read_choices,
    train_reference,
    write_choices,
)
from carot_lib.sources.miniature import PictogramParams, World, candidates, load_world
from carot_lib.sources.pictograms import GlyphBank, Pictogram, read_pictograms

REAL = yaml.safe_load((ROOT / "data" / "miniature.yaml").read_text())
DIGITS = [Pictogram(str(i), f"digit {word}", True, "") for i, word in enumerate(WORDS[:4])]
PICTOGRAMS = [*DIGITS, Pictogram("☀", "sun", False, "")]
RUN = "run `python -m carot_lib choose_adversarial`"


def params(**changes: object) -> PictogramParams:
    small = {"kind": "pictograms", "world": "world.yaml", "adversarial": "chosen.json"}
    small |= {"image_size": 16, "seed": 0, "subset_size": 2}
    return PictogramParams.model_validate(small | changes)


def world(n: int = 3, reference: dict | None = None, **changes: object) -> World:
    """Two sets of `n` pictures of a class, one of them filtered, and a reference of two epochs."""
    sets = {
        "train": {"recipe": "photo", "images_per_class": n, "classes": "all", "filtered": False},
        "a": {"recipe": "web", "images_per_class": n, "classes": "first_subset", "filtered": True},
    }
    small = {"recipe": "photo", "images_per_class": 4, "epochs": 2, "batch_size": 16}
    small |= {"learning_rate": 3.0e-3} | (reference or {})
    return World.model_validate(REAL | {"sets": sets, "reference": small} | changes)


class Stubborn(nn.Module):
    """Takes dark pictures for the class 1 and others for the class 2."""

    def __init__(self, brightness: float):
        super().__init__()
        self.brightness = brightness

    def forward(self, images: Tensor) -> Tensor:
        dark = images.mean(dim=(1, 2, 3)) < self.brightness
        return nn.functional.one_hot(torch.where(dark, 1, 2), len(DIGITS)).float()


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch):
    """Takes a classifier in place of the one that would be trained."""

    def take(reference: nn.Module) -> None:
        monkeypatch.setattr(adversarial, "train_reference", lambda *arguments: reference)

    return take


def test_the_first_candidates_that_deceive_are_chosen_by_hand(take):
    take(Stubborn(0.0))
    chosen = choose_adversarial(params(), world(), PICTOGRAMS)
    assert list(chosen) == ["a"]  # the other set is not filtered
    assert list(chosen["a"]) == [one.name for one in DIGITS]  # all classes, whatever it shows
    # a zero and a three are never recognised
    assert chosen["a"]["digit zero"] == chosen["a"]["digit three"] == [0, 1, 2]
    # a one deceives if it is bright, a two if it is dark
    draw = candidates(params(), world(), GlyphBank(DIGITS, world().faces), "a")
    for shown, name, is_bright in ((1, "digit one", True), (2, "digit two", False)):
        bright = normalise(draw(shown, range(60))).mean(dim=(1, 2, 3)) >= 0
        expected = (bright == is_bright).nonzero()[:3, 0].tolist()
        assert len(expected) == 3
        assert chosen["a"][name] == expected


@pytest.mark.parametrize(("limit", "drawn"), [(1, 3), (7, 9)])  # in rounds of as many as wanted
def test_a_class_that_never_deceives_is_an_error(take, monkeypatch, limit: int, drawn: int):
    monkeypatch.setattr(adversarial, "MAX_CANDIDATES", limit)
    seen = []
    take(Stubborn(float("inf")))
    reference = adversarial.train_reference()
    reference.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    message = (
        f"set a: fewer than 3 of {limit} pictures of digit one deceive the reference classifier: "
        "give it fewer epochs or images"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose_adversarial(params(), world(), PICTOGRAMS)
    assert sum(seen) == 3 + drawn  # the zeros deceive at once


def test_the_reference_learns_its_pictures():
    patient = {"images_per_class": 30, "epochs": 4, "learning_rate": 1.0e-2}
    easy = {"contrast": {"low": 0.6, "high": 0.9}, "rotation": 0, "noise": {"low": 0, "high": 0.02}}
    recipes = REAL["recipes"] | {"photo": REAL["recipes"]["photo"] | easy}
    classes = [Pictogram(c, c, True, "") for c in "♛☂♚⚓☃"]
    one, glyphs = world(reference=patient, recipes=recipes), GlyphBank(classes, world().faces)
    reference = train_reference(one, glyphs, params())
    assert not reference.training
    labels = torch.arange(5).repeat(40)
    photos = glyphs.draw(labels, one.recipes["photo"], 16, Generator().manual_seed(77))  # new ones
    accuracy = (reference(normalise(photos)).argmax(dim=1) == labels).float().mean()
    assert accuracy > 0.45  # chance: .2


def test_the_seed_and_its_own_recipe_alone_determine_the_reference():
    glyphs = GlyphBank(DIGITS, world().faces)

    def state(seed: int = 0, recipe: str = "photo", n: int = 3) -> dict[str, Tensor]:
        one = world(n, {"recipe": recipe})
        return train_reference(one, glyphs, params(seed=seed)).state_dict()

    first = state()
    with torch.random.fork_rng():
        torch.manual_seed(5)  # torch's global generator does not matter
        again = state(n=9)  # nor do the sets
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    for other in (state(seed=1), state(recipe="sketch")):
        assert not all(torch.equal(value, other[key]) for key, value in first.items())


CHOICES = {"a": {one.name: [0, 2, 5, 11] for one in DIGITS}}


def kept(folder: Path, choices: Choices = CHOICES) -> Path:
    write_choices(folder / "chosen.json", params(), world(), choices)
    return folder / "chosen.json"


def test_a_choice_is_read_as_written_with_a_line_for_each_class(tmp_path: Path):
    path = kept(tmp_path)
    assert read_choices(path, params(), world(), PICTOGRAMS) == CHOICES
    assert '   "digit zero": "0 2 5 11",\n' in path.read_text()


@pytest.mark.parametrize(
    "same",
    [
        {"subset_size": 1},  # the choice covers all classes
        {"world": "other.yaml"},
    ],
)
def test_what_a_choice_does_not_depend_on_may_change(tmp_path: Path, same: dict):
    assert read_choices(kept(tmp_path), params(**same), world(), PICTOGRAMS) == CHOICES
    fewer = world(1)
    assert read_choices(kept(tmp_path), params(), fewer, PICTOGRAMS) == CHOICES


RECIPES = REAL["recipes"]
OTHER = [
    (params(seed=1), world()),
    (params(image_size=24), world()),
    (params(), world(reference={"epochs": 3})),
    (params(), world(reference={"recipe": "sketch"})),
    (params(), world(recipes=RECIPES | {"web": RECIPES["web"] | {"rotation": 89}})),
    (params(), world(recipes=RECIPES | {"photo": RECIPES["photo"] | {"shear": 0.9}})),
]


@pytest.mark.parametrize(("changed", "other"), OTHER)
def test_a_choice_for_other_parameters_is_refused(
    tmp_path: Path, changed: PictogramParams, other: World
):
    path = kept(tmp_path)
    message = f"{path}: chosen for another seed, image size, recipe or reference classifier: {RUN}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_choices(path, changed, other, PICTOGRAMS)


def test_a_recipe_of_another_set_may_change(tmp_path: Path):
    other = world(recipes=RECIPES | {"sketch": RECIPES["sketch"] | {"rotation": 89}})
    assert read_choices(kept(tmp_path), params(), other, PICTOGRAMS) == CHOICES


@pytest.mark.parametrize("classes", [DIGITS[:3], DIGITS[::-1], [*DIGITS[:3], PICTOGRAMS[-1]]])
def test_a_choice_for_other_classes_is_refused(tmp_path: Path, classes: list[Pictogram]):
    # their numbers decide the random streams
    path = kept(tmp_path)
    message = f"{path}: set a was chosen for other classes: {RUN}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_choices(path, params(), world(), classes)


def test_a_choice_with_too_few_pictures_is_refused(tmp_path: Path):
    path = kept(tmp_path, {"a": CHOICES["a"] | {"digit two": [3, 4]}})
    assert len(read_choices(path, params(), world(2), PICTOGRAMS)["a"]["digit two"]) == 2
    message = f"{path}: set a has 2 pictures of a class, not 3: {RUN}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_choices(path, params(), world(3), PICTOGRAMS)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"made_for": "x"}',
        '{"made_for": "x", "candidates": {"a": [1]}}',
        "no numbers",
    ],
)
def test_a_damaged_choice_is_named_with_what_to_do(tmp_path: Path, damage: str):
    path = kept(tmp_path)
    if damage == "no numbers":
        damage = path.read_text().replace("0 2 5 11", damage)
    path.write_text(damage)
    with pytest.raises(ValueError, match=r"chosen\.json is damaged \(") as caught:
        read_choices(path, params(), world(), PICTOGRAMS)
    assert str(caught.value).endswith(f"): {RUN}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_choice_is_a_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_choices(tmp_path / "chosen.json", params(), world(), PICTOGRAMS)


def real() -> tuple[PictogramParams, World, list[Pictogram], Choices]:
    """The project's own parameters, classes and choice."""
    layout = Layout(ROOT, "miniature")
    numbers = load_scale(layout).data
    one, pictograms = load_world(ROOT, numbers), read_pictograms(layout.pictograms)
    return (
        numbers,
        one,
        pictograms,
        read_choices(ROOT / numbers.adversarial, numbers, one, pictograms),
    )


def test_the_choice_in_git_is_that_of_todays_parameters_and_covers_all_classes():
    _, one, pictograms, choices = real()
    assert list(choices) == one.filtered == ["a"]
    assert len(choices["a"]) == sum(pictogram.is_class for pictogram in pictograms) == 100
    for numbers in choices["a"].values():
        assert len(numbers) >= one.sets["a"].images_per_class
        assert numbers == sorted(set(numbers))
        assert numbers[0] >= 0


@pytest.mark.slow
def test_the_pictures_in_git_deceive_a_classifier_that_is_trained_anew():
    numbers, one, pictograms, choices = real()
    classes = [pictogram for pictogram in pictograms if pictogram.is_class]
    glyphs = GlyphBank(classes, one.faces)
    reference = train_reference(one, glyphs, numbers)
    draw = candidates(numbers, one, glyphs, "a")

    def accuracy(taken: list[list[int]]) -> float:
        guesses = [
            reference(normalise(draw(i, some[:10]))).argmax(dim=1) == i
            for i, some in enumerate(taken)
            if some
        ]
        return torch.cat(guesses).float().mean().item()

    chosen = list(choices["a"].values())
    left_out = [[n for n in range(some[-1]) if n not in some] for some in chosen]
    # where sums are rounded otherwise than on the machine that chose, it is another classifier
    assert accuracy(chosen) < 0.5 * accuracy(left_out)
