"""The miniature world: pictograms from matplotlib's fonts, drawn as small pictures.

A picture is a glyph, one of several faces of it, posed by a random affine map and put on paper in
one of three media (photo, poster, pencil). A `Recipe` holds the ranges that the chances are drawn
from; the shifts of the miniature differ from its photos only in their recipes. All chance comes
from one generator a call: the same seed gives the same bytes on one platform.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

STENCIL_SIZE = 64  # pixels; a glyph is drawn once at this size and resampled from there
CHUNK = 512  # pictures drawn at a time: bounds the memory, and fixes the order of the chances


@dataclass(frozen=True)
class Pictogram:
    """One row of data/pictograms.csv.

    Attributes:
        character: the glyph.
        name: Unicode's own name for it, in lower case: the class name in captions.
        is_class: one of the in-distribution classes; otherwise it is met in captions only.
        object_name: its coarser label in the shift `objectnet`; empty if it is not among them.
    """

    character: str
    name: str
    is_class: bool
    object_name: str


def read_pictograms(path: Path) -> list[Pictogram]:
    """The pictograms of the miniature, classes first, in the order of the file.

    Raises:
        ValueError: a name stands twice, or `used_in` is neither `classes` nor `captions`.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["used_in"] not in ("classes", "captions"):
            raise ValueError(f"{path}: {row['name']}: used_in is {row['used_in']!r}")
    pictograms = [
        Pictogram(
            character=chr(int(row["code_point"].removeprefix("U+"), 16)),
            name=row["name"],
            is_class=row["used_in"] == "classes",
            object_name=row["object"],
        )
        for row in rows
    ]
    names = [pictogram.name for pictogram in pictograms]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path}: names that stand twice: {sorted(repeated)}")
    return sorted(pictograms, key=lambda pictogram: not pictogram.is_class)  # sorted() is stable


class Span(StrictParams):
    """A quantity drawn uniformly from [low, high]."""

    low: float
    high: float

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> "Span":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Independent values, float32."""
        return self.low + (self.high - self.low) * torch.rand(shape, generator=generator)


class Recipe(StrictParams):
    """How the pictures of one set are made; every picture draws its own values."""

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
    """Every glyph in every face, rasterised once.

    Args:
        pictograms: what to rasterise.
        faces: font files of matplotlib, without `.ttf`. A face that lacks a glyph is replaced by
            the first one, which must have them all.

    Raises:
        ValueError: a font is not part of matplotlib, or the first one lacks a glyph.
    """

    def __init__(self, pictograms: Sequence[Pictogram], faces: Sequence[str]):
        self.faces = list(faces)
        drawn = [[_rasterise(p.character, face) for face in faces] for p in pictograms]
        for pictogram, row in zip(pictograms, drawn, strict=True):
            if row[0] is None:
                raise ValueError(f"font {faces[0]} has no glyph {pictogram.name!r}")
        filled = [[row[0] if glyph is None else glyph for glyph in row] for row in drawn]
        self.masks: Float[Tensor, "pictograms faces height width"] = torch.from_numpy(
            np.asarray(filled, dtype=np.float32) / 255
        )

    def draw(
        self, pictograms: Int[Tensor, " batch"], recipe: Recipe, size: int, generator: Generator
    ) -> UInt8[Tensor, "batch size size 3"]:
        """Make one picture of each listed pictogram.

        Args:
            pictograms: indices into the list the stencils were made from.
            recipe: what the pictures look like.
            size: height and width of a picture, pixels.
            generator: all chance comes from here.
        """
        chunks = [self._draw(part, recipe, size, generator) for part in pictograms.split(CHUNK)]
        return torch.cat(chunks)

    def _draw(
        self, pictograms: Int[Tensor, " batch"], recipe: Recipe, size: int, generator: Generator
    ) -> UInt8[Tensor, "batch size size 3"]:
        n = len(pictograms)
        ink = self._pose(pictograms, recipe, size, recipe.size, recipe.offset, generator)
        for _ in range(recipe.clutter):
            others = torch.randint(len(self.masks), (n,), generator=generator)
            edge = self._pose(others, recipe, size, Span(low=0.3, high=0.6), 0.0, generator)
            ink = torch.maximum(ink, _push_to_border(edge, size, generator))
        picture = {"photo": _photo, "poster": _poster, "pencil": _pencil}[recipe.medium](
            ink, recipe, generator
        )
        picture = _blur(picture, recipe.blur.draw((n,), generator))
        noise = recipe.noise.draw((n, 1, 1, 1), generator)
        picture = picture + noise * torch.randn(picture.shape, generator=generator)
        return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _pose(
        self,
        pictograms: Int[Tensor, " batch"],
        recipe: Recipe,
        size: int,
        scale: Span,
        offset: float,
        generator: Generator,
    ) -> Float[Tensor, "batch 1 size size"]:
        """The stencils of a batch, each in a face and pose of its own; ink is 1, ground 0."""
        n = len(pictograms)
        columns = torch.tensor([self.faces.index(face) for face in recipe.faces])
        face = columns[torch.randint(len(columns), (n,), generator=generator)]
        angle = math.radians(recipe.rotation) * (2 * torch.rand(n, generator=generator) - 1)
        shear = recipe.shear * (2 * torch.rand(n, generator=generator) - 1)
        shift = 2 * offset * (2 * torch.rand(n, 2, generator=generator) - 1)
        zoom = 1 / scale.draw((n,), generator)  # the grid maps from the picture to the stencil
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        linear = torch.stack([cos, sin + shear * cos, -sin, cos - shear * sin], dim=1)
        linear = linear.view(n, 2, 2)
        origin = -(linear @ shift[:, :, None])
        grid = F.affine_grid(
            torch.cat([linear, origin], dim=2), [n, 1, size, size], align_corners=False
        )
        stencils = self.masks[pictograms, face][:, None]
        return F.grid_sample(stencils, grid, align_corners=False)


def pictures(
    stencils: GlyphBank, concepts: Int[Tensor, " n"], recipe: Recipe, size: int, seed: int
) -> Iterator[UInt8[Tensor, "chunk size size 3"]]:
    """The pictures of a set in chunks, for a progress bar; see `GlyphBank.draw`."""
    generator = Generator().manual_seed(seed)
    for part in concepts.split(CHUNK):
        yield stencils.draw(part, recipe, size, generator)


def _rasterise(character: str, face: str) -> np.ndarray | None:
    """A glyph that fills STENCIL_SIZE but for a margin; None if the font lacks it."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.exists():
        raise ValueError(f"{face} is not a font of matplotlib {matplotlib.__version__}")
    font = ImageFont.truetype(path, 96)
    if character != "\uffff" and font.getmask(character).getbbox() is None:
        return None
    if bytes(font.getmask(character)) == bytes(font.getmask("\uffff")):  # the box for "missing"
        return None
    left, top, right, bottom = font.getbbox(character)
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), character, fill=255, font=font)
    glyph = glyph.crop(glyph.getbbox())
    glyph.thumbnail((STENCIL_SIZE - 4, STENCIL_SIZE - 4), Image.Resampling.LANCZOS)
    stencil = Image.new("L", (STENCIL_SIZE, STENCIL_SIZE))
    stencil.paste(glyph, ((STENCIL_SIZE - glyph.width) // 2, (STENCIL_SIZE - glyph.height) // 2))
    return np.asarray(stencil)


def _colours(n: int, contrast: Span, generator: Generator) -> tuple[Tensor, Tensor]:
    """Colours of ground and ink, [n, 3, 1, 1], `contrast` apart before clipping to [0, 1].

    A grey value and a weaker tint, as in photographs: the ink is darker or lighter than the
    ground, and of another hue.
    """
    grey = 0.2 + 0.6 * torch.rand(n, 1, generator=generator)
    tint = 0.12 * torch.randn(n, 3, generator=generator)
    way = torch.where(grey > torch.rand(n, 1, generator=generator), -1.0, 1.0)
    way = F.normalize(way + 0.6 * torch.randn(n, 3, generator=generator), dim=1) * math.sqrt(3)
    ground = (grey + tint).clamp(0, 1)
    ink = (ground + contrast.draw((n, 1), generator) * way).clamp(0, 1)
    return ground[:, :, None, None], ink[:, :, None, None]


def _smooth_field(n: int, channels: int, size: int, generator: Generator) -> Tensor:
    """Smooth noise of unit variance, [n, channels, size, size]."""
    coarse = torch.randn(n, channels, 4, 4, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def _photo(ink: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Coloured ink on a coloured ground, under uneven light."""
    n, size = len(ink), ink.shape[-1]
    ground, colour = _colours(n, recipe.contrast, generator)
    tint = 0.4 * recipe.texture * _smooth_field(n, 3, size, generator)
    light = recipe.texture * _smooth_field(n, 1, size, generator)
    return ground + ink * (colour - ground) + tint + light


def _poster(ink: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Flat colours, and stripes or a check that lie on the ink alone or on the whole poster.

    The pattern is one step in colour, added to whatever it lies on: a pattern of the ground shows
    through the ink.
    """
    n, size = len(ink), ink.shape[-1]
    ground, colour = _colours(n, recipe.contrast, generator)
    row = torch.arange(size)
    period = torch.randint(2, 5, (n, 1, 1), generator=generator)
    down = (row[None, :, None] // period) % 2
    across = (row[None, None, :] // period) % 2
    kind = torch.randint(3, (n, 1, 1), generator=generator)
    pattern = torch.where(
        kind == 0, down + 0 * across, torch.where(kind == 1, across, down ^ across)
    )
    on_ink = torch.randint(2, (n, 1, 1, 1), generator=generator)
    pattern = pattern[:, None] * recipe.texture * torch.randn(n, 3, 1, 1, generator=generator)
    return ground + on_ink.logical_not() * pattern + ink * (colour + on_ink * pattern - ground)


def _pencil(ink: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """The outline of the ink in grey on white paper with a grain."""
    n, size = len(ink), ink.shape[-1]
    outline = F.max_pool2d(ink, 3, 1, 1) + F.max_pool2d(-ink, 3, 1, 1)  # dilated minus eroded
    pressure = 1 - recipe.texture * _smooth_field(n, 1, size, generator).abs()
    grey = recipe.contrast.draw((n, 1, 1, 1), generator)
    paper = 0.95 - 0.05 * torch.rand(n, 1, size, size, generator=generator)
    return (paper - grey * pressure * outline).expand(-1, 3, -1, -1)


def _push_to_border(edge: Tensor, size: int, generator: Generator) -> Tensor:
    """Roll each mask by half a picture and more, so that it stands cut off at a border."""
    n = len(edge)
    side = torch.randint(2, (n,), generator=generator)
    along = torch.randint(size, (n,), generator=generator)
    rows = (torch.arange(size) + torch.where(side == 0, size // 2, along)[:, None]) % size
    columns = (torch.arange(size) + torch.where(side == 1, size // 2, along)[:, None]) % size
    return edge[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def _blur(picture: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Gaussian blur with a width of its own for each picture (5 taps along each axis)."""
    taps = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    windows = padded.unfold(3, 5, 1)
    padded = (windows * kernel[:, None, None, None]).sum(-1)
    windows = padded.unfold(2, 5, 1)
    return (windows * kernel[:, None, None, None]).sum(-1)
