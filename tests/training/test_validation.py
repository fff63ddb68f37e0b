"""A run that is judged on its way: what is found, and that the training does not notice."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from on_cpu import hardware

from carot_lib.calibration.label_space import label_space_of
from carot_lib.calibration.metrics import accuracy, ece
from carot_lib.data.datasets import LabelledSet
from carot_lib.methods.base import Setup
from carot_lib.models.inference import predict_logits
from carot_lib.params import MethodParams, Run
from carot_lib.training.loop import TrainingParams, fine_tune
from carot_lib.training.validation import Validation

SHARED = {"learning_rate": 0.01, "clip_gradient_norm": None, "sampling": "epochs"}
TEACHER = {
    "momentum_start": 0.05,
    "momentum_end": 0.9,
    "warmup_fraction": 0.5,
    "update_every": 2,
    "update_at_step_0": False,
}
RUNS = {
    "fine_tune": {"label_smoothing": 0.1},
    "flyp": {"label_smoothing": 0.1, "max_logit_scale": None},
    "carot": {
        "distillation_weight": 0.75,
        "kd_reduction": "paper",
        "max_logit_scale": None,
        "teacher": TEACHER,
    },
}


def params_of(kind: str) -> MethodParams:
    return Run.model_validate({"kind": kind, **SHARED, **RUNS[kind]}).root


def labelled_set(name: str, seed: int, own: dict | None = None) -> LabelledSet:
    """Ten random images of three classes."""
    generator = np.random.default_rng(seed)
    return LabelledSet(
        name=name,
        labels=generator.integers(0, 3 if own is None else len(own["names"]), size=10),
        images=generator.integers(0, 256, size=(10, 32, 32, 3), dtype=np.uint8),
        paths=None,
        label_space=label_space_of(own, 3),
        class_names=["cat", "steam locomotive", "tea pot"],
        fingerprint="0" * 16,
    )


@pytest.fixture
def trained(make_clip, class_prompts) -> Callable[..., tuple[dict, list[dict]]]:
    """Weights and records of a run of nine steps, judged after so many steps."""

    def train(kind: str, every: int | None, validation_set: LabelledSet | None) -> tuple:
        records = []
        classifier = fine_tune(
            params_of(kind),
            TrainingParams(
                epochs=3, batch_size=4, weight_decay=0.1, warmup_steps=1, validate_every=every
            ),
            hardware(),
            make_clip(),
            class_prompts,
            labelled_set("train", 0),
            0,
            records.append,
            "a run",
            validation_set=validation_set,
        )
        return classifier, records

    return train


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("every", [1, 4])
def test_a_run_that_is_judged_ends_in_the_same_bits(trained, kind: str, every: int):
    validation_set = labelled_set("id_val", 1)
    plain, records = trained(kind, None, validation_set)
    judged, told = trained(kind, every, validation_set)
    expected = plain.state_dict()  # the running statistics of BatchNorm among them
    assert all(torch.equal(value, expected[key]) for key, value in judged.state_dict().items())
    assert [r["step"] for r in told if "id_val/ece" in r] == list(range(every, 10, every))
    without = [{k: v for k, v in r.items() if not k.startswith("id_val/")} for r in told]
    assert without == records


@pytest.mark.parametrize("kind", RUNS)
def test_the_last_judgement_is_that_of_the_finished_model(trained, kind: str):
    validation_set = labelled_set("id_val", 1)
    classifier, records = trained(kind, 3, validation_set)
    logits = predict_logits(classifier, validation_set, torch.device("cpu"))
    assert records[-1]["id_val/accuracy"] == accuracy(logits, validation_set.labels)
    assert records[-1]["id_val/ece"] == pytest.approx(ece(logits, validation_set.labels), abs=1e-9)


def test_no_validation_set_no_judgement(trained):
    _, records = trained("flyp", 1, None)
    assert not any(name.startswith("id_val/") for record in records for name in record)


@pytest.mark.parametrize("kind", RUNS)
def test_a_judgement_leaves_modes_and_generators_as_they_were(make_clip, class_prompts, kind: str):
    method = params_of(kind).build(Setup(make_clip(), class_prompts, 10))
    method.model.train()
    modes = [module.training for module in method.modules()]
    state = {key: value.clone() for key, value in method.state_dict().items()}
    chance = torch.get_rng_state()
    validation = Validation(labelled_set("id_val", 1), 5, method, hardware().launch())
    assert validation.judge() == validation.judge()
    assert [module.training for module in method.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)
    assert [validation.is_due(step) for step in (1, 4, 5, 6, 10)] == [0, 0, 1, 0, 1]


def test_a_set_with_classes_of_its_own_is_judged_in_them(make_clip, class_prompts):
    # the classes 0 and 2 of three: logits of class 1 play no part
    own = {"names": ["cat", "tea pot"], "columns": [[0], [2]]}
    dataset = labelled_set("id_val", 1, own)
    method = params_of("flyp").build(Setup(make_clip(), class_prompts, 10))
    found = Validation(dataset, 1, method, hardware().launch()).judge()
    logits = predict_logits(method.classifier(), dataset, torch.device("cpu"))[:, [0, 2]]
    assert found["id_val/accuracy"] == (logits.argmax(axis=1) == dataset.labels).mean()
