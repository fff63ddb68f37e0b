"""Stages `pretrain` and `zero_shot`: the pre-trained CLIP of a profile, and the row ZS.

`pretrain` reads params.yaml and writes models/<profile>/pretrained/. `zero_shot` reads that and
data/prepared/<profile>/ and writes models/<profile>/zs/seed<seed>/, the same for every seed.
"""

import pandas as pd

from carot_lib.data.datasets import read_prompts
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import load_clip, save_classifier, save_clip
from carot_lib.models.published import MiniatureClipParams, OpenClipParams
from carot_lib.params import load_params
from carot_lib.sources.miniature import load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.training import pretraining


def pretrain(layout: Layout) -> None:
    """Write the CLIP and, if it was trained here, the history of its training.

    Raises:
        ValueError: params.yaml has a problem, or the model cannot be fetched.
    """
    params = load_params(layout.params)
    scale = params.scale(layout.profile)
    if isinstance(scale.pretrained, OpenClipParams):
        save_clip(scale.pretrained.load(layout.root), layout.pretrained)
        return
    if isinstance(scale.pretrained, MiniatureClipParams):
        scale = params.miniature
    history: list[dict[str, float]] = []
    clip = pretraining.pretrain(
        scale.pretrained,
        scale.data,
        load_world(layout.root, scale.data),
        read_pictograms(layout.pictograms),
        history.append,
    )
    save_clip(clip, layout.pretrained)
    write_text(layout.pretrained / "history.csv", pd.DataFrame(history).to_csv(index=False))


def zero_shot(layout: Layout, seed: int) -> None:
    """Write the zero-shot classifier: the pre-trained CLIP with a head made of prompts."""
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    save_classifier(clip.zero_shot_classifier(prompts), layout.model("zs", seed))
