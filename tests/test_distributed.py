"""Shares: alike, in order, nothing left over and nothing twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carot_lib import processes
from carot_lib.distributed import (
    gather,
    is_first_rank,
    rank_slice,
    slice_of_rank,
    split_sizes,
    world_size,
)


def test_sizes_by_hand():
    assert split_sizes(8, 1) == [8]
    assert split_sizes(7, 2) == [4, 3]
    assert split_sizes(7, 4) == [2, 2, 2, 1]
    assert split_sizes(1, 3) == [1, 0, 0]
    assert split_sizes(143, 8) == [18] * 7 + [17]  # the last batch of ImageNet's epoch


@given(whole=st.integers(0, 500), n=st.integers(1, 40))
def test_the_shares_follow_each_other_from_the_first_thing_to_the_last(whole: int, n: int):
    shares = [slice_of_rank(whole, process, n) for process in range(n)]
    assert [i for share in shares for i in range(whole)[share]] == list(range(whole))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == split_sizes(whole, n)


def test_one_process_speaks_takes_everything_and_has_nothing_to_gather():
    assert is_first_rank()
    assert world_size() == 1
    assert rank_slice(5) == slice(0, 5)
    assert gather([1, 2]) == [[1, 2]]


@pytest.mark.parametrize(("rank", "share"), [(0, slice(0, 3)), (1, slice(3, 5))])
def test_a_process_of_two_takes_its_own(monkeypatch: pytest.MonkeyPatch, rank: int, share: slice):
    # processes that really run side by side: tests/models/test_inference.py
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes.dist, "get_rank", lambda: rank)
    assert rank_slice(5) == share
    assert world_size() == 2
    assert is_first_rank() == (rank == 0)
