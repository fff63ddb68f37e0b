"""Trainings that are evaluated at once: their numbers, their errors, and where they run."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import NAMES, hardware, labelled_set, training

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import read_prompts, read_set, write_set
from carot_lib.files import write_json
from carot_lib.models.clip import Clip, ImageClassifier, save_clip
from carot_lib.models.inference import predict_logits
from carot_lib.params import load_params
from carot_lib.training import trial as trial_module
from carot_lib.training.loop import fine_tune
from carot_lib.training.trial import Outcome, Trial, run_trial, run_trials

SPACE = {"names": ["cat", "tea pot"], "columns": [[0], [2]]}
SETS = [labelled_set(name, seed=i) for i, name in enumerate(("train", "id_val", "id_test", "v2"))]
SETS.append(labelled_set("r", seed=9, space=SPACE))
EVALUATION = load_params(tiny.ROOT / "params.yaml").miniature.evaluation.model_copy(
    update={"n_bins": 5, "ood": ["v2", "r"]}
)


@pytest.fixture
def make_trial(tmp_path: Path, make_clip: Callable[[], Clip]) -> Callable[..., Trial]:
    """A trial of the tiny model on ten images a set."""
    for one in SETS:
        write_set(tmp_path / "data", one.name, one.labels, one.images)
    names = {"class_names": NAMES[:3], "label_spaces": {"r": SPACE}}
    write_json(tmp_path / "data" / "classes.json", names)
    save_clip(make_clip(), tmp_path / "pretrained")

    def make(kind: str | None, seed: int = 0, **changes: object) -> Trial:
        run = None if kind is None else tiny.run(kind)
        parts = training(), hardware(**changes), EVALUATION
        folders = tmp_path / "data", tmp_path / "pretrained"
        return Trial(f"{kind}, seed {seed}", run, seed, *parts, *folders)

    return make


def assert_is_of(outcome: Outcome, classifier: ImageClassifier, data: Path) -> None:
    """The outcome is what the stages `predict` and `evaluate` would find of the classifier."""
    assert list(outcome.stats) == ["id_val", "id_test", "v2", "r"]
    for name, stats in outcome.stats.items():
        one = read_set(data, name)
        logits = predict_logits(classifier, one, torch.device("cpu")).astype(float)
        if name == "r":
            logits = logits[:, [0, 2]]
        assert stats == BinStats.from_logits(logits, one.labels, 5)


def test_the_zero_shot_classifier_is_evaluated_as_it_is(make_trial, make_clip):
    trial = make_trial(None)
    prompts = read_prompts(trial.data, 32)
    outcome = run_trial(trial)
    assert_is_of(outcome, make_clip().zero_shot_classifier(prompts), trial.data)
    grid = EVALUATION.temperature
    for temperature in (outcome.temperature, outcome.temperature_nll):
        assert grid.low <= temperature <= grid.high


@pytest.mark.parametrize("kind", ["fine_tune", "flyp"])
def test_a_training_is_that_of_its_seed(make_trial, make_clip, kind: str):
    trial = make_trial(kind, 3)
    parts = make_clip(), read_prompts(trial.data, 32), SETS[0], 3, lambda record: None, "a run"
    classifier = fine_tune(trial.run, trial.training, trial.hardware, *parts)
    assert_is_of(run_trial(trial), classifier, trial.data)


def test_a_mean_over_sets_is_unweighted():
    stats = {
        "v2": BinStats.from_confidences(np.full(4, 0.9), np.arange(4) < 3),  # .75
        "r": BinStats.from_confidences(np.full(8, 0.9), np.arange(8) < 2),  # .25
    }
    outcome = Outcome(stats, 1.0, 1.0)
    assert outcome.mean(BinStats.mean_accuracy, ["v2", "r"]) == 0.5
    assert outcome.mean(BinStats.signed_gap, ["v2"]) == pytest.approx(0.15)


@pytest.mark.parametrize("error", [FloatingPointError, MemoryError])
def test_a_training_that_fails_is_named(make_trial, monkeypatch: pytest.MonkeyPatch, error):
    def fail(*arguments: object, **options: object) -> None:
        raise error("the loss is not finite at step 2")

    monkeypatch.setattr(trial_module, "fine_tune", fail)
    with pytest.raises(error, match=r"^flyp, seed 7: the loss is not finite at step 2$"):
        run_trial(make_trial("flyp", 7))


@pytest.mark.parametrize(
    ("where", "side_by_side"),
    [
        ({}, True),
        ({"accelerator": "auto"}, False),
        ({"accelerator": "cuda"}, False),
        ({"devices": 2}, False),
        ({"nodes": 2}, False),
    ],
)
def test_trials_run_side_by_side_on_one_cpu_each_and_else_in_this_process(
    make_trial, monkeypatch: pytest.MonkeyPatch, where: dict, side_by_side: bool
):
    seen = []

    def in_processes(
        function: Callable, items: list[Trial], label: str, unit: str, *, trains: bool
    ) -> Iterator[Outcome]:
        assert (unit, trains) == ("trainings", True)
        seen.append(label)
        return iter([function(one) for one in items])

    monkeypatch.setattr(trial_module, "map_in_processes", in_processes)
    monkeypatch.setattr(
        trial_module, "run_trial", lambda trial: Outcome({}, float(trial.seed), 1.0)
    )
    trials = [make_trial("flyp", seed, **where) for seed in (2, 1)]
    assert [one.temperature for one in run_trials(trials, "rates")] == [2, 1]
    assert seen == ["rates"] * side_by_side


def test_an_outcome_passes_between_processes(make_trial):
    outcome = run_trial(make_trial(None))
    again = pickle.loads(pickle.dumps(outcome))
    assert again.stats == outcome.stats
    assert again.temperature == outcome.temperature
    assert again.temperature_nll == outcome.temperature_nll
