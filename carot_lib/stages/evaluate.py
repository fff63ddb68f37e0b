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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carot_lib.calibration.bootstrap import mean_over_sets, replicates, table_with_intervals
from carot_lib.calibration.calibrators import Temperature
from carot_lib.calibration.predictions import Predictions, check_held_out
from carot_lib.calibration.reported import CALIBRATIONS, fit_calibrator, measure
from carot_lib.calibration.temperature import TemperatureChoice, select_temperature
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
    others = [key for key in CALIBRATIONS if key != "temperature"]
    calibrators = {"temperature": Temperature(chosen.temperature)}
    calibrators |= {key: fit_calibrator(key, validation, params) for key in others}
    temperatures = {  # on the set that each was chosen on
        (VALIDATION, key): one.temperature
        for key, one in calibrators.items()
        if isinstance(one, Temperature)
    }
    values: Numbers = {}
    resampled: Numbers = {}
    fingerprints = {}
    for name in params.datasets:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        fingerprints[name] = predictions.fingerprint
        calibrated = {"none": predictions.calibrated()}
        if name != VALIDATION:
            check_held_out(name, predictions.fingerprint, VALIDATION, validation.fingerprint)
            calibrated |= {key: one.apply(predictions) for key, one in calibrators.items()}
            oracle = fit_calibrator("temperature", predictions, params)
            calibrated["oracle"] = oracle.apply(predictions)
            temperatures[name, "oracle"] = oracle.temperature
        again = replicates(
            predictions,
            calibrated,
            params.n_bins,
            params.bootstrap.resamples,
            params.bootstrap.seed,
        )
        for key, one in calibrated.items():
            values[name, key] = measure(one, predictions, params)
            resampled[name, key] = again[key]
    metrics = metrics_table(values, resampled, chosen.temperature, params)
    posthoc = posthoc_table(values, resampled, temperatures, params)
    for name, table in (("metrics.csv", metrics), ("posthoc.csv", posthoc)):
        table.insert(0, "run", run)
        table.insert(1, "seed", seed)
        write_text(folder / name, table.to_csv(index=False, float_format="%.6f"))
    write_replicates(folder / "replicates.npz", values, resampled, params)
    curve = pd.DataFrame({"temperature": chosen.temperatures, "ece": chosen.values})
    write_text(folder / "temperature_curve.csv", curve.to_csv(index=False, float_format="%.6f"))
    content = {
        "run": run,
        "seed": seed,
        "temperature": chosen.temperature,
        "at_bound": chosen.at_bound,
        "criterion": chosen.criterion,
        "n_bins": params.n_bins,
        "ece_before": chosen.value_before,
        "ece_after": chosen.value_after,
        "selected_on": {
            "dataset": chosen.selected_on,
            "fingerprint": validation.fingerprint,
            "n": chosen.n,
        },
        "fingerprints": fingerprints,
    }
    write_json(folder / "temperature.json", content)
    write_json(layout.summary(run, seed), summarise(metrics))


def choose_temperature(validation: Predictions, params: EvaluationParams) -> TemperatureChoice:
    """The temperature with the least ECE on the ID validation set."""
    grid = params.temperature
    return select_temperature(
        validation.logits,
        validation.labels,
        criterion="ece",
        low=grid.low,
        high=grid.high,
        step=grid.step,
        n_bins=params.n_bins,
        selected_on=validation.dataset,
    )


def metrics_table(
    values: Numbers, resampled: Numbers, temperature: float, params: EvaluationParams
) -> pd.DataFrame:
    """Every set without and with the temperature; only the temperature on the validation set."""
    kept, again = (
        {place: one for place, one in numbers.items() if place[1] in PLAIN}
        for numbers in (values, resampled)
    )
    for numbers in (kept, again):
        add_means(numbers, PLAIN, params)
    chosen = {(VALIDATION, "temperature"): {"temperature": temperature}}
    return table_with_intervals(chosen | kept, again, params.bootstrap.level)


def posthoc_table(
    values: Numbers,
    resampled: Numbers,
    temperatures: Mapping[tuple[str, str], float],
    params: EvaluationParams,
) -> pd.DataFrame:
    """Every reported set after each calibrator, and how each changes the ECE."""
    kept, again = (
        {
            (name, key): one | {"ece_difference": one["ece"] - numbers[name, "none"]["ece"]}
            for (name, key), one in numbers.items()
            if name != VALIDATION
        }
        for numbers in (values, resampled)
    )
    chosen: Numbers = {}
    for place, temperature in temperatures.items():
        (kept if place in kept else chosen).setdefault(place, {})["temperature"] = temperature
    for numbers in (kept, again):
        add_means(numbers, list(dict.fromkeys(key for _, key in kept)), params)
    return table_with_intervals(chosen | kept, again, params.bootstrap.level)


def add_means(numbers: Numbers, calibrations: Sequence[str], params: EvaluationParams) -> None:
    """Add the unweighted means over the shifted sets."""
    for key in calibrations:
        numbers["ood", key] = mean_over_sets([numbers[name, key] for name in params.ood])


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


def summarise(metrics: pd.DataFrame) -> dict[str, float]:
    """The numbers of Table 1 of one row."""
    values = metrics.set_index(["dataset", "calibration", "metric"])["value"]
    return {column: round(float(values[place]), 6) for column, place in TABLE1_COLUMNS.items()}
