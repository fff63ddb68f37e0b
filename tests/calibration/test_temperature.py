"""Temperature scaling: by hand, against another optimiser, the sweep against the formula."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from random_logits import sharpened_logits
from scipy.optimize import minimize_scalar

from carot_lib.calibration import temperature
from carot_lib.calibration.metrics import nll
from carot_lib.calibration.temperature import (
    TemperatureChoice,
    direct_ece,
    select_temperature,
    sweep,
    temperature_of_least_nll,
)

SEEDS = st.integers(0, 2**32 - 1)
CHOOSE = {
    "ece": lambda *sample: select_temperature(*sample).temperature,
    "nll": temperature_of_least_nll,
}
both = pytest.mark.parametrize("choose", CHOOSE.values(), ids=CHOOSE.keys())


@both
def test_the_chosen_temperature_makes_the_confidence_the_accuracy(choose):
    # Distance 2 log 3 between two classes, three of four samples right: at temperature T the
    # confidence is 1 / (1 + 9 ** (-1 / T)): .9 at 1, .75 at 2. So 2 is best.
    logits, labels = np.tile([2 * np.log(3), 0], (4, 1)), np.array([0, 0, 0, 1])
    assert choose(logits, labels) == pytest.approx(2.0, abs=1e-8)
    choice = select_temperature(logits, labels)
    assert choice.value_before == pytest.approx(0.15)  # .9 - .75
    assert choice.value_after == pytest.approx(0, abs=1e-9)
    assert not choice.at_bound


@both
@pytest.mark.parametrize(("label", "bound"), [(0, 0.5), (1, 10.0)])
def test_all_right_wants_the_coldest_and_all_wrong_the_hottest(choose, label, bound):
    # confidence .88 at 1 and no sample that speaks for the other side
    logits, labels = np.tile([2.0, 0.0], (5, 1)), np.full(5, label)
    assert choose(logits, labels) == pytest.approx(bound)
    assert select_temperature(logits, labels).at_bound


@both
def test_of_equally_good_temperatures_the_nearest_to_one_is_chosen(choose):
    # equal logits: confidence 1/3 at every temperature
    assert choose(np.zeros((6, 3)), np.array([0, 1, 2, 0, 1, 2])) == 1.0


def test_nearest_to_one_is_meant_by_ratio():
    # all are equal, and 1 is not on the grid .4, 1.8: log 1.8 = .59 is less than -log .4 = .92,
    # though 1.8 is farther from 1 than .4
    choice = select_temperature(np.zeros((4, 2)), np.zeros(4, int), low=0.4, high=1.8, step=1.4)
    assert choice.temperatures.tolist() == [0.4, 1.8]
    assert choice.temperature == 1.8


def test_grid_is_the_papers_unless_said_otherwise_and_ends_at_the_upper_end():
    sample = sharpened_logits(300, 8)
    grid = select_temperature(*sample).temperatures
    # .5, .51, ..., 10
    assert len(grid) == 951
    assert (grid[0], grid[1], grid[50], grid[-1]) == (0.5, 0.51, 1.0, 10.0)
    choice = select_temperature(*sample, low=1.0, high=2.0, step=0.3)  # which misses the end
    assert choice.temperatures.tolist() == [1.0, 1.3, 1.6, 1.9, 2.0]


@example(seed=86798, sharpness=9.0, dtype=np.float64)
@given(SEEDS, st.floats(0.6, 9), st.sampled_from([np.float32, np.float64]))
def test_nll_agrees_with_another_optimiser(seed: int, sharpness: float, dtype: type):
    wide, labels = sharpened_logits(300, 8, seed, sharpness)
    logits = wide.astype(dtype)
    wide = logits.astype(np.float64)
    chosen = temperature_of_least_nll(logits, labels)
    other = minimize_scalar(
        lambda log_t: nll(wide / np.exp(log_t), labels),
        bounds=(np.log(0.5), np.log(10)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    # distances between logits are rounded to the precision of the logits; near its minimum the
    # NLL is flat, so the other optimiser finds it to the root of double precision only; and it
    # does not reach a bound, where the NLL may be steep
    rounding = 1e-6 if dtype is np.float32 else 1e-9
    assert chosen == pytest.approx(np.exp(other.x), rel=1e-6 + rounding)
    assert nll(wide / chosen, labels) <= other.fun + rounding


@given(SEEDS, st.floats(0.7, 1.4))
def test_scaling_logits_scales_the_temperature_of_least_nll(seed: int, factor: float):
    logits, labels = sharpened_logits(300, 8, seed)
    once, scaled = (temperature_of_least_nll(f * logits, labels, 0.1, 50.0) for f in (1, factor))
    assert scaled == pytest.approx(factor * once, rel=1e-6)


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 3.0])
@both
def test_the_temperature_that_sharpened_the_logits_is_found_again(choose, sharpness):
    sample = sharpened_logits(20_000, 8, sharpness=sharpness)
    assert choose(*sample) == pytest.approx(sharpness, rel=0.05)


def direct(logits: np.ndarray, labels: np.ndarray, grid: np.ndarray, n_bins: int) -> list[float]:
    return [direct_ece(logits, labels, t, n_bins) for t in grid]


def check_choice(choice: TemperatureChoice, logits: np.ndarray, labels: np.ndarray) -> None:
    """No temperature of the grid is better by the formula, and the curve is the formula's."""
    eces = direct(logits, labels, choice.temperatures, 10)
    assert choice.value_after == pytest.approx(min(eces), abs=1e-12)
    assert choice.value_after == eces[choice.temperatures.tolist().index(choice.temperature)]


def cliffs(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """One class far above 999 equal ones: the confidence falls as steeply as it can."""
    logits = np.zeros((n, 1000), np.float32)
    logits[:, 0] = np.linspace(0, 40, n)
    return logits, np.arange(n) % 2


@pytest.mark.parametrize("seed", range(3))
def test_choice_is_the_best_of_the_grid_by_the_formula(seed: int):
    logits, labels = sharpened_logits(300, 8, seed)
    logits = logits.astype(np.float32)
    choice = select_temperature(logits, labels, step=0.05)
    check_choice(choice, logits, labels)
    eces = direct(logits, labels, choice.temperatures, 10)
    np.testing.assert_allclose(choice.values, eces, atol=1e-6)


def test_the_choice_is_exact_where_interpolation_is_hardest():
    check_choice(select_temperature(*cliffs(), step=0.1), *cliffs())


def test_the_choice_is_exact_even_if_the_interpolation_were_not(monkeypatch: pytest.MonkeyPatch):
    # a curve that is wrong by up to .02, fifty times the margin that is recomputed at first
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, size=191)
    monkeypatch.setattr(temperature, "sweep", lambda *args: sweep(*args) + noise)
    sample = sharpened_logits(300, 8)
    check_choice(select_temperature(*sample, step=0.05), *sample)


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (127, 5), (128, 5), (129, 5), (400, 100)])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sweep_is_the_formula_at_every_temperature(n: int, classes: int, n_bins: int, dtype: type):
    logits, labels = sharpened_logits(n, classes)
    logits, grid = logits.astype(dtype), np.arange(50, 1001, 13) / 100
    eces = sweep(logits, labels, grid, n_bins)
    np.testing.assert_allclose(eces, direct(logits, labels, grid, n_bins), atol=1e-6)


@given(SEEDS, st.integers(1, 150), st.integers(1, 12), st.floats(0, 40), st.floats(0.05, 5))
def test_sweep_is_the_formula_for_any_logits_and_ends(
    seed: int, n: int, classes: int, sharpness: float, low: float
):
    # one bin: with more, a confidence at an edge may fall on either side of it
    logits, labels = sharpened_logits(n, classes, seed, sharpness)
    grid = np.geomspace(low, 20 * low, 23)
    eces = sweep(logits, labels, grid, 1)
    np.testing.assert_allclose(eces, direct(logits, labels, grid, 1), atol=1e-4)


def test_sweep_follows_the_steepest_confidences_there_are():
    logits, labels = cliffs()
    grid = np.arange(50, 1001, 13) / 100
    eces = sweep(logits, labels, grid, 1)
    np.testing.assert_allclose(eces, direct(logits, labels, grid, 1), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, threads: int):
    logits, labels = sharpened_logits(3000, 20)
    logits, grid = logits.astype(np.float32), np.arange(50, 1001, 50) / 100
    expected = sweep(logits, labels, grid, 10)
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    np.testing.assert_array_equal(sweep(logits, labels, grid, 10), expected)


@given(SEEDS, st.integers(1, 60), st.floats(0, 30))
def test_the_choice_is_never_worse_than_temperature_one_and_stays_in_range(
    seed: int, n: int, sharpness: float
):
    logits, labels = sharpened_logits(n, 8, seed, sharpness)
    choice = select_temperature(logits, labels, step=0.25)
    assert 0.5 <= choice.temperature <= 10
    assert choice.value_after <= choice.value_before + 1e-12
    assert choice.at_bound == (choice.temperature in (0.5, 10))
    coolest = temperature_of_least_nll(logits, labels)
    assert 0.5 - 1e-9 <= coolest <= 10 + 1e-9
    assert nll(logits / coolest, labels) <= nll(logits, labels) + 1e-12


@both
def test_huge_logits_do_not_overflow(choose):
    assert choose(*sharpened_logits(300, 8, sharpness=1e4)) == 10


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"low": 0.0}, "low must be positive and finite"),
        ({"low": -1.0}, "low must be positive and finite"),
        ({"high": float("inf")}, "high must be positive and finite"),
        ({"low": 10.0}, "low must be below high"),
        ({"step": float("nan")}, "step must be positive and finite"),
        ({"step": 1e-9}, "step: 1e-09 makes more than 100000 temperatures"),
    ],
    ids=str,
)
def test_a_bad_grid_is_refused(grid: dict[str, float], message: str):
    sample = sharpened_logits(300, 8)
    with pytest.raises(ValueError, match=message):
        select_temperature(*sample, **grid)
    if "step" not in grid:
        with pytest.raises(ValueError, match=message):
            temperature_of_least_nll(*sample, **grid)


@both
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.array([[0.0, np.nan]]), np.array([0]), "finite"),
        (np.zeros((2, 3)), np.array([0, 3]), r"labels must be in \[0, 3\)"),
        (np.zeros((2, 3)), np.array([0]), "do not fit"),
    ],
)
def test_bad_predictions_are_refused(choose, logits: np.ndarray, labels: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        choose(logits, labels)
