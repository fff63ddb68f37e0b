"""Choose learning rates and label smoothing on the ID validation set; run by hand, once.

python -m carot_lib.stages.search --profile miniature

The learning rate of FT and that of FLYP (which CaRot shares, Section A.1) are those of the best ID
validation accuracy; the label smoothing of each is that of the lowest ID validation ECE, at the
rate found. Reads what `train` reads; writes results/<profile>/search.csv. The choice is then
written into params.yaml by hand: the pipeline never searches.
"""

import copy
from collections.abc import Callable

import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.command import read_command
from carot_lib.data.datasets import read_prompts, read_set
from carot_lib.distributed import is_first_rank
from carot_lib.files import write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import load_clip
from carot_lib.models.inference import predict_logits
from carot_lib.params import MethodParams, load_params
from carot_lib.schema import exit_on_bad_input
from carot_lib.training.loop import fine_tune


def search(layout: Layout) -> pd.DataFrame:
    """Try every value and write the table: run, key, value, accuracy and ECE on id_val, chosen."""
    params = load_params(layout.params)
    scale, seed = params.scale(layout.profile), params.seeds[0]
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    train_set, validation = read_set(layout.data, "train"), read_set(layout.data, "id_val")

    def judge(run: MethodParams, label: str) -> dict[str, float]:
        classifier = fine_tune(
            run,
            scale.training,
            scale.hardware,
            copy.deepcopy(clip),
            prompts,
            train_set,
            seed,
            log=lambda record: None,
            label=label,
        )
        logits = predict_logits(classifier, validation, scale.hardware.one_device())
        stats = BinStats.from_logits(
            logits,
            validation.labels,
            scale.evaluation.n_bins,
            label_space=validation.label_space,
        )
        return {"accuracy": stats.mean_accuracy(), "ece": stats.ece()}

    tables = []
    for name in ("ft", "flyp"):
        rates = try_values(
            scale.runs[name], name, "learning_rate", scale.search.learning_rate, judge
        )
        rates["chosen"] = rates.index == rates["accuracy"].idxmax()
        rate = rates.loc[rates["chosen"], "value"].item()
        smoothed = scale.runs[f"{name}_ls"].model_copy(update={"learning_rate": rate})
        values = try_values(
            smoothed, f"{name}_ls", "label_smoothing", scale.search.label_smoothing, judge
        )
        values["chosen"] = values.index == values["ece"].idxmin()
        tables += [rates, values]
        if is_first_rank():
            table = pd.concat(tables)
            path = layout.results / "search.csv"
            write_text(path, table.to_csv(index=False, float_format="%.6g"))
    return pd.concat(tables)


def try_values(
    run: MethodParams,
    name: str,
    key: str,
    values: list[float],
    judge: Callable[[MethodParams, str], dict[str, float]],
) -> pd.DataFrame:
    """One training per value, judged on the validation set."""
    return pd.DataFrame(
        [
            {"run": name, "key": key, "value": value}
            | judge(run.model_copy(update={key: value}), f"{name}, {key} {value}")
            for value in values
        ]
    )


if __name__ == "__main__":
    with exit_on_bad_input():
        table = search(read_command(__doc__).layout)
        if is_first_rank():
            print(table.to_string(index=False))
