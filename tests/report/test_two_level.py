"""Intervals over seeds and images by hand and by simulation; p-values; Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from carot_lib.report.inference import Estimate, holm, judge, p_values, two_level

INF = np.inf
ABOVE, BELOW, WITHIN = (0.0, INF), (-INF, 0.0), (-0.01, 0.01)


def test_two_seeds_by_hand():
    # mean 3; variance of the seeds 2, of their mean 1. Replicates: means over the seeds 2 and 4,
    # variance 1; within the seeds 4 and 0, mean 2; interaction (2 - 1) * 2 / 1 = 2, which the
    # replicates of the mean hold half of: 1 - 2 / 2 = 0 is left for the images.
    estimate = two_level(np.array([2.0, 4.0]), np.array([[0.0, 4.0], [4.0, 4.0]]))
    assert estimate == (3.0, 1.0, 1.0)  # the seeds have all of the variance: S - 1 = 1
    # images that move both seeds alike have no interaction: variance 1 + 1, share of the seeds 1/2
    estimate = two_level(np.array([2.0, 4.0]), np.array([[1.0, 3.0], [3.0, 5.0]]))
    assert estimate == (3.0, pytest.approx(np.sqrt(2)), pytest.approx(2.0))


def test_one_seed_has_the_error_of_the_images_and_a_normal_distribution():
    estimate = two_level(np.array([0.5]), np.array([[0.4, 0.6]]))
    assert estimate == (0.5, pytest.approx(0.1), INF)
    # z of 95 %: 1.96
    assert estimate.interval(0.95) == pytest.approx((0.304, 0.696), abs=1e-4)


def test_seeds_that_agree_leave_the_images():
    replicates = np.array([0.4, 0.6])
    estimate = two_level(np.array([0.5, 0.5, 0.5]), np.tile(replicates, (3, 1)))
    assert estimate == (0.5, pytest.approx(0.1), INF)


def test_seeds_alone_give_the_t_interval_of_the_textbook():
    values = np.array([0.1, 0.4, 0.2, 0.9])
    estimate = two_level(values, np.tile(values[:, None], 5))
    expected = stats.t.interval(0.9, 3, values.mean(), stats.sem(values))
    assert estimate.interval(0.9) == pytest.approx(expected)


@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(0.1, 10))
def test_an_estimate_moves_and_scales_with_its_statistic(seed: int, shift: float, factor: float):
    rng = np.random.default_rng(seed)
    values, replicates = rng.normal(size=4), rng.normal(size=(4, 20))
    value, error, df = two_level(values, replicates)
    moved = two_level(shift + factor * values, shift + factor * replicates)
    expected = (shift + factor * value, factor * error, df)
    assert moved == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert df >= 3


def draws(rng: np.random.Generator, n_seeds: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed confidence gaps and correctness of 200 images: [seeds, images].

    Images differ in their difficulty, trainings in their skill (by `spread`), and each pair of both
    by chance. Confidence is the larger, the further an image is from the threshold.
    """
    difficulty = rng.normal(0.8, 1.5, size=200)
    margin = difficulty + spread * rng.normal(size=(n_seeds, 1)) + rng.normal(size=(n_seeds, 200))
    correct = (margin > 0).astype(float)
    confidence = 1 / (1 + np.exp(-np.abs(margin) - 1))
    return confidence, correct


def accuracy_and_ece(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Both by [seeds, resamples]; the ECE has three bins, and is over-confident in each."""
    bins = np.digitize(confidence, [0.85, 0.95])
    gaps = [((confidence - correct) * (bins == k)) @ weights.T for k in range(3)]
    return np.stack([correct @ weights.T, np.abs(gaps).sum(axis=0)])


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_intervals_cover_and_without_the_seeds_they_do_not(n_seeds: int):
    rng, spread, n = np.random.default_rng(0), 0.35, 2_000
    plain = np.full((1, 200), 1 / 200)
    many = [accuracy_and_ece(*draws(rng, 5, spread), plain) for _ in range(2000)]
    truth = np.mean(many, axis=(0, 2, 3))
    covered = np.zeros((n, 2, 2), bool)  # by draw, with and without the seeds, statistic
    for i in range(n):
        both = draws(rng, n_seeds, spread)
        weights = rng.multinomial(200, plain[0], size=100) / 200
        values, replicates = (accuracy_and_ece(*both, one) for one in (plain, weights))
        for j in range(2):
            whole = two_level(values[j, :, 0], replicates[j])
            error = float(replicates[j].mean(axis=0).std())
            for k, estimate in enumerate((whole, Estimate(whole.value, error, INF))):
                low, high = estimate.interval(0.95)
                covered[i, k, j] = low < truth[j] < high
    share, without_seeds = covered.mean(axis=0)
    # the standard error of a share of 2,000 is .005
    assert all((share >= 0.93) & (share <= 0.97))
    assert all(without_seeds < 0.92)


# Tests


@pytest.mark.parametrize(
    ("value", "region", "inside", "outside"),
    [
        (0.02, ABOVE, -2, 2),  # two standard errors above the limit
        (0.02, BELOW, 2, -2),
        (-0.02, (-INF, -0.01), -1, 1),  # less than -.01 by one
        (0.0, WITHIN, -1, None),
        (0.03, WITHIN, 2, None),
    ],
)
def test_p_values_are_tails_of_the_normal_distribution(value, region, inside, outside):
    p_inside, p_outside = p_values(Estimate(value, 0.01, INF), region)
    assert p_inside == pytest.approx(stats.norm.cdf(inside))
    if outside is None:  # as unlikely on the other side: distances to the ends -.01 and .01
        distances = np.array([0.01 - abs(value), -0.01 - abs(value)]) / 0.01
        assert p_outside == pytest.approx(stats.norm.cdf(distances).sum())
    else:
        assert p_outside == pytest.approx(stats.norm.cdf(outside))


def test_the_p_value_of_a_one_sided_claim_is_that_of_the_t_test():
    values = np.array([0.1, 0.3, 0.2, 0.5])
    estimate = two_level(values, np.tile(values[:, None], 2))
    test = stats.ttest_1samp(values, 0.05, alternative="greater")
    assert p_values(estimate, (0.05, INF))[0] == pytest.approx(test.pvalue)


@pytest.mark.parametrize("end", [-0.01, 0.01])
def test_at_the_ends_of_a_bounded_region_neither_statement_is_found_too_often(end: float):
    drawn = np.random.default_rng(0).normal(end, 0.004, size=20_000)
    sides = np.array([p_values(Estimate(float(x), 0.004, INF), WITHIN) for x in drawn])
    # each is below .05 in 5 %, with a standard error of .15 %
    assert np.mean(sides < 0.05, axis=0) == pytest.approx([0.05, 0.05], abs=0.005)


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(1, 50))
def test_more_and_less_are_mirror_images(value: float, error: float, df: float):
    one = p_values(Estimate(value, error, df), (0.1, INF))
    other = p_values(Estimate(-value, error, df), (-INF, -0.1))
    assert one == pytest.approx(other)
    assert sum(one) == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.1, "holds"), (-0.1, "fails"), (0.0, "undecided")]
)
def test_an_estimate_without_error_is_decided_by_its_side(value: float, verdict: str):
    table = judge([Estimate(value, 0.0, INF)], [ABOVE], 0.95, "not run")
    assert table["verdict"].tolist() == [verdict]


def test_holm_by_hand():
    # sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04, which must not fall: .06
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])).tolist() == pytest.approx(
        [0.06, 0.04, 0.06, 0.06]
    )
    assert holm(np.array([0.4, 0.6])).tolist() == pytest.approx([0.8, 0.8])
    # what is not known does not count: .01 * 2
    adjusted = holm(np.array([0.01, np.nan, 0.5]))
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.02, 0.5])
    assert np.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_does(p: list[float]):
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] * (len(p) - step) > 0.05:
            break
        rejected.add(i)
    assert {i for i, one in enumerate(holm(np.array(p))) if one <= 0.05} == rejected


def test_holm_of_one_is_itself_and_of_none_is_empty():
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.array([])).tolist() == []


def test_verdicts_by_hand():
    # z of 3 and -3: p = 2 * .00135 = .0027; of 2.1: 2 * .01786 = .0357; and one unknown;
    # times 3, 2 (but not below the one before) and 1: .0081, .0081, .0357
    estimates = [Estimate(0.01 * z, 0.01, INF) for z in (3, -3, 2.1, np.nan)]
    table = judge(estimates, [ABOVE] * 4, 0.95, "not run")
    assert table["verdict"].tolist() == ["holds", "fails", "holds", "not run"]
    assert table["p_holm"].tolist()[:3] == pytest.approx([0.0081, 0.0081, 0.0357], abs=1e-4)
    assert table["low"].tolist()[:3] == pytest.approx([0.0104, -0.0496, 0.0014], abs=1e-4)
    # at 99 % the third is not significant
    strict = judge(estimates, [ABOVE] * 4, 0.99, "not run")["verdict"]
    assert strict.tolist() == ["holds", "fails", "undecided", "not run"]


def test_more_parts_need_clearer_evidence():
    # z 2.5: p = .0124; alone significant at 5 %, beside four of z 0 not: .062
    one, null = Estimate(0.025, 0.01, INF), Estimate(0.0, 0.01, INF)
    assert judge([one], [ABOVE], 0.95, "")["verdict"][0] == "holds"
    assert judge([one, *[null] * 4], [ABOVE] * 5, 0.95, "")["verdict"][0] == "undecided"


@given(st.floats(-0.05, 0.05), st.floats(0.001, 0.02), st.sampled_from([ABOVE, BELOW, WITHIN]))
def test_a_verdict_agrees_with_the_side_of_the_estimate(value, error, region):
    (verdict,) = judge([Estimate(value, error, INF)], [region], 0.95, "")["verdict"]
    inside = region[0] < value < region[1]
    assert verdict in ({"holds", "undecided"} if inside else {"fails", "undecided"})


def test_true_nulls_give_a_verdict_in_few_families():
    # 20 statistics at their limits: with Holm at most 5 % of the families have any verdict
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        estimates = [Estimate(float(x), 1.0, INF) for x in rng.normal(size=20)]
        wrong += set(judge(estimates, [ABOVE] * 20, 0.95, "")["verdict"]) != {"undecided"}
    assert wrong / 400 <= 0.08  # the standard error is .011
