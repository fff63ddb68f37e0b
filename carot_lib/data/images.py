"""One image: a file in a folder, or a part of a tar file on disk or behind a URL."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

from fsspec.core import url_to_fs
from PIL import Image, UnidentifiedImageError

DECODING_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # of PIL
IN_SHARD = re.compile(r"(\d+):(\d+):(\d+):(.+)", re.DOTALL)  # shard, offset, size, name


class UnreadableImageError(ValueError):
    """An image cannot be read; the message names it in one line.

    A DataLoader wraps the message of a worker's error in a traceback: its last line is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rstrip().splitlines()[-1].split("UnreadableImageError: ")[-1])


@dataclass(frozen=True)
class Member:
    """An image inside a shard."""

    url: str  # URL or path of the shard
    offset: int  # of the image's first byte
    size: int  # bytes
    name: str  # in the shard

    def __str__(self) -> str:
        return f"{self.url}: {self.name}"

    def open(self, mode: Literal["rb"] = "rb") -> BytesIO:
        """Read the bytes of the image and nothing else of the shard; see `read_bytes`."""
        return BytesIO(read_bytes(self.url, self.offset, self.size))


def read_bytes(url: str, offset: int, size: int) -> bytes:
    """Read a part of a file, on disk or behind any kind of URL that fsspec supports.

    No file stays open between two calls, so forked processes can read as well.

    Raises:
        UnreadableImageError: the file cannot be read, or the part has another length.
    """
    try:
        files, path = url_to_fs(url)
        content = files.cat_file(path, offset, offset + size)
    except Exception as error:  # every protocol has errors of its own
        raise UnreadableImageError(f"{url}: cannot be read ({reason(error)})") from error
    if len(content) != size:
        raise UnreadableImageError(
            f"{url}: returned {len(content)} bytes instead of {size}: the file has changed since "
            "it was checked, or its server does not support range requests"
        )
    return content


def locate(folder: Path, path: str, shards: Sequence[str] = ()) -> Path | Member:
    """Find the image that a prepared set names.

    Its path starts at the folder, or is `<number of shard>:<offset>:<size>:<name>`. Shards are
    paths or URLs; there are none if all images are files.
    """
    match = IN_SHARD.fullmatch(path) if shards else None
    if match is None:
        return folder / path
    shard, offset, size, name = match.groups()
    return Member(shard_url(folder, shards[int(shard)]), int(offset), int(size), name)


def shard_url(folder: Path, shard: str) -> str:
    """Return a URL as it is, and a path joined to the folder."""
    return shard if "://" in shard else str(folder / shard)


def read_image(path: Path | Member, border: int = 0) -> Image.Image:
    """Decode an image and convert it to RGB as the public code of CLIP does, by PIL.

    Grey and palette images and CMYK are converted, transparency is dropped, 16-bit values are
    clipped to 255, and EXIF rotation is ignored. At each side `border` pixels are cut off.

    Raises:
        UnreadableImageError: the image is missing or damaged, or not larger than its border.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            picture = image.convert("RGB")
    except UnreadableImageError:  # of its shard
        raise
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"{path}: not a readable image ({reason(error)})") from error
    if not border:
        return picture
    width, height = picture.size
    if min(width, height) <= 2 * border:
        raise UnreadableImageError(f"{path}: {width} x {height} pixels are nothing but border")
    return picture.crop((border, border, width - border, height - border))


class Inspection(NamedTuple):
    """What was found out about an image by reading all of it."""

    content: str  # hash of its bytes, 16 hexadecimal digits
    fault: str | None  # why it cannot be decoded; None if it can


def inspect_image(path: Path | Member) -> Inspection:
    """Hash an image and try to decode it.

    A JPEG is decoded at an eighth of its size: that reads all its data in a fraction of the time.

    Raises:
        UnreadableImageError: its shard cannot be read, which says nothing about the image.
    """
    content = ""
    try:
        with path.open("rb") as file:
            encoded = file.read()
        content = hashlib.blake2b(encoded, digest_size=8).hexdigest()
        if not encoded:
            return Inspection(content, "empty file")
        with Image.open(BytesIO(encoded)) as image:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except UnreadableImageError:
        raise
    except DECODING_ERRORS as error:
        return Inspection(content, reason(error))
    return Inspection(content, None)


def reason(error: Exception) -> str:
    """Return the message of an error in one line; its type if the message is empty."""
    if isinstance(error, UnidentifiedImageError):  # its message is an address in memory
        return "cannot identify image file"
    return " ".join(str(error).split()) or type(error).__name__
