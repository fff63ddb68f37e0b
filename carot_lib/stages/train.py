"""Stage `train`: fine-tune the pre-trained CLIP by the method of one run.

python -m carot_lib.stages.train --profile miniature --run carot --seed 0

Reads data/prepared/<profile>/ and models/<profile>/pretrained/; writes the classifier and the
losses of every step (history.csv) to models/<profile>/<run>/seed<seed>/. Until then it keeps its
state in checkpoints/<profile>/<run>/seed<seed>/: killed and started again, it goes on from there.
How the training goes can be followed in live/<profile>/<run>/seed<seed>/. On several devices every
one runs this stage, and the first one writes.
"""

import sys

import pandas as pd

from carot_lib.command import read_command
from carot_lib.data.datasets import read_prompts, read_set
from carot_lib.distributed import is_first_rank
from carot_lib.evaluation import VALIDATION
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import load_clip, save_classifier
from carot_lib.params import Run
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.training.checkpoint import discard_checkpoint
from carot_lib.training.follow import MetricLogger
from carot_lib.training.hardware import HardwareParams, out_of_memory_means
from carot_lib.training.loop import TrainingParams, fine_tune


def train(layout: Layout, run: str, seed: int) -> None:
    """Fine-tune and write the classifier.

    Raises:
        ValueError: params.yaml has no such run, or a fault in what it says of it.
        FloatingPointError, MemoryError: see `carot_lib.training.loop.fine_tune`.
    """
    method = read_params(layout.params, Run, layout.profile, "runs", run).root
    training = read_params(layout.params, TrainingParams, layout.profile, "training")
    hardware = read_params(layout.params, HardwareParams, layout.profile, "hardware")
    with out_of_memory_means("out of memory: the pre-trained model alone does not fit"):
        clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    history: list[dict[str, int | float]] = []
    follower = MetricLogger(layout.live(run, seed), hardware.tensorboard)

    def log(record: dict[str, int | float]) -> None:
        history.append(record)
        follower(record)

    checkpoints = layout.checkpoint(run, seed)
    classifier = fine_tune(
        method,
        training,
        hardware,
        clip,
        prompts,
        read_set(layout.data, "train"),
        seed,
        log=log,
        label=run,
        checkpoints=checkpoints,
        validation_set=read_set(layout.data, VALIDATION),
    )
    follower.show()
    if not is_first_rank():
        return
    folder = layout.model(run, seed)
    save_classifier(classifier, folder)
    losses = pd.DataFrame(history).filter(regex="^[^/]+$")
    write_text(folder / "history.csv", losses.to_csv(index=False))
    discard_checkpoint(checkpoints)


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        try:
            train(arguments.layout, arguments.run, arguments.seed)
        except (FloatingPointError, MemoryError) as error:
            print(f"{arguments.run}: {error}", file=sys.stderr)
            raise SystemExit(1) from None
