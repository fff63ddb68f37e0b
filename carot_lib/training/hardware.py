"""The devices of a run, and what to change when they or their memory do not suffice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt

from carot_lib.schema import StrictParams

# keys that affect no weight: they may change before an interrupted run resumes
NUMERICS_NEUTRAL = {"workers", "checkpoint_every"}
MODEL_TOO_LARGE = (
    "out of memory: model and optimizer alone do not fit: use a device with more memory or a "
    "smaller model"
)


class HardwareParams(StrictParams):
    """Where and how to compute; results depend on it in their last digits only."""

    accelerator: Literal["cpu", "cuda", "auto"]
    devices: PositiveInt  # GPUs, or CPU processes, of each node
    nodes: PositiveInt  # machines; more than one are started by SLURM or torchrun
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    threads: PositiveInt | None  # of each process on the CPU; None: one per core
    accumulation: PositiveInt  # micro-batches of a device's share: less memory, the same result
    workers: NonNegativeInt  # processes that read images; 0: the training process itself
    checkpoint_every: PositiveInt  # optimizer steps between two states kept on disk

    def check(self) -> None:
        """Check that this machine has what is asked for.

        Raises:
            ValueError: there are too few CUDA devices, or nothing that starts several nodes.
        """
        self._check_cuda(self.devices)
        # without either, the first process would wait for the others until its patience ends
        if self.nodes > 1 and not {"SLURM_NTASKS", "WORLD_SIZE"} & os.environ.keys():
            raise ValueError(
                f"hardware: {self.nodes} nodes are asked for, but neither SLURM nor torchrun "
                "started this process: see examples/slurm.sh, or set `nodes: 1`"
            )

    def launch(self) -> "lightning_fabric.Fabric":  # noqa: F821 (it is imported below)
        """The devices, ready to use.

        With several of them, each runs a process of its own from here on: those that SLURM or
        torchrun started, or copies of this very command.

        Raises:
            ValueError: see `check`, or there are too few or too many processes.
        """
        from lightning_fabric import Fabric  # slow to import, and only trainings need it

        self.check()
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.nodes,
            precision=self.precision,
            strategy="ddp" if self.devices * self.nodes > 1 else "auto",
        )
        fabric.launch()
        if fabric.world_size != self.devices * self.nodes:
            raise ValueError(
                f"hardware: {self.devices} devices on each of {self.nodes} nodes are asked for, "
                f"but SLURM or torchrun started {fabric.world_size} processes: start one each "
                "(examples/slurm.sh)"
            )
        self.limit_threads()
        return fabric

    def one_device(self) -> torch.device:
        """The device of a single process: a GPU if there is one and it may be used."""
        self._check_cuda(1)
        self.limit_threads()
        may_use = self.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if may_use else "cpu")

    def limit_threads(self) -> None:
        """Let this process compute with `threads` threads; `launch` and `one_device` do so too."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def step_too_large(self, batch_size: int) -> str:
        """The message for a step that does not fit into memory."""
        return (
            f"out of memory at batch_size {batch_size} on {self.devices * self.nodes} device(s) "
            f"with accumulation {self.accumulation}: set hardware.accumulation to "
            f"{2 * self.accumulation} (the results are the same)"
        )

    def _check_cuda(self, wanted: int) -> None:
        available = torch.cuda.device_count()
        uses_cuda = self.accelerator == "cuda" or (self.accelerator == "auto" and available > 0)
        if uses_cuda and available < wanted:
            raise ValueError(
                f"hardware: {wanted} CUDA devices are asked for, but torch finds {available}: "
                "set `accelerator: cpu`, or fewer `devices`"
            )


@contextmanager
def out_of_memory_means(message: str) -> Iterator[None]:
    """Turn a lack of memory of the machine or the GPU into a MemoryError with this message."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has an error class for GPUs only; its messages for the CPU all contain these words
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if is_memory or "allocate memory" in str(error):
            raise MemoryError(message) from error
        raise
