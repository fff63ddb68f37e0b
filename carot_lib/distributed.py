"""Work shared among processes: the share of each, and which of them writes."""

from typing import Any

import torch.distributed as dist


def is_first_rank() -> bool:
    """Whether this process is the one that prints and writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def split_sizes(total: int, processes: int) -> list[int]:
    """Return the number of items of each process, by rank: they differ by at most one."""
    return [total // processes + (rank < total % processes) for rank in range(processes)]


def slice_of_rank(total: int, rank: int, processes: int) -> slice:
    """Return which of `total` items belong to a rank; the slices follow each other by rank."""
    sizes = split_sizes(total, processes)
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])


def rank_slice(total: int) -> slice:
    """Return which of `total` items belong to this process: all of them if it is the only one."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return slice_of_rank(total, rank, world_size())


def gather(item: Any) -> list[Any]:
    """Return the items of all processes, by rank."""
    if not dist.is_initialized():
        return [item]
    items = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
