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

from carot_lib.distributed import gather, rank
from carot_lib.files import atomic_write

FILE_NAME = "checkpoint.pt"
HASHED = tuple(f"carot_lib.{name}." for name in ("methods", "models", "training", "data"))
NOT_HASHED = "carot_lib.training.monitor"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The latest state of a run: method, optimizer, loss scaler, random generators and history."""

    folder: Path  # one per run
    every: int  # optimizer steps between two states
    fingerprint: str  # see `fingerprint_of`; the state of another run is ignored
    method: nn.Module  # its state holds the model and whatever else changes in training
    optimizer: torch.optim.Optimizer  # at the peak learning rate, which is not part of the state
    fabric: Fabric
    history: list[dict[str, int | float]] = field(default_factory=list)  # of all completed steps

    def save(self) -> None:
        """Replace the saved state by the one after the last step of the history.

        A failure to write is reported on standard error and does not stop the run. Every process
        must call it; the first one writes.
        """
        generators = {"cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        state = {
            "fingerprint": self.fingerprint,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "loss_scaler": self.fabric.strategy.precision.state_dict(),
            "generators": gather(generators),
            "history": self.history,
        }
        if rank() > 0:
            return
        try:
            with atomic_write(self.folder / FILE_NAME) as path, path.open("wb") as file:
                torch.save(state, file)
        except OSError as error:
            self._print(f"the state after step {len(self.history)} was not saved: {error}")

    def resume(self) -> None:
        """Restore the saved state, history included, if it belongs to this very run."""
        path = self.folder / FILE_NAME
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            is_ours = state["fingerprint"] == self.fingerprint
        except Exception as error:  # a damaged file raises errors of every kind
            self._print(f"cannot be read ({type(error).__name__}): starting from the beginning")
            return
        if not is_ours:
            other = "other parameters, data, weights or code"
            self._print(f"belongs to {other}: starting from the beginning")
            return
        self.method.load_state_dict(state["method"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(state["loss_scaler"])
        generators = state["generators"][rank()]
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], self.fabric.device)
        self.history[:] = state["history"]
        self._print(f"resuming after step {len(self.history)}")

    def _print(self, message: str) -> None:
        if rank() == 0:
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
