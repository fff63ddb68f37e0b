"""Stage `pretrain`: make or fetch the pre-trained CLIP of a profile.

python -m carot_lib.stages.pretrain --profile miniature

Reads params.yaml; writes models/<profile>/pretrained/.
"""

import pandas as pd

from carot_lib.command import read_command
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import save_clip
from carot_lib.models.published import MiniatureClipParams, OpenClipParams
from carot_lib.params import Pretrained
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.sources.miniature import PictogramParams, load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.training.pretraining import PretrainingParams, pretrain


def make_pretrained(layout: Layout) -> None:
    """Write the CLIP and, if it was trained here, the history of its training.

    Raises:
        ValueError: params.yaml has a fault, or the model cannot be fetched.
    """
    params = read_params(layout.params, Pretrained, layout.profile, "pretrained").root
    if isinstance(params, OpenClipParams):
        save_clip(params.load(layout.root), layout.pretrained)
        return
    maker = "miniature" if isinstance(params, MiniatureClipParams) else layout.profile
    params = read_params(layout.params, PretrainingParams, maker, "pretrained")
    data = read_params(layout.params, PictogramParams, maker, "data")
    history: list[dict[str, float]] = []
    pictograms = read_pictograms(layout.pictograms)
    world = load_world(layout.root, data)
    clip = pretrain(params, data, world, pictograms, history.append)
    save_clip(clip, layout.pretrained)
    write_text(layout.pretrained / "history.csv", pd.DataFrame(history).to_csv(index=False))


if __name__ == "__main__":
    with exit_on_bad_input():
        make_pretrained(read_command(__doc__).layout)
