"""What is trained in the training benchmark: two models, and the steps to take with them."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carot_lib.data.datasets import read_prompts, read_set
from carot_lib.data.prompts import clip_templates, tokenize_prompts
from carot_lib.layout import Layout
from carot_lib.methods.base import Batch
from carot_lib.models.clip import Clip, build_clip, load_clip
from carot_lib.params import MethodParams, load_params
from carot_lib.schema import count_steps
from carot_lib.sources.imagenet import CLASS_NAMES
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.optimizer import TrainingParams
from carot_lib.training.samples import batches, draw_epochs, draw_pairs

RUNS = ("ft", "flyp", "carot")
ARCHITECTURE = "ViT-B-16-quickgelu"
N_IMAGES = 1_281_167  # of ImageNet
DRAWS_PER_CAPTION = 3.2  # 500 steps of 512 draw from 80,000: what the teacher's table can save


@dataclass(frozen=True)
class Case:
    """A model and the steps that every candidate takes with it.

    Attributes:
        model: its name.
        clip: where each candidate starts; it is copied.
        prompts: token ids of every class in every template.
        runs: the methods and their numbers.
        batches: of each run, one a step.
        training: its weight decay is used.
        warmup_steps: of the schedule.
        hardware: where and in which precision to compute.
    """

    model: str
    clip: Clip
    prompts: Tensor
    runs: dict[str, MethodParams]
    batches: dict[str, list[Batch]]
    training: TrainingParams
    warmup_steps: int
    hardware: HardwareParams


def miniature(root: Path) -> Case:
    """The miniature's own model, pictures and batches, from one EMA update to the next."""
    layout = Layout(root, "miniature")
    scale = load_params(layout.params).miniature
    training, runs = scale.training, {name: scale.run(name) for name in RUNS}
    clip, train = load_clip(layout.pretrained), read_set(layout.data, "train")
    train = train.first_per_class(scale.training.images_per_class)
    prompts = read_prompts(layout.data, clip.context_length)
    total_steps = training.total_steps(len(train.labels))
    steps = count_steps(runs["carot"].update_every, total_steps)
    runs["carot"] = runs["carot"].model_copy(update={"update_every": steps})
    batches_of = {}
    for name, run in runs.items():
        draw = {"epochs": draw_epochs, "pairs": draw_pairs}[run.sampling]
        numbers = len(train.labels), prompts.shape[1], training.epochs, training.batch_size
        draws = draw(*numbers, np.random.default_rng(0))
        data = batches(train.open_images(clip.preprocessing), train.labels, draws, workers=0)
        batches_of[name] = list(itertools.islice(data, steps))
    warmup = count_steps(training.warmup, total_steps)
    hardware = scale.hardware.model_copy(update={"threads": None})  # all cores
    return Case("the miniature's", clip, prompts, runs, batches_of, training, warmup, hardware)


def published(root: Path, config: dict[str, Any], batch_size: int, steps: int) -> Case:
    """A published architecture with random weights on random pictures, by ImageNet's numbers.

    The teacher is updated at the last step, and captions come as often as between two updates of
    the real run.

    Args:
        root: the project's folder.
        config: see `build_clip`.
        batch_size: images.
        steps: optimizer steps of one measurement.
    """
    scale = load_params(root / "params.yaml").imagenet
    runs = {name: scale.run(name) for name in RUNS}
    runs["carot"] = runs["carot"].model_copy(update={"update_every": steps})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = build_clip(config)
    templates = clip_templates()
    texts = [
        templates[i % len(templates)](CLASS_NAMES[37 * i % len(CLASS_NAMES)])
        for i in range(max(1, round(steps * batch_size / DRAWS_PER_CAPTION)))
    ]
    prompts = tokenize_prompts(texts, [str], clip.context_length)
    rng = torch.Generator().manual_seed(0)
    side = config["vision_cfg"]["image_size"]
    drawn = [
        Batch(
            torch.randn(batch_size, 3, side, side, generator=rng),
            torch.randint(len(texts), (batch_size,), generator=rng),
            torch.zeros(batch_size, dtype=torch.long),
        )
        for _ in range(steps)
    ]
    alone = {"devices": 1, "nodes": 1, "accumulation": 1, "workers": 0}
    alone["precision"] = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    hardware = scale.hardware.model_copy(update=alone)
    training = scale.training
    batches_of = dict.fromkeys(RUNS, drawn)
    # by the paper's own number of steps, of which those measured here are the first ones
    warmup = count_steps(training.warmup, training.total_steps(N_IMAGES))
    return Case(ARCHITECTURE, clip, prompts, runs, batches_of, training, warmup, hardware)
