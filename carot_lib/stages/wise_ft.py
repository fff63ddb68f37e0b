"""Stages `wise_ft` and `wise_ft_curve`: average the weights of ZS and of a fine-tuned row.

`wise_ft` reads models/<profile>/{zs,<run>}/seed<seed>/ and writes the row wise_<run>,
models/<profile>/wise_<run>/seed<seed>/. `wise_ft_curve` also reads data/prepared/<profile>/ and
writes results/<profile>/wise_ft_curves/<run>_seed<seed>.csv: accuracy, ECE and its noise floor at
every alpha on the ID test set, on each shifted set, and as mean over these (`ood`).
"""

import pandas as pd

from carot_lib.data.datasets import read_set
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import ImageClassifier, load_classifier, save_classifier
from carot_lib.models.wise_ft import evaluate_classifiers, interpolate
from carot_lib.params import load_scale


def wise_ft(layout: Layout, run: str, seed: int) -> None:
    """Interpolate at the alpha of params.yaml and write the classifier."""
    zero_shot, fine_tuned = _ends(layout, run, seed)
    mixed = interpolate(zero_shot, fine_tuned, load_scale(layout).wise_ft.alpha)
    save_classifier(mixed, layout.model(f"wise_{run}", seed))


def wise_ft_curve(layout: Layout, run: str, seed: int) -> pd.DataFrame:
    """Write and return the table: run, seed, alpha, dataset, accuracy, ece, ece_noise_floor."""
    scale = load_scale(layout)
    alphas, evaluation = scale.wise_ft.curve, scale.evaluation
    zero_shot, fine_tuned = _ends(layout, run, seed)
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


def _ends(layout: Layout, run: str, seed: int) -> tuple[ImageClassifier, ImageClassifier]:
    """The zero-shot and the fine-tuned classifier."""
    return load_classifier(layout.model("zs", seed)), load_classifier(layout.model(run, seed))
