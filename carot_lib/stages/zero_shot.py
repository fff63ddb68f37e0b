"""Stage `zero_shot`: the pre-trained CLIP with a head made of prompts, the row ZS.

python -m carot_lib.stages.zero_shot --profile miniature --seed 0

Reads models/<profile>/pretrained/; writes models/<profile>/zs/seed<seed>/, the same for every
seed.
"""

from carot_lib.command import read_command
from carot_lib.data.datasets import read_prompts
from carot_lib.layout import Layout
from carot_lib.models.clip import load_clip, save_classifier
from carot_lib.schema import exit_on_bad_input


def zero_shot(layout: Layout, seed: int) -> None:
    """Write the zero-shot classifier."""
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    save_classifier(clip.zero_shot_classifier(prompts), layout.model("zs", seed))


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "seed")
        zero_shot(arguments.layout, arguments.seed)
