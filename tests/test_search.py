"""The search on the ID validation set, with trainings whose numbers are given."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.layout import Layout
from carot_lib.stages import search as search_module
from carot_lib.stages.search import search
from carot_lib.training.trial import Outcome, Trial

RATES, SMOOTHING, SEEDS = [0.001, 0.01, 0.1], [0.05, 0.2], [7, 8]
# accuracy on id_val of each rate with each seed, in percent
ACCURACY = {
    # .01 has the best mean, 70; .001 the best single number
    "fine_tune": {0.001: (90, 30), 0.01: (70, 70), 0.1: (60, 50)},
    "flyp": {0.001: (80, 80), 0.01: (70, 70), 0.1: (60, 50)},
    "carot": {0.001: (10, 10), 0.01: (20, 10), 0.1: (20, 30)},
}


def stats(percent: int, confidence: float = 0.5) -> BinStats:
    return BinStats.from_confidences(np.full(100, confidence), np.arange(100) < percent)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    numbers = {"seeds": SEEDS, "learning_rate": RATES, "label_smoothing": SMOOTHING}
    return tiny.project(tmp_path, search=numbers)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that the search asked for; none is run."""
    asked: list[Trial] = []

    def outcome(trial: Trial) -> Outcome:
        run, seed = trial.run, SEEDS.index(trial.seed)
        smoothing = getattr(run, "label_smoothing", 0.0)
        id_val = stats(ACCURACY[run.kind][run.learning_rate][seed])
        if smoothing:  # of ten bins one has all: ECE |confidence - .5|
            gaps = {0.05: (0.0, 0.4), 0.2: (0.1, 0.1)}  # means .2 and .1
            id_val = stats(50, 0.5 + gaps[smoothing][seed])
        # the test sets like it the other way round, and choose nothing
        rest = dict.fromkeys(("id_test", *trial.evaluation.ood), stats(99 if seed else 1))
        return Outcome({"id_val": id_val, **rest}, 1.0, 1.0)

    def run_trials(trials: list[Trial], label: str) -> list[Outcome]:
        asked.extend(trials)
        return [outcome(trial) for trial in trials]

    monkeypatch.setattr(search_module, "run_trials", run_trials)
    return asked


def written(layout: Layout, name: str) -> pd.DataFrame:
    return pd.read_csv(layout.choices / layout.profile / f"{name}.csv")


def test_the_rate_has_the_best_mean_accuracy_over_the_seeds(layout: Layout, trials: list[Trial]):
    search(layout)
    table = written(layout, "learning_rate")
    assert len(table) == 3 * 3 * 2  # the same budget for every method
    assert set(table.groupby("run").size()) == {6}
    chosen = table[table["chosen"]].groupby("run")["learning_rate"].unique()
    assert chosen.map(list).to_dict() == {"ft": [0.01], "flyp": [0.001], "carot": [0.1]}
    first = table.iloc[0]
    assert (first["run"], first["seed"], first["learning_rate"]) == ("ft", 7, 0.001)
    assert (first["id_val_accuracy"], first["id_val_ece"]) == pytest.approx((0.9, 0.4))
    # five shifted sets of 1 %: their mean; confidence .5
    assert (first["ood_accuracy"], first["ood_ece"]) == pytest.approx((0.01, 0.49))
    assert first["id_test_accuracy"] == pytest.approx(0.01)


def test_the_smoothing_has_the_lowest_mean_ece_at_the_chosen_rate(
    layout: Layout, trials: list[Trial]
):
    search(layout)
    table = written(layout, "label_smoothing")
    assert table.groupby("run").size().to_dict() == {"ft_ls": 4, "flyp_ls": 4}
    chosen = table[table["chosen"]].groupby("run")["label_smoothing"].unique()
    assert chosen.map(list).to_dict() == {"ft_ls": [0.2], "flyp_ls": [0.2]}
    smoothed = [trial for trial in trials if getattr(trial.run, "label_smoothing", 0)]
    rates = {trial.run.kind: trial.run.learning_rate for trial in smoothed}
    assert rates == {"fine_tune": 0.01, "flyp": 0.001}


def test_a_trial_is_the_row_of_params_yaml_but_for_what_is_tried(
    layout: Layout, trials: list[Trial]
):
    search(layout)
    scale = search_module.load_scale(layout)
    for trial in trials[:18]:
        rate = trial.run.learning_rate
        row = {"fine_tune": "ft"}.get(trial.run.kind, trial.run.kind)
        assert trial.run == scale.run(row).model_copy(update={"learning_rate": rate})
        assert trial.name == f"{row}, learning_rate {rate:g}, seed {trial.seed}"
        assert (trial.training, trial.hardware) == (scale.training, scale.hardware)
        assert (trial.data, trial.pretrained) == (layout.data, layout.pretrained)


def test_the_choice_is_printed(
    layout: Layout, trials: list[Trial], capsys: pytest.CaptureFixture[str]
):
    search(layout)
    lines = capsys.readouterr().out.splitlines()
    # two headings; of three and two rows the chosen value with two seeds
    assert len(lines) == 2 + 3 * 2 + 2 * 2
    assert all(line.endswith("True") for line in lines if "chosen" not in line)


def test_a_training_that_cannot_start_ends_the_search(layout: Layout):
    tree = yaml.safe_load(layout.params.read_text())
    tree["miniature"]["hardware"]["accelerator"] = "auto"  # in this process
    layout.params.write_text(yaml.safe_dump(tree))
    with pytest.raises(FileNotFoundError, match=r"pretrained/clip\.json"):
        search(layout)
    assert not layout.results.exists()
