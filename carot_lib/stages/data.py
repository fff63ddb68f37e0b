"""Stages `check_data` and `data`: look at every image, then write all sets in one form.

`check_data` reads the images in folders or shards and prints what it found against what is
expected. Without a problem it writes data/checked/<profile>/: report.json, and scan.json with every
image that stage `data` takes. The miniature draws its images: there is nothing to check.

`data` reads params.yaml and data/checked/<profile>/ and writes data/prepared/<profile>/. Images in
folders and shards are not copied: the sets hold their paths.
"""

import sys

from carot_lib.files import read_json, write_json
from carot_lib.layout import VALIDATION, Layout
from carot_lib.params import load_scale
from carot_lib.sources import miniature
from carot_lib.sources.miniature import PictogramParams, load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.sources.scan import DatasetScan, ImageSet, find_unreadable
from carot_lib.sources.scan import prepare as prepare_files


def check(layout: Layout) -> None:
    """Check every set of a profile.

    Raises:
        ValueError: something is wrong; the message lists every problem, one per line.
    """
    if problems := check_data(layout):
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ValueError("\n".join(["", f"{count}:", *problems]))


def check_data(layout: Layout) -> list[str]:
    """Check every set, print what was found and return the problems, one line each.

    Args:
        layout: its `checked` is written if there is no problem, removed otherwise.
    """
    scanned = layout.checked.with_name("scan.json")
    for path in (layout.checked, scanned):
        path.unlink(missing_ok=True)
    scale = load_scale(layout)
    params = scale.data
    if isinstance(params, PictogramParams):
        write_json(layout.checked, {"sets": {}, "unreadable": {}})
        return []
    wanted = [name for name in scale.evaluation.datasets if name != VALIDATION]
    if params.validation_per_class is None:
        wanted.append(VALIDATION)
    scan = params.scan(layout.root)
    found = [one for one in scan.sets.values() if one.place is not None]
    problems = scan.report(wanted)
    unreadable = find_unreadable(scan)
    print("\n".join(_counts(one) for one in found))
    if left_out := [f"{one.name}: {what}" for one in found for what in one.left_out]:
        print("samples that will be left out:", *left_out, sep="\n")
    damaged = [f"{scan.locate(path)}: {reason}" for path, reason in unreadable.items()]
    if params.on_error == "stop":
        problems += [f"{one}: replace the file, or write `on_error: skip`" for one in damaged]
    elif damaged:
        print(f"{len(damaged)} unreadable files that will be left out:", *damaged, sep="\n")
    if not problems:
        sets = {one.name: {"images": len(one.paths), "classes": len(one.files)} for one in found}
        scan.save(scanned)
        write_json(layout.checked, {"sets": sets, "unreadable": unreadable})
    return problems


def prepare(layout: Layout) -> None:
    """Write the prepared sets of a profile.

    Raises:
        ValueError: params.yaml has a problem, or a class has no readable image.
        FileNotFoundError: the images were not checked yet.
    """
    params = load_scale(layout).data
    if isinstance(params, PictogramParams):
        world, pictograms = load_world(layout.root, params), read_pictograms(layout.pictograms)
        miniature.prepare(params, world, pictograms, layout.data)
        return
    if not layout.checked.exists():
        raise FileNotFoundError(f"{layout.checked} is missing: run stage `check_data`")
    unreadable = read_json(layout.checked)["unreadable"]
    scan = DatasetScan.load(layout.checked.with_name("scan.json"), layout.root / params.folder)
    if unreadable:
        print(f"{len(unreadable)} unreadable files are left out", file=sys.stderr)
    prepare_files(scan, params, unreadable, layout.data)


def _counts(one: ImageSet) -> str:
    """A set, where it was found, and its counts against the expected ones."""
    images, classes = f"{len(one.paths):,}", f"{len(one.files):,}"
    if one.expected_images is not None:
        images += f" of {one.expected_images:,}"
    if one.expected_classes is not None:
        classes += f" of {one.expected_classes:,}"
    return f"{one.name}: {one.place}: {images} images in {classes} classes"
