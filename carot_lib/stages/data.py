"""Stage `data`: write every set of images in the one form that all others read.

python -m carot_lib.stages.data --profile miniature

Reads params.yaml and, for image folders and shards, data/checked/<profile>/; writes
data/prepared/<profile>/. Their images are not copied: the sets hold their paths.
"""

import sys

from carot_lib.command import read_command
from carot_lib.files import read_json
from carot_lib.layout import Layout
from carot_lib.params import Data
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.sources.miniature import PictogramParams, load_world, prepare
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.sources.scan import DatasetScan
from carot_lib.sources.scan import prepare as prepare_files


def data(layout: Layout) -> None:
    """Write the data folder of a profile.

    Raises:
        ValueError: params.yaml has a fault, or a class has no readable image.
        FileNotFoundError: the images were not checked yet.
    """
    params = read_params(layout.params, Data, layout.profile, "data").root
    if isinstance(params, PictogramParams):
        world = load_world(layout.root, params)
        prepare(params, world, read_pictograms(layout.pictograms), layout.data)
        return
    if not layout.checked.exists():
        raise FileNotFoundError(f"{layout.checked} is missing: run stage `check_data`")
    unreadable = read_json(layout.checked)["unreadable"]
    scan = DatasetScan.load(layout.checked.with_name("scan.json"), layout.root / params.folder)
    if unreadable:
        print(f"{len(unreadable)} unreadable files are left out", file=sys.stderr)
    prepare_files(scan, params, unreadable, layout.data)


if __name__ == "__main__":
    with exit_on_bad_input():
        data(read_command(__doc__).layout)
