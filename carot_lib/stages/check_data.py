"""Stage `check_data`: look at every image, in folders or shards, before anything is made of them.

python -m carot_lib.stages.check_data --profile imagenet

Reads the images; prints what was found against what is expected, and every fault with what to do
about it. Without a fault it writes data/checked/<profile>/: report.json, and scan.json with every
image that stage `data` is to take. Else the exit code is 1 and nothing that depends on the images
runs. The miniature draws its images: there is nothing to check.
"""

import sys

from carot_lib.command import read_command
from carot_lib.evaluation import load_evaluation
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.params import Data
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.sources.miniature import PictogramParams
from carot_lib.sources.scan import ImageSet, find_unreadable


def check_data(layout: Layout) -> list[str]:
    """Check every set, print what was found and return the faults, one line each.

    Args:
        layout: of the profile; its `checked` is written if there is no fault, removed otherwise.
    """
    layout.checked.unlink(missing_ok=True)
    scan_file = layout.checked.with_name("scan.json")
    scan_file.unlink(missing_ok=True)
    params = read_params(layout.params, Data, layout.profile, "data").root
    if isinstance(params, PictogramParams):
        write_json(layout.checked, {"sets": {}, "unreadable": {}})
        return []
    wanted = [name for name in load_evaluation(layout).datasets if name != "id_val"]
    if params.validation_per_class is None:
        wanted.append("id_val")
    scan = params.scan(layout.root)
    found = [one for one in scan.sets.values() if one.place is not None]
    faults = scan.report(wanted)
    unreadable = find_unreadable(scan)
    print("\n".join(line(one) for one in found))
    if left_out := [f"{one.name}: {what}" for one in found for what in one.left_out]:
        print("samples will be left out:", *left_out, sep="\n")
    damage = [f"{scan.locate(path)}: {reason}" for path, reason in unreadable.items()]
    if params.on_error == "stop":
        faults += [f"{one}: get it anew, or write `on_error: skip`" for one in damage]
    elif damage:
        print(f"{len(damage)} unreadable files will be left out:", *damage, sep="\n")
    if not faults:
        counts = {s.name: {"images": len(s.paths), "classes": len(s.files)} for s in found}
        scan.save(scan_file)
        write_json(layout.checked, {"sets": counts, "unreadable": unreadable})
    return faults


def line(one: ImageSet) -> str:
    """A set, where it was found, and its counts against what is expected."""
    images, classes = f"{len(one.paths):,}", f"{len(one.files):,}"
    if one.expected_images is not None:
        images += f" of {one.expected_images:,}"
    if one.expected_classes is not None:
        classes += f" of {one.expected_classes:,}"
    return f"{one.name}: {one.place}: {images} images in {classes} classes"


if __name__ == "__main__":
    with exit_on_bad_input():
        faults = check_data(read_command(__doc__).layout)
        if faults:
            print(f"\n{len(faults)} faults:", *faults, sep="\n", file=sys.stderr)
            raise SystemExit(1)
