"""Stage `predict`: the logits of one row on every set, from which all results are computed.

Reads data/prepared/<profile>/ and models/<profile>/<run>/seed<seed>/; writes
predictions/<profile>/<run>/seed<seed>/<set>.npz. On several devices every process runs this stage,
and the first one writes.
"""

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_set
from carot_lib.layout import Layout
from carot_lib.models.clip import load_classifier
from carot_lib.models.inference import predict_logits
from carot_lib.params import load_scale
from carot_lib.training.hardware import HardwareParams


def predict(layout: Layout, run: str, seed: int) -> None:
    """Write the predictions of one row."""
    scale = load_scale(layout)
    classifier = load_classifier(layout.model(run, seed))
    fabric = _launch(scale.hardware)
    for name in scale.evaluation.datasets:
        dataset = read_set(layout.data, name)
        logits = predict_logits(classifier, dataset, fabric.device)
        if fabric.is_global_zero:
            images = dataset.labels, dataset.label_space, name, dataset.fingerprint
            Predictions(logits, *images).save(layout.predictions(run, seed, name))


def _launch(hardware: HardwareParams) -> Fabric:
    """The devices of all machines if SLURM or torchrun started this process, else of this one.

    So `dvc repro` predicts on one machine what was trained on several.
    """
    if not (SLURMEnvironment.detect() or TorchElasticEnvironment.detect()):
        hardware = hardware.model_copy(update={"nodes": 1})
    return hardware.launch()
