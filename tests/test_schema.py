"""Steps in params.yaml: whole numbers, or fractions of the run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from carot_lib.schema import PositiveSteps, Steps, StrictParams, count_steps


class Params(StrictParams):
    warmup: Steps
    every: PositiveSteps | None


@pytest.mark.parametrize(
    ("steps", "total", "count"),
    [
        (500, 25_030, 500),
        (0, 10, 0),
        (0.02, 790, 16),
        (0.3, 790, 237),
        (0.04, 790, 32),
        (0.02, 25_030, 501),
        (0.001, 10, 1),
    ],
)
def test_steps_by_hand(steps: int | float, total: int, count: int):
    value = Params(warmup=steps, every=None).warmup
    assert type(value) is type(steps)
    assert count_steps(value, total) == count


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(1, 10**6))
def test_a_fraction_is_at_least_one_step_and_at_most_all(fraction: float, total: int):
    assert 1 <= count_steps(fraction, total) <= total


@pytest.mark.parametrize("bad", [-1, -0.1, 0.0, 1.0, 1.5, "many", True, float("nan")])
def test_other_steps_are_refused_with_one_message(bad: object):
    for key in ("warmup", "every"):
        with pytest.raises(ValidationError) as caught:
            Params.model_validate({"warmup": 1, "every": 1} | {key: bad})
        assert caught.value.error_count() == 1


def test_some_steps_must_be_positive_or_none():
    assert Params(warmup=0, every=None).every is None
    with pytest.raises(ValidationError):
        Params(warmup=0, every=0)
