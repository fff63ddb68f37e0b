"""Choose the regime of the miniature by ZS and FT alone; run by hand, before any other row.

Reads data/pilot.yaml, which holds candidates and gates, and the prepared sets; writes
results/pilot/: gates.csv (every gate of every candidate tried, passed or not) and rates.csv (FT at
every learning rate). PROTOCOL.md says what each gate is for. The choice is then written into
params.yaml by hand: the pipeline never runs a pilot.
"""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, NonNegativeInt, PositiveFloat

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.files import StageError, write_text
from carot_lib.layout import VALIDATION, Layout
from carot_lib.models.clip import save_clip
from carot_lib.params import Params, ScaleParams, load_params
from carot_lib.schema import StrictParams, read_params
from carot_lib.sources.miniature import load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.training.pretraining import pretrain
from carot_lib.training.trial import Outcome, Trial, map_in_workers, run_trial


class Gate(StrictParams):
    """The range that a number must be in, ends included; None: no bound."""

    low: float | None
    high: float | None

    def passes(self, value: float) -> bool:
        """Whether the number is in the range."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high)


class PilotParams(StrictParams):
    """data/pilot.yaml."""

    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    learning_rate: Annotated[list[PositiveFloat], Field(min_length=3)]
    candidates: dict[str, dict[str, Any]]  # by name: what differs from the miniature's parameters
    gates: dict[str, Gate]  # by the name of the number, see `gate_values`


def pilot(layout: Layout) -> None:
    """Try the candidates in their order until one passes every gate with every seed.

    Raises:
        ValueError: data/pilot.yaml or a candidate of it is invalid.
        StageError: no candidate passes; the message says which gates failed, and by how much.
    """
    pilot = read_params(layout.root / "data" / "pilot.yaml", PilotParams)
    params = load_params(layout.params)
    scales = {name: change(params, keys) for name, keys in pilot.candidates.items()}
    folder, gates, rates = layout.root / "results" / "pilot", [], []
    for name, scale in scales.items():
        outcomes = try_candidate(layout, scale, pilot)
        for seed, (zero_shot, fine_tuned) in outcomes.items():
            numbers = gate_values(zero_shot, fine_tuned, scale.evaluation.ood)
            for gate, limits in pilot.gates.items():
                value = numbers[gate]
                row = (name, seed, gate, value, limits.low, limits.high, limits.passes(value))
                gates.append(row)
            rates += rate_rows(name, seed, zero_shot, fine_tuned, scale.evaluation.ood)
        columns = ["candidate", "seed", "gate", "value", "low", "high", "passed"]
        table = pd.DataFrame(gates, columns=columns)
        write_text(folder / "gates.csv", table.to_csv(index=False, float_format="%.4f"))
        per_rate = pd.DataFrame(rates)
        write_text(folder / "rates.csv", per_rate.to_csv(index=False, float_format="%.6g"))
        failed = table[(table["candidate"] == name) & ~table["passed"]]
        if failed.empty:
            print(f"{name} passes every gate: write what differs into params.yaml")
            return
        print(f"{name} fails:\n{failed.to_string(index=False)}")
    raise StageError(f"no candidate passes; see above and {folder / 'gates.csv'}")


def change(params: Params, keys: Mapping[str, Any]) -> ScaleParams:
    """The miniature's parameters with some of them replaced; ValueError names a wrong key."""

    def merge(tree: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        merged = {
            key: merge(tree.get(key, {}), value) if isinstance(value, Mapping) else value
            for key, value in new.items()
        }
        return tree | merged

    return ScaleParams.model_validate(merge(params.miniature.model_dump(), keys))


def try_candidate(
    layout: Layout, scale: ScaleParams, pilot: PilotParams
) -> dict[int, tuple[Outcome, dict[float, Outcome]]]:
    """ZS and FT at every learning rate, for each seed of pre-training and fine-tuning."""
    with tempfile.TemporaryDirectory() as folder:
        models = {seed: Path(folder) / str(seed) for seed in pilot.seeds}
        jobs = [(layout, scale, seed, path) for seed, path in models.items()]
        list(map_in_workers(_pretrain, jobs, "pre-training"))
        runs: list[tuple[int, float | None]] = list(
            product(pilot.seeds, [None, *pilot.learning_rate])
        )
        trials = []
        for seed, rate in runs:
            ft = scale.run("ft").model_copy(update={"learning_rate": rate})
            run = None if rate is None else ft
            parts = scale.training, scale.hardware, scale.evaluation
            trials.append(Trial(f"{rate}", run, seed, *parts, layout.data, models[seed]))
        found = dict(zip(runs, map_in_workers(run_trial, trials, "fine-tuning"), strict=True))
    return {
        seed: (found[seed, None], {rate: found[seed, rate] for rate in pilot.learning_rate})
        for seed in pilot.seeds
    }


def best_rate(fine_tuned: Mapping[float, Outcome]) -> float:
    """The learning rate with the best accuracy on the ID validation set."""
    return max(fine_tuned, key=lambda rate: fine_tuned[rate].stats[VALIDATION].mean_accuracy())


def gate_values(
    zero_shot: Outcome, fine_tuned: Mapping[float, Outcome], ood: Sequence[str]
) -> dict[str, float]:
    """Every number that a gate may bound, by name; FT is that of the best learning rate."""
    rates, best = list(fine_tuned), best_rate(fine_tuned)
    ft, ids = fine_tuned[best], ["id_test"]
    zs_id, ft_id = (one.mean(BinStats.mean_accuracy, ids) for one in (zero_shot, ft))
    zs_ood, ft_ood = (one.mean(BinStats.mean_accuracy, ood) for one in (zero_shot, ft))
    shifted = [zero_shot.mean(BinStats.mean_accuracy, [name]) for name in ood]
    id_gap, ood_gap = ft.mean(BinStats.signed_gap, ids), ft.mean(BinStats.signed_gap, ood)
    return {
        "zs_id_accuracy": zs_id,
        "zs_ood_accuracy": zs_ood,
        "zs_id_gap": zero_shot.mean(BinStats.signed_gap, ids),
        "zs_smallest_loss_of_a_shift": zs_id - max(shifted),
        "ft_rates_to_the_nearer_end": min(rates.index(best), len(rates) - 1 - rates.index(best)),
        "ft_id_gain": ft_id - zs_id,
        "ft_ood_change": ft_ood - zs_ood,
        "ft_id_gap": id_gap,
        "ft_temperature": ft.temperature,
        "ft_temperature_nll": ft.temperature_nll,
        "ft_ood_gap_beyond_id_gap": ood_gap - id_gap,
    }


def rate_rows(
    name: str,
    seed: int,
    zero_shot: Outcome,
    fine_tuned: Mapping[float, Outcome],
    ood: Sequence[str],
) -> list[dict[str, Any]]:
    """A row for ZS and for each learning rate: accuracy and signed gap on every set."""
    best = best_rate(fine_tuned)
    rows = []
    for rate, outcome in {None: zero_shot, **fine_tuned}.items():
        row = {"candidate": name, "seed": seed, "learning_rate": rate, "chosen": rate == best}
        for dataset, stats in outcome.stats.items():
            row |= {f"{dataset}_accuracy": stats.mean_accuracy()}
            row |= {f"{dataset}_gap": stats.signed_gap()}
        rows.append(row | {"ood_ece": outcome.mean(BinStats.ece, ood)})
    return rows


def _pretrain(job: tuple[Layout, ScaleParams, int, Path]) -> None:
    layout, scale, seed, folder = job
    params = scale.pretrained.model_copy(update={"seed": seed})
    world, pictograms = load_world(layout.root, scale.data), read_pictograms(layout.pictograms)
    save_clip(pretrain(params, scale.data, world, pictograms, lambda record: None), folder)
