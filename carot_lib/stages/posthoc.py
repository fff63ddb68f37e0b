"""Stage `posthoc`: post-hoc calibrators beside the paper's temperature, on every reported set.

python -m carot_lib.stages.posthoc --profile miniature --run carot --seed 0

Reads predictions/<profile>/<run>/seed<seed>/; writes posthoc.csv to evaluations/<profile>/<run>/
seed<seed>/, with the columns of metrics.csv. All calibrators are fitted on the ID validation set.
The one exception is `oracle`: for each set the temperature that is best on that set itself. No
number of it is a result; it shows how much of an error one temperature could remove.
"""

import pandas as pd

from carot_lib.calibration.bootstrap import mean_over_sets, replicates, table_with_intervals
from carot_lib.calibration.calibrators import Temperature
from carot_lib.calibration.predictions import Predictions, check_held_out
from carot_lib.calibration.reported import CALIBRATIONS, fit_calibrator, measure
from carot_lib.command import read_command
from carot_lib.evaluation import VALIDATION, load_evaluation
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.schema import exit_on_bad_input


def posthoc(layout: Layout, run: str, seed: int) -> pd.DataFrame:
    """Write and return the metrics of one run after each calibration.

    Raises:
        ValueError: a set that is reported holds the images of the validation set.
    """
    params = load_evaluation(layout)
    bootstrap = params.bootstrap
    validation = Predictions.load(layout.predictions(run, seed, VALIDATION))
    fitted = {key: fit_calibrator(key, validation, params) for key in CALIBRATIONS}
    values = {
        (VALIDATION, key): {"temperature": one.temperature}
        for key, one in fitted.items()
        if isinstance(one, Temperature)
    }
    resampled = {}
    for name in params.reported:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        check_held_out(name, predictions.fingerprint, VALIDATION, validation.fingerprint)
        oracle = fit_calibrator("temperature", predictions, params)
        calibrated = {"none": predictions.calibrated()}
        calibrated |= {key: one.apply(predictions) for key, one in fitted.items()}
        calibrated["oracle"] = oracle.apply(predictions)
        again = replicates(
            predictions, calibrated, params.n_bins, bootstrap.resamples, bootstrap.seed
        )
        for key, one in calibrated.items():
            values[name, key] = measure(one, predictions, params)
            resampled[name, key] = again[key]
            for numbers in (values, resampled):
                difference = numbers[name, key]["ece"] - numbers[name, "none"]["ece"]
                numbers[name, key]["ece_difference"] = difference
        values[name, "oracle"]["temperature"] = oracle.temperature
    for key in calibrated:
        for numbers in (values, resampled):
            numbers["ood", key] = mean_over_sets([numbers[name, key] for name in params.ood])
    table = table_with_intervals(values, resampled, bootstrap.level)
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    path = layout.evaluation(run, seed) / "posthoc.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6f"))
    return table


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        posthoc(arguments.layout, arguments.run, arguments.seed)
