"""The pilot: its gates by hand, what it tries and when it stops, and faults of its file."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.files import StageError
from carot_lib.layout import Layout
from carot_lib.models.clip import Clip
from carot_lib.params import load_scale
from carot_lib.schema import read_params
from carot_lib.stages import pilot as pilot_module
from carot_lib.stages.pilot import (
    Gate,
    GateName,
    PilotParams,
    best_rate,
    change,
    gate_values,
    pilot,
    try_candidate,
)
from carot_lib.training.trial import Outcome, Trial

RATES = [0.001, 0.01, 0.1]
FILE = {
    "seeds": [4, 5],
    "learning_rate": RATES,
    "candidates": {
        "short": {"pretrained": {"steps": 3, "model": {"embed_dim": 8}}},
        "long": {"training": {"epochs": 7}, "runs": {"ft": {"label_smoothing": 0.1}}},
        "longer": {},
    },
    "gates": {
        "zs_id_accuracy": {"low": 0.5, "high": 0.7},
        "ft_id_gap": {"low": 0.0, "high": None},
        "ft_ood_change": {"low": None, "high": 0.0},
    },
}


def stats(accuracy: float, confidence: float) -> BinStats:
    """Of 100 predictions of the same confidence."""
    return BinStats.from_confidences(
        np.full(100, confidence), np.arange(100) < round(100 * accuracy)
    )


def outcome(
    id_val: float,
    id_test: tuple[float, float],
    v2: tuple[float, float],
    r: tuple[float, float],
    temperature: float = 1.0,
) -> Outcome:
    """Accuracy on `id_val`; accuracy and confidence on the others."""
    sets = {"id_val": stats(id_val, 0.5)}
    sets |= {"id_test": stats(*id_test), "v2": stats(*v2), "r": stats(*r)}
    return Outcome(sets, temperature, temperature + 0.1)


ZS = outcome(0.6, (0.6, 0.65), (0.5, 0.6), (0.4, 0.7))
FT = {
    0.001: outcome(0.5, (0.9, 0.9), (0.9, 0.9), (0.9, 0.9)),
    0.01: outcome(0.8, (0.75, 0.85), (0.55, 0.75), (0.3, 0.8), 1.3),
    0.1: outcome(0.7, (0.9, 0.9), (0.9, 0.9), (0.9, 0.9)),
}


def test_the_numbers_of_the_gates_by_hand():
    # the rate .01 has the best accuracy on id_val; what the others do on the test sets is ignored
    assert best_rate(FT) == 0.01
    numbers = gate_values(ZS, FT, ["v2", "r"])
    assert numbers == pytest.approx(
        {
            "zs_id_accuracy": 0.6,
            "zs_ood_accuracy": 0.45,  # (.5 + .4) / 2
            "zs_id_gap": 0.05,  # .65 - .6
            "zs_smallest_loss_of_a_shift": 0.1,  # .6 - .5
            "ft_rates_to_the_nearer_end": 1,
            "ft_id_gain": 0.15,  # .75 - .6
            "ft_ood_change": -0.025,  # (.55 + .3) / 2 - .45
            "ft_id_gap": 0.1,  # .85 - .75
            "ft_temperature": 1.3,
            "ft_temperature_nll": 1.4,
            "ft_ood_gap_beyond_id_gap": 0.25,  # (.2 + .5) / 2 - .1
        }
    )
    assert set(numbers) == set(get_args(GateName))


@pytest.mark.parametrize(("best", "places"), [(0, 0), (1, 1), (2, 2), (3, 1), (4, 0)])
def test_the_distance_of_the_best_rate_from_the_nearer_end_of_the_grid(best: int, places: int):
    sets = (0.5, 0.5), (0.5, 0.5), (0.5, 0.5)
    grid = {10.0**i: outcome(0.9 if i == best else 0.5, *sets) for i in range(5)}
    assert gate_values(ZS, grid, ["v2", "r"])["ft_rates_to_the_nearer_end"] == places


@pytest.mark.parametrize(
    ("low", "high", "passing", "failing", "words"),
    [
        (0.5, 0.7, [0.5, 0.6, 0.7], [0.499, 0.701, float("nan")], "from 0.5 to 0.7"),
        (0.0, None, [0.0, 99.0], [-0.001, float("nan")], "at least 0"),
        (None, 1.5, [1.5, -99.0], [1.501, float("nan")], "at most 1.5"),
    ],
)
def test_a_gate_is_a_range_with_its_ends(low, high, passing: list, failing: list, words: str):
    gate = Gate(low=low, high=high)
    assert all(gate.passes(value) for value in passing)
    assert not any(gate.passes(value) for value in failing)
    assert gate.words == words


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The miniature with two shifts, images in id_val, and the pilot's file."""
    changes = {"evaluation": {"ood": ["v2", "r"]}}
    layout = tiny.project(tmp_path, tiny.labelled_set("id_val"), **changes)
    write(layout, FILE)
    return layout


def write(layout: Layout, content: dict) -> None:
    (layout.root / "data" / "pilot.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Takes outcomes of ZS for each candidate and seed in place of trainings."""

    def stub(*zero_shot: dict[int, Outcome]) -> list:
        asked, left = [], iter(zero_shot)

        def stand_in(layout: Layout, scale: object, plan: PilotParams) -> dict:
            asked.append(scale)
            return {seed: (zs, FT) for seed, zs in next(left).items()}

        monkeypatch.setattr(pilot_module, "try_candidate", stand_in)
        return asked

    return stub


def zs(accuracy: float) -> Outcome:
    return outcome(0.6, (accuracy, 0.65), (0.5, 0.6), (0.4, 0.7))


def test_the_first_candidate_that_passes_with_every_seed_is_taken(
    layout: Layout, tried: Callable, capsys: pytest.CaptureFixture[str]
):
    tried({4: zs(0.6), 5: zs(0.4)}, {4: zs(0.5), 5: zs(0.7)}, {4: zs(0.5), 5: zs(0.6)})
    pilot(layout)
    out = capsys.readouterr().out
    assert out == "long is the first that passes every gate: write it into params.yaml\n"
    gates = pd.read_csv(layout.choices / "pilot" / "gates.csv")
    assert len(gates) == 3 * 2 * 3  # candidates, seeds and gates
    (failed,) = gates[~gates["passed"]].itertuples()
    assert (failed.candidate, failed.seed, failed.gate) == ("short", 5, "zs_id_accuracy")
    assert (failed.value, failed.low, failed.high) == (0.4, 0.5, 0.7)
    rates = pd.read_csv(layout.choices / "pilot" / "rates.csv")
    assert len(rates) == 3 * 2 * 4  # candidates, seeds, and ZS with three rates
    chosen = rates[rates["chosen"]]
    assert set(chosen["learning_rate"]) == {0.01}
    assert len(chosen) == 6
    assert set(chosen["id_test_accuracy"]) == {0.75}
    assert set(chosen["r_gap"]) == {0.5}
    # ZS has no rate; (.1 + .3) / 2
    assert set(rates[rates["learning_rate"].isna()]["ood_ece"]) == {0.2}


def test_if_none_passes_the_gates_of_the_nearest_one_are_said(layout: Layout, tried: Callable):
    # failures: two, one and one; of equal candidates the first is said
    tried({4: zs(0.4), 5: zs(0.4)}, {4: zs(0.6), 5: zs(0.75)}, {4: zs(0.3), 5: zs(0.6)})
    with pytest.raises(StageError) as caught:
        pilot(layout)
    assert str(caught.value).splitlines() == [
        "no candidate passes every gate; the nearest one, long, fails:",
        "seed 5: zs_id_accuracy is 0.7500, not from 0.5 to 0.7",
        f"all gates: {layout.choices / 'pilot' / 'gates.csv'}",
    ]


def test_a_candidate_tried_alone_replaces_its_rows_and_keeps_those_of_others(
    layout: Layout, tried: Callable
):
    tried({4: zs(0.6), 5: zs(0.4)}, {4: zs(0.5), 5: zs(0.7)}, {4: zs(0.5), 5: zs(0.6)})
    pilot(layout)
    path = layout.choices / "pilot" / "gates.csv"
    before = pd.read_csv(path)
    tried({4: zs(0.6), 5: zs(0.6)})
    pilot(layout, "short")
    after = pd.read_csv(path)
    assert list(after["candidate"]) == list(before["candidate"])  # in the order of the file
    others = before["candidate"] != "short"
    assert after[others].equals(before[others])
    assert after["passed"].all()
    with pytest.raises(ValueError, match=r"no candidate 'shrt'; there are: short, long"):
        pilot(layout, "shrt")


def test_every_gate_that_failed_is_said_with_its_range(layout: Layout, tried: Callable):
    one_sided = {"ft_id_gap": {"low": 0.2, "high": None}}
    one_sided |= {"ft_temperature": {"low": None, "high": 1.2}}
    write(layout, FILE | {"candidates": {"only": {}}, "gates": one_sided})
    tried({4: ZS})
    with pytest.raises(StageError) as caught:
        pilot(layout)
    assert str(caught.value).splitlines()[1:3] == [
        "seed 4: ft_id_gap is 0.1000, not at least 0.2",
        "seed 4: ft_temperature is 1.3000, not at most 1.2",
    ]


def test_a_candidate_differs_in_what_it_says_alone(layout: Layout):
    base = load_scale(layout)
    assert change(base, "longer", {}) == base
    short = change(base, "short", FILE["candidates"]["short"])
    expected = base.pretrained.model_copy(
        update={
            "steps": 3,
            "model": base.pretrained.model.model_copy(update={"embed_dim": 8}),
        }
    )
    assert short == base.model_copy(update={"pretrained": expected})


CANDIDATE = "candidates.x"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"gatez": {}}, "gatez: unknown key"),
        (
            {"gates": {}},
            "gates: Dictionary should have at least 1 item after validation, not 0",
        ),
        ({"gates": {"ft_id_gap": {"low": 0.0}}}, "gates.ft_id_gap.high: missing"),
        (
            {"gates": {"ft_id_gap": {"low": 0.0, "hi": 1.0, "high": 1.0}}},
            "gates.ft_id_gap.hi: unknown key",
        ),
        (
            {"gates": {"ft_id_gap": {"low": 2.0, "high": 1.0}}},
            "gates.ft_id_gap.low (2.0) is above high (1.0)",
        ),
        (
            {"gates": {"ft_id_gap": {"low": None, "high": None}}},
            "gates.ft_id_gap.low and high are both null",
        ),
        ({"learning_rate": [0.1, 0.01, 1.0]}, "learning_rate must rise: [0.1, 0.01, 1.0]"),
        ({"candidates": {"x": {"pretraind": {}}}}, f"{CANDIDATE}.pretraind: unknown key"),
        (
            {"candidates": {"x": {"pretrained": {"model": {"stps": 1}}}}},
            f"{CANDIDATE}.pretrained.model.stps: unknown key",
        ),
        (
            {"candidates": {"x": {"training": {"epochs": 0}}}},
            f"{CANDIDATE}.training.epochs: Input should be greater than 0, not 0",
        ),
        (
            {"candidates": {"x": {"training": {"epochs": {"a": 1}}}}},
            f"{CANDIDATE}.training.epochs: Input should be a valid integer",
        ),
        (
            {"candidates": {"x": {"runs": {"ft": {"label_smothing": 0.1}}}}},
            f"{CANDIDATE}.runs.ft.label_smothing: unknown key",
        ),
    ],
)
def test_a_fault_of_the_file_is_one_line_before_anything_is_trained(
    layout: Layout, tried: Callable, content: dict, line: str
):
    asked = tried()
    write(layout, FILE | content)
    with pytest.raises(ValueError, match=r"^pilot\.yaml") as caught:
        pilot(layout)
    assert str(caught.value) == f"pilot.yaml: {line}"
    assert asked == []


def test_an_unknown_gate_is_one_line_that_names_the_known_ones(layout: Layout):
    write(layout, FILE | {"gates": {"ft_gap": {"low": 0.0, "high": None}}})
    with pytest.raises(ValueError, match=r"^pilot\.yaml: gates\.ft_gap: Input") as caught:
        pilot(layout)
    assert "'ft_id_gap'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_sets_that_were_not_prepared_are_missed_before_anything_is_trained(
    layout: Layout, tried: Callable
):
    asked = tried()
    (layout.data / "id_val.npz").unlink()
    with pytest.raises(FileNotFoundError, match="run stage `data`"):
        pilot(layout)
    assert asked == []


def test_a_profile_that_trains_no_clip_is_refused(layout: Layout):
    message = "profile folders trains no CLIP: the pilot is the miniature's"
    with pytest.raises(ValueError, match=f"^{message}$"):
        pilot(Layout(layout.root, "folders"))


def test_a_candidate_is_zs_and_ft_at_every_rate_with_every_seed(
    layout: Layout, make_clip: Callable[[], Clip], monkeypatch: pytest.MonkeyPatch
):
    pretrained, trials = [], []

    def pretrain(params: object, *others: object) -> Clip:
        pretrained.append(params)
        return make_clip()

    def run_trials(asked: list[Trial], label: str) -> list[Outcome]:
        trials.extend(asked)
        assert all((trial.pretrained / "clip.json").exists() for trial in asked)
        return [Outcome({}, float(number), 1.0) for number in range(len(asked))]

    def trial_of(outcome: Outcome) -> Trial:
        return trials[int(outcome.temperature)]

    monkeypatch.setattr(pilot_module, "pretrain", pretrain)
    monkeypatch.setattr(pilot_module, "load_world", lambda *arguments: None)
    monkeypatch.setattr(pilot_module, "read_pictograms", lambda path: [])
    monkeypatch.setattr(pilot_module, "run_trials", run_trials)
    plan = read_params(layout.root / "data" / "pilot.yaml", PilotParams)
    scale = load_scale(layout)
    found = try_candidate(layout, scale, plan)
    assert pretrained == [scale.pretrained.model_copy(update={"seed": seed}) for seed in (4, 5)]
    assert len(trials) == 2 * 4
    for seed in (4, 5):
        zero_shot = trial_of(found[seed][0])
        fine_tuned = {rate: trial_of(outcome) for rate, outcome in found[seed][1].items()}
        assert (zero_shot.run, zero_shot.name) == (None, f"zs, seed {seed}")
        assert list(fine_tuned) == RATES
        for rate, trial in fine_tuned.items():
            assert trial.run == scale.run("ft").model_copy(update={"learning_rate": rate})
            assert trial.name == f"ft, learning_rate {rate:g}, seed {seed}"
        for trial in (zero_shot, *fine_tuned.values()):
            assert trial.seed == seed
            assert trial.pretrained == zero_shot.pretrained
            assert (trial.training, trial.data) == (scale.training, layout.data)
    models = {trial.pretrained for trial in trials}
    assert len(models) == 2  # one for each seed
    assert not any(model.exists() for model in models)  # they are not kept
