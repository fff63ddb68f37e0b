"""The devices of a run, and what to do when their memory is too small."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from lightning_fabric import Fabric
from pydantic import NonNegativeInt, PositiveInt

from carot_lib.schema import StrictParams

NUMERICS_NEUTRAL = {
    "workers",
    "checkpoint_every",
    "tensorboard",
}  # to a weight: they may change midway


class HardwareParams(StrictParams):
    """Where and how to compute; the numbers of a result depend on it in the last digits only."""

    accelerator: Literal["cpu", "cuda", "auto"]
    devices: PositiveInt  # GPUs, or CPU processes, of each node
    nodes: PositiveInt  # machines; more than one are started by SLURM or torchrun
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    accumulation: PositiveInt  # pieces of a device's share: less memory, more time, the same result
    workers: NonNegativeInt  # processes that read images; 0: the training process itself
    checkpoint_every: PositiveInt  # optimizer steps between two states kept on disk
    tensorboard: bool  # whether TensorBoard's files are written beside DVCLive's

    def launch(self) -> Fabric:
        """The devices, ready to use.

        With several of them every one runs a process of its own from here on: those that SLURM or
        torchrun started, or this very command once more.

        Raises:
            ValueError: CUDA is asked for, and there is none or are too few devices; or SLURM or
                torchrun started another number of processes.
        """
        self._check_there(self.devices)
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
                f"hardware: {self.devices} devices on each of {self.nodes} nodes are asked for and "
                f"SLURM or torchrun started {fabric.world_size} processes: one a device is needed "
                "(examples/slurm.sh)"
            )
        return fabric

    def one_device(self) -> torch.device:
        """The device of what a process does alone: a GPU if there is one and may be used.

        Raises:
            ValueError: CUDA is asked for, and there is none.
        """
        self._check_there(1)
        may_use = self.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if may_use else "cpu")

    def _check_there(self, wanted: int) -> None:
        there = torch.cuda.device_count()
        if self.accelerator == "cuda" and there < wanted:
            raise ValueError(
                f"hardware: {wanted} CUDA devices are asked for and torch finds {there}: "
                "set `accelerator: cpu`, or fewer `devices`"
            )


@contextmanager
def out_of_memory_means(message: str) -> Iterator[None]:
    """Say what to do where the block needs more memory than the machine or the GPU has.

    Raises:
        MemoryError: with the message.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has an error of its own for GPUs only; of its words for the CPU all hold these two
        of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if of_memory or "allocate memory" in str(error):
            raise MemoryError(message) from error
        raise
