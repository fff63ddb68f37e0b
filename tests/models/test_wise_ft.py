"""WiSE-FT along alpha: every mix in one pass, and the table of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.data.datasets import LabelledSet, write_set
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.models import wise_ft as module
from carot_lib.models.clip import save_classifier
from carot_lib.models.inference import predict_logits
from carot_lib.models.wise_ft import MixParams, interpolate_all, judge
from carot_lib.stages.interpolations import interpolations

CPU = torch.device("cpu")
EVALUATION = {
    "n_bins": 10,
    "ood": ["v2", "r"],
    "extra": [],
    "temperature": {"low": 0.5, "high": 10.0, "step": 0.01},
    "bootstrap": {"resamples": 10, "level": 0.95, "seed": 0},
    "batch_mean_size": 10,
    "equivalence_margin": 0.01,
}


@pytest.mark.parametrize("alphas", [[0.0, 1.0], [0.0, 0.5, 1.0]])
def test_alphas_rise_from_one_end_to_the_other(alphas: list[float]):
    assert MixParams(alphas=alphas).alphas == alphas


@pytest.mark.parametrize(
    "alphas",
    [[], [0.0], [0.0, 0.5], [0.5, 1.0], [0.0, 0.5, 0.5, 1.0], [1.0, 0.0], [0.0, 1.5], ["a", 1.0]],
)
def test_other_alphas_are_refused(alphas: list):
    with pytest.raises(ValidationError):
        MixParams(alphas=alphas)


def some_set(labels: np.ndarray, space: LabelSpace) -> LabelledSet:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    return LabelledSet("r", labels, images, None, space, ["a", "b"], "f")


def test_one_pass_gives_what_a_pass_each_gives(
    make_clip, class_prompts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "BATCH_SIZE", 4)  # the last batch is a smaller one
    one, other = (make_clip(seed).zero_shot_classifier(class_prompts) for seed in (0, 1))
    space = LabelSpace(3, ((2,), (0, 1)))
    dataset = some_set(np.arange(10) % 2, space)
    classifiers = interpolate_all(one, other, [0.0, 0.5, 1.0])
    assert torch.equal(classifiers[0].head.weight, one.head.weight)
    assert torch.equal(classifiers[2].head.weight, other.head.weight)
    middle = (one.head.weight + other.head.weight) / 2
    torch.testing.assert_close(classifiers[1].head.weight, middle)
    for classifier, found in zip(classifiers, judge(classifiers, dataset, 10, CPU), strict=True):
        logits = predict_logits(classifier, dataset, CPU)
        alone = BinStats.from_logits(logits.astype(float), dataset.labels, 10, label_space=space)
        assert found.n == 10
        assert found.mean_accuracy() == alone.mean_accuracy()
        assert found.ece() == pytest.approx(alone.ece(), abs=1e-5)


def test_the_stage_writes_every_alpha_on_every_set_and_their_mean(
    tmp_path: Path, make_clip, class_prompts
):
    hardware = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["miniature"][
        "hardware"
    ]
    branch = {"evaluation": EVALUATION, "interpolations": {"alphas": [0.0, 0.5, 1.0]}}
    tree = {"tiny": branch | {"hardware": hardware}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    layout = Layout(tmp_path, "tiny")
    names = {"class_names": ["a", "b", "c"], "label_spaces": {}}
    write_json(layout.data / "classes.json", names)
    for name in ("id_test", "v2", "r"):
        dataset = some_set(np.arange(12) % 3, LabelSpace.identity(3))
        write_set(layout.data, name, dataset.labels, images=dataset.images)
    for seed, run in enumerate(("zs", "ft")):
        save_classifier(make_clip(seed).zero_shot_classifier(class_prompts), layout.model(run, 5))
    interpolations(layout, "ft", 5)
    table = pd.read_csv(layout.results / "interpolations" / "ft_seed5.csv")
    columns = ["run", "seed", "alpha", "dataset", "accuracy", "ece", "ece_noise_floor"]
    assert list(table) == columns
    assert set(table["run"]) == {"ft"}
    assert set(table["seed"]) == {5}
    values = table.set_index(["dataset", "alpha"])[columns[4:]]
    assert set(values.index) == {
        (name, alpha) for name in ("id_test", "v2", "r", "ood") for alpha in (0.0, 0.5, 1.0)
    }
    for alpha in (0.0, 0.5, 1.0):
        mean = (values.loc["v2", alpha] + values.loc["r", alpha]) / 2
        assert values.loc["ood", alpha].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-5)
