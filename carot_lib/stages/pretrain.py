"""Stage `pretrain`: make the pre-trained CLIP of a profile.

python -m carot_lib.stages.pretrain --profile miniature

Reads params.yaml; writes models/<profile>/pretrained/.
"""

import pandas as pd

from carot_lib.clip_model import save_clip
from carot_lib.command import read_command
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.miniature import PictogramParams
from carot_lib.pretraining import PretrainingParams, pretrain
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.world import read_pictograms


def make_pretrained(layout: Layout) -> None:
    """Train the CLIP and write it with the history of its training."""
    if layout.profile != "miniature":
        raise ValueError(
            f"profile {layout.profile}: this version pre-trains the miniature's model only"
        )
    params = read_params(layout.params, PretrainingParams, layout.profile, "pretrained")
    data = read_params(layout.params, PictogramParams, layout.profile, "data")
    history: list[dict[str, float]] = []
    pictograms = read_pictograms(layout.pictograms)
    clip = pretrain(params, data, pictograms, history.append)
    save_clip(clip, layout.pretrained)
    write_text(layout.pretrained / "history.csv", pd.DataFrame(history).to_csv(index=False))


if __name__ == "__main__":
    with exit_on_bad_input():
        make_pretrained(read_command(__doc__).layout)
