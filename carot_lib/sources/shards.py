"""Images in WebDataset shards: tar files, here or behind a URL.

A sample is the members that share a name up to its first dot, one behind the other: an image, and
`.cls` with the number of its class. All that is asked of a shard is where each image begins and
ends, so that images are read in any order, as from a folder.

Source: the format as the library webdataset reads it.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

from braceexpand import braceexpand
from fsspec.core import url_to_fs
from torch.utils.data import DataLoader, Dataset

from carot_lib.data.datasets import usable_cores
from carot_lib.data.images import read_part, reason, shard_url
from carot_lib.progress import track
from carot_lib.sources.folders import NAMES, TAKEN, find_templates
from carot_lib.sources.image_folders import is_image
from carot_lib.sources.scan import (
    DatasetScan,
    ImageParams,
    ImageSet,
    check_held_out,
    check_validation,
    shorten,
)

NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # of a sample, and what follows its dot
END = bytes(tarfile.BLOCKSIZE)  # a whole tar file ends with two of these
Patterns = str | list[str]  # {0000..0099} stands for a hundred shards

ADVICE = {  # by what is odd about samples
    "no image": "leave the rest of the sample out",
    "several images": "keep one, or make each a sample of its own",
    "no label": "add a member .cls with the number of the class",
    "several labels": "keep one",
    "a label that is no class's number": "class_names lists the classes, the first is 0",
}


class ShardsParams(ImageParams):
    """`data:` of images in shards."""

    kind: Literal["shards"]
    shards: dict[str, Patterns]  # of each set: URLs, or paths from `folder`
    class_names: str  # a text file, one name a line; the first is that of class 0
    templates: str | None  # a text file, one caption a line, {} for the name; None: CLIP's 80

    def survey(self, root: Path) -> DatasetScan:
        """What the shards hold, and what is wrong with it.

        Args:
            root: the project's folder; all paths of the params start there.
        """
        faults: list[str] = []
        names = _class_names(root / self.class_names, faults)
        if taken := [name for name in self.shards if name in TAKEN]:
            faults.append(f"shards: {shorten(taken)}: this name is taken: call the set otherwise")
        patterns = {NAMES.get(name, name): given for name, given in self.shards.items()}
        sets, shards = find_sharded(root / self.folder, patterns, len(names) or None, self.on_error)
        if twice := sorted({shard for shard in shards if shards.count(shard) > 1}):
            faults.append(f"shards: {shorten(twice)}: named twice: an image belongs to one set")
        if ("id_val" in sets) == (self.validation_per_class is not None):
            faults.append(
                "validation_per_class: give a number to hold out images of train, or null if "
                "there are shards of `val`; not both"
            )
        classes = [str(label) for label in range(len(names))]
        for one in sets.values() if names else ():
            one.narrow(classes, names)
        check_validation(sets, classes)
        if train := sets.get("train"):
            if (missing := sorted({*classes} - {*train.files}, key=int)) and not train.faults:
                train.faults.append(f"no image of the classes {shorten(missing)}: see class_names")
            if self.validation_per_class is not None:
                check_held_out(train, self.validation_per_class)
        templates = find_templates(root, self.templates, faults)
        return DatasetScan(root / self.folder, sets, names, templates, faults, shards)


def find_sharded(
    folder: Path, patterns: Mapping[str, Patterns], n_classes: int | None, on_error: str
) -> tuple[dict[str, ImageSet], list[str]]:
    """Look through the shards of some sets.

    Args:
        folder: what relative paths start from.
        patterns: of each set's shards.
        n_classes: labels are below this; None: it is not known.
        on_error: whether odd samples `stop` everything or are left out (`skip`).

    Returns:
        The sets, their classes named by label, and all shards as the sets' paths count them.
    """
    given = {name: [one] if isinstance(one, str) else one for name, one in patterns.items()}
    named = {name: [s for one in some for s in braceexpand(one)] for name, some in given.items()}
    shards = [shard for of_set in named.values() for shard in of_set]
    urls = [shard_url(folder, shard) for shard in shards]
    indices = iter(enumerate(index_shards(urls, n_classes)))
    sets = {}
    for name, of_set in named.items():
        one = ImageSet(name, [], place=", ".join(given[name]))
        files: dict[int, list[str]] = {}
        for _, (number, index) in zip(of_set, indices, strict=False):
            for where, label in index.images:
                files.setdefault(label, []).append(f"{number}:{where}")
            if index.fault is not None:
                one.faults.append(f"{urls[number]}: {index.fault}")
            odd = one.faults if on_error == "stop" else one.left_out
            odd += [
                f"{urls[number]}: {len(samples)} samples have {what} ({shorten(samples)}): "
                + ADVICE[what]
                for what, samples in index.odd.items()
            ]
        one.files = {str(label): files[label] for label in sorted(files)}
        if not one.files and not one.faults:
            one.faults.append("its shards hold no image with a label")
        sets[name] = one
    return sets, shards


@dataclass
class Index:
    """What one shard holds.

    Attributes:
        images: `<offset>:<size>:<name>` and label of each sample's image.
        odd: names of samples that are no image with a label, by what is odd about them.
        fault: why the shard cannot be read to its end, and what to do; None if it can.
    """

    images: list[tuple[str, int]] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)
    fault: str | None = None


def index_shards(urls: Sequence[str], n_classes: int | None) -> list[Index]:
    """Index shards, see `index_shard`, on all cores."""
    if not urls:
        return []
    # never in this process: what it had open would not survive the fork of other readers
    loader = DataLoader(
        _Indices(urls, n_classes), batch_size=None, num_workers=min(usable_cores(), len(urls))
    )
    return list(track(loader, len(urls), "indexing", "shards"))


class _Indices(Dataset):
    """The index of each shard."""

    def __init__(self, urls: Sequence[str], n_classes: int | None):
        self.urls, self.n_classes = urls, n_classes

    def __len__(self) -> int:
        return len(self.urls)

    def __getitem__(self, shard: int) -> Index:
        return index_shard(self.urls[shard], self.n_classes)


def index_shard(url: str, n_classes: int | None) -> Index:
    """Read the heads of all members of a shard, and its labels.

    Args:
        url: or path.
        n_classes: labels are below this; None: it is not known.
    """
    index, last = Index(), "none"
    try:
        files, path = url_to_fs(url)
        with files.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for name, members in groupby(_members(tar), itemgetter(0)):
                _add(index, name, list(members), n_classes)
                last = name
            file.seek(tar.offset)  # tarfile takes a damaged head for the end
            if file.read(len(END)) != END:
                raise tarfile.ReadError("no end mark")
        read_part(url, tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)  # of a server that gives no parts
    except tarfile.TarError as error:
        index.fault = (
            f"no whole tar file ({error}; the last good sample: {last}): get it anew; if it is "
            "compressed, unpack it"
        )
    except FileNotFoundError:
        index = Index(fault="not there, or not to be reached: check the path or address")
    except Exception as error:  # every protocol has errors of its own
        index = Index(fault=f"not readable in parts ({reason(error)}): download it, name its path")
    return index


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes]]:
    """Sample, ending, head and (of labels) content of every member that belongs to a sample."""
    for head in tar:
        parts = NAME.fullmatch(head.name) if head.isreg() else None
        if parts is not None:
            sample, ending = parts[1], parts[2].lower()
            yield sample, ending, head, tar.extractfile(head).read() if ending == "cls" else b""


def _add(
    index: Index,
    sample: str,
    members: Sequence[tuple[str, str, tarfile.TarInfo, bytes]],
    n_classes: int | None,
) -> None:
    """Enter one sample."""
    images = [head for _, ending, head, _ in members if is_image(f"x.{ending}")]
    labels = [content.strip() for _, ending, _, content in members if ending == "cls"]
    odd = None
    if len(images) != 1:
        odd = "several images" if images else "no image"
    elif len(labels) != 1:
        odd = "several labels" if labels else "no label"
    elif not labels[0].isdigit() or int(labels[0]) >= (n_classes or float("inf")):
        odd = "a label that is no class's number"
        sample += f" has {labels[0][:20].decode(errors='replace')}"
    if odd is not None:
        index.odd.setdefault(odd, []).append(sample)
        return
    index.images.append(
        (f"{images[0].offset_data}:{images[0].size}:{images[0].name}", int(labels[0]))
    )


def _class_names(file: Path, faults: list[str]) -> list[str]:
    """The name of every class, in the order of the labels."""
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"class_names: {file}: not readable ({error})")
        return []
    if not names or "" in names:
        faults.append(f"class_names: {file}: every line must name a class")
    return names
