"""Stage `evaluate`: every metric of one run on every set, without and with temperature scaling.

python -m carot_lib.stages.evaluate --profile miniature --run carot --seed 0

Reads predictions/<profile>/<run>/seed<seed>/ and evaluations/<profile>/<run>/seed<seed>/
temperature.json; writes metrics.csv beside the latter: one row a metric, with its interval. The
rows `ood` are means over the shifted sets. On the validation set, which chose the temperature,
nothing is reported with it: its only row with temperature scaling is the temperature.
results/<profile>/runs/<run>-seed<seed>.json holds the numbers of Table 1 for `dvc metrics`; it is
kept in git, so that `dvc metrics diff` and `dvc exp show` know those of every commit.
"""

import pandas as pd

from carot_lib.calibration.bootstrap import mean_over_sets, replicates, table_with_intervals
from carot_lib.calibration.predictions import Predictions, check_held_out
from carot_lib.calibration.reported import measure
from carot_lib.command import read_command
from carot_lib.evaluation import TABLE1_COLUMNS, VALIDATION, load_evaluation
from carot_lib.files import read_json, write_json, write_text
from carot_lib.layout import Layout
from carot_lib.schema import exit_on_bad_input


def evaluate(layout: Layout, run: str, seed: int) -> pd.DataFrame:
    """Write and return the metrics of one run: the columns of results/<profile>/metrics.csv.

    Raises:
        ValueError: a set that is reported holds the images that chose the temperature.
    """
    params = load_evaluation(layout)
    bootstrap = params.bootstrap
    chosen = read_json(layout.evaluation(run, seed) / "temperature.json")
    values = {(VALIDATION, "temperature"): {"temperature": chosen["temperature"]}}
    resampled = {}
    for name in params.datasets:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        calibrated = {"none": predictions.calibrated()}
        if name != VALIDATION:
            selected = chosen["selected_on"]
            check_held_out(
                name, predictions.fingerprint, selected["dataset"], selected["fingerprint"]
            )
            calibrated["temperature"] = predictions.calibrated(chosen["temperature"])
        again = replicates(
            predictions, calibrated, params.n_bins, bootstrap.resamples, bootstrap.seed
        )
        for calibration, one in calibrated.items():
            values[name, calibration] = measure(one, predictions, params)
            resampled[name, calibration] = again[calibration]
    for calibration in ("none", "temperature"):
        for numbers in (values, resampled):
            of_shifts = [numbers[name, calibration] for name in params.ood]
            numbers["ood", calibration] = mean_over_sets(of_shifts)
    table = table_with_intervals(values, resampled, bootstrap.level)
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    write_text(
        layout.evaluation(run, seed) / "metrics.csv", table.to_csv(index=False, float_format="%.6f")
    )
    write_json(layout.summary(run, seed), summarise(table))
    return table


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """The numbers of Table 1 of one run."""
    values = table.set_index(["dataset", "calibration", "metric"])["value"]
    return {column: round(float(values[place]), 6) for column, place in TABLE1_COLUMNS.items()}


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        evaluate(arguments.layout, arguments.run, arguments.seed)
