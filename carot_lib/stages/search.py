"""Choose learning rates and label smoothing on the ID validation set; run by hand, once.

FT, FLYP and CaRot have the same budget: every learning rate with every seed of `search`. The rate
with the best mean ID validation accuracy is chosen. At that rate the label smoothing of FT and FLYP
is the one with the lowest mean ID validation ECE. Reads what the trainings read; writes
data/choices/<profile>/learning_rate.csv and label_smoothing.csv, which also hold the numbers of the
test sets: they choose nothing. The choice is then written into params.yaml by hand: the
pipeline never searches.
"""

import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.distributed import rank
from carot_lib.files import write_text
from carot_lib.layout import VALIDATION, Layout
from carot_lib.methods.base import RunParams
from carot_lib.params import ScaleParams, load_scale
from carot_lib.training.trial import Outcome, Trial, run_trials


def search(layout: Layout) -> None:
    """Try every value with every seed; write and print the two tables."""
    scale = load_scale(layout)
    rates = try_values(layout, scale, ("ft", "flyp", "carot"), "learning_rate", {})
    best = rates.groupby(["run", "learning_rate"])["id_val_accuracy"].mean()
    chosen = {run: best[run].idxmax() for run in best.index.unique("run")}
    rates["chosen"] = rates["learning_rate"] == rates["run"].map(chosen)
    _write(layout, "learning_rate", rates)
    at = {f"{run}_ls": {"learning_rate": chosen[run]} for run in ("ft", "flyp")}
    smoothing = try_values(layout, scale, tuple(at), "label_smoothing", at)
    best = smoothing.groupby(["run", "label_smoothing"])["id_val_ece"].mean()
    chosen = {run: best[run].idxmin() for run in at}
    smoothing["chosen"] = smoothing["label_smoothing"] == smoothing["run"].map(chosen)
    _write(layout, "label_smoothing", smoothing)


def try_values(
    layout: Layout,
    scale: ScaleParams,
    rows: tuple[str, ...],
    key: str,
    changed: dict[str, dict[str, float]],
) -> pd.DataFrame:
    """One training per row, value of a key and seed.

    Args:
        layout: files of the profile.
        scale: its numbers.
        rows: rows of the tables.
        key: a number of these rows that `search` lists values of.
        changed: other numbers of the rows that differ from params.yaml.

    Returns:
        Columns run, seed, the key, and accuracy and ECE on the ID validation and test set and as
        mean over the shifted sets (`ood`).
    """
    plan = [
        (run, seed, value)
        for run in rows
        for value in getattr(scale.search, key)
        for seed in scale.search.seeds
    ]

    def trial(run: str, seed: int, value: float) -> Trial:
        method: RunParams = scale.run(run).model_copy(update={**changed.get(run, {}), key: value})
        parts = scale.training, scale.hardware, scale.evaluation
        name = f"{run}, {key} {value:g}, seed {seed}"
        return Trial(name, method, seed, *parts, layout.data, layout.pretrained)

    sets = {"id_val": [VALIDATION], "id_test": ["id_test"], "ood": scale.evaluation.ood}
    statistics = {"accuracy": BinStats.mean_accuracy, "ece": BinStats.ece}

    def numbers(outcome: Outcome) -> dict[str, float]:
        return {
            f"{name}_{metric}": outcome.mean(statistic, of)
            for name, of in sets.items()
            for metric, statistic in statistics.items()
        }

    outcomes = run_trials([trial(*one) for one in plan], key)
    return pd.DataFrame(
        {"run": run, "seed": seed, key: value, **numbers(outcome)}
        for (run, seed, value), outcome in zip(plan, outcomes, strict=True)
    )


def _write(layout: Layout, name: str, table: pd.DataFrame) -> None:
    if rank() == 0:
        path = layout.choices / layout.profile / f"{name}.csv"
        write_text(path, table.to_csv(index=False, float_format="%.6g"))
        print(table[table["chosen"]].to_string(index=False))
