"""The learning rate's factor, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carot_lib.training.schedule import learning_rate_factor


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.25),
        (1, 0.5),
        (2, 0.75),
        (3, 1.0),
        (4, 1.0),  # cos 0
        (6, 0.853553),  # a quarter of the way: (1 + cos 45°) / 2
        (8, 0.5),
        (10, 0.146447),
        (11, 0.038060),  # 7/8 of the way: (1 + cos 157.5°) / 2
        (12, 0.0),
    ],
)
def test_four_steps_up_and_eight_down(step, factor):
    assert learning_rate_factor(step, 4, 12) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.002), (249, 0.5), (499, 1.0), (500, 1.0), (12_765, 0.5)]
)
def test_the_papers_run(step, factor):
    assert learning_rate_factor(step, 500, 25_030) == pytest.approx(factor, abs=1e-9)


def test_without_warmup_the_first_step_has_the_peak():
    assert learning_rate_factor(0, 0, 10) == 1.0
    assert learning_rate_factor(5, 0, 10) == pytest.approx(0.5)


def test_a_run_that_ends_within_the_warmup():
    assert [learning_rate_factor(step, 4, 3) for step in range(3)] == [0.25, 0.5, 0.75]
    assert [learning_rate_factor(step, 2, 2) for step in range(2)] == [0.5, 1.0]


@given(st.integers(0, 50), st.integers(1, 200))
def test_it_rises_then_falls_and_stays_a_fraction(warmup, more):
    factors = [learning_rate_factor(step, warmup, warmup + more) for step in range(warmup + more)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
