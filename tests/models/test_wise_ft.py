"""WiSE-FT along alpha: every mix in one pass, and the table of it."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tiny import labelled_set, project

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.models import inference
from carot_lib.models.clip import interpolate, load_classifier, save_classifier
from carot_lib.models.inference import predict_logits
from carot_lib.params import WiseFtParams
from carot_lib.stages.wise_ft import evaluate_classifiers, wise_ft

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "curve",
    [[], [0.0], [0.0, 0.5], [0.5, 1.0], [0.0, 0.5, 0.5, 1.0], [1.0, 0.0], [0.0, 1.5]],
)
def test_a_curve_rises_from_one_end_to_the_other(curve: list):
    assert WiseFtParams(alpha=0.5, curve=[0.0, 0.5, 1.0]).curve == [0.0, 0.5, 1.0]
    with pytest.raises(ValidationError):
        WiseFtParams(alpha=0.5, curve=curve)


def test_interpolation_is_linear_in_every_tensor(make_clip, class_prompts):
    start = make_clip(0).zero_shot_classifier(class_prompts)
    end = make_clip(1).zero_shot_classifier(class_prompts)
    end.visual.trunk.bn1.num_batches_tracked.fill_(7)
    mixed = interpolate(start, end, 0.25).state_dict()
    for name, value in mixed.items():
        low, high = start.state_dict()[name], end.state_dict()[name]
        expected = 0.75 * low + 0.25 * high if value.is_floating_point() else high
        torch.testing.assert_close(value, expected, msg=name)
    for alpha, whole in ((0.0, start), (1.0, end)):
        for name, value in interpolate(start, end, alpha).state_dict().items():
            if value.is_floating_point():
                assert torch.equal(value, whole.state_dict()[name])


def test_unlike_classifiers_are_not_mixed(make_clip, class_prompts):
    clip = make_clip()
    start, end = (clip.zero_shot_classifier(p) for p in (class_prompts, class_prompts[:2]))
    with pytest.raises(ValueError, match="same tensors"):
        interpolate(start, end, 0.5)


def test_one_pass_gives_what_a_pass_each_gives(
    make_clip, class_prompts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(inference, "BATCH_SIZE", 4)  # the last batch is a smaller one
    one, other = (make_clip(seed).zero_shot_classifier(class_prompts) for seed in (0, 1))
    dataset = labelled_set("r", space={"names": ["a", "b"], "columns": [[2], [0, 1]]})
    space = dataset.label_space
    classifiers = [interpolate(one, other, alpha) for alpha in (0.0, 0.5, 1.0)]
    assert torch.equal(classifiers[0].head.weight, one.head.weight)
    assert torch.equal(classifiers[2].head.weight, other.head.weight)
    middle = (one.head.weight + other.head.weight) / 2
    torch.testing.assert_close(classifiers[1].head.weight, middle)
    evaluated = evaluate_classifiers(classifiers, dataset, 10, CPU)
    for classifier, found in zip(classifiers, evaluated, strict=True):
        logits = predict_logits(classifier, dataset, CPU)
        alone = BinStats.from_logits(space.project(logits.astype(float)), dataset.labels, 10)
        assert found.n == 10
        assert found.mean_accuracy() == alone.mean_accuracy()
        assert found.ece() == pytest.approx(alone.ece(), abs=1e-5)


def test_the_stage_writes_the_average_and_every_alpha_on_every_set_and_their_mean(
    tmp_path: Path, make_clip, class_prompts
):
    sets = [labelled_set(name, 12, seed) for seed, name in enumerate(("id_test", "v2", "r"))]
    numbers = {
        "wise_ft": {"alpha": 0.25, "curve": [0.0, 0.5, 1.0]},
        "evaluation": {"ood": ["v2", "r"]},
    }
    layout = project(tmp_path, *sets, **numbers)
    ends = [make_clip(seed).zero_shot_classifier(class_prompts) for seed in (0, 1)]
    for run, classifier in zip(("zs", "ft"), ends, strict=True):
        save_classifier(classifier, layout.model(run, 5))
    wise_ft(layout, "ft", 5)
    written = load_classifier(layout.model("wise_ft", 5)).state_dict()
    for name, value in interpolate(*ends, 0.25).state_dict().items():
        assert torch.equal(written[name], value), name
    table = pd.read_csv(layout.wise_ft_curve("ft", 5))
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
