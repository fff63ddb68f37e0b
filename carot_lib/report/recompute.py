"""Numbers of the tables computed anew, one at a time, from saved predictions and nothing else."""

from dataclasses import dataclass, field

from carot_lib.calibration.bootstrap import mean_over_sets
from carot_lib.calibration.calibrators import Calibrator
from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.reported import fit_calibrator, measure
from carot_lib.evaluation import VALIDATION, EvaluationParams
from carot_lib.layout import Layout

ORACLE = "oracle"  # the one calibration that each set chooses for itself


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
    _measured: dict[tuple[str, int, str, str], dict[str, float]] = field(default_factory=dict)

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
        return self._metrics(run, seed, dataset, calibration)[metric]

    def calibrator(self, run: str, seed: int, dataset: str, calibration: str) -> Calibrator:
        """A calibration of a run, fitted on the validation set; `oracle`: on the set itself."""
        selected_on = dataset if calibration == ORACLE else VALIDATION
        key = (run, seed, selected_on, calibration)
        if key not in self._fitted:
            fitted_as = "temperature" if calibration == ORACLE else calibration
            predictions = self._load(run, seed, selected_on)
            self._fitted[key] = fit_calibrator(fitted_as, predictions, self.params)
        return self._fitted[key]

    def _metrics(self, run: str, seed: int, dataset: str, calibration: str) -> dict[str, float]:
        place = (run, seed, dataset, calibration)
        if place not in self._measured:
            predictions = self._load(run, seed, dataset)
            if calibration == "none":
                calibrated = predictions.calibrated()
            else:
                calibrated = self.calibrator(*place).apply(predictions)
            self._measured[place] = measure(calibrated, predictions, self.params)
        return self._measured[place]

    def _load(self, run: str, seed: int, dataset: str) -> Predictions:
        return Predictions.load(self.layout.predictions(run, seed, dataset))
