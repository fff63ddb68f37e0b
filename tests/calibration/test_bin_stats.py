"""Binned statistics: by hand, by their properties, and what they refuse."""

import functools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_logits import random_logits

from carot_lib.calibration.bin_stats import MAX_BIN_COUNT, MIN_BIN_COUNT, BinStats, bin_of

ROOT = Path(__file__).parents[2]

# Bins (0, .1], (.2, .3], (.3, .4], (.9, 1] of ten: gaps of sums |.05 - 0|, |.6 - 1|, |.7 - 2|,
# |1.9 - 1| = .05, .4, 1.3, .9; counts 1, 2, 2, 2; 7 samples.
CONFIDENCES = np.array([0.05, 0.3, 0.3, 0.35, 0.35, 0.95, 0.95])
CORRECT = np.array([0, 1, 0, 1, 1, 1, 0], dtype=bool)

samples = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.sampled_from([k / 10 for k in range(11)])), st.booleans()
    ),
    min_size=1,
    max_size=60,
)
bin_counts = st.integers(1, 20)


def stats_of(pairs: list[tuple[float, bool]], n_bins: int = 10) -> BinStats:
    """Statistics of (confidence, right) pairs."""
    return BinStats.from_confidences(
        np.array([c for c, _ in pairs]), np.array([y for _, y in pairs]), n_bins
    )


# By hand


def test_bins_are_right_closed_and_both_ends_belong_to_a_bin():
    # 0 and .1 in the first bin, .3 in (.2, .3], .6 in (.5, .6], .7 in (.6, .7], 1 in the last.
    confidences = np.array([0.0, 0.1, 0.3, 0.6, 0.7, 1.0])
    assert bin_of(confidences, 10).tolist() == [0, 0, 2, 5, 6, 9]
    count = BinStats.from_confidences(confidences, np.ones(6, dtype=bool)).count
    assert count.tolist() == [2, 0, 1, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15, 49, 50])
def test_every_edge_and_the_float_below_fall_below_it_and_the_float_above_does_not(n_bins):
    edges = np.array([k / n_bins for k in range(1, n_bins)])
    below = list(range(n_bins - 1))
    assert bin_of(edges, n_bins).tolist() == below
    assert bin_of(np.nextafter(edges, 0), n_bins).tolist() == below
    assert bin_of(np.nextafter(edges, 1), n_bins).tolist() == list(range(1, n_bins))
    ends = np.array([0, np.nextafter(0, 1), np.nextafter(1, 0), 1])
    assert bin_of(ends, n_bins).tolist() == [0, 0, n_bins - 1, n_bins - 1]


@pytest.mark.parametrize("n_bins", [3, 10, 15, 49])
def test_an_edge_in_single_precision_is_binned_by_its_own_value(n_bins):
    # As float32, 7 / 10 is .699999988 and falls below the edge, 3 / 10 is .300000012 and falls
    # above: no edge is rounded to float32 to meet it.
    edges = np.array([k / n_bins for k in range(1, n_bins)], dtype=np.float32)
    exact = [k / n_bins for k in range(1, n_bins)]
    expected = [k if float(edge) <= exact[k] else k + 1 for k, edge in enumerate(edges)]
    assert bin_of(edges, n_bins).tolist() == expected
    stats = BinStats.from_confidences(edges, np.ones(len(edges), dtype=bool), n_bins)
    assert stats.count.tolist() == np.bincount(expected, minlength=n_bins).tolist()


def test_bins_hold_counts_accuracies_and_mean_confidences():
    stats = BinStats.from_confidences(CONFIDENCES, CORRECT)
    nan = np.nan
    assert (stats.n, stats.n_bins) == (7, 10)
    assert stats.count.tolist() == [1, 0, 2, 2, 0, 0, 0, 0, 0, 2]
    np.testing.assert_array_equal(stats.accuracy, [0, nan, 0.5, 1, nan, nan, nan, nan, nan, 0.5])
    np.testing.assert_allclose(
        stats.confidence, [0.05, nan, 0.3, 0.35, nan, nan, nan, nan, nan, 0.95], atol=1e-12
    )


def test_errors_match_the_sums_by_hand():
    stats = BinStats.from_confidences(CONFIDENCES, CORRECT)
    # (.05 + .4 + 1.3 + .9) / 7 = 2.65 / 7
    assert stats.ece() == pytest.approx(2.65 / 7, abs=1e-11)
    # largest of .05, .2, .65, .45, once each bin has enough samples
    assert np.isnan(stats.mce())
    many = BinStats.from_confidences(*np.repeat([CONFIDENCES, CORRECT], MIN_BIN_COUNT, axis=1))
    assert many.mce() == pytest.approx(0.65, abs=1e-11)
    # confidences sum to 3.25, 4 of 7 are right: -.75 / 7
    assert stats.mean_confidence() == pytest.approx(3.25 / 7, abs=1e-11)
    assert stats.mean_accuracy() == pytest.approx(4 / 7)
    assert stats.signed_gap() == pytest.approx(-0.75 / 7, abs=1e-11)
    # gaps of opposite sign cancel within a bin only: (.8 + .9) / 2 - 1 / 2 = .35 in one bin;
    # apart (|.8 - 1| + |.9 - 0|) / 2 = .55
    assert BinStats.from_confidences([0.8, 0.9], [1, 0], 1).ece() == pytest.approx(0.35)
    assert BinStats.from_confidences([0.8, 0.9], [1, 0], 10).ece() == pytest.approx(0.55)


def test_the_maximum_error_passes_over_a_bin_of_too_few_samples():
    # 29 of .95, all wrong, do not count; 30 of .65, 15 right: .65 - .5 = .15; one more wrong of
    # .95, and its gap counts
    few, enough = [0.95] * (MIN_BIN_COUNT - 1), [0.65] * MIN_BIN_COUNT
    correct = [False] * len(few) + [True, False] * (MIN_BIN_COUNT // 2)
    stats = BinStats.from_confidences(few + enough, correct)
    assert stats.mce() == pytest.approx(0.15, abs=1e-11)
    more = stats + BinStats.from_confidences([0.95], [False])
    assert more.mce() == pytest.approx(0.95, abs=1e-11)


def test_debiasing_subtracts_each_bins_binomial_variance():
    # 4 of .9, 2 right: (.4 ** 2 - .25 / 3) = .076667; the single sample at .2 counts 0:
    # sqrt(4 * .076667 / 5) = sqrt(.061333).
    stats = BinStats.from_confidences([0.9, 0.9, 0.9, 0.9, 0.2], [1, 1, 0, 0, 1])
    assert stats.rmsce_debiased() == pytest.approx((4 * (0.16 - 0.25 / 3) / 5) ** 0.5, abs=1e-10)
    # accuracy .5 at confidence .5: 0 - .25 / 3 < 0 counts 0
    assert BinStats.from_confidences([0.5] * 4, [1, 1, 0, 0]).rmsce_debiased() == 0.0


def test_noise_floor_is_the_mean_absolute_normal():
    # 4 of .5: variance 1; 1 of .9: variance .09, deviation .3; sqrt(2 / pi) * 1.3 / 5.
    stats = BinStats.from_confidences([0.5] * 4 + [0.9], [1, 1, 0, 0, 1])
    assert stats.noise_floor() == pytest.approx((2 / np.pi) ** 0.5 * 1.3 / 5, abs=1e-10)


def test_noise_floor_is_the_mean_ece_of_a_calibrated_model():
    generator = np.random.default_rng(1)
    confidences = generator.uniform(0.2, 1, 2000)
    eces = [
        BinStats.from_confidences(confidences, generator.random(2000) < confidences).ece()
        for _ in range(300)
    ]
    floor = BinStats.from_confidences(confidences, np.ones(2000, dtype=bool)).noise_floor()
    assert np.mean(eces) == pytest.approx(floor, rel=0.05)


def test_the_test_rejects_five_percent_of_calibrated_models_at_five_percent():
    generator = np.random.default_rng(2)
    p_values = []
    for _ in range(300):
        confidences = generator.uniform(0.2, 1, 1000)
        stats = BinStats.from_confidences(confidences, generator.random(1000) < confidences)
        p_values.append(stats.p_value(resamples=400))
    # 300 draws at 5 %: 15 expected, standard deviation 3.8.
    assert 3 <= np.sum(np.array(p_values) <= 0.05) <= 27
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.07)


def test_the_test_never_says_zero_is_certain_of_perfect_certainty_and_repeats_itself():
    wrong = BinStats.from_confidences([0.9] * 500, [True] * 300 + [False] * 200)
    assert wrong.p_value(resamples=999) == pytest.approx(1 / 1000)
    assert BinStats.from_confidences([1.0] * 5, [True] * 5).p_value(resamples=10) == 1.0
    stats = BinStats.from_confidences(CONFIDENCES, CORRECT)
    assert stats.p_value(seed=3, resamples=100) == stats.p_value(seed=3, resamples=100)


def test_consistency_of_a_small_bin_is_binomial():
    # 4 of .5: P(0) = .0625 >= .025 gives 0; P(<= 3) = .9375 < .975 gives 4 of 4.
    low, high = BinStats.from_confidences([0.5] * 4, [True] * 4, 1).consistency()
    assert (low.tolist(), high.tolist()) == ([0.0], [1.0])
    # at level .5: P(<= 1) = .3125 >= .25 gives 1 of 4; P(<= 3) = .9375 >= .75 > P(<= 2) gives 3.
    low, high = BinStats.from_confidences([0.5] * 4, [True] * 4, 1).consistency(0.5)
    assert low.tolist() == [0.25]
    assert high.tolist() == [0.75]


def test_consistency_of_a_large_bin_is_normal_and_of_an_empty_bin_nan():
    # 100 of .5: .5 -+ 1.959964 * .05
    low, high = BinStats.from_confidences([0.5] * 100, [True] * 100, 4).consistency()
    np.testing.assert_allclose(low, [np.nan, 0.5 - 0.0979982, np.nan, np.nan], atol=1e-6)
    np.testing.assert_allclose(high, [np.nan, 0.5 + 0.0979982, np.nan, np.nan], atol=1e-6)


@pytest.mark.parametrize("n", [1, MIN_BIN_COUNT - 1, MIN_BIN_COUNT, 1000])
@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_consistency_of_certainty_is_a_point(n, confidence):
    low, high = BinStats.from_confidences([confidence] * n, [True] * n, 1).consistency()
    assert (low.tolist(), high.tolist()) == ([confidence], [confidence])


def test_the_memory_of_the_test_does_not_grow_with_bins_times_resamples():
    stats = BinStats.from_confidences([0.5], [True], 100_000)
    tracemalloc.start()
    try:
        assert 0 < stats.p_value(resamples=20) <= 1
        # all draws at once: 100,000 * 20 * 8 bytes, twice; ten of them at a time: half of it
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
    finally:
        tracemalloc.stop()


def test_equal_states_are_equal_and_others_are_not():
    one = BinStats.from_confidences([0.5], [True])
    assert one == BinStats.from_confidences([0.5], [True])
    assert one != BinStats.from_confidences([0.5], [False])
    assert one != BinStats.from_confidences([0.5], [True], 5)
    assert one != 0


@pytest.mark.parametrize(
    "number",
    [
        *("mean_accuracy", "mean_confidence", "signed_gap", "ece", "mce", "rmsce_debiased"),
        *("noise_floor", "p_value", "consistency", "accuracy", "confidence"),
    ],
)
def test_an_empty_state_refuses_every_number(number):
    empty = BinStats.empty(4)
    assert (empty.n, empty.n_bins, empty.count.tolist()) == (0, 4, [0, 0, 0, 0])
    with pytest.raises(ValueError, match="no samples"):
        getattr(empty, number)()


# Properties


@given(st.lists(samples, min_size=3, max_size=3), bin_counts)
def test_adding_is_associative_commutative_and_has_a_neutral_element(three, n_bins):
    a, b, c = (stats_of(pairs, n_bins) for pairs in three)
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + BinStats.empty(n_bins) == BinStats.empty(n_bins) + a == a


@given(samples, bin_counts)
def test_errors_are_ordered_between_zero_and_one(pairs, n_bins):
    stats = stats_of(pairs * MIN_BIN_COUNT, n_bins)  # every bin has enough samples for the MCE
    assert abs(stats.signed_gap()) - 1e-12 <= stats.ece() <= stats.mce() + 1e-12
    assert stats.mce() <= 1
    assert 0 <= stats.rmsce_debiased() <= stats.mce() + 1e-12
    assert 0 <= stats_of(pairs, n_bins).rmsce_debiased() <= 1


@given(samples)
def test_with_one_bin_all_errors_are_the_gap_of_the_means(pairs):
    stats = stats_of(pairs * MIN_BIN_COUNT, 1)
    gap = abs(stats.signed_gap())
    assert (stats.ece(), stats.mce()) == pytest.approx((gap, gap), abs=1e-12)


@given(samples, bin_counts, st.integers(1, 4))
def test_finer_bins_that_nest_never_lower_the_ece(pairs, n_bins, factor):
    coarse, fine = stats_of(pairs, n_bins), stats_of(pairs, n_bins * factor)
    assert fine.ece() >= coarse.ece() - 1e-11


@given(samples, bin_counts, st.data())
def test_any_split_merged_in_any_order_gives_the_same_bits(pairs, n_bins, data):
    part = data.draw(st.lists(st.integers(0, 4), min_size=len(pairs), max_size=len(pairs)))
    parts = [
        stats_of([pair for pair, p in zip(pairs, part, strict=True) if p == chosen], n_bins)
        for chosen in data.draw(st.permutations(sorted(set(part))))
    ]
    merged = sum(parts[1:], start=parts[0])
    whole = stats_of(pairs, n_bins)
    np.testing.assert_array_equal(merged.state, whole.state)


@given(samples, bin_counts)
def test_test_and_consistency_stay_in_range(pairs, n_bins):
    stats = stats_of(pairs, n_bins)
    assert 0 < stats.p_value(resamples=50) <= 1
    low, high = stats.consistency()
    filled = stats.count > 0
    assert np.isnan(low[~filled]).all()
    assert np.isnan(high[~filled]).all()
    assert ((low[filled] >= 0) & (low[filled] <= high[filled]) & (high[filled] <= 1)).all()


# Bad input


def test_different_numbers_of_bins_cannot_be_added():
    a, b = (BinStats.from_confidences([0.5], [True], n) for n in (5, 10))
    with pytest.raises(ValueError, match="cannot add 5 bins and 10 bins"):
        a + b
    with pytest.raises(TypeError, match="unsupported operand"):
        a + 1


def test_16_bit_input_is_upcast_with_a_warning():
    logits, labels = random_logits(100, 3)
    half = torch.tensor(logits).half()
    with pytest.warns(UserWarning, match="logits have 16 bits"):
        stats = BinStats.from_logits(half, labels)
    assert stats == BinStats.from_logits(half.float(), labels)
    with pytest.warns(UserWarning, match="confidences have 16 bits"):
        BinStats.from_confidences(np.array([0.5], dtype=np.float16), [True])


MAKERS = {
    "empty": BinStats.empty,
    "from_confidences": functools.partial(BinStats.from_confidences, [0.5], [True]),
    "from_logits": functools.partial(BinStats.from_logits, np.eye(2), [0, 1]),
}


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("n_bins", [0, -1, 10.0, np.float64(10), True, None, "10", 10**9])
def test_an_invalid_number_of_bins_is_refused(make, n_bins):
    with pytest.raises(ValueError, match="n_bins must be an integer in"):
        make(n_bins=n_bins)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("confidences", "error", "message"),
    [
        ([True, False], TypeError, "confidences must be real numbers, got bool"),
        (["a", "b"], TypeError, "confidences must be real numbers"),
        ([None, 0.5], TypeError, "confidences must be real numbers, got object"),
        ([0.5j, 0.5], TypeError, "confidences must be real numbers, got complex128"),
        (None, ValueError, r"confidences must be \[N\]"),
        (0.5, ValueError, r"confidences must be \[N\]"),
        (np.eye(2), ValueError, r"confidences must be \[N\] with N >= 1, got \[2, 2\]"),
        ([[0.5], [0.5, 0.6]], ValueError, "confidences cannot be read as an array"),
        ([0.5], ValueError, r"correct \(2,\) does not fit \(1,\)"),
        *(
            ([0.5, value], ValueError, r"confidences must be in \[0, 1\]")
            for value in (-0.01, 1.01, np.nan, np.inf)
        ),
    ],
)
def test_what_is_no_list_of_confidences_is_refused(confidences, error, message):
    with pytest.raises(error, match=message):
        BinStats.from_confidences(confidences, [True, False])


@pytest.mark.parametrize("correct", [[0, 2], [0.5, 1], [np.nan, 1], ["a", "b"], [None, True]])
def test_what_is_not_a_truth_value_is_refused(correct):
    with pytest.raises(TypeError, match="correct must hold truth values"):
        BinStats.from_confidences([0.5, 0.6], correct)


def test_more_samples_than_sum_exactly_are_refused_rather_than_wrong():
    # that many samples of confidence 1 sum to 2 ** 23 * 2 ** 40 = 2 ** 63, one too many for int64
    half = BinStats.from_confidences([1.0], [True], 1).state * (MAX_BIN_COUNT // 2)
    most = BinStats(half) + BinStats(half - np.array([[1], [1], [2**40], [2**40]]))
    assert (most.n, most.mean_confidence()) == (MAX_BIN_COUNT - 1, 1.0)
    with pytest.raises(ValueError, match="too many for exact sums"):
        BinStats(half) + BinStats(half)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed must be an integer in \[0, "),
        ({"seed": None}, r"seed must be an integer in \[0, "),
        ({"resamples": 0}, r"resamples must be an integer in \[1, "),
        ({"resamples": 1e3}, r"resamples must be an integer in \[1, "),
    ],
)
def test_bad_arguments_of_the_test_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BinStats.from_confidences([0.5], [True]).p_value(**arguments)


def test_the_statistics_are_imported_without_what_takes_long():
    modules = "carot_lib.calibration.bin_stats, carot_lib.calibration.metrics"
    slow = "{'torch', 'scipy.stats', 'sklearn', 'pandas'}"
    code = f"import sys, {modules}; sys.exit(str({slow} & set(sys.modules) or ''))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr.strip() == ""
