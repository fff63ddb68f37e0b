"""A batch in shares and micro-batches has the loss and the gradient of the whole batch."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from many_devices import gradient_of_one_batch
from safetensors.torch import load_file
from tiny import KINDS
from torch import Tensor, nn

from carot_lib.methods.base import Batch
from carot_lib.training import global_batch as global_batch_module
from carot_lib.training.global_batch import (
    average_gradients,
    encode_global_batch,
    encode_micro_batches,
    gather_rows,
    set_training_mode,
)


@pytest.fixture(scope="module")
def computed(
    tmp_path_factory: pytest.TempPathFactory, run_processes: Callable[[str, Path], None]
) -> Path:
    """What one, two and four gloo processes computed of the same batches."""
    folder = tmp_path_factory.mktemp("computed")
    run_processes("many_devices.py", folder)
    return folder


def assert_same_gradient(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal to 1e-5 of the largest gradient; that of a single weight may be rounding only."""
    assert ours.keys() == theirs.keys()
    largest = max(value.abs().max().item() for value in theirs.values())
    assert largest > 0.1
    for name, value in theirs.items():
        gap = (ours[name] - value).abs().max().item()
        assert gap < 1e-5 * largest, f"{name}: {gap} of {largest}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [2, 4])
def test_many_devices_have_the_gradient_and_the_losses_of_one(
    computed: Path, kind: str, devices: int
):
    expected = load_file(computed / f"1-0-{kind}.safetensors")
    for rank in range(devices):
        assert_same_gradient(load_file(computed / f"{devices}-{rank}-{kind}.safetensors"), expected)
    # losses of a single batch of seven, then of three epochs of seven and four images
    expected = json.loads((computed / f"1-0-{kind}.json").read_text())
    assert [record["step"] for record in expected] == [1, 1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in expected if "id_val/accuracy" in r] == [3, 6]
    for rank in range(devices):
        ours = json.loads((computed / f"{devices}-{rank}-{kind}.json").read_text())
        for record, wanted in zip(ours, expected, strict=True):
            assert record == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_on_two_devices_resumes(computed: Path, kind: str):
    for rank in (0, 1):
        found = json.loads((computed / f"resumed-{rank}-{kind}.json").read_text())
        assert found == {"same": True, "gap": 0.0, "steps": 6}
    assert len(list((computed / "saved" / kind).iterdir())) == 1  # one process wrote


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 7, 9])
def test_micro_batches_have_the_loss_and_the_gradient_of_the_whole(kind: str, n: int):
    expected, terms = gradient_of_one_batch(kind, devices=1)
    gradient, split_terms = gradient_of_one_batch(kind, devices=1, accumulation=n)
    assert split_terms == pytest.approx(terms, abs=1e-5)
    assert_same_gradient(gradient, expected)


class Counting:
    """An encoder of one weight, a dropout and a part without gradient; it records its calls."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.calls: list[str] = []

    def encode(self, micro_batch: Tensor) -> dict[str, Tensor]:
        self.calls.append(f"with {micro_batch[0, 0].item():.0f}")
        rows = torch.dropout((micro_batch * self.weight).exp(), 0.5, train=True)
        rows = rows * rows
        with torch.no_grad():
            self.calls.append(f"without {micro_batch[0, 0].item():.0f}")
            return {"row": rows, "target": micro_batch + 0}


def test_each_micro_batch_is_encoded_twice_and_its_part_without_gradient_once():
    counting = Counting()
    micro_batches = [torch.full((2, 3), float(i)) for i in range(3)]
    encoded = encode_micro_batches(counting.encode, micro_batches)
    assert encoded["row"].shape == (6, 3)
    assert torch.equal(encoded["target"], torch.cat(micro_batches))
    first = ["with 0", "without 0", "with 1", "without 1", "with 2", "without 2"]
    assert counting.calls == first
    encoded["row"].sum().backward()
    assert counting.calls == [*first, "with 2", "with 1", "with 0"]


def test_torch_sees_the_tensors_of_a_micro_batch(monkeypatch: pytest.MonkeyPatch):
    # it keeps the generators of the GPUs on which it sees tensors, and in a Batch it sees none
    seen = []

    def spy(function: Callable, *arguments: object, use_reentrant: bool) -> dict[str, Tensor]:
        seen.append([one for one in arguments if isinstance(one, Tensor)])
        return function(*arguments)

    monkeypatch.setattr(global_batch_module, "checkpoint", spy)
    batch = Batch(torch.rand(4, 3, 2, 2), torch.arange(4), torch.zeros(4, dtype=torch.long))
    encoded = encode_micro_batches(lambda one: {"row": one.labels}, batch.split(2))
    assert encoded["row"].tolist() == [0, 1, 2, 3]
    assert [[len(tensor) for tensor in tensors] for tensors in seen] == [[2, 2, 2], [2, 2, 2]]


def test_random_numbers_are_the_same_in_the_second_encoding():
    split, micro_batches = Counting(), [torch.full((2, 3), 0.1), torch.full((2, 3), 0.2)]
    torch.manual_seed(5)
    encoded = encode_micro_batches(split.encode, micro_batches)
    encoded["row"].sum().backward()
    plain = Counting()
    torch.manual_seed(5)
    rows = torch.cat([plain.encode(one)["row"] for one in micro_batches])
    rows.sum().backward()
    assert torch.equal(encoded["row"], rows)
    assert split.weight.grad.item() == pytest.approx(plain.weight.grad.item(), rel=1e-5)


def test_rows_of_low_precision_reach_the_loss_in_full_and_others_as_they_are():
    rows = {
        "low": torch.ones(2, 3, dtype=torch.bfloat16),
        "double": torch.ones(2, 3, dtype=torch.float64),
        "label": torch.tensor([1, 2]),
        "single": torch.ones(2, 3),
    }
    encoded = encode_global_batch(lambda rows: rows, [rows], global_size=2)
    kinds = {name: value.dtype for name, value in encoded.items()}
    assert kinds["low"] == kinds["single"] == torch.float32
    assert kinds["double"] == torch.float64
    assert kinds["label"] == torch.int64
    assert encoded["single"] is rows["single"]


def test_one_device_has_nothing_to_gather_or_to_average():
    rows = torch.ones(2, 3)
    assert gather_rows(rows, 2) is rows
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0])
    average_gradients([weight, nn.Parameter(torch.zeros(1))])
    assert weight.grad.tolist() == [1.0, 2.0]


NORMS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_stays_out_of_training_mode(norm: type[nn.Module]):
    inner = nn.Sequential(norm(3), nn.Dropout(0.5))
    model = nn.Sequential(inner, nn.LayerNorm(3), nn.Linear(3, 2)).eval()
    set_training_mode(model)
    modes = {type(module): module.training for module in model.modules()}
    assert modes.pop(norm) is False
    assert all(modes.values())
    assert all(parameter.requires_grad for parameter in inner[0].parameters())


def test_features_do_not_depend_on_other_images_and_the_statistics_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model(torch.randn(20, 4))  # statistics of its own
    kept = {key: value.clone() for key, value in model[1].named_buffers()}
    rows = 5 * torch.randn(6, 4) + 2
    set_training_mode(model)
    together, alone = model(rows), torch.cat([model(row[None]) for row in rows])
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(value, kept[key]) for key, value in model[1].named_buffers())
    # (x - mean) / sqrt(variance + 1e-5) * 1 + 0, of the running statistics
    scaled = (model[0](rows) - kept["running_mean"]) / (kept["running_var"] + 1e-5).sqrt()
    torch.testing.assert_close(together, scaled)
    together.sum().backward()
    assert model[1].bias.grad.tolist() == [6.0] * 3  # the offset is trained
