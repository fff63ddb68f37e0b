"""Stage `wise_ft_curve`: evaluate WiSE-FT of one row along alpha.

Reads data/prepared/<profile>/ and models/<profile>/{zs,<run>}/seed<seed>/; writes
results/<profile>/wise_ft_curves/<run>_seed<seed>.csv: accuracy, ECE and its noise floor at every
alpha on the ID test set, on each shifted set, and as mean over these (`ood`).
"""

import pandas as pd

from carot_lib.data.datasets import read_set
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import interpolate, load_classifier
from carot_lib.models.wise_ft import evaluate_classifiers
from carot_lib.params import load_scale


def wise_ft_curve(layout: Layout, run: str, seed: int) -> pd.DataFrame:
    """Write and return the table: run, seed, alpha, dataset, accuracy, ece, ece_noise_floor."""
    scale = load_scale(layout)
    alphas, evaluation = scale.wise_ft.curve, scale.evaluation
    zero_shot, fine_tuned = (load_classifier(layout.model(name, seed)) for name in ("zs", run))
    classifiers = [interpolate(zero_shot, fine_tuned, alpha) for alpha in alphas]
    rows = []
    for name in ("id_test", *evaluation.ood):
        dataset, device = read_set(layout.data, name), scale.hardware.one_device()
        stats = evaluate_classifiers(classifiers, dataset, evaluation.n_bins, device)
        rows += [
            {
                "alpha": alpha,
                "dataset": name,
                "accuracy": one.mean_accuracy(),
                "ece": one.ece(),
                "ece_noise_floor": one.noise_floor(),
            }
            for alpha, one in zip(alphas, stats, strict=True)
        ]
    table = pd.DataFrame(rows)
    shifted = table[table["dataset"].isin(evaluation.ood)].drop(columns="dataset")
    mean = shifted.groupby("alpha").mean().reset_index().assign(dataset="ood")
    table = pd.concat([table, mean])
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    write_text(layout.wise_ft_curve(run, seed), table.to_csv(index=False, float_format="%.6g"))
    return table
