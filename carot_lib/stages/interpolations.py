"""Stage `interpolations`: WiSE-FT of a run along alpha, from the zero-shot model to the run.

python -m carot_lib.stages.interpolations --profile miniature --run ft --seed 0

Reads data/prepared/<profile>/ and models/<profile>/{zs,<run>}/seed<seed>/; writes
results/<profile>/interpolations/<run>_seed<seed>.csv: accuracy, ECE and its noise floor at every
alpha on the ID test set, on each shifted set, and as mean over these (`ood`).
"""

import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.command import read_command
from carot_lib.data.datasets import read_set
from carot_lib.evaluation import load_evaluation
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import load_classifier
from carot_lib.models.wise_ft import MixParams, interpolate_all, judge
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.training.hardware import HardwareParams


def interpolations(layout: Layout, run: str, seed: int) -> pd.DataFrame:
    """Write and return the table: run, seed, alpha, dataset, accuracy, ece, ece_noise_floor."""
    alphas = read_params(layout.params, MixParams, layout.profile, "interpolations").alphas
    device = read_params(layout.params, HardwareParams, layout.profile, "hardware").one_device()
    evaluation = load_evaluation(layout)
    zero_shot, fine_tuned = (load_classifier(layout.model(name, seed)) for name in ("zs", run))
    classifiers = interpolate_all(zero_shot, fine_tuned, alphas)
    sets = ["id_test", *evaluation.ood]
    rows = []
    for name in sets:
        dataset = read_set(layout.data, name)
        judged = judge(classifiers, dataset, evaluation.n_bins, device)
        rows += [measure(one, alpha, name) for alpha, one in zip(alphas, judged, strict=True)]
    table = pd.DataFrame(rows)
    of_shifts = table[table["dataset"].isin(evaluation.ood)]
    mean = of_shifts.drop(columns="dataset").groupby("alpha").mean().reset_index()
    table = pd.concat([table, mean.assign(dataset="ood")])
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    path = layout.results / "interpolations" / f"{run}_seed{seed}.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6g"))
    return table


def measure(stats: BinStats, alpha: float, dataset: str) -> dict[str, float | str]:
    """One row of the table."""
    return {
        "alpha": alpha,
        "dataset": dataset,
        "accuracy": stats.mean_accuracy(),
        "ece": stats.ece(),
        "ece_noise_floor": stats.noise_floor(),
    }


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        interpolations(arguments.layout, arguments.run, arguments.seed)
