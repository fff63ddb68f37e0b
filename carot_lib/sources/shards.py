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
from carot_lib.processes import map_in_processes
from carot_lib.sources.folders import RESERVED_NAMES, SET_NAMES, read_lines, read_templates_file
from carot_lib.sources.scan import (
    DatasetScan,
    ImageParams,
    ImageSet,
    check_class_names,
    check_validation,
    shorten,
)

MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # sample and extension
END_MARK = bytes(tarfile.BLOCKSIZE)  # a complete tar file ends with two of these
Patterns = str | list[str]  # {0000..0099} stands for a hundred shards

ADVICE = {  # what to do about samples, by what is wrong with them
    "not exactly one image": "make each image a sample of its own, and leave out the rest",
    "not exactly one label": "give each one member .cls with the number of its class",
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
        sets, shards = find_sharded(root / self.folder, patterns, len(names), self.on_error)
        if repeated := sorted({shard for shard in shards if shards.count(shard) > 1}):
            problems.append(f"shards: {shorten(repeated)}: listed twice: list each in one set")
        classes = [str(label) for label in range(len(names))]
        for one in sets.values() if names else ():
            one.set_label_space(classes, names)
        train = sets.get("train")
        if train is not None and not train.problems:
            missing = [label for label in classes if label not in train.files]
            train.add_problem(missing, "classes have no image", "see class_names")
        problems += check_validation(sets, classes, self.validation_per_class)
        problems += check_class_names(names)
        templates = read_templates_file(root, self.templates, problems)
        return DatasetScan(sets, names, templates, problems, shards)


def find_sharded(
    folder: Path, patterns: Mapping[str, Patterns], n_classes: int, on_error: str
) -> tuple[dict[str, ImageSet], list[str]]:
    """List the images of sets in shards.

    Args:
        folder: base of relative paths.
        patterns: the shards of each set.
        n_classes: number of classes; 0 if unknown.
        on_error: whether invalid samples `stop` everything or are left out (`skip`).

    Returns:
        The sets, with labels as the names of their classes, and all shards: a path of a set holds
        the position of its shard.
    """
    sets, shards, owners = {}, [], []
    for name, given in patterns.items():
        given = [given] if isinstance(given, str) else given
        sets[name] = ImageSet(name, [], place=", ".join(given))
        expanded = [shard for pattern in given for shard in braceexpand(pattern)]
        shards += expanded
        owners += [sets[name]] * len(expanded)
    urls = [shard_url(folder, shard) for shard in shards]
    read = partial(index_shard, n_classes=n_classes)
    indices = map_in_processes(read, urls, "indexing", "shards")
    for number, (one, url, index) in enumerate(zip(owners, urls, indices, strict=True)):
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
    return sets, shards


@dataclass
class Index:
    """Content of one shard."""

    images: list[tuple[str, int]] = field(default_factory=list)  # <offset>:<size>:<name>, label
    invalid: dict[str, list[str]] = field(default_factory=dict)  # samples, by what is wrong
    problem: str | None = None  # why the shard cannot be read to its end, and what to do

    def add(
        self, sample: str, images: Sequence[tarfile.TarInfo], labels: Sequence[bytes], classes: int
    ) -> None:
        """Enter one sample, which should have one image and one label below `classes`."""
        if len(images) != 1:
            self.invalid.setdefault("not exactly one image", []).append(sample)
        elif len(labels) != 1:
            self.invalid.setdefault("not exactly one label", []).append(sample)
        elif not labels[0].isdigit() or int(labels[0]) >= (classes or float("inf")):
            sample += f" has {labels[0][:20].decode(errors='replace')}"
            self.invalid.setdefault("a label that is no class's number", []).append(sample)
        else:
            place = f"{images[0].offset_data}:{images[0].size}:{images[0].name}"
            self.images.append((place, int(labels[0])))


def index_shard(url: str, n_classes: int) -> Index:
    """Read the headers of all members of a shard on disk or behind a URL, and its labels.

    The number of classes is 0 if it is unknown.
    """
    index, last = Index(), "none"
    try:
        files, path = url_to_fs(url)
        with files.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = ((MEMBER_NAME.fullmatch(m.name), m) for m in tar if m.isreg())
            members = ((name[1], name[2].lower(), member) for name, member in members if name)
            for sample, group in groupby(members, itemgetter(0)):
                images, labels = [], []
                for _, extension, member in group:
                    if is_image_file(f".{extension}"):
                        images.append(member)
                    elif extension == "cls":
                        labels.append(tar.extractfile(member).read().strip())
                index.add(sample, images, labels, n_classes)
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
        why = f"parts of it cannot be read ({reason(error)}): download it and give its path"
        index = Index(problem=why)
    return index
