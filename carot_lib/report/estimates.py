"""Estimates of statistics from saved evaluations (ours) and from published tables (the paper's)."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from carot_lib.evaluation import COLUMNS
from carot_lib.report.inference import Estimate, Estimator, Statistic, two_level
from carot_lib.report.tables import TABLE2_RUNS


def saved_estimator(
    saved: Mapping[tuple[str, int], Mapping[str, np.ndarray]], ood: Sequence[str]
) -> Estimator:
    """Estimates from the evaluations of every run with every training seed.

    A statistic is computed for each seed, and on each resample of the images; runs are paired by
    both. It is NaN where one of its runs is not among them.

    Args:
        saved: content of replicates.npz, by run and training seed.
        ood: names of the shifted sets; a number of the set `ood` is the mean over them.
    """
    seeds = list(dict.fromkeys(seed for _, seed in saved))
    runs = list(dict.fromkeys(run for run, _ in saved))

    def numbers(run: str, dataset: str, *key: str) -> np.ndarray:
        if run not in runs:
            return np.full_like(numbers(runs[0], dataset, *key), np.nan)
        names = ["|".join((name, *key)) for name in (ood if dataset == "ood" else [dataset])]
        for seed, name in product(seeds, names):
            if name not in saved[run, seed]:
                where = f"the evaluation of {run}, seed {seed}"
                raise ValueError(f"no {name} in {where}: run stage `evaluate` again")
        sets = [[saved[run, seed][name] for name in names] for seed in seeds]
        return np.mean(sets, axis=1)  # [seeds], or [seeds, resamples]

    return lambda statistic: two_level(
        statistic(lambda *key: numbers(*key, "value")), statistic(numbers)
    )


def published_estimator(folder: Path) -> Estimator:
    """Estimates from table1.csv, table2.csv and test_sets.csv, the published numbers of a folder.

    Published are single numbers of one training, so their standard errors are approximated: that
    of an accuracy p on n images is sqrt(p (1 - p) / n). That of an ECE is taken to be the same: the
    ECE of a model whose confidence is too high everywhere is the mean over images of confidence
    minus correctness, and the latter has most of the variance. For a mean over sets, p is the mean
    accuracy. Numbers are taken to be independent, which overstates the error of a difference, for
    runs share their test images. The randomness of training is not covered.

    A statistic is linearised at the published numbers. It is NaN where one is not published.
    """
    tables = [pd.read_csv(folder / f"{name}.csv", index_col=0) for name in ("table1", "table2")]
    table = pd.concat([tables[0], tables[1].rename(index=TABLE2_RUNS).drop(index="carot")])
    images = pd.read_csv(folder / "test_sets.csv", index_col="dataset")["images"]
    shifted = 1 / images.drop("id_test")
    per_image = {"id": 1 / images["id_test"], "ood": shifted.mean() / len(shifted)}

    numbers: dict[tuple[str, ...], float] = {}
    errors = []
    for column in table:
        dataset = column.split("_")[0]
        for run, value in table[column].items():
            accuracy = table.loc[run, f"{dataset}_acc"]
            numbers[(str(run), *COLUMNS[column])] = float(value)
            errors.append(np.sqrt(accuracy * (1 - accuracy) * per_image[dataset]))
    unknown = np.full(len(errors), np.nan)
    # row k moves number k alone, by its standard error
    up = {key: numbers[key] + step for key, step in zip(numbers, np.diag(errors), strict=True)}
    down = {key: 2 * numbers[key] - moved for key, moved in up.items()}

    def estimate(statistic: Statistic) -> Estimate:
        value = statistic(lambda *key: numbers.get(key, np.nan))
        ends = [statistic(lambda *key, one=one: one.get(key, unknown)) for one in (up, down)]
        return Estimate(float(value), float(np.linalg.norm((ends[0] - ends[1]) / 2)), np.inf)

    return estimate
