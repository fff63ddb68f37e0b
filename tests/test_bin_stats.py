"""Binned statistics: by hand, by their properties and against other libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from carot_lib.bin_stats import FEW, ROWS, BinStats, bin_of, top_confidences
from carot_lib.label_space import LabelSpace

# Bins (0, .1], (.2, .3], (.3, .4], (.9, 1] of ten: gaps of sums |.05 - 0|, |.6 - 1|, |.7 - 2|,
# |1.9 - 1| = .05, .4, 1.3, .9; counts 1, 2, 2, 2; 7 samples.
CONFIDENCES = np.array([0.05, 0.3, 0.3, 0.35, 0.35, 0.95, 0.95])
CORRECT = np.array([0, 1, 0, 1, 1, 1, 0], dtype=bool)

relaxed = settings(deadline=None, max_examples=100)
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


def random_logits(n: int, k: int, seed: int = 0, scale: float = 2.0):
    """Logits and labels that are right more often than by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    logits = generator.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += 1
    return logits, labels


# By hand


def test_bins_are_right_closed_and_both_ends_belong_to_a_bin():
    # 0 and .1 in the first bin, .3 in (.2, .3], .6 in (.5, .6], .7 in (.6, .7], 1 in the last.
    confidences = np.array([0.0, 0.1, 0.3, 0.6, 0.7, 1.0])
    assert bin_of(confidences, 10).tolist() == [0, 0, 2, 5, 6, 9]
    count = BinStats.from_confidences(confidences, np.ones(6, dtype=bool)).count
    assert count.tolist() == [2, 0, 1, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15, 20, 100])
def test_every_edge_falls_below_itself_and_the_next_float_above(n_bins):
    edges = np.arange(1, n_bins) / n_bins
    assert bin_of(edges, n_bins).tolist() == list(range(n_bins - 1))
    assert bin_of(np.nextafter(edges, 1), n_bins).tolist() == list(range(1, n_bins))


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
    # squares / counts: .0025 + .08 + .845 + .405 = 1.3325
    assert stats.rmsce() == pytest.approx((1.3325 / 7) ** 0.5, abs=1e-11)
    # largest of .05, .2, .65, .45
    assert stats.mce() == pytest.approx(0.65, abs=1e-11)
    # confidences sum to 3.25, 4 of 7 are right: -.75 / 7
    assert stats.mean_confidence() == pytest.approx(3.25 / 7, abs=1e-11)
    assert stats.mean_accuracy() == pytest.approx(4 / 7)
    assert stats.signed_gap() == pytest.approx(-0.75 / 7, abs=1e-11)


def test_over_confidence_has_a_positive_sign():
    assert BinStats.from_confidences([0.9], [False]).signed_gap() == pytest.approx(0.9)
    assert BinStats.from_confidences([0.9], [True]).signed_gap() == pytest.approx(-0.1)


def test_gaps_of_opposite_sign_cancel_within_a_bin_only():
    # In one bin (.8 + .9) / 2 - 1 / 2 = .35; apart (|.8 - 1| + |.9 - 0|) / 2 = .55.
    assert BinStats.from_confidences([0.8, 0.9], [1, 0], 1).ece() == pytest.approx(0.35)
    assert BinStats.from_confidences([0.8, 0.9], [1, 0], 10).ece() == pytest.approx(0.55)


def test_debiasing_subtracts_each_bins_binomial_variance():
    # 4 of .9, 2 right: (.4 ** 2 - .25 / 3) = .076667; the single sample at .2 counts 0:
    # sqrt(4 * .076667 / 5) = sqrt(.061333).
    stats = BinStats.from_confidences([0.9, 0.9, 0.9, 0.9, 0.2], [1, 1, 0, 0, 1])
    assert stats.ece_debiased() == pytest.approx((4 * (0.16 - 0.25 / 3) / 5) ** 0.5, abs=1e-10)


def test_debiasing_never_goes_below_zero():
    # accuracy .5 at confidence .5: 0 - .25 / 3 < 0
    assert BinStats.from_confidences([0.5] * 4, [1, 1, 0, 0]).ece_debiased() == 0.0
    assert BinStats.from_confidences([0.2], [True]).ece_debiased() == 0.0


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


def test_the_test_rejects_calibrated_models_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    p_values = []
    for _ in range(300):
        confidences = generator.uniform(0.2, 1, 1000)
        stats = BinStats.from_confidences(confidences, generator.random(1000) < confidences)
        p_values.append(stats.test(resamples=400))
    # 300 draws at 5 %: 15 expected, standard deviation 3.8.
    assert 3 <= np.sum(np.array(p_values) <= 0.05) <= 27
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.07)


def test_the_test_finds_over_confidence_and_never_says_zero():
    stats = BinStats.from_confidences([0.9] * 500, [True] * 300 + [False] * 200)
    assert stats.test(resamples=999) == pytest.approx(1 / 1000)


def test_the_test_is_certain_of_perfect_certainty_and_repeats_itself():
    assert BinStats.from_confidences([1.0] * 5, [True] * 5).test(resamples=10) == 1.0
    stats = BinStats.from_confidences(CONFIDENCES, CORRECT)
    assert stats.test(seed=3, resamples=100) == stats.test(seed=3, resamples=100)


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


@pytest.mark.parametrize("n", [1, FEW - 1, FEW, 1000])
@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_consistency_of_certainty_is_a_point(n, confidence):
    low, high = BinStats.from_confidences([confidence] * n, [True] * n, 1).consistency()
    assert (low.tolist(), high.tolist()) == ([confidence], [confidence])


def test_logits_are_always_softmaxed_even_if_they_look_like_probabilities():
    # softmax of (1, 0): 1 / (1 + 1 / e) = .731059
    confidences, correct = top_confidences(np.array([[1.0, 0.0]]), np.array([0]))
    assert confidences[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert correct.tolist() == [True]


def test_ties_go_to_the_lower_class():
    _, correct = top_confidences(np.zeros((2, 3)), np.array([0, 1]))
    assert correct.tolist() == [True, False]


def test_temperature_divides_the_logits():
    logits, labels = random_logits(200, 5)
    divided = BinStats.from_logits(logits / 4, labels)
    np.testing.assert_array_equal(
        BinStats.from_logits(logits, labels, temperature=4.0).state, divided.state
    )
    hot = BinStats.from_logits(logits, labels, temperature=1e6)
    assert hot.mean_confidence() == pytest.approx(0.2, abs=1e-4)
    assert hot.mean_accuracy() == divided.mean_accuracy()


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [-1e4, 1e4]], dtype=np.float32)
    confidences, correct = top_confidences(logits, np.array([0, 1]))
    assert confidences.tolist() == [1.0, 1.0]
    assert correct.all()


def test_probabilities_and_their_logarithms_agree():
    logits, labels = random_logits(500, 7)
    probabilities = torch.tensor(logits).softmax(dim=1)
    a = BinStats.from_probabilities(probabilities, labels)
    b = BinStats.from_logits(logits, labels)
    assert a.count.tolist() == b.count.tolist()
    assert a.ece() == pytest.approx(b.ece(), abs=1e-9)


def test_numpy_torch_and_lists_give_the_same_state():
    logits, labels = random_logits(50, 4)
    expected = BinStats.from_logits(logits, labels).state
    tensor = torch.tensor(logits, requires_grad=True)
    for x, y in ((tensor, torch.tensor(labels)), (logits.tolist(), labels.tolist())):
        np.testing.assert_array_equal(BinStats.from_logits(x, y).state, expected)
    for dtype in (np.uint8, np.int32, np.uint64):
        state = BinStats.from_logits(logits, labels.astype(dtype)).state
        np.testing.assert_array_equal(state, expected)


def test_inputs_are_left_as_they_were():
    logits, labels = random_logits(50, 4)
    before = logits.copy(), labels.copy()
    BinStats.from_logits(logits, labels, temperature=2.0)
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(labels, before[1])


# Properties


@relaxed
@given(samples, bin_counts)
def test_errors_are_ordered_between_zero_and_one(pairs, n_bins):
    stats = stats_of(pairs, n_bins)
    ece, rmsce, mce = stats.ece(), stats.rmsce(), stats.mce()
    assert 0 <= ece <= rmsce + 1e-12
    assert rmsce <= mce + 1e-12
    assert mce <= 1
    assert stats.ece_debiased() <= rmsce + 1e-12


@relaxed
@given(samples, bin_counts)
def test_ece_is_at_least_the_gap_of_the_means(pairs, n_bins):
    stats = stats_of(pairs, n_bins)
    gap = abs(np.mean([y for _, y in pairs]) - np.mean([c for c, _ in pairs]))
    assert stats.ece() >= gap - 1e-11
    assert abs(stats.signed_gap()) == pytest.approx(gap, abs=1e-11)


@relaxed
@given(samples)
def test_with_one_bin_all_errors_are_the_gap_of_the_means(pairs):
    stats = stats_of(pairs, 1)
    gap = abs(stats.signed_gap())
    for error in (stats.ece(), stats.rmsce(), stats.mce()):
        assert error == pytest.approx(gap, abs=1e-12)


@relaxed
@given(samples, bin_counts, st.integers(1, 4))
def test_finer_bins_that_nest_never_lower_the_ece(pairs, n_bins, factor):
    coarse, fine = stats_of(pairs, n_bins), stats_of(pairs, n_bins * factor)
    assert fine.ece() >= coarse.ece() - 1e-11


@relaxed
@given(samples, bin_counts, st.randoms(use_true_random=False))
def test_any_order_of_the_samples_gives_the_same_bits(pairs, n_bins, random):
    shuffled = random.sample(pairs, len(pairs))
    np.testing.assert_array_equal(stats_of(shuffled, n_bins).state, stats_of(pairs, n_bins).state)


@relaxed
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
    assert (merged.ece(), merged.mce(), merged.rmsce()) == (whole.ece(), whole.mce(), whole.rmsce())


@relaxed
@given(samples, bin_counts, st.integers(2, 5))
def test_repeating_every_sample_changes_no_error(pairs, n_bins, times):
    once, often = stats_of(pairs, n_bins), stats_of(pairs * times, n_bins)
    np.testing.assert_array_equal(often.state, once.state * times)
    for name in ("ece", "rmsce", "mce", "signed_gap"):
        assert getattr(often, name)() == pytest.approx(getattr(once, name)(), abs=1e-12)


@relaxed
@given(samples, bin_counts)
def test_test_and_consistency_stay_in_range(pairs, n_bins):
    stats = stats_of(pairs, n_bins)
    assert 0 < stats.test(resamples=50) <= 1
    low, high = stats.consistency()
    filled = stats.count > 0
    assert np.isnan(low[~filled]).all()
    assert np.isnan(high[~filled]).all()
    assert ((low[filled] >= 0) & (low[filled] <= high[filled]) & (high[filled] <= 1)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 200])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("subset", [False, True])
def test_logits_give_the_same_bits_in_any_split_and_memory_layout(dtype, n_classes, order, subset):
    logits, labels = random_logits(ROWS + 900, n_classes)
    space = LabelSpace(n_classes, tuple((i,) for i in range(0, n_classes, 2))) if subset else None
    labels = labels // 2 if subset else labels
    logits = np.array(logits, dtype=dtype, order=order)
    whole, correct = top_confidences(logits, labels, label_space=space)
    parts = [
        top_confidences(logits[i:j].copy(), labels[i:j], label_space=space)
        for i, j in [(k, k + 1) for k in range(100)] + [(100, 1000), (1000, len(logits))]
    ]
    np.testing.assert_array_equal(np.concatenate([c for c, _ in parts]), whole)
    np.testing.assert_array_equal(np.concatenate([r for _, r in parts]), correct)


def test_a_label_space_is_the_same_as_slicing_the_logits():
    logits, labels = random_logits(300, 6)
    space = LabelSpace(6, ((4,), (1,), (5,)))
    masked = BinStats.from_logits(logits, labels % 3, label_space=space)
    sliced = BinStats.from_logits(logits[:, [4, 1, 5]], labels % 3)
    np.testing.assert_array_equal(masked.state, sliced.state)


def test_a_label_space_is_the_same_as_logits_that_cannot_win():
    logits, labels = random_logits(300, 6)
    buried = logits.copy()
    buried[:, [0, 2, 5]] = -1e4
    own = np.array([1, 3, 4])
    masked = BinStats.from_logits(
        logits, labels % 3, label_space=LabelSpace(6, tuple((int(i),) for i in own))
    )
    np.testing.assert_array_equal(masked.state, BinStats.from_logits(buried, own[labels % 3]).state)


# Other libraries


@pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("l2", "rmsce"), ("max", "mce")])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_errors_of_logits_agree_with_torchmetrics(norm, name, n_bins):
    logits, labels = random_logits(3000, 6)
    confidences, _ = top_confidences(logits, labels)
    below = confidences < 1.0  # torchmetrics puts 1.0 into a bin of its own
    logits, labels = logits[below], labels[below]
    probabilities = torch.tensor(logits).softmax(dim=1)
    theirs = multiclass_calibration_error(
        probabilities, torch.tensor(labels), num_classes=6, n_bins=n_bins, norm=norm
    )
    ours = getattr(BinStats.from_logits(logits, labels, n_bins), name)()
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("l2", "rmsce"), ("max", "mce")])
def test_errors_of_confidences_agree_with_torchmetrics(norm, name):
    generator = np.random.default_rng(4)
    confidences = generator.random(5000)
    correct = generator.random(5000) < confidences**2
    theirs = binary_calibration_error(
        torch.tensor(confidences), torch.tensor(correct).long(), n_bins=10, norm=norm
    )
    ours = getattr(BinStats.from_confidences(confidences, correct), name)()
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_torchmetrics_is_wrong_for_a_confidence_of_one():
    # Both are in (.9, 1]: |(.95 + 1) / 2 - 1 / 2| = .475. An eleventh bin that holds 1.0 alone
    # makes it (|.95 - 1| + |1 - 0|) / 2 = .525.
    confidences, correct = [0.95, 1.0], [1, 0]
    assert BinStats.from_confidences(confidences, correct).ece() == pytest.approx(0.475, abs=1e-11)
    theirs = binary_calibration_error(
        torch.tensor(confidences), torch.tensor(correct), n_bins=10, norm="l1"
    )
    assert theirs.item() == pytest.approx(0.525, abs=1e-6)


# Bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    scores = np.array([[0.5, 0.5], [value, 0.5]])
    for make, name in (
        (BinStats.from_logits, "logits"),
        (BinStats.from_probabilities, "probabilities"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            make(scores, np.array([0, 1]))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 3, 1), ()])
def test_logits_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"logits must be \[N, K\] with N, K >= 1"):
        BinStats.from_logits(np.zeros(shape), np.zeros(shape[:1], dtype=int))


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_labels_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"labels .* do not fit logits \[3, 2\]"):
        BinStats.from_logits(np.zeros((3, 2)), np.zeros(shape, dtype=int))


@pytest.mark.parametrize("dtype", [float, bool, complex])
def test_labels_that_are_no_integers_are_refused(dtype):
    with pytest.raises(TypeError, match="labels must be integers"):
        BinStats.from_logits(np.zeros((3, 2)), np.zeros(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [int, bool, complex])
def test_logits_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(TypeError, match="logits must be floating-point"):
        BinStats.from_logits(np.zeros((3, 2), dtype=dtype), np.zeros(3, dtype=int))


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got"):
        BinStats.from_logits(np.zeros((2, 2)), np.array(labels))


def test_no_confidences_are_refused():
    with pytest.raises(ValueError, match=r"confidences must be \[N\] with N >= 1, got \[0\]"):
        BinStats.from_confidences(np.zeros(0), np.zeros(0, dtype=bool))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_confidences_outside_the_unit_interval_are_refused(value):
    with pytest.raises(ValueError, match=r"confidences must be in \[0, 1\]"):
        BinStats.from_confidences([0.5, value], [True, False])


def test_confidences_and_truth_values_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"correct \[1\] does not fit \[2\]"):
        BinStats.from_confidences([0.5, 0.6], [True])


@pytest.mark.parametrize("correct", [[0, 2], [0.5, 1], [np.nan, 1]])
def test_truth_values_that_are_none_are_refused(correct):
    with pytest.raises(TypeError, match="correct must hold truth values"):
        BinStats.from_confidences([0.5, 0.6], correct)


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match=r"must sum to 1, one is off by 0\.2"):
        BinStats.from_probabilities(np.array([[0.5, 0.5], [0.5, 0.3]]), np.array([0, 1]))


@pytest.mark.parametrize("row", [[-0.5, 1.5], [1.5, -0.5], [3.0, 2.0]])
def test_logits_passed_as_probabilities_are_refused(row):
    with pytest.raises(ValueError, match="did you pass logits"):
        BinStats.from_probabilities(np.array([row]), np.array([0]))


@pytest.mark.parametrize("n_bins", [0, -1])
def test_a_number_of_bins_below_one_is_refused(n_bins):
    with pytest.raises(ValueError, match="n_bins must be a positive integer"):
        BinStats.from_confidences([0.5], [True], n_bins)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        BinStats.from_logits(np.zeros((1, 2)), np.array([0]), temperature=temperature)


def test_different_numbers_of_bins_cannot_be_added():
    a, b = (BinStats.from_confidences([0.5], [True], n) for n in (5, 10))
    with pytest.raises(ValueError, match="cannot add 5 bins and 10 bins"):
        a + b


def test_logits_of_16_bits_warn_and_are_computed_in_32():
    logits, labels = random_logits(100, 3)
    half = logits.astype(np.float16)
    with pytest.warns(UserWarning, match="logits have 16 bits"):
        stats = BinStats.from_logits(half, labels)
    expected = BinStats.from_logits(half.astype(np.float32), labels)
    np.testing.assert_array_equal(stats.state, expected.state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_16_bits_warn(dtype):
    with pytest.warns(UserWarning, match="16.bit"):
        BinStats.from_logits(torch.zeros(1, 2, dtype=dtype), torch.tensor([0]))
