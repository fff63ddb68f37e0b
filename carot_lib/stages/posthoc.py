"""Stage `posthoc`: post-hoc calibrators beside the paper's temperature, on every reported set.

python -m carot_lib.stages.posthoc --profile miniature --run carot --seed 0

Reads predictions/<profile>/<run>/seed<seed>/; writes posthoc.csv to evaluations/<profile>/<run>/
seed<seed>/, with the columns of metrics.csv. All calibrators are fitted on the ID validation set.
The one exception is `oracle`: for each set the temperature that is best on that set itself. No
number of it is a result; it shows how much of an error one temperature could remove.
"""

import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.bootstrap import mean_over_sets, replicates, table_with_intervals
from carot_lib.calibration.calibrators import (
    Calibrator,
    HistogramBinning,
    Isotonic,
    Temperature,
    VectorScaling,
)
from carot_lib.calibration.metrics import brier, nll
from carot_lib.calibration.predictions import Calibrated, Predictions, check_held_out
from carot_lib.command import read_command
from carot_lib.evaluation import VALIDATION, EvaluationParams, load_evaluation
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
    fitted = fit_calibrators(validation, params)
    values = {
        (VALIDATION, key): {"temperature": one.temperature}
        for key, one in fitted.items()
        if isinstance(one, Temperature)
    }
    resampled = {}
    for name in params.reported:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        check_held_out(name, predictions.fingerprint, VALIDATION, validation.fingerprint)
        oracle = best_temperature(predictions, "ece", params)
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


def fit_calibrators(validation: Predictions, params: EvaluationParams) -> dict[str, Calibrator]:
    """Every calibrator, by name, fitted on the validation set."""
    return {
        "temperature": best_temperature(validation, "ece", params),
        "temperature_nll": best_temperature(validation, "nll", params),
        "vector": VectorScaling.fit(validation),
        "histogram": HistogramBinning.fit(validation, params.n_bins),
        "isotonic": Isotonic.fit(validation),
    }


def best_temperature(
    predictions: Predictions, criterion: str, params: EvaluationParams
) -> Temperature:
    """The temperature of params.yaml's range that is best on a set."""
    grid = params.temperature
    return Temperature.fit(
        predictions, criterion, grid.low, grid.high, grid.step, n_bins=params.n_bins
    )


def measure(
    calibrated: Calibrated, predictions: Predictions, params: EvaluationParams
) -> dict[str, float]:
    """The metrics of one calibration on one set; NLL and Brier score where there are logits."""
    stats = BinStats.from_confidences(calibrated.confidences, calibrated.correct, params.n_bins)
    values = {
        "accuracy": stats.mean_accuracy(),
        "ece": stats.ece(),
        "ece_debiased": stats.ece_debiased(),
        "ece_noise_floor": stats.noise_floor(),
        "ece_p_value": stats.test(params.bootstrap.seed),
        "signed_gap": stats.signed_gap(),
        "mean_confidence": stats.mean_confidence(),
    }
    if calibrated.logits is not None:
        values["nll"] = nll(calibrated.logits, predictions.labels)
        values["brier"] = brier(calibrated.logits, predictions.labels)
    return values


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        posthoc(arguments.layout, arguments.run, arguments.seed)
