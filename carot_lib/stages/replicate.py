"""Stage `replicate`: judge the paper's claims, one by one, in the world of this profile.

python -m carot_lib.stages.replicate --profile miniature

Reads predictions/<profile>/, evaluations/<profile>/ and data/paper/; writes
results/<profile>/replication.csv and differences.csv, each run against CaRot.
"""

import itertools

import numpy as np
import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.bootstrap import replicates
from carot_lib.calibration.predictions import Predictions, check_same_images
from carot_lib.command import read_command
from carot_lib.evaluation import EvaluationParams, load_evaluation, load_rows
from carot_lib.files import read_json, write_text
from carot_lib.layout import Layout
from carot_lib.report.claims import CLAIMS
from carot_lib.report.tables import TABLE2_RUNS
from carot_lib.report.verdicts import Value, differences, judge, resample_seeds
from carot_lib.schema import exit_on_bad_input


def replicate(layout: Layout) -> pd.DataFrame:
    """Judge every claim and write the report.

    Raises:
        ValueError: the runs were not all predicted on the same images of a set.
    """
    params, rows, seeds = load_evaluation(layout), load_rows(layout).rows, load_rows(layout).seeds
    sets_of = {"id_test": ["id_test"], "ood": params.ood}
    measured = {}
    for name in ["id_test", *params.ood]:
        fingerprints = {}
        for run, seed in itertools.product(rows, seeds):
            predictions = Predictions.load(layout.predictions(run, seed, name))
            fingerprints[f"{run}, seed {seed}"] = predictions.fingerprint
            check_same_images(name, fingerprints)
            chosen = read_json(layout.evaluation(run, seed) / "temperature.json")
            temperature = chosen["temperature"]
            measured[run, seed, name] = measure(predictions, temperature, params)

    def value(run: str, dataset: str, metric: str, calibration: str) -> float:
        numbers = [
            measured[run, seed, name][calibration][0][metric]
            for seed in seeds
            for name in sets_of[dataset]
        ]
        return float(np.mean(numbers))

    def resampled(run: str, dataset: str, metric: str, calibration: str) -> np.ndarray:
        of_seeds = [
            np.mean(
                [measured[run, seed, name][calibration][1][metric] for name in sets_of[dataset]],
                axis=0,
            )
            for seed in seeds
        ]
        return resample_seeds(np.array(of_seeds), params.bootstrap.seed)

    level = params.bootstrap.level
    others = [run for run in rows if run != "carot"]
    against = differences(others, "carot", value, resampled, level)
    write_text(layout.results / "differences.csv", against.to_csv(index=False, float_format="%.6f"))
    report = judge(CLAIMS, value, resampled, published(layout), level, len(seeds))
    write_text(layout.results / "replication.csv", report.to_csv(index=False, float_format="%.6f"))
    return report


def measure(
    predictions: Predictions, temperature: float, params: EvaluationParams
) -> dict[str, tuple[dict[str, float], dict[str, np.ndarray]]]:
    """Accuracy and ECE, and their replicates, without and with temperature scaling."""
    calibrated = {
        "none": predictions.calibrated(),
        "temperature": predictions.calibrated(temperature),
    }
    bootstrap, n_bins = params.bootstrap, params.n_bins
    again = replicates(predictions, calibrated, n_bins, bootstrap.resamples, bootstrap.seed)
    numbers = {}
    for name, one in calibrated.items():
        stats = BinStats.from_confidences(one.confidences, one.correct, n_bins)
        values = {"accuracy": stats.mean_accuracy(), "ece": stats.ece()}
        numbers[name] = values, again[name]
    return numbers


def published(layout: Layout) -> Value:
    """The paper's numbers, by run, set, metric and calibration."""
    table1 = pd.read_csv(layout.paper / "table1.csv").set_index("run")
    table2 = pd.read_csv(layout.paper / "table2.csv").set_index("ema_update")
    table = pd.concat([table1, table2.rename(index=TABLE2_RUNS).drop(index="carot")])

    def value(run: str, dataset: str, metric: str, calibration: str) -> float:
        column = f"{dataset.removesuffix('_test')}_{metric.replace('accuracy', 'acc')}"
        scaled = "_ts" if calibration == "temperature" and metric == "ece" else ""
        return float(table.loc[run, column + scaled])

    return value


if __name__ == "__main__":
    with exit_on_bad_input():
        replicate(read_command(__doc__).layout)
