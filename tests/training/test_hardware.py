"""What a run computes on, and the messages where it is missing or too small."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from tiny import hardware

from carot_lib.training.hardware import HardwareParams, out_of_memory_means


def on(accelerator: str, devices: int = 1) -> HardwareParams:
    return hardware(accelerator=accelerator, devices=devices)


@pytest.fixture(params=[0, 1, 2])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    return request.param


def test_one_device_is_a_gpu_where_there_is_one_and_it_may_be_used(gpus: int):
    assert on("cpu", 2).one_device().type == "cpu"
    assert on("auto", 2).one_device().type == ("cuda" if gpus else "cpu")
    if gpus:
        assert on("cuda", 2).one_device().type == "cuda"  # the others are not needed
    else:
        with pytest.raises(ValueError, match="1 CUDA devices are asked for, but torch finds 0"):
            on("cuda", 2).one_device()


def test_more_gpus_than_there_are_cannot_be_launched(gpus: int):
    with pytest.raises(ValueError, match=f"3 CUDA devices are asked for, but torch finds {gpus}"):
        on("cuda", 3).launch()


def test_the_devices_of_auto_are_gpus_where_there_is_one(gpus: int):
    if gpus == 0:
        on("auto", 3).check()  # processes on the CPU
    else:
        message = f"3 CUDA devices are asked for, but torch finds {gpus}"
        with pytest.raises(ValueError, match=message):
            on("auto", 3).check()


def test_several_nodes_need_something_that_starts_them(monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    two = hardware(nodes=2)
    with pytest.raises(ValueError, match=r"2 nodes are asked for, .* neither SLURM nor torchrun"):
        two.launch()  # at once, instead of waiting for the other
    monkeypatch.setenv("SLURM_NTASKS", "2")
    two.check()


def test_other_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch):
    # what SLURM with one task makes of it
    monkeypatch.setattr(Fabric, "launch", lambda fabric: None)
    monkeypatch.setattr(Fabric, "world_size", 1)
    assert on("cpu", 1).launch().world_size == 1
    with pytest.raises(ValueError, match=r"2 devices on each of 1 nodes .* started 1 processes"):
        on("cpu", 2).launch()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("unable to mmap 9 bytes from file <weights>: Cannot allocate memory (12)"),
    ],
)
def test_too_little_memory_is_explained(error: Exception):
    with (
        pytest.raises(MemoryError, match=r"^take less$") as caught,
        out_of_memory_means("take less"),
    ):
        raise error
    assert caught.value.__cause__ is error


@given(st.integers(2**62, 2**62 + 100))
def test_memory_that_no_machine_has_is_refused_by_torch_in_words_that_are_known(size: int):
    with pytest.raises(MemoryError, match="take less"), out_of_memory_means("take less"):
        torch.empty(size, dtype=torch.uint8)


@pytest.mark.parametrize("other", [RuntimeError("shapes do not fit"), ValueError("no number")])
def test_another_error_stays_what_it_is(other: Exception):
    with pytest.raises(type(other)) as caught, out_of_memory_means("take less"):
        raise other
    assert caught.value is other


def test_a_fabric_computes_in_the_precision_asked_for():
    fabric, matrix = hardware().launch(), torch.ones(2, 2)
    assert (fabric.device, fabric.world_size) == (torch.device("cpu"), 1)
    with fabric.autocast():
        assert (matrix @ matrix).dtype == torch.float32
    with hardware(precision="bf16-mixed").launch().autocast():
        assert (matrix @ matrix).dtype == torch.bfloat16


@pytest.mark.parametrize("start", [HardwareParams.launch, HardwareParams.one_device])
def test_every_way_to_start_sets_the_threads_and_null_leaves_them(start: Callable):
    before = torch.get_num_threads()
    try:
        start(hardware(threads=3))
        assert torch.get_num_threads() == 3
        start(hardware(threads=None))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
