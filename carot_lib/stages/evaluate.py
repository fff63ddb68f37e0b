"""Stage `evaluate`: calibrate and evaluate the saved logits of one row.

Reads predictions/<profile>/<run>/seed<seed>/ and writes evaluations/<profile>/<run>/seed<seed>/:

- temperature.json and temperature_curve.csv: the temperature with the least ECE on the ID
  validation set, as in the paper (Section A.1), and that with the least NLL
- metrics.csv: every metric on every set by calibration: `none`, `temperature` (least ECE) and
  `temperature_nll`, both with intervals, and `oracle`: for each set the temperature that is best on
  that set itself. It is no result; it shows how much of an error one temperature could remove. On
  the validation set, which chose them, only the temperatures themselves are reported.
- replicates.npz: bootstrap replicates for paired comparisons of rows, with both temperatures chosen
  anew in each. Keys `<set>|<calibration>|<metric>` hold them, `...|value` the estimate; not
  rounded.

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

from carot_lib.calibration.bootstrap import (
    mean_over_sets,
    replicates,
    resampled_temperatures,
    table_with_intervals,
)
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import CHOSEN, choose_temperature, measure, temperature_of
from carot_lib.calibration.temperature import is_bound
from carot_lib.evaluation import TABLE1_COLUMNS, EvaluationParams, load_evaluation
from carot_lib.files import atomic_write, write_json, write_text
from carot_lib.layout import VALIDATION, Layout

PAIRED = ("accuracy", "ece", "ece_batch_mean", "nll", "brier")  # what rows are compared by

Numbers = dict[tuple[str, str], dict[str, Any]]  # metrics, or their replicates, by set, calibration


def evaluate(layout: Layout, run: str, seed: int) -> None:
    """Write the evaluation of one row.

    Raises:
        ValueError: a reported set holds the images that chose the temperature.
    """
    params, folder = load_evaluation(layout), layout.evaluation(run, seed)
    bootstrap = params.bootstrap
    validation = Predictions.load(layout.predictions(run, seed, VALIDATION))
    chosen = choose_temperature(validation, params)
    by_nll = temperature_of("temperature_nll", validation, params)
    temperatures = {"none": 1.0, "temperature": chosen.temperature, "temperature_nll": by_nll}
    low, high = params.temperature.low, params.temperature.high
    at_bound = {key: is_bound(temperatures[key], low, high) for key in CHOSEN}
    for key in CHOSEN:
        if at_bound[key]:
            bound = f"{temperatures[key]:g} is at the end of the range: a better one may lie beyond"
            print(f"{key} of {run}, seed {seed}: {bound}", file=sys.stderr)
    drawn = {"none": np.ones(bootstrap.resamples)} | resampled_temperatures(
        validation, chosen, params.n_bins, bootstrap.resamples, bootstrap.seed
    )
    values: Numbers = {(VALIDATION, key): {"temperature": temperatures[key]} for key in CHOSEN}
    resampled: Numbers = {(VALIDATION, key): {"temperature": drawn[key]} for key in CHOSEN}
    values[VALIDATION, "none"] = measure(validation, 1.0, params)
    again = resample(validation, {"none": drawn["none"]}, params)
    resampled[VALIDATION, "none"] = again["none"]
    fingerprints = {VALIDATION: validation.fingerprint}
    for name in params.reported:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        fingerprints[name] = predictions.fingerprint
        if predictions.fingerprint == validation.fingerprint:
            images = f"the images of {VALIDATION}, on which the calibration was selected"
            raise ValueError(f"set {name} holds {images}: it cannot be reported there")
        for key, temperature in temperatures.items():
            values[name, key] = measure(predictions, temperature, params)
        for key, numbers in resample(predictions, drawn, params).items():
            resampled[name, key] = numbers
        oracle = temperature_of("oracle", predictions, params)
        values[name, "oracle"] = measure(predictions, oracle, params) | {"temperature": oracle}
    for key in (*temperatures, "oracle"):
        values["ood", key] = mean_over_sets([values[name, key] for name in params.ood])
    for key in temperatures:
        resampled["ood", key] = mean_over_sets([resampled[name, key] for name in params.ood])

    table = table_with_intervals(values, resampled, bootstrap.level)
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    write_table(folder / "metrics.csv", table)
    write_replicates(folder / "replicates.npz", values, resampled, params)
    curve = pd.DataFrame({"temperature": chosen.temperatures, "ece": chosen.values})
    write_table(folder / "temperature_curve.csv", curve)
    content = {
        "run": run,
        "seed": seed,
        "temperature": chosen.temperature,
        "at_bound": at_bound["temperature"],
        "criterion": "ece",
        "n_bins": params.n_bins,
        "ece_before": chosen.value_before,
        "ece_after": chosen.value_after,
        "temperature_nll": by_nll,
        "at_bound_nll": at_bound["temperature_nll"],
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


def resample(
    predictions: Predictions, temperatures: dict[str, np.ndarray], params: EvaluationParams
) -> dict[str, dict[str, np.ndarray]]:
    """Replicates of one set by calibration, at the temperatures of each resample."""
    numbers = params.n_bins, params.batch_mean_size, params.bootstrap.seed
    return replicates(predictions, temperatures, *numbers)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file with six decimals."""
    write_text(path, table.to_csv(index=False, float_format="%.6f"))


def write_replicates(
    path: Path, values: Numbers, resampled: Numbers, params: EvaluationParams
) -> None:
    """Write what rows are compared by, not rounded."""
    kept = [(VALIDATION, key, "temperature") for key in CHOSEN]
    kept += itertools.product(params.reported, ("none", *CHOSEN), PAIRED)
    arrays = {}
    for name, key, metric in kept:
        place = f"{name}|{key}|{metric}"
        arrays[place] = resampled[name, key][metric]
        arrays[f"{place}|value"] = np.array(values[name, key][metric])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
