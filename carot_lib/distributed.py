"""Several processes at one piece of work: whose share is which, and who speaks for all."""

from typing import Any

import torch.distributed as dist


def is_first_rank() -> bool:
    """Whether this process speaks and writes for all of them."""
    return not dist.is_initialized() or dist.get_rank() == 0


def world_size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def split_sizes(whole: int, processes: int) -> list[int]:
    """Size of each process's share of some things, in order: equal but for one thing."""
    return [whole // processes + (process < whole % processes) for process in range(processes)]


def slice_of_rank(whole: int, process: int, processes: int) -> slice:
    """Where the share of one process lies among all things, see `split_sizes`."""
    sizes = split_sizes(whole, processes)
    start = sum(sizes[:process])
    return slice(start, start + sizes[process])


def rank_slice(whole: int) -> slice:
    """Where the share of this process lies among all things: all of them if it is alone."""
    if not dist.is_initialized():
        return slice(0, whole)
    return slice_of_rank(whole, dist.get_rank(), dist.get_world_size())


def gather(share: Any) -> list[Any]:
    """What each of the processes gave, in their order."""
    if not dist.is_initialized():
        return [share]
    shares = [None] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    return shares
