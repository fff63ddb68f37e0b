"""What the notebooks read: results and predictions of one profile."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.predictions import Predictions
from carot_lib.evaluation import EvaluationParams, RowParams, load_evaluation, load_rows
from carot_lib.files import read_json, reading
from carot_lib.layout import Layout, find_root
from carot_lib.report.names import RUN_NAMES, dataset_names


@dataclass(frozen=True)
class Report:
    """The results of a profile; made by `open_report`.

    Attributes:
        layout: files of the profile.
        evaluation: how predictions are evaluated.
        rows: rows of the tables, and seeds.
        metrics: the long table: run, seed, dataset, calibration, metric, value, low, high.
    """

    layout: Layout
    evaluation: EvaluationParams
    rows: RowParams
    metrics: pd.DataFrame

    @property
    def seed(self) -> int:
        """The first seed: the one whose predictions are drawn."""
        return self.rows.seeds[0]

    @property
    def names(self) -> dict[str, str]:
        """Names of the sets, and of `ood`, the mean over the shifted ones."""
        return dataset_names(self.evaluation.ood, self.evaluation.extra)

    def those_run(self, runs: Iterable[str]) -> list[str]:
        """Those of some runs that params.yaml lists among its rows, in the order given."""
        return [run for run in runs if run in self.rows.rows]

    def not_run(self, runs: Iterable[str]) -> str:
        """A line that names the others; empty if there are none."""
        names = [RUN_NAMES[run] for run in runs if run not in self.rows.rows]
        return f"Not among the rows of params.yaml: {', '.join(names)}." if names else ""

    def table(self, name: str) -> pd.DataFrame:
        """A table of results/<profile>/tables, for example `table1`."""
        return read_table(self.layout.tables / f"{name}.csv")

    def temperature(self, run: str, seed: int | None = None) -> float:
        """The temperature chosen for a run, of the first seed unless another is given."""
        return self._chosen(run, self.seed if seed is None else seed)["temperature"]

    def temperatures(self, runs: Sequence[str]) -> pd.DataFrame:
        """Temperatures of least ECE and NLL on ID validation: columns run, seed, ece, nll."""
        rows = []
        for run, seed in product(runs, self.rows.seeds):
            chosen = self._chosen(run, seed)
            rows.append((run, seed, chosen["temperature"], chosen["temperature_nll"]))
        return pd.DataFrame(rows, columns=["run", "seed", "ece", "nll"])

    def temperature_curves(self, runs: Sequence[str]) -> pd.DataFrame:
        """ECE on the ID validation set: columns run, seed, temperature, ece."""
        keys = product(runs, self.rows.seeds)
        paths = {key: self.layout.evaluation(*key) / "temperature_curve.csv" for key in keys}
        return _stack(paths)

    def histories(self, runs: Sequence[str]) -> pd.DataFrame:
        """Loss terms of trainings: columns run, seed, step, learning_rate and one for each term."""
        keys = product(runs, self.rows.seeds)
        return _stack({key: self.layout.model(*key) / "history.csv" for key in keys})

    def stats(self, run: str, dataset: str, calibration: str = "none") -> BinStats:
        """Binned predictions of a run on a set, without or with its temperature."""
        predictions = Predictions.load(self.layout.predictions(run, self.seed, dataset))
        temperature = self.temperature(run) if calibration == "temperature" else 1.0
        confidences, correct = predictions.confidences(temperature)
        return BinStats.from_confidences(confidences, correct, self.evaluation.n_bins)

    def select(self, metric: str, calibration: str) -> pd.DataFrame:
        """Value and interval of one metric, by run, dataset and seed."""
        table = self.metrics
        chosen = (table["metric"] == metric) & (table["calibration"] == calibration)
        return table[chosen].set_index(["run", "dataset", "seed"])[["value", "low", "high"]]

    def grid(
        self, runs: Sequence[str], datasets: Sequence[str], calibration: str = "none"
    ) -> tuple[dict[str, dict[str, BinStats]], dict[str, dict[str, tuple[float, float]]], float]:
        """Arguments of `reliability_grid`: statistics, intervals of the ECEs and their level.

        They are of the first seed: a diagram shows one model.
        """
        stats, intervals = {}, {}
        ece = self.select("ece", calibration).xs(self.seed, level="seed")[["low", "high"]]
        for dataset in datasets:
            name = self.names[dataset]
            stats[name] = {RUN_NAMES[r]: self.stats(r, dataset, calibration) for r in runs}
            intervals[name] = {RUN_NAMES[r]: tuple(ece.loc[(r, dataset)]) for r in runs}
        return stats, intervals, self.evaluation.bootstrap.level

    def plane(self, runs: Sequence[str], dataset: str) -> pd.DataFrame:
        """What `accuracy_ece_plane` draws: accuracy and ECE with intervals, by run and seed."""
        metrics = {"acc": "accuracy", "ece": "ece"}
        parts = {name: self.select(key, "none") for name, key in metrics.items()}
        return pd.concat(parts, axis=1).xs(dataset, level="dataset").loc[list(runs)]

    def profile_of_shifts(
        self, runs: Sequence[str], datasets: Sequence[str], metric: str
    ) -> pd.DataFrame:
        """What `shift_profiles` draws: run, dataset (by name), seed, value, low, high."""
        keys = product(runs, datasets, self.rows.seeds)
        table = self.select(metric, "none").loc[list(keys)].reset_index()
        return table.assign(dataset=table["dataset"].map(self.names))

    def _chosen(self, run: str, seed: int) -> dict[str, Any]:
        return read_json(self.layout.evaluation(run, seed) / "temperature.json")


def open_report(profile: str) -> Report:
    """The results of a profile, from any working directory.

    Raises:
        FileNotFoundError: the pipeline has not made them yet; the message says what to run.
    """
    layout = Layout(find_root(), profile)
    metrics = read_table(layout.tables / "metrics.csv")
    return Report(layout, load_evaluation(layout), load_rows(layout), metrics)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file of the pipeline.

    Raises:
        FileNotFoundError: the file is missing; the message says what to run.
        ValueError: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make repro` first")
    with reading(path):
        return pd.read_csv(path)


def _stack(paths: Mapping[tuple[str, int], Path]) -> pd.DataFrame:
    """Tables of several runs and seeds in one, with columns run and seed in front."""
    tables = {key: read_table(path) for key, path in paths.items()}
    stacked = pd.concat(tables, names=["run", "seed", None])
    return stacked.reset_index(["run", "seed"]).reset_index(drop=True)
