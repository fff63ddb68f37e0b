"""Temperature scaling: by hand, against another optimiser, the sweep against the formula."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from carot_lib.calibration import temperature
from carot_lib.calibration.metrics import nll
from carot_lib.calibration.temperature import (
    TemperatureChoice,
    direct_ece,
    select_temperature,
    sweep,
)

SEEDS = st.integers(0, 2**32 - 1)


def sample(
    n: int = 300, classes: int = 8, seed: int = 0, sharpness: float = 2.0, dtype: type = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `sharpness` times those that the labels were drawn from: the best temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, size=(n, classes))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return (sharpness * logits).astype(dtype), labels


def three_of_four_right() -> tuple[np.ndarray, np.ndarray]:
    """Distance 2 log 3 between two classes, three of four samples right.

    At temperature T the confidence is 1 / (1 + 9 ** (-1 / T)): .9 at 1, .75 at 2. So 2 is best.
    """
    return np.tile([2 * np.log(3), 0], (4, 1)), np.array([0, 0, 0, 1])


def test_ece_chooses_the_temperature_whose_confidence_is_the_accuracy():
    choice = select_temperature(*three_of_four_right(), "ece", selected_on="id_val")
    assert choice.temperature == 2.0
    assert (choice.criterion, choice.selected_on) == ("ece", "id_val")
    # .9 - .75 before
    assert choice.value_before == pytest.approx(0.15)
    assert choice.value_after == pytest.approx(0, abs=1e-9)
    assert not choice.at_bound
    assert choice.n == 4


def test_nll_chooses_the_same_where_there_is_one_confidence():
    choice = select_temperature(*three_of_four_right(), "nll")
    assert choice.temperature == pytest.approx(2.0, abs=1e-8)
    # -(3 log .9 + log .1) / 4 = (3 * .10536 + 2.30259) / 4 = .6547
    assert choice.value_before == pytest.approx(0.6547, abs=5e-5)
    # -(3 log .75 + log .25) / 4 = (3 * .28768 + 1.38629) / 4 = .5623
    assert choice.value_after == pytest.approx(0.5623, abs=5e-5)
    assert not choice.at_bound


@pytest.mark.parametrize("criterion", ["ece", "nll"])
@pytest.mark.parametrize(("label", "bound"), [(0, 0.5), (1, 10.0)])
def test_all_right_wants_the_coldest_and_all_wrong_the_hottest(criterion, label, bound):
    # confidence .88 at 1 and no sample that speaks for the other side
    logits = np.tile([2.0, 0.0], (5, 1))
    choice = select_temperature(logits, np.full(5, label), criterion)
    assert choice.temperature == pytest.approx(bound)
    assert choice.at_bound


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_of_equally_good_temperatures_the_nearest_to_one_is_chosen(criterion):
    # equal logits: confidence 1/3 at every temperature
    labels = np.array([0, 1, 2, 0, 1, 2])
    choice = select_temperature(np.zeros((6, 3)), labels, criterion, step=0.1)
    assert choice.temperature == 1.0
    assert not choice.at_bound


def test_nearest_to_one_is_meant_by_ratio():
    # all are equal, and 1 is not on the grid .4, 1.8: log 1.8 = .59 is less than -log .4 = .92,
    # though 1.8 is farther from 1 than .4
    choice = select_temperature(np.zeros((4, 2)), np.zeros(4, int), low=0.4, high=1.8, step=1.4)
    assert choice.temperatures.tolist() == [0.4, 1.8]
    assert choice.temperature == 1.8


def test_grid_is_the_papers_unless_said_otherwise():
    grid = select_temperature(*sample()).temperatures
    # .5, .51, ..., 10
    assert len(grid) == 951
    assert (grid[0], grid[1], grid[50], grid[-1]) == (0.5, 0.51, 1.0, 10.0)


def test_the_upper_end_belongs_to_a_grid_whose_step_misses_it():
    choice = select_temperature(*sample(), low=1.0, high=2.0, step=0.3)
    assert choice.temperatures.tolist() == [1.0, 1.3, 1.6, 1.9, 2.0]


@example(seed=86798, sharpness=9.0, dtype=np.float64)
@given(SEEDS, st.floats(0.6, 9), st.sampled_from([np.float32, np.float64]))
def test_nll_agrees_with_another_optimiser(seed: int, sharpness: float, dtype: type):
    logits, labels = sample(seed=seed, sharpness=sharpness, dtype=dtype)
    choice = select_temperature(logits, labels, "nll")
    wide = logits.astype(np.float64)
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
    assert choice.temperature == pytest.approx(np.exp(other.x), rel=1e-6 + rounding)
    assert choice.value_after <= other.fun + rounding
    assert choice.value_after == pytest.approx(other.fun, abs=1e-6 + rounding)
    assert choice.value_before == pytest.approx(nll(wide, labels), abs=rounding)


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_the_temperature_that_sharpened_the_logits_is_found_again(criterion, sharpness):
    logits, labels = sample(20_000, sharpness=sharpness)
    choice = select_temperature(logits, labels, criterion)
    assert choice.temperature == pytest.approx(sharpness, rel=0.05)


def check_choice(choice: TemperatureChoice, logits: np.ndarray, labels: np.ndarray) -> None:
    """By ECE, no temperature of the grid is better by the formula."""
    direct = [direct_ece(logits, labels, t, 10) for t in choice.temperatures]
    assert choice.value_after == pytest.approx(min(direct), abs=1e-12)
    assert (
        choice.value_after
        == direct[int(np.argmin(np.abs(choice.temperatures - choice.temperature)))]
    )


@pytest.mark.parametrize("seed", range(3))
def test_ece_choice_is_the_best_of_the_grid_by_the_formula(seed: int):
    logits, labels = sample(seed=seed, dtype=np.float32)
    check_choice(select_temperature(logits, labels, step=0.05), logits, labels)


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (127, 5), (128, 5), (129, 5), (400, 100)])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sweep_is_the_formula_at_every_temperature(n: int, classes: int, n_bins: int, dtype: type):
    logits, labels = sample(n, classes, dtype=dtype)
    grid = np.arange(50, 1001, 13) / 100
    eces, nlls = sweep(logits, labels, grid, n_bins)
    direct = [direct_ece(logits, labels, t, n_bins) for t in grid]
    np.testing.assert_allclose(eces, direct, atol=1e-6)
    np.testing.assert_allclose(nlls, [nll(logits / t, labels) for t in grid], atol=1e-6)


@given(SEEDS, st.integers(1, 150), st.integers(1, 12), st.floats(0, 40), st.floats(0.05, 5))
def test_sweep_is_the_formula_for_any_logits_and_ends(
    seed: int, n: int, classes: int, sharpness: float, low: float
):
    # one bin: with more, a confidence at an edge may fall on either side of it
    logits, labels = sample(n, classes, seed, sharpness)
    grid = np.geomspace(low, 20 * low, 23)
    eces, nlls = sweep(logits, labels, grid, 1)
    direct = [direct_ece(logits, labels, t, 1) for t in grid]
    np.testing.assert_allclose(eces, direct, atol=1e-4)
    assert (nlls >= 0).all()


def cliffs(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """One class far above 999 equal ones: the confidence falls as steeply as it can."""
    logits = np.zeros((n, 1000), np.float32)
    logits[:, 0] = np.linspace(0, 40, n)
    return logits, np.arange(n) % 2


def test_sweep_follows_the_steepest_confidences_there_are():
    logits, labels = cliffs()
    grid = np.arange(50, 1001, 13) / 100
    eces, _ = sweep(logits, labels, grid, 1)
    direct = [direct_ece(logits, labels, t, 1) for t in grid]
    np.testing.assert_allclose(eces, direct, atol=1e-6)


def test_the_choice_is_exact_where_interpolation_is_hardest():
    check_choice(select_temperature(*cliffs(), step=0.1), *cliffs())


def test_the_choice_is_exact_even_if_the_interpolation_were_not(monkeypatch: pytest.MonkeyPatch):
    # a curve that is wrong by up to .02, fifty times the margin that is recomputed at first
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, size=191)

    def wrong(*args: object) -> tuple[np.ndarray, np.ndarray]:
        eces, nlls = sweep(*args)
        return eces + noise, nlls

    monkeypatch.setattr(temperature, "sweep", wrong)
    logits, labels = sample()
    check_choice(select_temperature(logits, labels, step=0.05), logits, labels)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, threads: int):
    logits, labels = sample(n=3000, classes=20, dtype=np.float32)
    grid = np.arange(50, 1001, 50) / 100
    expected = sweep(logits, labels, grid, 10)
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    for ours, same in zip(sweep(logits, labels, grid, 10), expected, strict=True):
        np.testing.assert_array_equal(ours, same)


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_curve_holds_the_criterion_on_the_grid(criterion):
    logits, labels = sample()
    choice = select_temperature(logits, labels, criterion, step=0.5)
    assert choice.temperatures.tolist() == [0.5 * k for k in range(1, 21)]
    formula = {
        "ece": lambda t: direct_ece(logits, labels, t, 10),
        "nll": lambda t: nll(logits / t, labels),
    }
    expected = [formula[criterion](t) for t in choice.temperatures]
    np.testing.assert_allclose(choice.values, expected, atol=1e-6)


@given(SEEDS, st.integers(1, 60), st.floats(0, 30), st.sampled_from(["ece", "nll"]))
def test_the_choice_is_never_worse_than_temperature_one_and_stays_in_range(
    seed: int, n: int, sharpness: float, criterion: str
):
    logits, labels = sample(n, seed=seed, sharpness=sharpness)
    choice = select_temperature(logits, labels, criterion, step=0.25)
    assert 0.5 - 1e-9 <= choice.temperature <= 10 + 1e-9
    assert choice.value_after <= choice.value_before + 1e-12
    if choice.at_bound:
        assert min(choice.temperature - 0.5, 10 - choice.temperature) < 1e-3


@given(SEEDS, st.floats(0.7, 1.4))
def test_scaling_logits_scales_the_temperature_of_least_nll(seed: int, factor: float):
    logits, labels = sample(seed=seed)
    wide = {"criterion": "nll", "low": 0.1, "high": 50.0, "step": 1.0}
    once = select_temperature(logits, labels, **wide).temperature
    scaled = select_temperature(factor * logits, labels, **wide).temperature
    assert scaled == pytest.approx(factor * once, rel=1e-6)


def test_huge_logits_do_not_overflow():
    logits, labels = sample(sharpness=1e4)
    for criterion in ("ece", "nll"):
        choice = select_temperature(logits, labels, criterion)
        assert np.isfinite(choice.values).all()
        assert choice.temperature == 10
        assert choice.at_bound


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"low": 0.0}, "low must be positive and finite"),
        ({"low": -1.0}, "low must be positive and finite"),
        ({"high": float("inf")}, "high must be positive and finite"),
        ({"step": float("nan")}, "step must be positive and finite"),
        ({"low": 10.0}, "low must be below high"),
        ({"step": 1e-9}, "step: 1e-09 makes more than 100000 temperatures"),
    ],
    ids=str,
)
def test_a_bad_grid_is_refused(grid: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        select_temperature(*sample(), **grid)


@pytest.mark.usefixtures("_no_type_checker")
def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="criterion must be ece or nll, got 'brier'"):
        select_temperature(*sample(), "brier")


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.array([[0.0, np.nan]]), np.array([0]), "finite"),
        (np.zeros((2, 3)), np.array([0, 3]), r"labels must be in \[0, 3\)"),
        (np.zeros((2, 3)), np.array([0]), "do not fit"),
    ],
)
def test_bad_predictions_are_refused(logits: np.ndarray, labels: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        select_temperature(logits, labels)
