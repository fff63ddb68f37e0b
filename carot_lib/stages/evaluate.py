"""Stage `evaluate`: calibrate and evaluate the saved logits of one row.

Reads predictions/<profile>/<run>/seed<seed>/ and writes evaluations/<profile>/<run>/seed<seed>/:

- temperature.json and temperature_curve.csv: the temperature with the least ECE on the ID
  validation set, as in the paper (Section A.1)
- metrics.csv: every metric on every set without and with that temperature, with intervals. On the
  validation set, which chose it, only the temperature itself is reported.
- posthoc.csv: the same after other calibrators, all fitted on the ID validation set. The exception
  is `oracle`: for each set the temperature that is best on that set itself. It is no result; it
  shows how much of an error one temperature could remove.
- replicates.npz: bootstrap replicates for paired comparisons of rows.

Rows `ood` are means over the shifted sets. results/<profile>/runs/<run>-seed<seed>.json holds the
numbers of Table 1; git keeps it, so `dvc metrics diff` and `dvc exp show` know those of every
commit.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carot_lib.calibration.bootstrap import mean_over_sets, replicates, table_with_intervals
from carot_lib.calibration.calibrators import Calibrator, Temperature
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import (
    CALIBRATIONS,
    choose_temperature,
    fit_calibrator,
    measure,
)
from carot_lib.evaluation import TABLE1_COLUMNS, EvaluationParams, load_evaluation
from carot_lib.files import atomic_write, write_json, write_text
from carot_lib.layout import VALIDATION, Layout

PAIRED = ("accuracy", "ece")  # the metrics that rows are compared by
PLAIN = ("none", "temperature")  # the calibrations of Table 1

Numbers = dict[tuple[str, str], dict[str, Any]]  # metrics, or their replicates, by set, calibration


def evaluate(layout: Layout, run: str, seed: int) -> None:
    """Write the evaluation of one row.

    Raises:
        ValueError: a reported set holds the images that chose the temperature.
    """
    params, folder = load_evaluation(layout), layout.evaluation(run, seed)
    validation = Predictions.load(layout.predictions(run, seed, VALIDATION))
    chosen = choose_temperature(validation, params)
    if chosen.at_bound:
        bound = f"{chosen.temperature:g} is at the end of the range: a better one may lie beyond"
        print(f"temperature of {run}, seed {seed}: {bound}", file=sys.stderr)
    calibrators = {"temperature": Temperature(chosen.temperature)} | {
        key: fit_calibrator(key, validation, params) for key in CALIBRATIONS if key != "temperature"
    }
    values: Numbers = {
        (VALIDATION, key): {"temperature": one.temperature}
        for key, one in calibrators.items()
        if isinstance(one, Temperature)
    }
    resampled: Numbers = {}
    fingerprints = {VALIDATION: validation.fingerprint}
    add_numbers(values, resampled, validation, {}, params)
    for name in params.reported:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        fingerprints[name] = predictions.fingerprint
        if predictions.fingerprint == validation.fingerprint:
            images = f"the images of {VALIDATION}, on which the calibration was selected"
            raise ValueError(f"set {name} holds {images}: it cannot be reported there")
        oracle = fit_calibrator("temperature", predictions, params)
        add_numbers(values, resampled, predictions, calibrators | {"oracle": oracle}, params)
        values[name, "oracle"]["temperature"] = oracle.temperature
    for numbers, key in itertools.product((values, resampled), ("none", *calibrators, "oracle")):
        numbers["ood", key] = mean_over_sets([numbers[name, key] for name in params.ood])

    table = table_with_intervals(values, resampled, params.bootstrap.level)
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    of_table1 = table["calibration"].isin(PLAIN) & (table["metric"] != "ece_difference")
    uncalibrated_validation = (table["dataset"] == VALIDATION) & (table["calibration"] == "none")
    write_table(folder / "metrics.csv", table[of_table1])
    write_table(folder / "posthoc.csv", table[~uncalibrated_validation])
    write_replicates(folder / "replicates.npz", values, resampled, params)
    curve = pd.DataFrame({"temperature": chosen.temperatures, "ece": chosen.values})
    write_table(folder / "temperature_curve.csv", curve)
    content = {
        "run": run,
        "seed": seed,
        "temperature": chosen.temperature,
        "at_bound": chosen.at_bound,
        "criterion": "ece",
        "n_bins": params.n_bins,
        "ece_before": chosen.value_before,
        "ece_after": chosen.value_after,
        "selected_on": {
            "dataset": validation.dataset,
            "fingerprint": validation.fingerprint,
            "n": len(validation.labels),
        },
        "fingerprints": fingerprints,
    }
    write_json(folder / "temperature.json", content)
    summary = {
        column: round(float(values[name, key][metric]), 6)
        for column, (name, key, metric) in TABLE1_COLUMNS.items()
    }
    write_json(layout.summary(run, seed), summary)


def add_numbers(
    values: Numbers,
    resampled: Numbers,
    predictions: Predictions,
    calibrators: dict[str, Calibrator],
    params: EvaluationParams,
) -> None:
    """Add the metrics of one set, and their replicates, without and with each calibrator."""
    calibrated = {"none": predictions.calibrated()}
    calibrated |= {key: one.apply(predictions) for key, one in calibrators.items()}
    bootstrap, place = params.bootstrap, predictions.dataset
    again = replicates(predictions, calibrated, params.n_bins, bootstrap.resamples, bootstrap.seed)
    for key, one in calibrated.items():
        values[place, key] = measure(one, predictions, params)
        resampled[place, key] = again[key]
        for numbers in (values, resampled):
            change = numbers[place, key]["ece"] - numbers[place, "none"]["ece"]
            numbers[place, key]["ece_difference"] = change


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file with six decimals."""
    write_text(path, table.to_csv(index=False, float_format="%.6f"))


def write_replicates(
    path: Path, values: Numbers, resampled: Numbers, params: EvaluationParams
) -> None:
    """Write what rows are compared by, not rounded.

    The replicates have keys `<set>|<calibration>|<metric>`, the values `...|value`.
    """
    arrays = {}
    for name, key, metric in itertools.product(("id_test", *params.ood), PLAIN, PAIRED):
        place = f"{name}|{key}|{metric}"
        arrays[place] = resampled[name, key][metric]
        arrays[f"{place}|value"] = np.array(values[name, key][metric])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
