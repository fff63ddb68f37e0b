"""Stage `evaluate`: every metric of one run on every set, without and with temperature scaling.

python -m carot_lib.stages.evaluate --profile miniature --run carot --seed 0

Reads predictions/<profile>/<run>/seed<seed>/ and evaluations/<profile>/<run>/seed<seed>/
temperature.json; writes metrics.csv beside the latter: one row a metric, with its interval. The
rows `ood` are means over the shifted sets. summary.json holds the numbers of Table 1 for
`dvc metrics show`.
"""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from carot_lib.bin_stats import BinStats
from carot_lib.bootstrap import percentile_interval, replicates
from carot_lib.command import read_command
from carot_lib.evaluation import EvaluationParams, load_evaluation
from carot_lib.files import write_json, write_text
from carot_lib.layout import Layout
from carot_lib.metrics import aurc, brier, ece_batch_mean, nll
from carot_lib.predictions import Predictions
from carot_lib.schema import exit_on_bad_input
from carot_lib.tables import COLUMNS


def evaluate(layout: Layout, run: str, seed: int) -> pd.DataFrame:
    """Write and return the metrics of one run: dataset, calibration, metric, value, low, high."""
    params = load_evaluation(layout)
    chosen = json.loads((layout.evaluation(run, seed) / "temperature.json").read_text())
    rows = [("id_val", "temperature", "temperature", chosen["temperature"], np.nan, np.nan)]
    for calibration, temperature in (("none", 1.0), ("temperature", chosen["temperature"])):
        values, resampled = {}, {}
        for name in params.datasets:
            predictions = Predictions.load(layout.predictions(run, seed, name))
            values[name] = measure(predictions, temperature, params)
            resampled[name] = replicates(
                predictions,
                temperature,
                params.n_bins,
                params.bootstrap.resamples,
                params.bootstrap.seed,
            )
        values["ood"] = _mean([values[name] for name in params.ood])
        resampled["ood"] = _mean([resampled[name] for name in params.ood])
        for name, metrics in values.items():
            for metric, value in metrics.items():
                low, high = np.nan, np.nan
                if metric in resampled[name]:
                    low, high = percentile_interval(resampled[name][metric], params.bootstrap.level)
                rows.append((name, calibration, metric, value, low, high))
    table = pd.DataFrame(rows, columns=["dataset", "calibration", "metric", "value", "low", "high"])
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    write_text(
        layout.evaluation(run, seed) / "metrics.csv", table.to_csv(index=False, float_format="%.6f")
    )
    write_json(layout.evaluation(run, seed) / "summary.json", summarise(table))
    return table


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """The numbers of Table 1 of one run."""
    values = table.set_index(["dataset", "calibration", "metric"])["value"]
    return {column: round(float(values[place[:3]]), 6) for column, place in COLUMNS.items()}


def measure(
    predictions: Predictions, temperature: float, params: EvaluationParams
) -> dict[str, float]:
    """Every metric of one run on one set."""
    logits = predictions.logits / np.float32(temperature)
    labels = predictions.labels
    stats = BinStats.from_logits(logits, labels, params.n_bins)
    return {
        "accuracy": stats.mean_accuracy(),
        "ece": stats.ece(),
        "ece_debiased": stats.ece_debiased(),
        "ece_batch_mean": ece_batch_mean(
            logits, labels, batch_size=params.batch_mean_size, n_bins=params.n_bins
        ),
        "ece_noise_floor": stats.noise_floor(),
        "ece_p_value": stats.test(params.bootstrap.seed),
        "mce": stats.mce(),
        "signed_gap": stats.signed_gap(),
        "mean_confidence": stats.mean_confidence(),
        "nll": nll(logits, labels),
        "brier": brier(logits, labels),
        "aurc": aurc(logits, labels),
    }


def _mean(
    sets: list[Mapping[str, float | Float[np.ndarray, " resamples"]]],
) -> dict[str, float | Float[np.ndarray, " resamples"]]:
    """Unweighted mean over sets of each metric that has a mean: a p-value has none."""
    return {
        key: sum(one[key] for one in sets) / len(sets) for key in sets[0] if key != "ece_p_value"
    }


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        evaluate(arguments.layout, arguments.run, arguments.seed)
