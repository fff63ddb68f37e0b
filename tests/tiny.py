"""Small parameters and data for tests of training and models."""

from pathlib import Path

import numpy as np
import yaml
from pydantic import TypeAdapter
from torch import Tensor

from carot_lib.calibration.label_space import label_space_of
from carot_lib.data.datasets import LabelledSet, write_set
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.params import MethodParams
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.loop import Log, fine_tune
from carot_lib.training.optimizer import TrainingParams

ROOT = Path(__file__).parents[1]
HARDWARE = {
    "accelerator": "cpu",
    "devices": 1,
    "nodes": 1,
    "precision": "32-true",
    "threads": None,
    "accumulation": 1,
    "workers": 0,
    "checkpoint_every": 100,
}
TRAINING = {"epochs": 2, "images_per_class": None, "batch_size": 4}
TRAINING |= {"weight_decay": 0.1, "warmup": 1, "validate_every": None}
SHARED = {"learning_rate": 0.01, "clip_gradient_norm": None, "sampling": "epochs"}
TEACHER = {"momentum_start": 0.05, "momentum_end": 0.9, "momentum_warmup": 0.5}
TEACHER |= {"update_every": 2, "update_at_step_0": False}
RUNS = {
    "fine_tune": {**SHARED, "label_smoothing": 0.1},
    "flyp": {**SHARED, "label_smoothing": 0.1, "max_logit_scale": None},
    "carot": {
        **SHARED,
        "distillation_weight": 0.75,
        "kd_reduction": "paper",
        "max_logit_scale": None,
        **TEACHER,
    },
}
KINDS = list(RUNS)
NAMES = ["cat", "steam locomotive", "tea pot", "umbrella", "anchor"]


def hardware(**changes: object) -> HardwareParams:
    """One CPU process, as in the miniature, unless changed."""
    return HardwareParams.model_validate(HARDWARE | changes)


def training(**changes: object) -> TrainingParams:
    """Two epochs of batches of four, unless changed."""
    return TrainingParams.model_validate(TRAINING | changes)


def trained(
    params: MethodParams,
    clip: Clip,
    class_prompts: Tensor,
    log: Log = lambda record: None,
    numbers: TrainingParams | None = None,
    devices: HardwareParams | None = None,
    seed: int = 0,
    **options: object,
) -> ImageClassifier:
    """A run of the tiny model on ten images."""
    numbers, devices = numbers or training(), devices or hardware()
    data = class_prompts, labelled_set(), seed
    return fine_tune(params, numbers, devices, clip, *data, log, "a run", **options)


def run(kind: str, **changes: object) -> MethodParams:
    """A run of one method."""
    values = {"kind": kind, **RUNS[kind], **changes}
    return TypeAdapter(MethodParams).validate_python(values)


def project(root: Path, *sets: LabelledSet, **branches: dict) -> Layout:
    """The miniature in a folder of its own, with some of its numbers changed and these sets."""
    layout = Layout(root, "miniature")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    for branch, numbers in branches.items():
        tree["miniature"][branch] |= numbers
    root.mkdir(exist_ok=True)
    layout.params.write_text(yaml.safe_dump(tree, sort_keys=False))
    (root / "carot_lib").symlink_to(ROOT / "carot_lib")
    for one in sets:
        write_set(layout.data, one.name, one.labels, one.images)
    names = {"class_names": NAMES[:3], "label_spaces": {}}
    write_json(layout.data / "classes.json", names)
    return layout


def labelled_set(
    name: str = "train",
    size: int = 10,
    seed: int = 0,
    side: int = 32,
    classes: int = 3,
    space: dict | None = None,
) -> LabelledSet:
    """Random images of some classes, or of a label space over them."""
    names = space["names"] if space else NAMES[:classes]
    rng = np.random.default_rng(seed)
    return LabelledSet(
        name=name,
        labels=rng.integers(0, len(names), size=size),
        images=rng.integers(0, 256, size=(size, side, side, 3), dtype=np.uint8),
        paths=None,
        label_space=label_space_of(space, classes),
        class_names=names,
        fingerprint="0" * 16,
    )
