"""Stage `predict`: the logits of one run on every set; all that is reported comes from these.

python -m carot_lib.stages.predict --profile miniature --run carot --seed 0

Reads data/prepared/<profile>/ and models/<profile>/<run>/seed<seed>/; writes
predictions/<profile>/<run>/seed<seed>/<set>.npz.
"""

from carot_lib.calibration.predictions import Predictions
from carot_lib.command import read_command
from carot_lib.data.datasets import read_set
from carot_lib.evaluation import load_evaluation
from carot_lib.layout import Layout
from carot_lib.models.clip_model import load_classifier
from carot_lib.models.inference import pick_device, predict_logits
from carot_lib.schema import exit_on_bad_input


def predict(layout: Layout, run: str, seed: int) -> None:
    """Write the predictions of one run."""
    classifier = load_classifier(layout.model(run, seed))
    for name in load_evaluation(layout).datasets:
        dataset = read_set(layout.data, name)
        logits = predict_logits(classifier, dataset, pick_device())
        predictions = Predictions(
            logits, dataset.labels, dataset.label_space, name, dataset.fingerprint
        )
        predictions.save(layout.predictions(run, seed, name))


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        predict(arguments.layout, arguments.run, arguments.seed)
