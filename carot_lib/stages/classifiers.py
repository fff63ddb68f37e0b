"""Stages `zero_shot` and `wise_ft`: the rows that are made without training.

`zero_shot` reads models/<profile>/pretrained/ and data/prepared/<profile>/ and writes
models/<profile>/zs/seed<seed>/, the same for every seed. `wise_ft` reads
models/<profile>/{zs,<run>}/seed<seed>/ and writes models/<profile>/wise_<run>/seed<seed>/.
"""

from carot_lib.data.datasets import read_prompts
from carot_lib.layout import Layout
from carot_lib.models.clip import interpolate, load_classifier, load_clip, save_classifier
from carot_lib.params import load_scale


def zero_shot(layout: Layout, seed: int) -> None:
    """Write the zero-shot classifier: the pre-trained CLIP with a head made of prompts."""
    load_scale(layout).hardware.limit_threads()
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    save_classifier(clip.zero_shot_classifier(prompts), layout.model("zs", seed))


def wise_ft(layout: Layout, run: str, seed: int) -> None:
    """Average the weights of ZS and of a row at the alpha of params.yaml; write the classifier."""
    zero_shot_model = load_classifier(layout.model("zs", seed))
    fine_tuned = load_classifier(layout.model(run, seed))
    mixed = interpolate(zero_shot_model, fine_tuned, load_scale(layout).wise_ft.alpha)
    save_classifier(mixed, layout.model(f"wise_{run}", seed))
