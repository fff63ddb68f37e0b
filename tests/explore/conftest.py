"""The results of a small world: predictions, temperatures, images and models of four classes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from carot_lib.calibration.predictions import Predictions
from carot_lib.data.datasets import read_set, write_set
from carot_lib.files import write_json, write_text
from carot_lib.layout import Layout
from carot_lib.models.clip import save_classifier
from carot_lib.report.results import Report, open_report

NAMES = ["cat", "steam locomotive", "tea pot", "a class whose name is much too long for a line"]
RUNS = ["zs", "ft", "wise_ft"]
SETS = ["id_val", "id_test", "rotated"]
EVALUATION = {
    "n_bins": 10,
    "ood": ["rotated"],
    "extra": [],
    "temperature": {"low": 0.5, "high": 10.0, "step": 0.01},
    "bootstrap": {"resamples": 10, "level": 0.95, "seed": 0},
    "batch_mean_size": 10,
    "margins": {"some": 0.0, "large": 0.01, "equivalent": 0.01},
}


@pytest.fixture(autouse=True)
def _figure_style(figure_style: None) -> None:
    """Every test here draws."""


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_clip, class_prompts) -> Report:
    """A profile with a shifted set of a name that the paper does not know, and two seeds."""
    monkeypatch.chdir(tmp_path)
    layout = Layout(tmp_path, "folders")
    (tmp_path / "carot_lib").mkdir()
    tree = {"rows": RUNS, "seeds": [0, 1], "folders": {"evaluation": EVALUATION}}
    layout.params.write_text(yaml.safe_dump(tree))
    write_text(layout.tables / "metrics.csv", "run,seed\n")
    write_json(layout.data / "classes.json", {"class_names": NAMES, "label_spaces": {}})
    rng = np.random.default_rng(0)
    for name in SETS:
        images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        write_set(layout.data, name, np.arange(40) % 4, images=images)
    clip = make_clip()
    head = class_prompts[[0, 1, 2, 0]]
    for run in RUNS:
        for seed in (0, 1):
            chosen = {"temperature": {"zs": 0.77, "ft": 1.5, "wise_ft": 0.5}[run]}
            write_json(layout.evaluation(run, seed) / "temperature.json", chosen)
            save_classifier(clip.zero_shot_classifier(head), layout.model(run, seed))
            for name in SETS:
                dataset = read_set(layout.data, name)
                logits = rng.normal(size=(40, 4)).astype(np.float32)
                logits[np.arange(40), dataset.labels] += 1.5
                space, fingerprint = dataset.label_space, dataset.fingerprint
                made = Predictions(logits, dataset.labels, space, name, fingerprint)
                made.save(layout.predictions(run, seed, name))
    table = pd.DataFrame(
        [
            {"run": "ft", "alpha": a, "dataset": d, "accuracy": 0.5 + a / 10 - b}
            | {"ece": 0.1 + b * a, "ece_noise_floor": 0.01}
            for a in (0.0, 0.4, 1.0)
            for d, b in (("id_test", 0.0), ("rotated", 0.1), ("ood", 0.1))
        ]
    )
    for seed in (0, 1):
        curve = table.assign(seed=seed)
        write_text(layout.wise_ft_curve("ft", seed), curve.to_csv(index=False))
    return open_report("folders")
