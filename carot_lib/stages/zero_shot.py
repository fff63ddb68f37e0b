"""Stage `zero_shot`: the row ZS, the pre-trained CLIP with a head made of prompts.

Reads models/<profile>/pretrained/ and data/prepared/<profile>/; writes
models/<profile>/zs/seed<seed>/, the same for every seed.
"""

from carot_lib.data.datasets import read_prompts
from carot_lib.layout import Layout
from carot_lib.models.clip import load_clip, save_classifier
from carot_lib.params import load_scale


def zero_shot(layout: Layout, seed: int) -> None:
    """Write the zero-shot classifier."""
    load_scale(layout).hardware.limit_threads()
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    save_classifier(clip.zero_shot_classifier(prompts), layout.model("zs", seed))
