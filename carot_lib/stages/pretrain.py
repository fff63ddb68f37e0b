"""Stage `pretrain`: train or fetch the pre-trained CLIP of a profile.

Reads params.yaml, data/pictograms.csv and data/miniature.yaml; writes models/<profile>/pretrained/.
"""

import pandas as pd
import torch

from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import save_clip
from carot_lib.models.published import MiniatureClipParams, OpenClipParams
from carot_lib.params import load_params
from carot_lib.sources.miniature import load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.training.pretraining import pretrain as train_clip


def pretrain(layout: Layout) -> None:
    """Write the CLIP and, if it was trained here, the history of its training."""
    params = load_params(layout.params)
    scale = params.scale(layout.profile)
    if isinstance(scale.pretrained, OpenClipParams):
        save_clip(scale.pretrained.load(layout.root), layout.pretrained)
        return
    if isinstance(scale.pretrained, MiniatureClipParams):
        scale = params.miniature
    torch.set_num_threads(scale.pretrained.threads)
    history: list[dict[str, float]] = []
    clip = train_clip(
        scale.pretrained,
        scale.data,
        load_world(layout.root, scale.data),
        read_pictograms(layout.pictograms),
        history.append,
    )
    save_clip(clip, layout.pretrained)
    write_text(layout.pretrained / "history.csv", pd.DataFrame(history).to_csv(index=False))
