"""Stage `predict`: the logits of one run on every set; all that is reported comes from these.

python -m carot_lib.stages.predict --profile miniature --run carot --seed 0

Reads data/prepared/<profile>/ and models/<profile>/<run>/seed<seed>/; writes
predictions/<profile>/<run>/seed<seed>/<set>.npz. On several devices every one runs this stage, and
the first one writes.
"""

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from carot_lib.calibration.predictions import Predictions
from carot_lib.command import read_command
from carot_lib.data.datasets import read_set
from carot_lib.evaluation import load_evaluation
from carot_lib.layout import Layout
from carot_lib.models.clip import load_classifier
from carot_lib.models.inference import predict_logits
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.training.hardware import HardwareParams


def predict(layout: Layout, run: str, seed: int) -> None:
    """Write the predictions of one run.

    Raises:
        ValueError: params.yaml has a fault, or the hardware is not there.
    """
    classifier = load_classifier(layout.model(run, seed))
    fabric = launch(read_params(layout.params, HardwareParams, layout.profile, "hardware"))
    for name in load_evaluation(layout).datasets:
        dataset = read_set(layout.data, name)
        logits = predict_logits(classifier, dataset, fabric.device)
        if not fabric.is_global_zero:
            continue
        predictions = Predictions(
            logits, dataset.labels, dataset.label_space, name, dataset.fingerprint
        )
        predictions.save(layout.predictions(run, seed, name))


def launch(hardware: HardwareParams) -> Fabric:
    """The devices of all machines if SLURM or torchrun started us there, else of this one.

    So `dvc repro` predicts on one machine what was trained on several.
    """
    if not (SLURMEnvironment.detect() or TorchElasticEnvironment.detect()):
        hardware = hardware.model_copy(update={"nodes": 1})
    return hardware.launch()


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        predict(arguments.layout, arguments.run, arguments.seed)
