"""Images in WebDataset shards: tar files on disk or behind a URL.

A sample is a run of members that share a name up to its first dot: an image, and `.cls` with the
number of its class. Each shard is indexed once, so that images can be read in any order, as from
a folder.

Source: the format as the library webdataset reads it.
"""

import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

from braceexpand import braceexpand
from fsspec.core import url_to_fs
from torchvision.datasets.folder import is_image_file

from carot_lib.data.images import read_bytes, reason, shard_url
from carot_lib.sources.folders import RESERVED_NAMES, SET_NAMES, read_lines, read_templates_file
from carot_lib.sources.scan import (
    DatasetScan,
    ImageParams,
    ImageSet,
    check_validation,
    map_in_processes,
    shorten,
)

MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # sample and extension
END_MARK = bytes(tarfile.BLOCKSIZE)  # a complete tar file ends with two of these
Patterns = str | list[str]  # {0000..0099} stands for a hundred shards

ADVICE = {  # what to do about samples, by what is wrong with them
    "no image": "leave the rest of the sample out",
    "several images": "keep one, or make each a sample of its own",
    "no label": "add a member .cls with the number of the class",
    "several labels": "keep one",
    "a label that is no class's number": "class_names lists the classes, the first is 0",
}


class ShardsParams(ImageParams):
    """`data:` of images in shards; paths of text files start at the project's folder."""

    kind: Literal["shards"]
    shards: dict[str, Patterns]  # of each set: URLs, or paths from `folder`
    class_names: str  # a text file, one name a line; the first is that of class 0
    templates: str | None  # a text file, one caption a line, {} for the name; None: CLIP's 80

    def scan(self, root: Path) -> DatasetScan:
        """List the images in the shards, and what is wrong with them."""
        problems: list[str] = []
        lines = read_lines(root / self.class_names, "class_names", problems)
        names = [line.strip() for line in lines or []]
        if lines is not None and (not names or "" in names):
            problems.append(f"class_names: {root / self.class_names}: every line must name a class")
        if reserved := [name for name in self.shards if name in RESERVED_NAMES]:
            problems.append(f"shards: {shorten(reserved)}: this name is reserved: rename the set")
        patterns = {SET_NAMES.get(name, name): given for name, given in self.shards.items()}
        sets, shards = find_sharded(root / self.folder, patterns, len(names) or None, self.on_error)
        if repeated := sorted({shard for shard in shards if shards.count(shard) > 1}):
            problems.append(f"shards: {shorten(repeated)}: listed twice: list each in one set")
        classes = [str(label) for label in range(len(names))]
        for one in sets.values() if names else ():
            one.set_label_space(classes, names)
        train = sets.get("train")
        missing = [label for label in classes if train and label not in train.files]
        if missing and not train.problems:
            train.problems.append(f"no image of the classes {shorten(missing)}: see class_names")
        problems += check_validation(sets, classes, self.validation_per_class)
        templates = read_templates_file(root, self.templates, problems)
        return DatasetScan(root / self.folder, sets, names, templates, problems, shards)


def find_sharded(
    folder: Path, patterns: Mapping[str, Patterns], n_classes: int | None, on_error: str
) -> tuple[dict[str, ImageSet], list[str]]:
    """List the images of sets in shards.

    Args:
        folder: base of relative paths.
        patterns: the shards of each set.
        n_classes: number of classes; None if unknown.
        on_error: whether invalid samples `stop` everything or are left out (`skip`).

    Returns:
        The sets, with labels as the names of their classes, and all shards, by whose positions
        the paths of the sets name them.
    """
    sets, shards = {}, []
    for name, given in patterns.items():
        given = [given] if isinstance(given, str) else given
        sets[name] = ImageSet(name, [], place=", ".join(given))
        shards += [(name, shard) for pattern in given for shard in braceexpand(pattern)]
    urls = [shard_url(folder, shard) for _, shard in shards]
    indices = map_in_processes(
        partial(index_shard, n_classes=n_classes), urls, "indexing", "shards"
    )
    for number, ((name, _), url, index) in enumerate(zip(shards, urls, indices, strict=True)):
        one = sets[name]
        for image, label in index.images:
            one.files.setdefault(str(label), []).append(f"{number}:{image}")
        if index.problem is not None:
            one.problems.append(f"{url}: {index.problem}")
        for what, samples in index.invalid.items():
            line = f"{url}: {len(samples)} samples have {what} ({shorten(samples)}): {ADVICE[what]}"
            (one.problems if on_error == "stop" else one.left_out).append(line)
    for one in sets.values():
        one.files = {label: one.files[label] for label in sorted(one.files, key=int)}
        if not one.files and not one.problems:
            one.problems.append("its shards hold no image with a label")
    return sets, [shard for _, shard in shards]


@dataclass
class Index:
    """Content of one shard."""

    images: list[tuple[str, int]] = field(default_factory=list)  # <offset>:<size>:<name>, label
    invalid: dict[str, list[str]] = field(default_factory=dict)  # samples, by what is wrong
    problem: str | None = None  # why the shard cannot be read to its end, and what to do


def index_shard(url: str, n_classes: int | None) -> Index:
    """Read the headers of all members of a shard, and its labels.

    Args:
        url: URL or path of the shard.
        n_classes: number of classes; None if unknown.
    """
    index, last = Index(), "none"
    try:
        files, path = url_to_fs(url)
        with files.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = ((MEMBER_NAME.fullmatch(m.name), m) for m in tar if m.isreg())
            members = ((name[1], name[2].lower(), member) for name, member in members if name)
            for sample, group in groupby(members, itemgetter(0)):
                _add(index, sample, [member[1:] for member in group], tar, n_classes)
                last = sample
            file.seek(tar.offset)  # tarfile takes a damaged header for the end
            if file.read(len(END_MARK)) != END_MARK:
                raise tarfile.ReadError("no end mark")
        read_bytes(url, tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)  # fails without range requests
    except tarfile.TarError as error:
        index.problem = (
            f"no complete tar file ({error}; the last good sample: {last}): download it again; if "
            "it is compressed, unpack it"
        )
    except FileNotFoundError:
        index = Index(problem="does not exist or cannot be reached: check the path or address")
    except Exception as error:  # every protocol has errors of its own
        problem = f"parts of it cannot be read ({reason(error)}): download it and give its path"
        index = Index(problem=problem)
    return index


def _add(
    index: Index,
    sample: str,
    members: Sequence[tuple[str, tarfile.TarInfo]],
    tar: tarfile.TarFile,
    n_classes: int | None,
) -> None:
    """Enter one sample, given its members with their extensions."""
    images = [member for extension, member in members if is_image_file(f".{extension}")]
    labels = [tar.extractfile(m).read().strip() for extension, m in members if extension == "cls"]
    wrong = None
    if len(images) != 1:
        wrong = "several images" if images else "no image"
    elif len(labels) != 1:
        wrong = "several labels" if labels else "no label"
    elif not labels[0].isdigit() or int(labels[0]) >= (n_classes or float("inf")):
        wrong = "a label that is no class's number"
        sample += f" has {labels[0][:20].decode(errors='replace')}"
    if wrong is not None:
        index.invalid.setdefault(wrong, []).append(sample)
        return
    image = images[0]
    index.images.append((f"{image.offset_data}:{image.size}:{image.name}", int(labels[0])))
