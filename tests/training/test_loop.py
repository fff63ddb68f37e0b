"""The training loop, its optimizer, and the learning rate."""

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from tiny import KINDS, hardware, labelled_set, run, training
from torch import Tensor, nn

from carot_lib.data.datasets import LabelledSet
from carot_lib.methods.base import Batch
from carot_lib.methods.fine_tune import FineTuneParams
from carot_lib.models.clip import ImageClassifier
from carot_lib.params import MethodParams
from carot_lib.training import loop as loop_module
from carot_lib.training.loop import fine_tune, fit
from carot_lib.training.optimizer import build_optimizer, learning_rate_factor

BATCH = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), torch.zeros(2).long())


@pytest.mark.parametrize(
    ("step", "warmup", "total", "factor"),
    [
        (0, 4, 12, 0.25),  # four steps up
        (3, 4, 12, 1.0),
        (4, 4, 12, 1.0),  # cos 0, and eight down
        (6, 4, 12, 0.853553),  # a quarter of the way: (1 + cos 45°) / 2
        (8, 4, 12, 0.5),
        (11, 4, 12, 0.038060),  # 7/8 of the way: (1 + cos 157.5°) / 2
        (12, 4, 12, 0.0),
        (0, 500, 25_030, 0.002),  # the paper's run
        (499, 500, 25_030, 1.0),
        (500, 500, 25_030, 1.0),
        (12_765, 500, 25_030, 0.5),
    ],
)
def test_the_learning_rate_by_hand(step: int, warmup: int, total: int, factor: float):
    assert learning_rate_factor(step, warmup, total) == pytest.approx(factor, abs=1e-6)


def test_a_run_without_warmup_and_one_that_ends_within_it():
    assert [learning_rate_factor(step, 0, 10) for step in (0, 5)] == pytest.approx([1.0, 0.5])
    assert [learning_rate_factor(step, 4, 3) for step in range(3)] == [0.25, 0.5, 0.75]
    assert [learning_rate_factor(step, 2, 2) for step in range(2)] == [0.5, 1.0]


@given(st.integers(0, 50), st.integers(1, 200))
def test_the_learning_rate_rises_then_falls_and_stays_a_fraction(warmup: int, more: int):
    factors = [learning_rate_factor(step, warmup, warmup + more) for step in range(warmup + more)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return hardware().launch()


def test_steps_of_a_run():
    # ceil(1,281,167 / 512) = 2,503 batches an epoch
    assert training(epochs=10, batch_size=512).total_steps(1_281_167) == 25_030
    assert [training().total_steps(n) for n in (8, 9, 1)] == [4, 6, 2]


def test_one_group_holds_every_tensor(make_clip):
    clip = make_clip()
    optimizer = build_optimizer(run("flyp").parameter_groups(clip), 0.1)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in clip.parameters()}
    assert any(p is clip.model.logit_scale for p in group["params"])
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.1)
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


class Slope(nn.Module):
    """A method with the gradient `slope` on each of its weights, in two loss terms."""

    def __init__(self, slope: tuple[float, ...] = (1.0,), bad: dict[int, float] | None = None):
        super().__init__()
        self.model = nn.Module()
        self.model.weight = nn.Parameter(torch.zeros(len(slope)))
        self.slope, self.bad = torch.tensor(slope), bad or {}
        self.calls = 0
        self.after: list[tuple[int, list[float]]] = []

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"label": batch.labels}

    def loss_terms(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.model.training
        self.calls += 1
        loss = (self.slope * self.model.weight).sum()
        spoilt = torch.tensor(self.bad.get(self.calls, 0.0))
        return {"first": 0.25 * loss + 2, "second": 0.75 * loss + spoilt}

    def after_step(self, step: int) -> None:
        self.after.append((step, self.model.weight.tolist()))

    def classifier(self) -> ImageClassifier:
        raise NotImplementedError


def run_fit(
    method: Slope,
    fabric: Fabric,
    steps: int,
    warmup: int = 0,
    clip: float | None = None,
    rate: float = 1.0,
) -> list[dict[str, float]]:
    records = []
    method.model.eval()
    optimizer = torch.optim.SGD(method.model.parameters(), lr=rate)
    fit(method, [BATCH] * steps, steps, optimizer, warmup, clip, fabric, records.append)
    return records


def test_every_step_is_logged_in_order(fabric):
    method = Slope()
    records = run_fit(method, fabric, steps=45, warmup=2, rate=0.5)
    assert [record["step"] for record in records] == list(range(1, 46))
    assert all(list(r) == ["step", "learning_rate", "first", "second"] for r in records)
    assert records[0] == {"step": 1, "learning_rate": 0.25, "first": 2.0, "second": 0.0}
    # the weight is -.25 after one step of .25 against the slope 1
    assert records[1]["learning_rate"] == 0.5
    assert records[1]["first"] == pytest.approx(2 - 0.25 * 0.25)
    assert records[1]["second"] == pytest.approx(-0.75 * 0.25)


def test_a_step_follows_the_schedule_and_the_sum_of_the_terms(fabric):
    method = Slope((2.0,))
    run_fit(method, fabric, steps=6, warmup=2, rate=0.1)
    rates = [0.05, 0.1] + [0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    expected = (-2 * np.cumsum(rates)).tolist()
    assert [step for step, _ in method.after] == [1, 2, 3, 4, 5, 6]
    # what follows the model sees the weights after the step
    assert [weights[0] for _, weights in method.after] == pytest.approx(expected)


def test_every_group_keeps_its_own_peak(fabric):
    method = Slope((1.0,))
    method.model.other = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([{"params": [method.model.weight], "lr": 0.4}], lr=0.1)
    optimizer.add_param_group({"params": [method.model.other], "lr": 0.8})
    fit(method, [BATCH], 4, optimizer, 4, None, fabric, lambda record: None)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("clip", "moved"),
    [(None, (3.0, 4.0)), (1.0, (0.6, 0.8)), (5.5, (3.0, 4.0)), (2.5, (1.5, 2.0))],
)
def test_the_norm_of_all_gradients_is_bounded(fabric, clip, moved):
    method = Slope((3.0, 4.0))  # norm 5
    run_fit(method, fabric, steps=1, clip=clip)
    assert method.model.weight.tolist() == pytest.approx([-m for m in moved], rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(fabric, value):
    records = []
    method = Slope(bad={3: value})
    optimizer = torch.optim.SGD(method.model.parameters(), lr=0.125)
    with pytest.raises(FloatingPointError) as error:
        fit(method, [BATCH] * 5, 5, optimizer, 5, None, fabric, records.append)
    message = str(error.value)
    assert "not finite at step 3 (learning rate 0.075)" in message
    assert "first = 1.98125" in message  # 2 - .25 * (.025 + .05)
    assert f"second = {value}" in message
    assert [record["step"] for record in records] == [1, 2]


def test_a_long_run_stops_at_the_next_reading(fabric):
    method = Slope(bad={7: math.nan})
    with pytest.raises(FloatingPointError, match="at step 7 "):
        run_fit(method, fabric, steps=100)
    assert method.calls == loop_module.READ_EVERY


@pytest.fixture
def trained(make_clip, class_prompts) -> Callable[..., ImageClassifier]:
    """A run of 6 steps from the same pre-trained model; its log goes to `records`."""

    def train(
        params: MethodParams,
        seed: int = 0,
        records: list | None = None,
        epochs: int = 2,
        **changes: object,
    ) -> ImageClassifier:
        log = [] if records is None else records
        numbers, devices = training(epochs=epochs), hardware(**changes)
        return tiny.trained(params, make_clip(), class_prompts, log.append, numbers, devices, seed)

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides_the_weights_bit_for_bit(trained, kind: str):
    params = run(kind, sampling="pairs")
    first, other = (trained(params, seed).state_dict() for seed in (5, 6))
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = trained(params, 5).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


class HeadFirst(FineTuneParams):
    """FT with a rate of its own for the head."""

    head_rate: float

    def parameter_groups(self, model: ImageClassifier) -> list[dict[str, Any]]:
        visual, head = list(model.visual.parameters()), list(model.head.parameters())
        return [
            {"params": visual, "lr": self.learning_rate},
            {"params": head, "lr": self.head_rate},
        ]


@pytest.mark.parametrize("head_rate", [0.0, 0.01])
def test_a_method_may_give_groups_of_parameters_rates_of_their_own(
    trained, make_clip, class_prompts, head_rate: float
):
    ft = HeadFirst(**run("fine_tune").model_dump(), head_rate=head_rate)
    before, after = make_clip().zero_shot_classifier(class_prompts), trained(ft)
    assert torch.equal(before.head.weight, after.head.weight) == (head_rate == 0)
    moved = zip(before.visual.parameters(), after.visual.parameters(), strict=True)
    assert not all(torch.equal(old, new) for old, new in moved)


@pytest.mark.parametrize(
    ("kind", "terms"),
    [
        ("fine_tune", ["cross_entropy"]),
        ("flyp", ["contrastive", "model/logit_scale"]),
        ("carot", ["contrastive", "distillation", "model/logit_scale", "teacher/momentum"]),
    ],
)
def test_a_run_ends_in_a_trained_classifier_at_rest(
    trained, make_clip, class_prompts, capsys, kind, terms
):
    records = []
    classifier = trained(run(kind, sampling="pairs"), records=records)
    assert not any(module.training for module in classifier.modules())
    assert all(value.device.type == "cpu" for value in classifier.state_dict().values())
    assert classifier.head.weight.shape == (3, 16)
    start = make_clip().zero_shot_classifier(class_prompts)
    assert not torch.equal(classifier.head.weight, start.head.weight)
    kernels = [c.visual.trunk.conv1[0].weight for c in (classifier, start)]
    assert not torch.equal(*kernels)
    norms = [c.visual.trunk.bn1 for c in (classifier, start)]
    assert all(torch.equal(a, b) for a, b in zip(*(n.buffers() for n in norms), strict=True))
    assert not torch.equal(*(norm.weight for norm in norms))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(list(record)[2:] == terms for record in records)
    assert records[0]["learning_rate"] == 0.01
    assert "training a run: 6/6 steps" in capsys.readouterr().err


@pytest.mark.parametrize(("sampling", "sizes"), [("epochs", [4, 4, 2] * 2), ("pairs", [4] * 6)])
def test_a_run_samples_as_its_entry_says(trained, monkeypatch, sampling, sizes):
    seen = []
    real = loop_module.batches

    def spy(*arguments):
        for batch in real(*arguments):
            seen.append(len(batch.labels))
            yield batch

    monkeypatch.setattr(loop_module, "batches", spy)
    trained(run("flyp", sampling=sampling))
    assert seen == sizes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "encode_global_batch",
            "batch_size 4 on 1 device\\(s\\) with accumulation 1: set hardware.accumulation to 2",
        ),
        ("build_optimizer", "model and optimizer alone do not fit"),
    ],
)
def test_too_little_memory_is_reported_with_what_to_change(trained, monkeypatch, name, message):
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop_module, name, fail)
    with pytest.raises(MemoryError, match=f"^out of memory.* {message}"):
        trained(run("flyp"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_micro_batches_has_the_losses_of_one_in_whole_batches(trained, kind: str):
    # the model has BatchNorm, whose statistics are not those of a micro-batch
    whole, split = [], []
    trained(run(kind), records=whole)
    trained(run(kind), records=split, accumulation=3)
    for ours, expected in zip(split, whole, strict=True):
        assert ours == pytest.approx(expected, abs=1e-3)  # Adam magnifies the rounding of zeros
    # the first step has the same weights
    assert split[0] == pytest.approx(whole[0], abs=1e-5)


def test_a_run_takes_the_first_images_of_each_class(make_clip, class_prompts):
    def weights(images_per_class: int | None, train_set: LabelledSet) -> dict[str, Tensor]:
        numbers, log = training(images_per_class=images_per_class), lambda record: None
        parts = make_clip(), class_prompts, train_set, 0, log, "a run"
        return fine_tune(run("fine_tune"), numbers, hardware(), *parts).state_dict()

    whole = labelled_set(size=12, seed=3)
    counts = np.bincount(whole.labels)
    assert counts.min() >= 2
    first = sorted(i for label in range(3) for i in np.flatnonzero(whole.labels == label)[:2])
    expected, ours = weights(None, whole.part(np.array(first))), weights(2, whole)
    assert all(torch.equal(value, expected[key]) for key, value in ours.items())
    with pytest.raises(ValueError, match=r"training\.images_per_class: \w.* has \d images in set"):
        weights(12, whole)


class Dropping(nn.Module):
    """Drops half of what it is given, whenever it trains, as some towers do."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.drop = inner, nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(self.inner(images))


@pytest.fixture
def with_dropout(make_clip, class_prompts) -> Callable[..., dict[str, Tensor]]:
    """Weights after a run of a model that draws random numbers, killed before a step if asked."""

    def train(seed: int, folder: Path | None = None, deadly: int = 0) -> dict[str, Tensor]:
        clip = make_clip()
        clip.model.visual = Dropping(clip.model.visual)

        def log(record: dict) -> None:
            if record["step"] == deadly:
                raise KeyboardInterrupt

        numbers, devices = training(validate_every=1), hardware(checkpoint_every=2)
        data = {"checkpoints": folder, "validation_set": labelled_set("id_val", seed=1)}
        parts = clip, class_prompts, log, numbers, devices, seed
        return tiny.trained(run("flyp"), *parts, **data).state_dict()

    return train


def test_random_layers_are_the_seeds_also_after_a_kill(with_dropout, tmp_path: Path, capsys):
    first, other, again = (with_dropout(seed) for seed in (5, 6, 5))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])
    with pytest.raises(KeyboardInterrupt):
        with_dropout(5, tmp_path, deadly=5)
    torch.manual_seed(3)  # another process
    resumed = with_dropout(5, tmp_path)
    assert "resuming after step 4" in capsys.readouterr().err
    assert all(torch.equal(value, resumed[key]) for key, value in first.items())


def test_gradients_of_half_precision_are_unscaled_before_they_are_clipped():
    # on a CPU, where Fabric itself would take bf16 instead
    fabric = Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu"))
    method = Slope((3.0, 4.0))  # norm 5, in the loss's own scale 2 ** 16 times that
    optimizer = torch.optim.SGD(method.model.parameters(), lr=1.0)
    fit(method, [BATCH], 1, optimizer, 0, 2.5, fabric, lambda record: None)
    assert fabric.strategy.precision.scaler.get_scale() == 2.0**16
    assert method.model.weight.tolist() == pytest.approx([-1.5, -2.0], rel=1e-5)


@pytest.mark.parametrize("clip", [None, 2.5])
def test_the_optimizer_of_half_precision_takes_clipped_gradients(clip):
    half = Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu"))
    weights = []
    for fabric in (hardware().launch(), half):
        method = Slope((3.0, 4.0))
        groups = run("flyp", learning_rate=0.1).parameter_groups(method.model)
        optimizer = build_optimizer(groups, 0.1, fused=False)
        fit(method, [BATCH] * 3, 3, optimizer, 0, clip, fabric, lambda record: None)
        weights.append(method.model.weight.tolist())
    assert weights[0] == pytest.approx(weights[1], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_lower_precision_trains_nearly_the_same(trained, kind):
    params = run(kind, clip_gradient_norm=1.0)
    records, exact = [], []
    trained(params, records=records, precision="bf16-mixed")
    trained(params, records=exact)
    assert len(records) == 6
    for term in list(exact[0])[2:]:
        # of the same weights; in 16 bits a feature has two or three digits
        assert records[0][term] == pytest.approx(exact[0][term], abs=0.1)


def test_the_number_of_tensors_does_not_grow_with_the_steps(trained):
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    counts = []

    class Counting(list):
        def append(self, record: dict) -> None:
            if record["step"] in (20, 60):  # a reading: no loss waits to be read
                counts.append(tensors())

    trained(run("carot"), records=Counting(), epochs=20)
    assert counts[0] == pytest.approx(counts[1], abs=3)
