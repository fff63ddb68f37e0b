"""The processes of a run on several devices: which one this is, and what the others have."""

from typing import Any

import torch.distributed as dist


def rank() -> int:
    """Number of this process; process 0 prints and writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(item: Any) -> list[Any]:
    """The items of all processes, by rank; each process must call this."""
    items = [item] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(items, item)
    return items
