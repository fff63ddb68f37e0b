"""Stages `check_data` and `data`: look at every image, then write all sets in one form.

`check_data` reads the images in folders or shards and prints what it found against what is
expected. Without a problem it writes data/checked/<profile>/: report.json, scan.json with every
image that stage `data` takes, and images.json with a hash of each. The miniature draws its images:
there is nothing to check.

`data` reads params.yaml and data/checked/<profile>/ and writes data/prepared/<profile>/. Images in
folders and shards are not copied: the sets hold their paths.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict

from pydantic import TypeAdapter

from carot_lib.data.images import Inspection, locate
from carot_lib.data.prompts import clip_templates
from carot_lib.files import read_json, write_json
from carot_lib.layout import VALIDATION, Layout
from carot_lib.params import ScaleParams, load_scale
from carot_lib.sources.adversarial import choose_adversarial, read_choices, write_choices
from carot_lib.sources.miniature import PictogramParams, draw_sets, load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.sources.scan import DatasetScan, inspect_images, shorten, write_sets

SCAN, IMAGES = "scan.json", "images.json"  # beside `layout.checked`


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

    The report, `layout.checked`, is written if there is none, and removed otherwise.
    """
    for name in (layout.checked.name, SCAN, IMAGES):
        layout.checked.with_name(name).unlink(missing_ok=True)
    scale = load_scale(layout)
    params = scale.data
    if isinstance(params, PictogramParams):
        write_json(layout.checked, {"sets": {}, "unreadable": {}})
        return []
    folder, scanned = layout.root / params.folder, params.scan(layout.root)
    found = scanned.found
    required = ["train", *(name for name in scale.evaluation.datasets if name != VALIDATION)]
    problems = scanned.report(folder, required)
    images = inspect_images(scanned, folder)
    unreadable = {path: one.fault for path, one in images.items() if one.fault is not None}
    for one in found:
        count = _count(len(one.paths), one.expected_images)
        classes = _count(len(one.files), one.expected_classes)
        print(f"{one.name}: {one.place}: {count} images in {classes} classes")
    if missing := classes_missing_in_test(scanned):
        print(f"id_test: no image of {shorten(missing)}: judged among the other classes of train")
    if left_out := [f"{one.name}: {what}" for one in found for what in one.left_out]:
        print("left out:", *left_out, sep="\n")
    damaged = [f"{locate(folder, path, scanned.shards)}: {unreadable[path]}" for path in unreadable]
    if params.on_error == "stop":
        problems += [f"{line}: replace the file, or write `on_error: skip`" for line in damaged]
    elif damaged:
        print(f"{len(damaged)} unreadable files that will be left out:", *damaged, sep="\n")
    if not problems:
        problems = check_pairs(scale, scanned, images)
    if not problems:
        sets = {one.name: {"images": len(one.paths), "classes": len(one.files)} for one in found}
        write_json(layout.checked.with_name(SCAN), asdict(scanned))
        write_json(layout.checked.with_name(IMAGES), images)
        write_json(layout.checked, {"sets": sets, "unreadable": unreadable})
    return problems


def classes_missing_in_test(scanned: DatasetScan) -> list[str]:
    """Classes of train that the in-distribution test set does not have, by name."""
    test = scanned.sets.get("id_test")
    if test is None or test.label_space is None:
        return []
    return [name for name in scanned.class_names if name not in test.label_space["names"]]


def check_pairs(
    scale: ScaleParams, scanned: DatasetScan, images: Mapping[str, Inspection]
) -> list[str]:
    """Check that runs which draw pairs of an image and a caption template find enough of them.

    See `carot_lib.training.samples.draw_pairs`, which would refuse after the pre-training.
    """
    if all(run.sampling != "pairs" for run in scale.runs.values()):
        return []
    training, held = scale.training, scale.data.validation_per_class or 0
    n_images = sum(images[path].fault is None for path in scanned.sets["train"].paths)
    n_images -= held * len(scanned.class_names)
    if training.images_per_class is not None:
        n_images = min(n_images, training.images_per_class * len(scanned.class_names))
    n_templates = len(scanned.templates or clip_templates())
    n_drawn = training.total_steps(n_images) * training.batch_size
    if n_drawn <= n_images * n_templates:
        return []
    epochs = n_images * n_templates * training.epochs // n_drawn
    return [
        f"templates: {training.epochs} epochs draw {n_drawn:,} pairs of an image and a template, "
        f"and {n_images:,} images with {n_templates} make {n_images * n_templates:,}: give at "
        f"least {math.ceil(n_drawn / n_images)} templates, "
        + (f"or train at most {epochs} epoch{'s' if epochs > 1 else ''}, " if epochs else "")
        + "or write `sampling: epochs`"
    ]


def prepare(layout: Layout) -> None:
    """Write the prepared sets of a profile.

    Raises:
        ValueError: params.yaml has a problem, or a class has no readable image.
        FileNotFoundError: the images were not checked yet.
    """
    params = load_scale(layout).data
    if isinstance(params, PictogramParams):
        world, pictograms = load_world(layout.root, params), read_pictograms(layout.pictograms)
        choices = read_choices(layout.root / params.adversarial, params, world, pictograms)
        draw_sets(params, world, pictograms, choices, layout.data)
        return
    if not layout.checked.exists():
        raise FileNotFoundError(f"{layout.checked} is missing: run stage `check_data`")
    content, images = (read_json(layout.checked.with_name(name)) for name in (SCAN, IMAGES))
    images = {path: Inspection(*one) for path, one in images.items()}
    if faulty := sum(one.fault is not None for one in images.values()):
        print(f"{faulty} unreadable files are left out", file=sys.stderr)
    scanned = TypeAdapter(DatasetScan).validate_python(content)
    write_sets(scanned, params, layout.root, images, layout.data)


def choose(layout: Layout) -> None:
    """Choose the pictures of the filtered sets and write the file that git keeps.

    Raises:
        ValueError: the profile draws no pictures, or see `choose_adversarial`.
    """
    params = load_scale(layout).data
    if not isinstance(params, PictogramParams):
        raise ValueError(f"profile {layout.profile} draws no pictures: nothing to choose")
    world, pictograms = load_world(layout.root, params), read_pictograms(layout.pictograms)
    choices = choose_adversarial(params, world, pictograms)
    write_choices(layout.root / params.adversarial, params, world, choices)


def _count(found: int, expected: int | None) -> str:
    return f"{found:,}" if expected is None else f"{found:,} of {expected:,}"
