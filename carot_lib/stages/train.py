"""Stages `fine_tune`, `flyp` and `carot`: fine-tune the pre-trained CLIP by the method of one row.

Reads data/prepared/<profile>/ and models/<profile>/pretrained/; writes the classifier and the
losses of every step (history.csv) to models/<profile>/<run>/seed<seed>/. Until then the state of
the training lies in checkpoints/<profile>/<run>/seed<seed>/: killed and started again, it resumes
from there. Its metrics can be followed in live/<profile>/<run>/seed<seed>/. On several devices
every process runs this stage, and the first one writes.
"""

import pandas as pd

from carot_lib.data.datasets import read_prompts, read_set
from carot_lib.distributed import rank
from carot_lib.files import write_text
from carot_lib.layout import VALIDATION, Layout
from carot_lib.models.clip import load_clip, save_classifier
from carot_lib.params import load_scale
from carot_lib.training.checkpoint import discard_checkpoint
from carot_lib.training.hardware import out_of_memory_means
from carot_lib.training.loop import fine_tune
from carot_lib.training.monitor import MetricLogger


def train(layout: Layout, run: str, seed: int) -> None:
    """Fine-tune and write the classifier; for errors see `carot_lib.training.loop.fine_tune`."""
    scale = load_scale(layout)
    method = scale.run(run)
    with out_of_memory_means("out of memory: the pre-trained model alone does not fit"):
        clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    logger = MetricLogger(layout.live(run, seed))
    checkpoints = layout.checkpoint(run, seed)
    try:
        classifier = fine_tune(
            method,
            scale.training,
            scale.hardware,
            clip,
            prompts,
            read_set(layout.data, "train"),
            seed,
            log=logger,
            label=run,
            checkpoints=checkpoints,
            validation_set=read_set(layout.data, VALIDATION),
            n_bins=scale.evaluation.n_bins,
        )
    except (FloatingPointError, MemoryError) as error:
        raise type(error)(f"{run}: {error}") from error
    logger.flush()
    if rank() > 0:
        return
    folder = layout.model(run, seed)
    save_classifier(classifier, folder)
    losses = pd.DataFrame(logger.history).filter(regex="^[^/]+$")
    write_text(folder / "history.csv", losses.to_csv(index=False))
    discard_checkpoint(checkpoints)
