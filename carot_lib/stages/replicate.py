"""Stage `replicate`: judge the paper's claims, one by one, in the world of this profile.

python -m carot_lib.stages.replicate --profile miniature

Reads predictions/<profile>/, evaluations/<profile>/ and data/paper/; writes
results/<profile>/replication.csv and differences.csv, each run against CaRot.
"""

import json
from functools import cache

import numpy as np
import pandas as pd

from carot_lib.bin_stats import BinStats
from carot_lib.bootstrap import replicates
from carot_lib.claims import CLAIMS
from carot_lib.command import read_command
from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.predictions import Predictions
from carot_lib.schema import exit_on_bad_input
from carot_lib.tables import TABLE2_RUNS
from carot_lib.verdicts import Value, differences, judge, resample_seeds


def replicate(layout: Layout) -> pd.DataFrame:
    """Judge every claim and write the report."""
    params, seeds = load_evaluation(layout), load_rows(layout).seeds
    bootstrap = params.bootstrap
    sets_of = {"id_test": ["id_test"], "ood": params.ood}

    @cache
    def measured(
        run: str, seed: int, name: str, calibration: str
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        predictions = Predictions.load(layout.predictions(run, seed, name))
        temperature = 1.0
        if calibration == "temperature":
            chosen = (layout.evaluation(run, seed) / "temperature.json").read_text()
            temperature = json.loads(chosen)["temperature"]
        stats = BinStats.from_confidences(*predictions.confidences(temperature), params.n_bins)
        resampled = replicates(
            predictions, temperature, params.n_bins, bootstrap.resamples, bootstrap.seed
        )
        return {"accuracy": stats.mean_accuracy(), "ece": stats.ece()}, resampled

    def value(run: str, dataset: str, metric: str, calibration: str) -> float:
        return float(
            np.mean(
                [
                    measured(run, seed, name, calibration)[0][metric]
                    for seed in seeds
                    for name in sets_of[dataset]
                ]
            )
        )

    def resampled(run: str, dataset: str, metric: str, calibration: str) -> np.ndarray:
        of_seeds = [
            np.mean(
                [measured(run, seed, name, calibration)[1][metric] for name in sets_of[dataset]],
                axis=0,
            )
            for seed in seeds
        ]
        return resample_seeds(np.array(of_seeds), bootstrap.seed)

    rows = load_rows(layout).rows
    against = differences(
        [run for run in rows if run != "carot"], "carot", value, resampled, bootstrap.level
    )
    write_text(layout.results / "differences.csv", against.to_csv(index=False, float_format="%.6f"))
    report = judge(CLAIMS, value, resampled, published(layout), bootstrap.level, len(seeds))
    write_text(layout.results / "replication.csv", report.to_csv(index=False, float_format="%.6f"))
    return report


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
