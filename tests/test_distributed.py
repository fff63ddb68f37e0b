"""Shares of the processes: of equal size but for one item, in order, each item once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carot_lib import distributed
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


@given(total=st.integers(0, 500), n=st.integers(1, 40))
def test_the_slices_cover_all_items_once_and_in_order(total: int, n: int):
    slices = [slice_of_rank(total, rank, n) for rank in range(n)]
    assert [i for part in slices for i in range(total)[part]] == list(range(total))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == split_sizes(total, n)


def test_a_single_process_is_the_first_and_has_everything():
    assert is_first_rank()
    assert world_size() == 1
    assert rank_slice(5) == slice(0, 5)
    assert gather([1, 2]) == [[1, 2]]


@pytest.mark.parametrize(("rank", "share"), [(0, slice(0, 3)), (1, slice(3, 5))])
def test_each_of_two_processes_has_its_share(
    monkeypatch: pytest.MonkeyPatch, rank: int, share: slice
):
    # processes that really run in parallel: tests/models/test_inference.py
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: rank)
    assert rank_slice(5) == share
    assert world_size() == 2
    assert is_first_rank() == (rank == 0)
