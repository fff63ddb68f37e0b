"""Hardware for tests: one CPU process, as the miniature has it."""

from carot_lib.training.hardware import HardwareParams


def hardware(**changes: object) -> HardwareParams:
    """The numbers of `hardware:`, some of them changed."""
    numbers = {"accelerator": "cpu", "devices": 1, "nodes": 1, "precision": "32-true"}
    numbers |= {"accumulation": 1, "workers": 0, "checkpoint_every": 100, "tensorboard": False}
    return HardwareParams.model_validate(numbers | changes)
