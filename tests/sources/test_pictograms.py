"""The miniature's pictures: the list of pictograms, the glyphs, the poses and the media.

Pictures are checked at the size of the masks and scale 1, where posing is the identity: a pixel is
ground or ink exactly where the mask says so.
"""

import math
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Generator, Tensor

from carot_lib.sources.pictograms import (
    MASK_SIZE,
    GlyphBank,
    Pictogram,
    Recipe,
    Span,
    read_pictograms,
)

ROOT = Path(__file__).parents[2]
LIST = ROOT / "data" / "pictograms.csv"
HEAD = "code_point,name,used_in,object\n"
SANS, BOLD = "DejaVuSans", "DejaVuSans-Bold"
STEP = 1.001 / 255  # of an 8-bit channel


def fixed(value: float) -> dict[str, float]:
    return {"low": value, "high": value}


def recipe(**changes: object) -> Recipe:
    """Flat ink on a flat ground, straight, in the middle, as large as the picture."""
    plain = {"medium": "poster", "faces": [SANS], "size": fixed(1.0), "rotation": 0, "shear": 0}
    plain |= {"offset": 0, "contrast": fixed(0.5), "texture": 0, "blur": fixed(0.0)}
    return Recipe.model_validate(plain | {"noise": fixed(0.0), "clutter": 0} | changes)


def pictogram(character: str) -> Pictogram:
    return Pictogram(character, unicodedata.name(character).lower(), True, "")


@pytest.fixture(scope="module")
def glyphs() -> GlyphBank:
    return GlyphBank([pictogram(c) for c in "☂♛⚓6"], [SANS, BOLD])


def draw(
    glyphs: GlyphBank, recipe: Recipe, n: int = 24, seed: int = 0, size: int = MASK_SIZE
) -> Tensor:
    """Pictures of the first pictogram, channels in [0, 1]."""
    concepts = torch.zeros(n, dtype=torch.long)
    images = glyphs.draw(concepts, recipe, size, Generator().manual_seed(seed))
    return images.double() / 255


def ink_of(images: Tensor) -> Tensor:
    """Where a picture of flat colours differs from its corner, which is ground."""
    return (images != images[:, :1, :1]).any(dim=3)


def write(folder: Path, rows: str) -> Path:
    path = folder / "pictograms.csv"
    path.write_text(HEAD + rows, encoding="utf-8")
    return path


def test_classes_come_first_and_keep_the_order_of_the_file(tmp_path: Path):
    rows = "U+2602,umbrella,captions,\nU+0036,digit six,classes,\nU+265B,queen,classes,piece\n"
    assert read_pictograms(write(tmp_path, rows)) == [
        Pictogram("6", "digit six", True, ""),
        Pictogram("♛", "queen", True, "piece"),
        Pictogram("☂", "umbrella", False, ""),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "U+2602,umbrella,classes,\nU+0036,six,classes,\nU+2614,umbrella,captions,\n",
            r"pictograms\.csv: repeated names: \['umbrella'\]",
        ),
        ("U+2602,umbrella,clases,\n", r"pictograms\.csv: umbrella: used_in is 'clases'"),
    ],
)
def test_an_invalid_list_is_refused(tmp_path: Path, rows: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_pictograms(write(tmp_path, rows))


def test_the_pictograms_of_the_project_have_unicodes_names():
    pictograms = read_pictograms(LIST)
    assert len(pictograms) == 183
    for one in pictograms:
        assert one.name == unicodedata.name(one.character).lower()
        assert one.is_class or not one.object_name


def test_the_pictograms_of_the_project_all_look_different():
    masks = GlyphBank(read_pictograms(LIST), [SANS]).masks.flatten(1)
    assert len(masks.unique(dim=0)) == len(masks)
    distances = torch.cdist(masks, masks) + 99 * torch.eye(len(masks))
    assert distances.min() > 1  # more than one pixel's worth of ink


def test_no_two_classes_differ_in_the_words_black_and_white_alone():
    names = [one.name.split() for one in read_pictograms(LIST) if one.is_class]
    bare = [" ".join(word for word in name if word not in ("black", "white")) for name in names]
    assert sorted(set(bare)) == sorted(bare)


def test_the_outlines_of_no_two_classes_are_nearly_equal():
    # what `sketch` shows: the outline is the dilated glyph minus the eroded one
    classes = [one for one in read_pictograms(LIST) if one.is_class]
    masks = GlyphBank(classes, [SANS]).masks
    small = F.interpolate(masks, size=(24, 24), mode="area")
    outlines = (F.max_pool2d(small, 3, 1, 1) + F.max_pool2d(-small, 3, 1, 1)).flatten(1)
    correlations = torch.corrcoef(outlines).fill_diagonal_(0)
    assert correlations.max() < 0.86  # a black and a white star: .89


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_span_is_drawn_uniformly(dtype: torch.dtype):
    values = Span(low=2, high=6).draw((4000,), Generator().manual_seed(0), dtype)
    assert values.dtype == dtype
    assert 2 <= values.min() < 2.01
    assert 5.99 < values.max() <= 6
    # uniform on [2, 6]: mean 4, standard deviation 4 / sqrt(12) = 1.155; 4,000 values
    assert values.mean().item() == pytest.approx(4, abs=0.08)
    assert values.std().item() == pytest.approx(1.155, abs=0.04)


SIZE = {"size": {"low": 2, "high": 1}}
BAD = [{"medium": "oil"}, {"rotation": -1}, {"offset": 1.5}, {"clutter": 0.5}, {"hue": 1}, SIZE]


@pytest.mark.parametrize("bad", BAD)
def test_an_invalid_recipe_is_refused(bad: dict):
    with pytest.raises(
        ValidationError, match=rf"^1 validation error for Recipe\n{next(iter(bad))}"
    ):
        recipe(**bad)


def test_a_glyph_fills_its_square_but_for_a_margin(glyphs: GlyphBank):
    assert glyphs.masks.shape == (4, 2, MASK_SIZE, MASK_SIZE)
    assert glyphs.masks.min() == 0
    assert glyphs.masks.max() == 1
    for mask in glyphs.masks.flatten(0, 1):
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        spans = [(int(x.min()), int(x.max()) + 1) for x in (rows, columns)]
        # the longer side takes 60 of 64 pixels
        assert max(end - start for start, end in spans) == MASK_SIZE - 4
        for start, end in spans:  # in the middle
            assert abs(start + end - MASK_SIZE) <= 1


def test_a_face_that_lacks_a_glyph_is_replaced_by_the_first():
    # Computer Modern has no umbrella; it has the six
    masks = GlyphBank([pictogram("☂"), pictogram("6")], [SANS, "cmr10"]).masks
    assert torch.equal(masks[0, 0], masks[0, 1])
    assert not torch.equal(masks[1, 0], masks[1, 1])


def test_a_font_that_does_not_serve_is_refused():
    with pytest.raises(ValueError, match="font cmr10 has no glyph 'umbrella'"):  # nor any other
        GlyphBank([pictogram("6"), pictogram("☂")], ["cmr10", SANS])
    with pytest.raises(ValueError, match=r"Comic is not a font of matplotlib \d"):
        GlyphBank([pictogram("6")], ["Comic"])


MEDIA = ["photo", "poster", "pencil"]
BUSY = {
    "faces": [SANS, BOLD],
    "size": {"low": 0.5, "high": 0.9},
    "rotation": 20,
    "shear": 0.2,
    "offset": 0.1,
    "contrast": {"low": 0.2, "high": 0.6},
    "texture": 0.1,
    "blur": {"low": 0, "high": 1},
    "noise": {"low": 0, "high": 0.1},
    "clutter": 2,
}


@pytest.mark.parametrize("medium", MEDIA)
def test_the_seed_alone_makes_the_pictures(glyphs: GlyphBank, medium: str):
    busy = recipe(**BUSY, medium=medium)
    concepts = torch.tensor([0, 1, 2, 3, 2])

    def at(seed: int) -> Tensor:
        return glyphs.draw(concepts, busy, 32, Generator().manual_seed(seed))

    first = at(1)
    torch.rand(3)  # torch's global generator does not matter
    assert first.shape == (5, 32, 32, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, at(1))
    assert not torch.equal(first, at(2))
    assert len(first.flatten(1).unique(dim=0)) == 5  # each picture has values of its own


HASH = """
import hashlib
from pathlib import Path
import torch, yaml
from carot_lib.sources.miniature import World, handwritten
from carot_lib.sources.pictograms import GlyphBank, read_pictograms
classes = [one for one in read_pictograms(Path("data/pictograms.csv")) if one.is_class]
world = World.model_validate(yaml.safe_load(Path("data/miniature.yaml").read_text()))
glyphs = GlyphBank(classes, world.faces)
digest = hashlib.sha256()
for recipe in world.recipes.values():
    generator = torch.Generator().manual_seed(0)
    shown = torch.arange(100).repeat(2)
    digest.update(glyphs.draw(shown, recipe, 32, generator).numpy().tobytes())
digest.update(handwritten(classes, 32)[0].tobytes())
print(digest.hexdigest(), torch.backends.cpu.get_cpu_capability())
"""


def test_all_pictures_are_the_same_bytes_on_every_processor():
    levels = ["DEFAULT", "AVX2", "AVX512"]  # of instructions that torch may use, simplest first
    own = torch.backends.cpu.get_cpu_capability()
    if own not in levels[1:]:
        pytest.skip(f"torch knows one level of instructions of this processor only: {own}")
    found = []
    for level in levels[: levels.index(own) + 1]:
        changes = {"ATEN_CPU_CAPABILITY": level.lower(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", HASH],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **changes},
            check=True,
            capture_output=True,
            text=True,
        )
        digest, used = done.stdout.split()
        assert used == level
        found.append(digest)
    assert len(set(found)) == 1


@pytest.mark.parametrize("medium", ["photo", "poster"])
def test_a_pixel_mixes_ground_and_ink_as_the_mask_says(glyphs: GlyphBank, medium: str):
    images = draw(glyphs, recipe(medium=medium))
    mask = glyphs.masks[0, 0]
    ground = images[:, 0, 0]
    y, x = (mask == 1).nonzero()[0].tolist()
    ink = images[:, y, x]
    mixed = ground[:, None, None] + mask[None, :, :, None] * (ink - ground)[:, None, None]
    torch.testing.assert_close(images, mixed, rtol=0, atol=1.5 * STEP)
    assert (ground - ink).abs().amax(dim=1).min() > 0.1


def test_each_picture_shows_its_own_pictogram(glyphs: GlyphBank):
    concepts = torch.tensor([2, 0, 3, 1])
    images = glyphs.draw(concepts, recipe(), MASK_SIZE, Generator().manual_seed(0)) / 255
    shown = ink_of(images).float().flatten(1)
    solid = (glyphs.masks[:, 0] > 0.5).float().flatten(1)
    assert torch.cdist(shown, solid).argmin(dim=1).tolist() == concepts.tolist()


def test_every_face_of_a_recipe_is_used_and_no_other(glyphs: GlyphBank):
    def areas(faces: list[str]) -> set[int]:
        images = glyphs.draw(
            torch.full((40,), 3), recipe(faces=faces), MASK_SIZE, Generator().manual_seed(0)
        )
        fractions = ink_of(images / 255).float().mean(dim=(1, 2))
        near = glyphs.masks[3].gt(0).float().mean(dim=(1, 2))
        return set((fractions[:, None] - near).abs().argmin(dim=1).tolist())

    assert areas([BOLD]) == {1}
    assert areas([SANS]) == {0}
    assert areas([BOLD, SANS]) == {0, 1}


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.9])
def test_the_size_is_a_fraction_of_the_pictures_side(glyphs: GlyphBank, scale: float):
    ink = ink_of(draw(glyphs, recipe(size=fixed(scale))))
    longest = max(int(ink[0].any(dim=d).sum()) for d in (0, 1))
    # the mask takes scale * 64 pixels, its glyph 60/64 of that; a pixel of smoothing per side
    assert scale * 60 - 2 <= longest <= scale * 60 + 2


def ink_weight(images: Tensor) -> Tensor:
    """The mask behind pictures of flat colours: 0 the corner's colour, 1 the farthest from it."""
    distance = (images - images[:, :1, :1]).norm(dim=3)
    return distance / distance.amax(dim=(1, 2), keepdim=True)


def centres(weights: Tensor) -> Tensor:
    """Centre of mass of each mask, (x, y) in pixels."""
    place = torch.arange(weights.shape[1]) + 0.5
    total = weights.sum(dim=(1, 2))
    x, y = (weights.sum(dim=1) * place).sum(dim=1), (weights.sum(dim=2) * place).sum(dim=1)
    return torch.stack([x / total, y / total], dim=1)


def test_the_offset_is_a_fraction_of_the_pictures_side(glyphs: GlyphBank):
    straight = centres(ink_weight(draw(glyphs, recipe(size=fixed(0.4)), 1)))
    moved = centres(ink_weight(draw(glyphs, recipe(size=fixed(0.4), offset=0.2), 200)))
    # .2 * 64 = 12.8 pixels, either way, along both axes
    away = (moved - straight).abs()
    assert away.max() <= 12.8 + 0.2
    assert (away.amax(dim=0) > 11.5).all()
    assert (moved - straight).mean(dim=0).abs().max() < 2  # 7.4 / sqrt(200) = .5


def second_moments(weights: Tensor) -> Tensor:
    """Moments xx, yy and xy of each mask about its centre, pixels squared times ink."""
    place = torch.arange(weights.shape[1]) + 0.5
    centre = centres(weights)
    x, y = place - centre[:, :1], place - centre[:, 1:]
    xx = (weights.sum(dim=1) * x**2).sum(dim=1)
    yy = (weights.sum(dim=2) * y**2).sum(dim=1)
    xy = (weights * y[:, :, None] * x[:, None, :]).sum(dim=(1, 2))
    return torch.stack([xx, yy, xy])


def directions(weights: Tensor) -> Tensor:
    """Direction of the longer axis of each mask, degrees in (-90, 90]."""
    xx, yy, xy = second_moments(weights)
    return torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)


def test_the_rotation_is_in_degrees_either_way():
    bar = GlyphBank([pictogram("↔")], [SANS])  # a long thing: its axis lies at 0 degrees
    angles = directions(ink_weight(draw(bar, recipe(size=fixed(0.8), rotation=30), 200)))
    assert angles.min() == pytest.approx(-30, abs=2)
    assert angles.max() == pytest.approx(30, abs=2)
    assert angles.mean().abs() < 4  # 17.3 / sqrt(200) = 1.2
    straight = directions(ink_weight(draw(bar, recipe(size=fixed(0.8)), 1)))
    assert straight.abs().max() < 0.5


def test_the_shear_slants_by_as_much():
    # x - k * y instead of x: the mixed moment of an upright symmetric glyph, once 0, is -k * yy
    upright = GlyphBank([pictogram("↕")], [SANS])
    weights = ink_weight(draw(upright, recipe(size=fixed(0.7), shear=0.3), 200))
    _, yy, xy = second_moments(weights)
    slants = -xy / yy
    assert slants.min() == pytest.approx(-0.3, abs=0.015)
    assert slants.max() == pytest.approx(0.3, abs=0.015)
    torch.testing.assert_close(yy, yy.mean().expand(200), rtol=0.02, atol=0)  # height stays


def test_the_contrast_is_the_distance_of_ink_and_ground(glyphs: GlyphBank):
    y, x = (glyphs.masks[0, 0] == 1).nonzero()[0].tolist()

    def distances(contrast: float) -> Tensor:
        images = draw(glyphs, recipe(contrast=fixed(contrast)), 100)
        return (images[:, y, x] - images[:, 0, 0]).square().mean(dim=1).sqrt()

    assert distances(0.0).max() <= STEP
    weak = distances(0.1)
    assert weak.max() <= 0.1 + STEP
    assert weak.median().item() == pytest.approx(0.1, abs=STEP)  # few are clipped to [0, 1]
    assert distances(0.3).max() <= 0.3 + STEP


def test_the_noise_has_its_standard_deviation(glyphs: GlyphBank):
    images = draw(glyphs, recipe(contrast=fixed(0.0), noise=fixed(0.05)), 40)
    middle = images[(images.mean(dim=(1, 2)) - 0.5).abs().amax(dim=1) < 0.25]  # nothing clipped
    assert len(middle) > 5
    # 64 * 64 values a channel: relative error 1 / sqrt(2 * 4096) = 1 %; rounding adds .1 %
    torch.testing.assert_close(
        middle.std(dim=(1, 2)), torch.full_like(middle[:, 0, 0], 0.05), rtol=0.06, atol=0
    )


def test_a_blur_is_the_gaussian_of_its_width(glyphs: GlyphBank):
    sharp = draw(glyphs, recipe())
    soft = draw(glyphs, recipe(blur=fixed(0.8)))  # the same random values but for the blur
    taps = [math.exp(-(i**2) / (2 * 0.8**2)) for i in range(-2, 3)]
    kernel = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    kernel = (kernel[:, None] * kernel[None, :]).expand(3, 1, 5, 5)
    expected = torch.nn.functional.conv2d(sharp.permute(0, 3, 1, 2), kernel, groups=3)
    inside = soft.permute(0, 3, 1, 2)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, expected, rtol=0, atol=2 * STEP)
    assert (sharp[:, 2:-2, 2:-2] - soft[:, 2:-2, 2:-2]).abs().max() > 0.05


def test_the_pattern_of_a_posters_ground_shows_through_its_ink(glyphs: GlyphBank):
    # contrast 0: ink and ground are of one colour, so a pattern all over knows nothing of the ink
    images = draw(glyphs, recipe(texture=0.1, contrast=fixed(0.0)), 100)
    ink = glyphs.masks[0, 0] == 1
    row = torch.arange(MASK_SIZE)
    down = [(row // period % 2)[:, None].expand(-1, MASK_SIZE) for period in (2, 3, 4)]
    patterns = [p for d in down for p in (d, d.T, d ^ d.T)]  # stripes both ways, and a check
    seen = set()
    for image in images:
        ground = image[0, 0]  # no pattern begins before its first period is over
        marked = (image - ground).abs().amax(dim=2) > STEP
        if marked.any():
            all_over = [n for n, p in enumerate(patterns) if torch.equal(marked, p == 1)]
            on_ink = [
                n for n, p in enumerate(patterns) if torch.equal(marked & ink, (p == 1) & ink)
            ]
            on_ground = (marked & (glyphs.masks[0, 0] == 0)).any()
            assert len(all_over if on_ground else on_ink) == 1
            seen.add((bool(on_ground), (all_over or on_ink)[0]))
    assert {pattern for _, pattern in seen} == set(range(9))  # every kind in every period
    assert {all_over for all_over, _ in seen} == {True, False}


def test_a_pencil_draws_grey_outlines_on_white(glyphs: GlyphBank):
    images = draw(glyphs, recipe(medium="pencil", contrast=fixed(0.6)))
    assert (images[..., :1] == images).all()  # grey
    images = images[..., 0]
    mask = glyphs.masks[0, 0][None, None]
    wide = torch.nn.functional.max_pool2d(mask, 3, 1, 1)[0, 0]
    narrow = -torch.nn.functional.max_pool2d(-mask, 3, 1, 1)[0, 0]
    paper = (wide == 0) | (narrow == 1)  # far from any edge, inside or outside
    assert paper[mask[0, 0] == 1].any()
    assert images[:, paper].min() >= 0.9 - STEP
    assert images[:, paper].max() <= 0.95 + STEP
    outline = (wide == 1) & (narrow == 0)
    # paper of .9 to .95 less .6
    assert images[:, outline].min() >= 0.3 - STEP
    assert images[:, outline].max() <= 0.35 + STEP


def test_a_photo_is_lit_unevenly(glyphs: GlyphBank):
    flat = draw(glyphs, recipe(medium="photo", contrast=fixed(0.0)))
    assert (flat.amax(dim=(1, 2)) - flat.amin(dim=(1, 2))).max() <= STEP
    lit = draw(glyphs, recipe(medium="photo", contrast=fixed(0.0), texture=0.1))
    assert (lit.amax(dim=(1, 2)) - lit.amin(dim=(1, 2))).median() > 0.1
    # smooth: neighbours differ by little
    assert (lit[:, 1:] - lit[:, :-1]).abs().max() < 0.06


def test_clutter_stands_at_the_border_and_leaves_the_middle_free(glyphs: GlyphBank):
    small = {"size": fixed(0.3), "contrast": fixed(0.4)}
    clean = draw(glyphs, recipe(**small), 60)
    whole, solid = ink_of(clean).any(dim=0), ink_weight(clean)[0] > 0.5
    images = draw(glyphs, recipe(**small, clutter=2), 60)
    # A corner may be clutter: the ground is the colour of most pixels instead.
    packed = (images * 255).round().long() @ torch.tensor([65536, 256, 1])
    ink = packed != packed.flatten(1).mode(dim=1).values[:, None, None]
    extra = ink & ~whole
    assert ink[:, solid].all()  # the pictogram itself is not covered
    assert extra.flatten(1).any(dim=1).all()  # every picture has some
    # at most .6 * 64 / 2 = 19.2 pixels from the border it is cut off at, one of smoothing
    assert not extra[:, 21:-21, 21:-21].any()
    edges = [extra[:, 0], extra[:, -1], extra[:, :, 0], extra[:, :, -1]]
    assert all(edge.any(dim=1).any() for edge in edges)  # at all four borders
