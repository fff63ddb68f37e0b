"""Trainings that are evaluated at once and then forgotten: what choices are made by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.temperature import select_temperature, temperature_of_least_nll
from carot_lib.data.datasets import read_prompts, read_set
from carot_lib.evaluation import EvaluationParams
from carot_lib.layout import VALIDATION
from carot_lib.methods.base import RunParams
from carot_lib.models.clip import ImageClassifier, load_clip
from carot_lib.models.inference import predict_logits
from carot_lib.processes import map_in_processes
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.loop import fine_tune
from carot_lib.training.optimizer import TrainingParams


@dataclass(frozen=True)
class Trial:
    """One fine-tuning, or the pre-trained model as it is."""

    name: str  # in messages
    run: RunParams | None  # None: the zero-shot classifier
    seed: int
    training: TrainingParams
    hardware: HardwareParams
    evaluation: EvaluationParams
    data: Path  # folder of the prepared sets
    pretrained: Path  # folder of the pre-trained CLIP


@dataclass(frozen=True)
class Outcome:
    """Binned predictions on the ID validation and test set and on every shifted one.

    `temperature` and `temperature_nll` are chosen on the ID validation set, by ECE and by NLL.
    """

    stats: dict[str, BinStats]
    temperature: float
    temperature_nll: float

    def mean(self, statistic: Callable[[BinStats], float], sets: Sequence[str]) -> float:
        """Unweighted mean of a statistic over sets."""
        return float(np.mean([statistic(self.stats[name]) for name in sets]))


def run_trials(trials: Sequence[Trial], label: str) -> Iterator[Outcome]:
    """Run trials and yield their outcomes in order.

    On one CPU each they run side by side, in processes of their own; elsewhere one after another in
    this process, as every training takes all devices.
    """
    side_by_side = all(trial.hardware.accelerator == "cpu" for trial in trials) and all(
        trial.hardware.devices * trial.hardware.nodes == 1 for trial in trials
    )
    if not side_by_side:
        return map(run_trial, trials)
    return map_in_processes(run_trial, trials, label, "trainings", trains=True)


def run_trial(trial: Trial) -> Outcome:
    """Train, predict and evaluate.

    Raises:
        FloatingPointError: see `carot_lib.training.loop.fine_tune`; the message names the trial.
        MemoryError: likewise.
    """
    clip = load_clip(trial.pretrained)
    prompts = read_prompts(trial.data, clip.context_length)
    if trial.run is None:
        classifier = clip.zero_shot_classifier(prompts)
    else:
        try:
            classifier = fine_tune(
                trial.run,
                trial.training,
                trial.hardware,
                clip,
                prompts,
                read_set(trial.data, "train"),
                trial.seed,
                log=lambda record: None,
                label=trial.name,
            )
        except (FloatingPointError, MemoryError) as error:
            raise type(error)(f"{trial.name}: {error}") from error
    evaluation, device = trial.evaluation, trial.hardware.one_device()
    names, grid = (VALIDATION, "id_test", *evaluation.ood), evaluation.temperature
    predicted = {name: _predict(classifier, trial.data, name, device) for name in names}
    chosen = select_temperature(
        *predicted[VALIDATION], grid.low, grid.high, grid.step, evaluation.n_bins
    )
    by_nll = temperature_of_least_nll(*predicted[VALIDATION], grid.low, grid.high)
    stats = {name: BinStats.from_logits(*p, evaluation.n_bins) for name, p in predicted.items()}
    return Outcome(stats, chosen.temperature, by_nll)


def _predict(
    classifier: ImageClassifier, data: Path, name: str, device: torch.device
) -> tuple[Float[np.ndarray, "samples target_classes"], np.ndarray]:
    dataset = read_set(data, name)
    logits = predict_logits(classifier, dataset, device, show_progress=False).astype(float)
    return dataset.label_space.project(logits), dataset.labels
