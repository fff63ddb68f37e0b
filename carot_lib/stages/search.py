"""Choose learning rates and label smoothing on the ID validation set; run by hand, once.

The learning rates of FT and FLYP (which CaRot shares, Section A.1) are those with the best ID
validation accuracy; the label smoothing of each is the one with the lowest ID validation ECE at
that rate. Reads what `train` reads; writes results/<profile>/search.csv. The choice is then written
into params.yaml by hand: the pipeline never searches.
"""

import copy

import pandas as pd

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.data.datasets import read_prompts, read_set
from carot_lib.distributed import rank
from carot_lib.files import write_text
from carot_lib.layout import VALIDATION, Layout
from carot_lib.methods.base import RunParams
from carot_lib.models.clip import load_clip
from carot_lib.models.inference import predict_logits
from carot_lib.params import load_params
from carot_lib.training.loop import fine_tune


def search(layout: Layout) -> pd.DataFrame:
    """Try every value, write and print the table: run, key, value, accuracy, ECE, chosen."""
    params = load_params(layout.params)
    scale, seed = params.scale(layout.profile), params.seeds[0]
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    train_set, validation = read_set(layout.data, "train"), read_set(layout.data, VALIDATION)

    def evaluate(run: RunParams, label: str) -> dict[str, float]:
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
        logits = validation.label_space.project(logits)
        stats = BinStats.from_logits(logits, validation.labels, scale.evaluation.n_bins)
        return {"accuracy": stats.mean_accuracy(), "ece": stats.ece()}

    def try_values(run: RunParams, name: str, key: str, values: list[float]) -> pd.DataFrame:
        """One training per value, evaluated on the validation set."""
        runs = {value: run.model_copy(update={key: value}) for value in values}
        return pd.DataFrame(
            {"run": name, "key": key, "value": value, **evaluate(one, f"{name}, {key} {value}")}
            for value, one in runs.items()
        )

    table = pd.DataFrame()
    for name in ("ft", "flyp"):
        run, smoothed = scale.run(name), scale.run(f"{name}_ls")
        rates = try_values(run, name, "learning_rate", scale.search.learning_rate)
        rates["chosen"] = rates.index == rates["accuracy"].idxmax()
        rate = rates.loc[rates["chosen"], "value"].item()
        smoothed = smoothed.model_copy(update={"learning_rate": rate})
        values = try_values(smoothed, f"{name}_ls", "label_smoothing", scale.search.label_smoothing)
        values["chosen"] = values.index == values["ece"].idxmin()
        table = pd.concat([table, rates, values])
        if rank() == 0:
            path = layout.results / "search.csv"
            write_text(path, table.to_csv(index=False, float_format="%.6g"))
    if rank() == 0:
        print(table.to_string(index=False))
    return table
