"""One image file, wherever it lies: in a folder, or in a tar file here or behind a URL."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from fsspec.core import url_to_fs
from PIL import Image, UnidentifiedImageError

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what PIL raises
IN_SHARD = re.compile(r"(\d+):(\d+):(\d+):(.+)", re.DOTALL)  # shard, offset, size, name: see locate


class UnreadableImageError(ValueError):
    """A file that is no image, or half of one, or does not come; the message names it.

    A DataLoader wraps the message of a worker's error in a traceback, of which the last line is
    kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rstrip().splitlines()[-1].split("UnreadableImageError: ")[-1])


@dataclass(frozen=True)
class Member:
    """An image within a shard.

    Attributes:
        url: of the shard, or its path.
        offset: of the image's first byte.
        size: in bytes.
        name: in the shard.
    """

    url: str
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.url}: {self.name}"

    def open(self, mode: Literal["rb"] = "rb") -> BytesIO:
        """Read the image's bytes, and nothing else of the shard.

        Raises:
            UnreadableImageError: see `read_part`.
        """
        return BytesIO(read_part(self.url, self.offset, self.size))


def read_part(url: str, offset: int, size: int) -> bytes:
    """Some bytes of a file, here or behind a URL of any kind that fsspec knows.

    Nothing stays open between two calls but the connections that fsspec keeps for each process, so
    a process that was forked reads as its parent does.

    Raises:
        UnreadableImageError: they do not come, or others do.
    """
    try:
        files, path = url_to_fs(url)
        content = files.cat_file(path, offset, offset + size)
    except Exception as error:  # every protocol has errors of its own
        raise UnreadableImageError(f"{url}: does not come ({reason(error)})") from error
    if len(content) != size:
        raise UnreadableImageError(
            f"{url}: {len(content)} bytes came instead of {size}: it was changed since it was "
            "checked, or its server does not give parts of a file"
        )
    return content


def locate(folder: Path, path: str, shards: Sequence[str] = ()) -> Path | Member:
    """Where an image is that a prepared set names.

    Args:
        folder: what relative paths start from.
        path: of a file, or `<shard>:<offset>:<size>:<name>` for one in a shard.
        shards: paths and URLs of all shards, in their order; none: all images are files.
    """
    found = IN_SHARD.fullmatch(path) if shards else None
    if found is None:
        return folder / path
    shard, offset, size, name = found.groups()
    return Member(shard_url(folder, shards[int(shard)]), int(offset), int(size), name)


def shard_url(folder: Path, shard: str) -> str:
    """A shard as fsspec takes it: a URL as it is, a path from the folder."""
    return shard if "://" in shard else str(folder / shard)


def read_picture(path: Path | Member, border: int = 0) -> Image.Image:
    """An image file in RGB.

    What the public codes do with odd files is kept: the conversion is PIL's own, so grey becomes
    three equal channels, a palette its colours, CMYK the nearest RGB, transparency is dropped, 16
    bits are cut to 8 (everything above 255 is white), and EXIF rotation is not applied.

    Args:
        path: of the file.
        border: pixels to cut off each side.

    Raises:
        UnreadableImageError: it is missing, no image, or damaged, or smaller than its border.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            picture = image.convert("RGB")
    except UnreadableImageError:  # of its shard
        raise
    except UNREADABLE as error:
        raise UnreadableImageError(f"{path}: not a readable image ({reason(error)})") from error
    if not border:
        return picture
    width, height = picture.size
    if min(width, height) <= 2 * border:
        raise UnreadableImageError(f"{path}: {width} x {height} pixels are nothing but border")
    return picture.crop((border, border, width - border, height - border))


def why_unreadable(path: Path | Member) -> str | None:
    """Why an image file cannot be decoded to its end; None if it can.

    A JPEG is decoded at an eighth of its size: all of its data is read, in a fraction of the time.

    Raises:
        UnreadableImageError: its shard does not come: that says nothing about the image.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "empty file"
            file.seek(0)
            with Image.open(file) as image:
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
    except UnreadableImageError:
        raise
    except UNREADABLE as error:
        return reason(error)
    return None


def reason(error: Exception) -> str:
    """What an error says, in one line; its kind if it says nothing or no more than an address."""
    if isinstance(error, UnidentifiedImageError):  # it names the object in memory
        return "cannot identify image file"
    return " ".join(str(error).split()) or type(error).__name__
