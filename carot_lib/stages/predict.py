"""Stage `predict`: the logits of one row on every set, from which all results are computed.

Reads data/prepared/<profile>/ and models/<profile>/<run>/seed<seed>/; writes
predictions/<profile>/<run>/seed<seed>/<set>.npz. On several devices every process runs this stage,
and the first one writes.
"""

import os

import torch

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_set
from carot_lib.distributed import rank
from carot_lib.layout import Layout
from carot_lib.models.clip import load_classifier
from carot_lib.models.inference import predict_logits
from carot_lib.params import load_scale
from carot_lib.training.hardware import HardwareParams

LAUNCHERS = {"SLURM_NTASKS", "TORCHELASTIC_RUN_ID"}  # set where SLURM or torchrun start processes


def predict(layout: Layout, run: str, seed: int) -> None:
    """Write the predictions of one row."""
    scale = load_scale(layout)
    classifier = load_classifier(layout.model(run, seed))
    device = _device(scale.hardware)
    for name in scale.evaluation.datasets:
        dataset = read_set(layout.data, name)
        logits = predict_logits(classifier, dataset, device)
        if rank() == 0:
            images = dataset.labels, dataset.label_space, name, dataset.fingerprint
            Predictions(logits, *images).save(layout.predictions(run, seed, name))


def _device(hardware: HardwareParams) -> torch.device:
    """The device of this process, after all those that share the work were started.

    On all machines if SLURM or torchrun started this process, else on this one: so `dvc repro`
    predicts on one machine what was trained on several.
    """
    if hardware.devices == 1 and not os.environ.keys() & LAUNCHERS:
        return hardware.one_device()  # without Fabric, which takes more than a second to import
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if not (SLURMEnvironment.detect() or TorchElasticEnvironment.detect()):
        hardware = hardware.model_copy(update={"nodes": 1})
    return hardware.launch().device
