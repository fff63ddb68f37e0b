"""The processes of a run; those that really run in parallel: tests/models/test_inference.py."""

import pytest

from carot_lib import distributed
from carot_lib.distributed import gather, rank, world_size


def test_a_single_process_is_the_first_and_has_everything():
    assert (rank(), world_size()) == (0, 1)
    assert gather([1, 2]) == [[1, 2]]


def test_one_of_several_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 2)
    assert (rank(), world_size()) == (2, 3)
