"""Stage `data`: write every set of images in the one form that all others read.

python -m carot_lib.stages.data --profile miniature

Reads params.yaml; writes data/prepared/<profile>/.
"""

from carot_lib.command import read_command
from carot_lib.layout import Layout
from carot_lib.miniature import PictogramParams, prepare
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.world import read_pictograms


def data(layout: Layout) -> None:
    """Write the data folder of a profile."""
    if layout.profile != "miniature":
        raise ValueError(
            f"profile {layout.profile}: this version prepares the miniature only; "
            "see data/README.md"
        )
    params = read_params(layout.params, PictogramParams, layout.profile, "data")
    prepare(params, read_pictograms(layout.pictograms), layout.data)


if __name__ == "__main__":
    with exit_on_bad_input():
        data(read_command(__doc__).layout)
