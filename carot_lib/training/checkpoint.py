"""The state of an unfinished training on disk, from which a killed run resumes bit for bit.

It lies outside the outputs of its stage, which DVC removes before a run.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from carot_lib.files import atomic_write
from carot_lib.training.global_batch import gather_rows

FILE_NAME = "checkpoint.pt"
HASHED = tuple(f"carot_lib.{name}." for name in ("methods", "models", "training", "data"))
NOT_HASHED = "carot_lib.training.monitor"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The latest state of a run: method, optimizer, loss scaler, random generators and history.

    Attributes:
        folder: folder of the state, one per run.
        every: optimizer steps between two states.
        fingerprint: hash of everything the run depends on; the state of another run is ignored.
        method: its state holds the model and whatever else changes in training.
        optimizer: over the model, at the peak learning rate, which is not part of the state.
        fabric: devices and precision.
        history: records of all completed steps.
    """

    folder: Path
    every: int
    fingerprint: str
    method: nn.Module
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    history: list[dict[str, int | float]] = field(default_factory=list)

    def save(self, step: int) -> None:
        """Replace the saved state by the one after optimizer step `step` (1-based).

        A failure to write is reported on standard error and does not stop the run. Every process
        must call it; the first one writes.
        """
        device = self.fabric.device
        generators = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(device)
        rows = {name: state[None].to(device) for name, state in generators.items()}
        state = {
            "fingerprint": self.fingerprint,
            "step": step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "loss_scaler": self.fabric.strategy.precision.state_dict(),
            "generators": gather_rows(rows, self.fabric.world_size),
            "history": self.history,
        }
        if not self.fabric.is_global_zero:
            return
        path = self.folder / FILE_NAME
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
        except OSError as error:
            self._print(f"the state after step {step} was not saved: {error}")

    def resume(self) -> int:
        """Restore the saved state if it belongs to this very run.

        Returns:
            Number of completed optimizer steps; 0 where the run starts from the beginning.
        """
        if not (self.folder / FILE_NAME).exists():
            return 0
        try:
            state = torch.load(self.folder / FILE_NAME, map_location="cpu", weights_only=True)
            is_ours = state["fingerprint"] == self.fingerprint
        except Exception as error:  # a damaged file raises errors of every kind
            self._print(f"cannot be read ({type(error).__name__}): starting from the beginning")
            return 0
        if not is_ours:
            self._print(
                "belongs to other parameters, data, weights or code: starting from the beginning"
            )
            return 0
        self.method.load_state_dict(state["method"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(state["loss_scaler"])
        for name, rows in state["generators"].items():
            # cloned: torch reads a state from the start of its memory, even that of a view
            generator = rows[self.fabric.global_rank].clone()
            if name == "cpu":
                torch.set_rng_state(generator)
            else:
                torch.cuda.set_rng_state(generator, self.fabric.device)
        self.history[:] = state["history"]
        self._print(f"resuming after step {state['step']}")
        return state["step"]

    def _print(self, message: str) -> None:
        if self.fabric.is_global_zero:
            print(f"{self.folder / FILE_NAME}: {message}", file=sys.stderr)


def discard_checkpoint(folder: Path) -> None:
    """Remove the state of a finished run, and its folder if that is then empty."""
    (folder / FILE_NAME).unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def fingerprint_of(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """Hash of everything a run depends on: tensors, texts, code and torch's version.

    Of the code, the imported modules of `carot_lib.{methods,models,training,data}` count, except
    training/monitor.py, which changes no weight: other code can be edited without restarting a run.

    Args:
        tensors: the pre-trained model and the prompts, by name.
        texts: parameters and fingerprints of the data.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for name, module in sorted(sys.modules.items()):
        if name.startswith(HASHED) and name != NOT_HASHED and module.__file__ is not None:
            digest.update(Path(module.__file__).read_bytes())
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
