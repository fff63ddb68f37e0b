"""Stage `calibrate`: choose one temperature per run on the ID validation set.

python -m carot_lib.stages.calibrate --profile miniature --run carot --seed 0

Reads predictions/<profile>/<run>/seed<seed>/id_val.npz; writes
temperature.json and temperature_curve.csv to evaluations/<profile>/<run>/seed<seed>/.
"""

import sys

import pandas as pd

from carot_lib.calibration.predictions import Predictions
from carot_lib.calibration.temperature import select_temperature
from carot_lib.command import read_command
from carot_lib.evaluation import VALIDATION, load_evaluation
from carot_lib.files import write_json, write_text
from carot_lib.layout import Layout
from carot_lib.schema import exit_on_bad_input


def calibrate(layout: Layout, run: str, seed: int) -> None:
    """Select and write the temperature of one run, by ECE as in the paper (Section A.1)."""
    evaluation = load_evaluation(layout)
    grid = evaluation.temperature
    validation = Predictions.load(layout.predictions(run, seed, VALIDATION))
    chosen = select_temperature(
        validation.logits,
        validation.labels,
        criterion="ece",
        low=grid.low,
        high=grid.high,
        step=grid.step,
        n_bins=evaluation.n_bins,
        selected_on=validation.dataset,
    )
    content = {
        "run": run,
        "seed": seed,
        "temperature": chosen.temperature,
        "at_bound": chosen.at_bound,
        "criterion": chosen.criterion,
        "n_bins": evaluation.n_bins,
        "ece_before": chosen.value_before,
        "ece_after": chosen.value_after,
        "selected_on": {
            "dataset": chosen.selected_on,
            "fingerprint": validation.fingerprint,
            "n": chosen.n,
        },
    }
    curve = pd.DataFrame({"temperature": chosen.temperatures, "ece": chosen.values})
    folder = layout.evaluation(run, seed)
    write_text(folder / "temperature_curve.csv", curve.to_csv(index=False, float_format="%.6f"))
    write_json(folder / "temperature.json", content)
    if chosen.at_bound:
        bound = f"{chosen.temperature:g} is the end of the range: a better one may lie beyond"
        print(f"temperature of {run}, seed {seed}: {bound}", file=sys.stderr)


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        calibrate(arguments.layout, arguments.run, arguments.seed)
