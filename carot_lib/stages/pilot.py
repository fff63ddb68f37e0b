"""Choose the regime of the miniature by ZS and FT alone; run by hand, before any other row.

Reads data/pilot.yaml, which holds candidates and gates, and the prepared sets; writes to
data/choices/pilot/ gates.csv (every gate of every candidate tried, passed or not) and rates.csv (FT
at every learning rate). PROTOCOL.md says what each gate is for. The choice is then written into
params.yaml by hand: the pipeline never runs a pilot.
"""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import read_set
from carot_lib.files import StageError, write_text
from carot_lib.layout import VALIDATION, Layout
from carot_lib.models.clip import save_clip
from carot_lib.params import ScaleParams, load_scale
from carot_lib.schema import StrictParams, check_params, read_params
from carot_lib.sources.miniature import load_world
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.training.pretraining import PretrainingParams, pretrain
from carot_lib.training.trial import Outcome, Trial, run_trials

PILOT = Path("data", "pilot.yaml")
GateName = Literal[
    "zs_id_accuracy",
    "zs_ood_accuracy",
    "zs_id_gap",
    "zs_smallest_loss_of_a_shift",
    "ft_rates_to_the_nearer_end",
    "ft_id_gain",
    "ft_ood_change",
    "ft_id_gap",
    "ft_temperature",
    "ft_temperature_nll",
    "ft_ood_gap_beyond_id_gap",
]


class Gate(StrictParams):
    """The range that a number must be in, ends included; None: no bound."""

    low: float | None
    high: float | None

    @model_validator(mode="after")
    def _is_a_range(self) -> "Gate":
        if self.low is None and self.high is None:
            raise ValueError("low and high are both null")
        if None not in (self.low, self.high) and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self

    def passes(self, value: float) -> bool:
        """Whether the number is in the range."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high)

    @property
    def words(self) -> str:
        """The range, for messages."""
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        return f"at most {self.high:g}" if self.low is None else f"at least {self.low:g}"


class PilotParams(StrictParams):
    """data/pilot.yaml."""

    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    learning_rate: Annotated[list[PositiveFloat], Field(min_length=3)]  # rising
    # by name: what differs from the profile's parameters
    candidates: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    gates: Annotated[dict[GateName, Gate], Field(min_length=1)]  # see `gate_values`

    @model_validator(mode="after")
    def _rates_rise(self) -> "PilotParams":
        if sorted(set(self.learning_rate)) != self.learning_rate:
            raise ValueError(f"learning_rate must rise: {self.learning_rate}")
        return self


def pilot(layout: Layout, candidate: str | None = None) -> None:
    """Try all candidates, or one, and print the first that passes every gate with every seed.

    The rows of candidates that are not tried this time stay in the tables.

    Raises:
        ValueError: data/pilot.yaml or a candidate of it is invalid, or the profile trains no CLIP.
        FileNotFoundError: the sets were not prepared yet.
        StageError: no candidate passes; the message says which gates failed, and by how much.
    """
    pilot, base = read_params(layout.root / PILOT, PilotParams), load_scale(layout)
    if not isinstance(base.pretrained, PretrainingParams):
        raise ValueError(f"profile {layout.profile} trains no CLIP: the pilot is the miniature's")
    scales = {name: change(base, name, keys) for name, keys in pilot.candidates.items()}
    read_set(layout.data, VALIDATION)  # raises an error now rather than after the pre-training
    if candidate is not None and candidate not in scales:
        raise ValueError(f"{PILOT}: no candidate {candidate!r}; there are: {', '.join(scales)}")
    folder = layout.choices / "pilot"
    for name in scales if candidate is None else [candidate]:
        scale, gates, rates = scales[name], [], []
        for seed, (zero_shot, fine_tuned) in try_candidate(layout, scale, pilot).items():
            numbers = gate_values(zero_shot, fine_tuned, scale.evaluation.ood)
            gates += gate_rows(name, seed, numbers, pilot.gates)
            rates += rate_rows(name, seed, zero_shot, fine_tuned, scale.evaluation.ood)
        table = add_rows(folder / "gates.csv", gates, list(scales), "%.4f")
        add_rows(folder / "rates.csv", rates, list(scales), "%.6g")
    passed = table.groupby("candidate", sort=False)["passed"].all()
    if not passed.any():
        raise StageError(f"{nearest_miss(table, pilot.gates)}\nall gates: {folder / 'gates.csv'}")
    print(f"{passed.idxmax()} is the first that passes every gate: write it into params.yaml")


def add_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], candidates: Sequence[str], form: str
) -> pd.DataFrame:
    """Write and return a table with these rows of one candidate and those it had of others."""
    table = pd.DataFrame(rows)
    if path.exists():
        old = pd.read_csv(path)
        kept = old["candidate"].isin(candidates) & ~old["candidate"].isin(table["candidate"])
        table = pd.concat([old[kept], table])
    table = table.sort_values(
        "candidate", key=lambda names: names.map(list(candidates).index), kind="stable"
    )
    write_text(path, table.to_csv(index=False, float_format=form))
    return table


def change(base: ScaleParams, name: str, keys: Mapping[str, Any]) -> ScaleParams:
    """The parameters of a candidate: those of the profile with some of them replaced.

    Raises:
        ValueError: see `carot_lib.schema.read_params`.
    """

    def merge(old: Any, new: Any) -> Any:
        if not isinstance(old, dict) or not isinstance(new, dict):
            return new
        return old | {key: merge(old.get(key), value) for key, value in new.items()}

    tree = merge(base.model_dump(), keys)
    return check_params(tree, ScaleParams, PILOT.name, "candidates", name)


def try_candidate(
    layout: Layout, scale: ScaleParams, pilot: PilotParams
) -> dict[int, tuple[Outcome, dict[float, Outcome]]]:
    """ZS and FT at every learning rate, for each seed of pre-training and fine-tuning."""
    with tempfile.TemporaryDirectory() as folder:
        models = {seed: Path(folder) / str(seed) for seed in pilot.seeds}
        for seed, path in models.items():
            _pretrain(layout, scale, seed, path)
        runs: list[tuple[int, float | None]] = list(
            product(pilot.seeds, [None, *pilot.learning_rate])
        )
        trials = []
        for seed, rate in runs:
            ft = scale.run("ft").model_copy(update={"learning_rate": rate})
            name, run = ("zs", None) if rate is None else (f"ft, learning_rate {rate:g}", ft)
            parts = scale.training, scale.hardware, scale.evaluation
            path = models[seed]
            trials.append(Trial(f"{name}, seed {seed}", run, seed, *parts, layout.data, path))
        found = dict(zip(runs, run_trials(trials, "fine-tuning"), strict=True))
    return {
        seed: (found[seed, None], {rate: found[seed, rate] for rate in pilot.learning_rate})
        for seed in pilot.seeds
    }


def best_rate(fine_tuned: Mapping[float, Outcome]) -> float:
    """The learning rate with the best accuracy on the ID validation set."""
    return max(fine_tuned, key=lambda rate: fine_tuned[rate].stats[VALIDATION].mean_accuracy())


def gate_values(
    zero_shot: Outcome, fine_tuned: Mapping[float, Outcome], ood: Sequence[str]
) -> dict[GateName, float]:
    """Every number that a gate may bound; FT is that of the best learning rate."""
    rates, best = list(fine_tuned), best_rate(fine_tuned)
    place, ft, ids = rates.index(best), fine_tuned[best], ["id_test"]
    zs_id, ft_id = (one.mean(BinStats.mean_accuracy, ids) for one in (zero_shot, ft))
    zs_ood, ft_ood = (one.mean(BinStats.mean_accuracy, ood) for one in (zero_shot, ft))
    shifted = [zero_shot.mean(BinStats.mean_accuracy, [name]) for name in ood]
    id_gap, ood_gap = ft.mean(BinStats.signed_gap, ids), ft.mean(BinStats.signed_gap, ood)
    return {
        "zs_id_accuracy": zs_id,
        "zs_ood_accuracy": zs_ood,
        "zs_id_gap": zero_shot.mean(BinStats.signed_gap, ids),
        "zs_smallest_loss_of_a_shift": zs_id - max(shifted),
        "ft_rates_to_the_nearer_end": float(min(place, len(rates) - 1 - place)),
        "ft_id_gain": ft_id - zs_id,
        "ft_ood_change": ft_ood - zs_ood,
        "ft_id_gap": id_gap,
        "ft_temperature": ft.temperature,
        "ft_temperature_nll": ft.temperature_nll,
        "ft_ood_gap_beyond_id_gap": ood_gap - id_gap,
    }


def gate_rows(
    name: str, seed: int, numbers: Mapping[GateName, float], gates: Mapping[GateName, Gate]
) -> list[dict[str, Any]]:
    """A row for each gate: the number, its range, and whether it is in it."""
    return [
        {
            "candidate": name,
            "seed": seed,
            "gate": gate,
            "value": numbers[gate],
            **limits.model_dump(),
            "passed": limits.passes(numbers[gate]),
        }
        for gate, limits in gates.items()
    ]


def nearest_miss(table: pd.DataFrame, gates: Mapping[GateName, Gate]) -> str:
    """Which gates the candidate with the fewest failures fails, and by how much.

    `table` has the rows of `gate_rows`; of equal candidates the first one is taken.
    """
    failed = table[~table["passed"]]
    name = failed.groupby("candidate", sort=False).size().idxmin()
    rows = failed[failed["candidate"] == name].itertuples()
    lines = [f"no candidate passes every gate; the nearest one, {name}, fails:"]
    lines += [f"seed {r.seed}: {r.gate} is {r.value:.4f}, not {gates[r.gate].words}" for r in rows]
    return "\n".join(lines)


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


def _pretrain(layout: Layout, scale: ScaleParams, seed: int, folder: Path) -> None:
    torch.set_num_threads(scale.pretrained.threads)
    params = scale.pretrained.model_copy(update={"seed": seed})
    world, pictograms = load_world(layout.root, scale.data), read_pictograms(layout.pictograms)
    save_clip(pretrain(params, scale.data, world, pictograms, lambda record: None), folder)
