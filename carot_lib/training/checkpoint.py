"""The state of an unfinished training on disk, from which a killed run goes on bit for bit.

One file holds it all, so that it is whole or not there: tensors as safetensors, the rest as JSON in
the file's header. It lies outside the results of its stage, which DVC removes before a run.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import UInt8
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from carot_lib.files import atomic_write
from carot_lib.training.global_batch import gather_rows

NAME = "checkpoint.safetensors"


class Checkpoint:
    """The last state of a run: of method, optimizer, loss scaler and generators, and its history.

    Args:
        folder: where the state lies, one folder a run.
        every: optimizer steps between two states.
        fingerprint: of all that the run depends on; the state of another run is not used.
        method: its state holds the model, and all that follows the model.
        optimizer: over the model, at the peak learning rate, which is no part of the state.
        fabric: devices and precision.
        history: the records of all steps done; it is filled by `resume` and read by `save`.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        fingerprint: str,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        fabric: Fabric,
        history: list[dict[str, int | float]],
    ):
        self.path, self.every, self.fingerprint = folder / NAME, every, fingerprint
        self.method, self.optimizer, self.fabric = method, optimizer, fabric
        self.history = history

    def is_due(self, step: int) -> bool:
        """Whether the state after this optimizer step (1-based) is to be kept."""
        return step % self.every == 0

    def save(self, step: int) -> None:
        """Keep the state after optimizer step `step` (1-based) in place of the one before.

        A disk that is full is said on standard error and stops no run: the state before stays.
        Every process must call it; the first one writes.
        """
        tensors = {f"method.{key}": value for key, value in self.method.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        states = {f"generator.{name}": value for name, value in self._generators().items()}
        states = {name: value[None].to(self.fabric.device) for name, value in states.items()}
        tensors |= gather_rows(states, self.fabric.world_size)
        if not self.fabric.is_global_zero:
            return
        rest = {
            "fingerprint": self.fingerprint,
            "step": step,
            "loss_scaler": self.fabric.strategy.precision.state_dict(),
            "history": self.history,
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            with atomic_write(self.path) as temporary:
                save_file(tensors, temporary, metadata={"rest": json.dumps(rest)})
        except (OSError, SafetensorError) as error:
            print(f"{self.path}: step {step} is not kept: {error}", file=sys.stderr)

    def resume(self) -> int:
        """Restore the kept state, if there is one of this very run.

        Returns:
            Optimizer steps done; 0 where the run starts anew.
        """
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                rest = json.loads((file.metadata() or {}).get("rest", "{}"))
                if rest.get("fingerprint") != self.fingerprint:
                    self._say("belongs to other parameters, data, weights or code: starting anew")
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            self._say(f"cannot be read ({error}): starting anew")
            return 0
        self.method.load_state_dict(_part(tensors, "method"))
        self._restore_optimizer(_part(tensors, "optimizer"))
        for name, states in _part(tensors, "generator").items():
            # a copy: torch reads a state from the start of its memory, also that of a view
            self._set_generator(name, states[self.fabric.global_rank].clone())
        self.fabric.strategy.precision.load_state_dict(rest["loss_scaler"])
        self.history[:] = rest["history"]
        self._say(f"going on after step {rest['step']}")
        return rest["step"]

    def _say(self, message: str) -> None:
        if self.fabric.is_global_zero:
            print(f"{self.path}: {message}", file=sys.stderr)

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".", maxsplit=1)
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # in the parameter's own order of memory, which a fused optimizer takes for granted
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _generators(self) -> dict[str, UInt8[Tensor, " bytes"]]:
        """The states of torch's own generators in this process, by device."""
        states = {"cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        return states

    def _set_generator(self, name: str, state: UInt8[Tensor, " bytes"]) -> None:
        if name == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, self.fabric.device)


def discard_checkpoint(folder: Path) -> None:
    """Remove the state of a run that is complete, and its folder."""
    (folder / NAME).unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def fingerprint_of(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """Hash of all that a run depends on: tensors, texts, the code at work and torch's version.

    Args:
        tensors: of the pre-trained model, by name.
        texts: parameters and fingerprints of the data.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for name, module in sorted(sys.modules.items()):
        if name.startswith("carot_lib.") and module.__file__ is not None:
            digest.update(Path(module.__file__).read_bytes())
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under one name, without it."""
    start = f"{name}."
    return {
        key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)
    }
