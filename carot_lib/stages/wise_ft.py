"""Stage `wise_ft`: average the weights of ZS and of a fine-tuned row, and evaluate along alpha.

Reads data/prepared/<profile>/ and models/<profile>/{zs,<run>}/seed<seed>/; writes the classifier at
the alpha of params.yaml to models/<profile>/wise_<run>/seed<seed>/, and to
results/<profile>/wise_ft_curves/<run>_seed<seed>.csv accuracy, ECE and its noise floor at every
alpha of the curve on the ID test set, on each shifted set, and as mean over these (`ood`).
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import LabelledSet, read_set
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import ImageClassifier, interpolate, load_classifier, save_classifier
from carot_lib.models.inference import predict_batches
from carot_lib.params import ScaleParams, load_scale


def wise_ft(layout: Layout, run: str, seed: int) -> None:
    """Write the averaged classifier of one row and the table of its curve."""
    scale = load_scale(layout)
    zero_shot, fine_tuned = (load_classifier(layout.model(name, seed)) for name in ("zs", run))
    averaged = interpolate(zero_shot, fine_tuned, scale.wise_ft.alpha)
    save_classifier(averaged, layout.model(f"wise_{run}", seed))
    sets = (read_set(layout.data, name) for name in ("id_test", *scale.evaluation.ood))
    table = curve(zero_shot, fine_tuned, sets, scale)
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    write_text(layout.wise_ft_curve(run, seed), table.to_csv(index=False, float_format="%.6g"))


def curve(
    zero_shot: ImageClassifier,
    fine_tuned: ImageClassifier,
    sets: Iterable[LabelledSet],
    scale: ScaleParams,
) -> pd.DataFrame:
    """Evaluate at every alpha on every set: alpha, dataset, accuracy, ece, ece_noise_floor."""
    alphas, rows = scale.wise_ft.curve, []
    classifiers = [interpolate(zero_shot, fine_tuned, alpha) for alpha in alphas]
    for dataset in sets:
        stats = evaluate_classifiers(
            classifiers, dataset, scale.evaluation.n_bins, scale.hardware.one_device()
        )
        rows += [
            (alpha, dataset.name, one.mean_accuracy(), one.ece(), one.noise_floor())
            for alpha, one in zip(alphas, stats, strict=True)
        ]
    columns = ["alpha", "dataset", "accuracy", "ece", "ece_noise_floor"]
    table = pd.DataFrame(rows, columns=columns)
    shifted = table[table["dataset"].isin(scale.evaluation.ood)].drop(columns="dataset")
    mean = shifted.groupby("alpha").mean().reset_index().assign(dataset="ood")
    return pd.concat([table, mean])


def evaluate_classifiers(
    classifiers: Sequence[ImageClassifier],
    dataset: LabelledSet,
    n_bins: int,
    device: torch.device,
) -> list[BinStats]:
    """Binned predictions of several classifiers of one architecture on one set.

    Only bins are kept: the logits of ImageNet would fill the memory. The classifiers are moved to
    the device and set to evaluation mode; the set's label space is applied.
    """
    stats, start = [BinStats.empty(n_bins) for _ in classifiers], 0
    for batch in predict_batches(classifiers, dataset, device, f"evaluating on {dataset.name}"):
        labels = dataset.labels[start : start + len(batch[0])]
        start += len(labels)
        for i, logits in enumerate(batch):
            logits = dataset.label_space.project(logits.astype(float))
            stats[i] += BinStats.from_logits(logits, labels, n_bins)
    return stats
