"""Numbers of the tables computed anew, one at a time, from saved predictions and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.bootstrap import mean_over_sets
from carot_lib.calibration.calibrators import (
    Calibrator,
    HistogramBinning,
    Isotonic,
    Temperature,
    VectorScaling,
)
from carot_lib.calibration.metrics import aurc, brier, ece_batch_mean, nll
from carot_lib.calibration.predictions import Calibrated, Predictions
from carot_lib.evaluation import VALIDATION, EvaluationParams
from carot_lib.layout import Layout

ORACLE = "oracle"  # the one calibration that each set chooses for itself

OF_BINS: dict[str, Callable[[BinStats], float]] = {
    "accuracy": BinStats.mean_accuracy,
    "ece": BinStats.ece,
    "ece_debiased": BinStats.ece_debiased,
    "ece_noise_floor": BinStats.noise_floor,
    "mce": BinStats.mce,
    "signed_gap": BinStats.signed_gap,
    "mean_confidence": BinStats.mean_confidence,
}
OF_LOGITS: dict[str, Callable] = {"nll": nll, "brier": brier, "aurc": aurc}


@dataclass(frozen=True)
class Recomputation:
    """The numbers of a profile's predictions.

    Attributes:
        layout: where the predictions lie.
        params: how they were judged.
    """

    layout: Layout
    params: EvaluationParams
    _fitted: dict[tuple[str, int, str, str], Calibrator] = field(default_factory=dict)
    _known: dict[tuple[str, int, str, str, str], float] = field(default_factory=dict)

    def value(self, run: str, seed: int, dataset: str, calibration: str, metric: str) -> float:
        """One number of results/<profile>/metrics.csv or posthoc.csv, not rounded.

        Args:
            run: a row of the tables.
            seed: of its training.
            dataset: a set, or `ood` for the mean over the shifted ones.
            calibration: `none`, or as in posthoc.csv.
            metric: as there.

        Raises:
            FileNotFoundError: predictions are missing; the message names the stage to run.
        """
        place = (run, seed, dataset, calibration, metric)
        if place not in self._known:
            self._known[place] = self._value(*place)
        return self._known[place]

    def calibrator(self, run: str, seed: int, dataset: str, calibration: str) -> Calibrator:
        """A calibration of a run, fitted on the validation set; `oracle`: on the set itself."""
        selected_on = dataset if calibration == ORACLE else VALIDATION
        key = (run, seed, selected_on, calibration)
        if key not in self._fitted:
            self._fitted[key] = self._fit(calibration, self._load(run, seed, selected_on))
        return self._fitted[key]

    def _value(self, run: str, seed: int, dataset: str, calibration: str, metric: str) -> float:
        if dataset == "ood":
            of_sets = [
                {metric: self.value(run, seed, name, calibration, metric)}
                for name in self.params.ood
            ]
            return mean_over_sets(of_sets)[metric]
        if metric == "temperature":
            return self.calibrator(run, seed, dataset, calibration).temperature
        if metric == "ece_difference":
            before, after = (
                self.value(run, seed, dataset, c, "ece") for c in ("none", calibration)
            )
            return after - before
        predictions = self._load(run, seed, dataset)
        if calibration == "none":
            calibrated = predictions.calibrated()
        else:
            calibrated = self.calibrator(run, seed, dataset, calibration).apply(predictions)
        return self._measure(metric, calibrated, predictions)

    def _load(self, run: str, seed: int, dataset: str) -> Predictions:
        return Predictions.load(self.layout.predictions(run, seed, dataset))

    def _fit(self, calibration: str, predictions: Predictions) -> Calibrator:
        n_bins = self.params.n_bins
        if calibration == "vector":
            return VectorScaling.fit(predictions)
        if calibration == "histogram":
            return HistogramBinning.fit(predictions, n_bins)
        if calibration == "isotonic":
            return Isotonic.fit(predictions)
        criterion = "nll" if calibration == "temperature_nll" else "ece"
        grid = self.params.temperature
        return Temperature.fit(predictions, criterion, grid.low, grid.high, grid.step, n_bins)

    def _measure(self, metric: str, calibrated: Calibrated, predictions: Predictions) -> float:
        if metric in OF_LOGITS:
            return OF_LOGITS[metric](calibrated.logits, predictions.labels)
        if metric == "ece_batch_mean":
            size, n_bins = self.params.batch_mean_size, self.params.n_bins
            labels = predictions.labels
            return ece_batch_mean(calibrated.logits, labels, batch_size=size, n_bins=n_bins)
        confidences, correct = calibrated.confidences, calibrated.correct
        stats = BinStats.from_confidences(confidences, correct, self.params.n_bins)
        if metric == "ece_p_value":
            return stats.test(self.params.bootstrap.seed)
        return OF_BINS[metric](stats)
