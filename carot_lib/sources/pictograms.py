"""Pictograms from matplotlib's fonts, drawn as small pictures.

A picture is a glyph in a random typeface, posed by a random affine map and rendered in one of three
media (photo, poster, pencil). A `Recipe` holds the ranges of all random values. They come from one
generator: the same seed gives the same picture. In double precision it gives the same bytes on
every processor, as rounding errors are then far too small to move a pixel to another integer.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from pydantic import NonNegativeFloat, NonNegativeInt, model_validator
from torch import Generator, Tensor

from carot_lib.schema import Fraction, StrictParams

MASK_SIZE = 64  # pixels; a glyph is rasterised once at this size and resampled from there
CHUNK = 512  # pictures drawn at a time: bounds the memory, and fixes the order of random numbers


@dataclass(frozen=True)
class Pictogram:
    """One row of data/pictograms.csv."""

    character: str
    name: str  # Unicode's own name in lower case: the class name in captions
    is_class: bool  # an in-distribution class; otherwise used in pre-training only
    object_name: str  # coarser label in the shift `objectnet`; empty if it has none


def read_pictograms(path: Path) -> list[Pictogram]:
    """Read the pictograms of the miniature, classes first, else in the order of the file.

    Raises:
        ValueError: a name is repeated, or `used_in` is neither `classes` nor `captions`.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [row["name"] for row in rows]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path}: repeated names: {sorted(repeated)}")
    pictograms = []
    for row in rows:
        if row["used_in"] not in ("classes", "captions"):
            raise ValueError(f"{path}: {row['name']}: used_in is {row['used_in']!r}")
        character = chr(int(row["code_point"].removeprefix("U+"), 16))
        is_class = row["used_in"] == "classes"
        pictograms.append(Pictogram(character, row["name"], is_class, row["object"]))
    return sorted(pictograms, key=lambda pictogram: not pictogram.is_class)  # a stable sort


class Span(StrictParams):
    """A quantity drawn uniformly from [low, high]."""

    low: float
    high: float

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> "Span":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self

    def draw(self, shape: Sequence[int], generator: Generator, dtype: torch.dtype) -> Tensor:
        """Draw independent values."""
        uniform = torch.rand(shape, generator=generator, dtype=dtype)
        return self.low + (self.high - self.low) * uniform


class Recipe(StrictParams):
    """What the pictures of one set look like; each picture draws values of its own."""

    medium: Literal["photo", "poster", "pencil"]
    faces: list[str]  # font files of matplotlib, without .ttf; a glyph uses those that have it
    size: Span  # longer side of the glyph, as a fraction of the picture's
    rotation: NonNegativeFloat  # degrees; uniform in [-rotation, rotation]
    shear: NonNegativeFloat  # uniform in [-shear, shear]
    offset: Fraction  # of the picture's side; uniform in [-offset, offset], along x and y
    contrast: Span  # distance between ink and ground, each channel in [0, 1]
    texture: NonNegativeFloat  # standard deviation of the smooth colour field of the ground
    blur: Span  # standard deviation of a Gaussian, pixels
    noise: Span  # standard deviation of white noise, each channel in [0, 1]
    clutter: NonNegativeInt  # other pictograms, cut off at the border


class GlyphBank:
    """All glyphs in all typefaces, rasterised once.

    Args:
        pictograms: the glyphs.
        faces: font files of matplotlib, without `.ttf`. A face that lacks a glyph is replaced by
            the first one, which must have all of them.
        dtype: precision of drawing; single precision is twice as fast.

    Raises:
        ValueError: a font is not part of matplotlib, or the first one lacks a glyph.
    """

    masks: Float[Tensor, "pictograms faces height width"]  # 1 is ink

    def __init__(
        self,
        pictograms: Sequence[Pictogram],
        faces: Sequence[str],
        dtype: torch.dtype = torch.float64,
    ):
        self.faces, self.dtype = list(faces), dtype
        masks = []
        for pictogram in pictograms:
            row = [_rasterise(pictogram.character, face) for face in faces]
            if row[0] is None:
                raise ValueError(f"font {faces[0]} has no glyph {pictogram.name!r}")
            masks.append([row[0] if mask is None else mask for mask in row])
        self.masks = torch.from_numpy(np.asarray(masks)).to(dtype) / 255

    def draw(
        self, pictograms: Int[Tensor, " batch"], recipe: Recipe, size: int, generator: Generator
    ) -> UInt8[Tensor, "batch size size 3"]:
        """Draw one picture of each pictogram, given by its position in the bank.

        `size` is in pixels; all random numbers come from the generator.
        """
        chunks = [self._draw(part, recipe, size, generator) for part in pictograms.split(CHUNK)]
        return torch.cat(chunks)

    def _draw(
        self, pictograms: Int[Tensor, " batch"], recipe: Recipe, size: int, generator: Generator
    ) -> UInt8[Tensor, "batch size size 3"]:
        n = len(pictograms)
        ink = self._pose(pictograms, recipe, size, generator)
        small = recipe.model_copy(update={"size": Span(low=0.3, high=0.6), "offset": 0.0})
        for _ in range(recipe.clutter):
            others = torch.randint(len(self.masks), (n,), generator=generator)
            edge = self._pose(others, small, size, generator)
            ink = torch.maximum(ink, _push_to_border(edge, generator))
        render = {"photo": _photo, "poster": _poster, "pencil": _pencil}[recipe.medium]
        picture = render(ink, recipe, generator)
        picture = _blur(picture, recipe.blur.draw((n,), generator, self.dtype))
        noise = recipe.noise.draw((n, 1, 1, 1), generator, self.dtype)
        picture = picture + noise * _normal(picture.shape, generator, self.dtype)
        return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _pose(
        self, pictograms: Int[Tensor, " batch"], recipe: Recipe, size: int, generator: Generator
    ) -> Float[Tensor, "batch 1 size size"]:
        """Masks of a batch, each in a face and pose of its own."""
        n = len(pictograms)
        columns = torch.tensor([self.faces.index(face) for face in recipe.faces])
        face = columns[torch.randint(len(columns), (n,), generator=generator)]
        draw = partial(_either_way, generator=generator, dtype=self.dtype)
        angle = draw(math.radians(recipe.rotation), (n,))
        shear = draw(recipe.shear, (n,))
        shift = draw(2 * recipe.offset, (n, 2))  # the grid's side is 2
        # the grid maps from the picture to the mask
        zoom = 1 / recipe.size.draw((n,), generator, self.dtype)
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        linear = torch.stack([cos, sin + shear * cos, -sin, cos - shear * sin], dim=1).view(n, 2, 2)
        affine = torch.cat([linear, -(linear @ shift[:, :, None])], dim=2)
        grid = F.affine_grid(affine, [n, 1, size, size], align_corners=False)
        return F.grid_sample(self.masks[pictograms, face][:, None], grid, align_corners=False)


def _rasterise(character: str, face: str) -> np.ndarray | None:
    """Draw a glyph in the middle of a square of MASK_SIZE; None if the font lacks it."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.exists():
        raise ValueError(f"{face} is not a font of matplotlib {matplotlib.__version__}")
    font = ImageFont.truetype(path, 96)
    drawn, missing = font.getmask(character), font.getmask("\uffff")  # the box for "missing"
    if drawn.getbbox() is None or bytes(drawn) == bytes(missing):
        return None
    left, top, right, bottom = font.getbbox(character)
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), character, fill=255, font=font)
    glyph = glyph.crop(glyph.getbbox())
    glyph.thumbnail((MASK_SIZE - 4, MASK_SIZE - 4), Image.Resampling.LANCZOS)
    mask = Image.new("L", (MASK_SIZE, MASK_SIZE))
    mask.paste(glyph, ((MASK_SIZE - glyph.width) // 2, (MASK_SIZE - glyph.height) // 2))
    return np.asarray(mask)


def _either_way(
    limit: float, shape: Sequence[int], generator: Generator, dtype: torch.dtype
) -> Tensor:
    """Values drawn uniformly from [-limit, limit]."""
    return limit * (2 * torch.rand(shape, generator=generator, dtype=dtype) - 1)


def _normal(shape: Sequence[int], generator: Generator, dtype: torch.dtype) -> Tensor:
    """Values drawn from the standard normal distribution."""
    return torch.randn(shape, generator=generator, dtype=dtype)


def _colours(
    n: int, contrast: Span, generator: Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Colours of ground and ink, [n, 3, 1, 1], `contrast` apart before clipping to [0, 1].

    As in photographs, the ink is darker or lighter than the ground, and of another hue.
    """
    grey = Span(low=0.2, high=0.8).draw((n, 1), generator, dtype)
    tint = 0.12 * _normal((n, 3), generator, dtype)
    way = torch.where(grey > torch.rand(n, 1, generator=generator, dtype=dtype), -1.0, 1.0)
    way = F.normalize(way + 0.6 * _normal((n, 3), generator, dtype), dim=1) * math.sqrt(3)
    ground = (grey + tint).clamp(0, 1)
    ink = (ground + contrast.draw((n, 1), generator, dtype) * way).clamp(0, 1)
    return ground[:, :, None, None], ink[:, :, None, None]


def _smooth_field(like: Tensor, channels: int, generator: Generator) -> Tensor:
    """Smooth noise of unit variance, [n, channels, size, size], for a batch of masks."""
    n, size = len(like), like.shape[-1]
    coarse = _normal((n, channels, 4, 4), generator, like.dtype)
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def _photo(ink: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Coloured ink on a coloured ground, under uneven light."""
    ground, colour = _colours(len(ink), recipe.contrast, generator, ink.dtype)
    tint = 0.4 * recipe.texture * _smooth_field(ink, 3, generator)
    light = recipe.texture * _smooth_field(ink, 1, generator)
    return ground + ink * (colour - ground) + tint + light


def _poster(ink: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Flat colours, and stripes or a check, added to the ink alone or to the whole poster."""
    n, size = len(ink), ink.shape[-1]
    ground, colour = _colours(n, recipe.contrast, generator, ink.dtype)
    period = torch.randint(2, 5, (n, 1, 1, 1), generator=generator)
    across = (torch.arange(size) // period) % 2
    down = across.mT
    kind = torch.randint(3, (n, 1, 1, 1), generator=generator)
    pattern = torch.where(kind == 0, down, torch.where(kind == 1, across, down ^ across))
    on_ink = torch.randint(2, (n, 1, 1, 1), generator=generator)
    pattern = pattern * recipe.texture * _normal((n, 3, 1, 1), generator, ink.dtype)
    return ground + on_ink.logical_not() * pattern + ink * (colour + on_ink * pattern - ground)


def _pencil(ink: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """The outline of the ink in grey on white paper with a grain."""
    n, size, dtype = len(ink), ink.shape[-1], ink.dtype
    outline = F.max_pool2d(ink, 3, 1, 1) + F.max_pool2d(-ink, 3, 1, 1)  # dilated minus eroded
    pressure = 1 - recipe.texture * _smooth_field(ink, 1, generator).abs()
    grey = recipe.contrast.draw((n, 1, 1, 1), generator, dtype)
    paper = 0.95 - 0.05 * torch.rand(n, 1, size, size, generator=generator, dtype=dtype)
    return (paper - grey * pressure * outline).expand(-1, 3, -1, -1)


def _push_to_border(edge: Tensor, generator: Generator) -> Tensor:
    """Roll each mask by at least half a picture, so that a border cuts it off."""
    n, size = len(edge), edge.shape[-1]
    side = torch.randint(2, (n,), generator=generator)
    along = torch.randint(size, (n,), generator=generator)
    rows = (torch.arange(size) + torch.where(side == 0, size // 2, along)[:, None]) % size
    columns = (torch.arange(size) + torch.where(side == 1, size // 2, along)[:, None]) % size
    return edge[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def _blur(picture: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Gaussian blur with a width for each picture (5 taps along each axis)."""
    taps = torch.arange(-2, 3, dtype=picture.dtype)
    kernel = torch.exp(-(taps**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    rows = (padded.unfold(3, 5, 1) * kernel[:, None, None, None]).sum(-1)
    return (rows.unfold(2, 5, 1) * kernel[:, None, None, None]).sum(-1)
