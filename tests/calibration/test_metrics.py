"""Metrics of logits: by hand, by their properties and against other libraries."""

import doctest
import functools
import inspect
import os
import tracemalloc

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

import carot_lib
from carot_lib.calibration import metrics
from carot_lib.calibration.bin_stats import BinStats, top_confidences
from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.metrics import (
    accuracy,
    aurc,
    brier,
    brier_of_samples,
    brier_parts,
    classwise_ece,
    coverage_at_accuracy,
    ece,
    ece_batch_mean,
    ece_debiased,
    mce,
    nll,
    nll_of_samples,
    rmsce,
    signed_gap,
)

ALL = {
    "accuracy": accuracy,
    "ece": ece,
    "rmsce": rmsce,
    "mce": mce,
    "ece_mass": functools.partial(ece, binning="mass"),
    "ece_debiased": ece_debiased,
    "signed_gap": signed_gap,
    "classwise_ece": classwise_ece,
    "nll": nll,
    "brier": brier,
    "aurc": aurc,
    "coverage": functools.partial(coverage_at_accuracy, wanted=0.5),
}
every_metric = pytest.mark.parametrize("metric", ALL.values(), ids=ALL.keys())


def two_class(confidences, correct):
    """Logits of two classes whose first has these probabilities, and labels."""
    confidences = np.array(confidences)
    logits = np.log(np.stack([confidences, 1 - confidences], axis=1))
    return logits, 1 - np.array(correct, dtype=int)


def random_logits(n: int, k: int, seed: int = 0):
    """Logits and labels that are right more often than by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    logits = generator.normal(size=(n, k)) * 2
    logits[np.arange(n), labels] += 1
    return logits, labels


def softmax(logits):
    return torch.tensor(logits, dtype=torch.float64).softmax(dim=1).numpy()


sets = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(0, 2**32 - 1))
relaxed = settings(deadline=None, max_examples=60)

# By hand


@pytest.mark.parametrize("module", [carot_lib, metrics], ids=lambda module: module.__name__)
def test_the_example_of_the_module_holds(module):
    # 0 of 0 would hold too
    ran = doctest.testmod(module)
    assert ran.attempted >= 4
    assert ran.failed == 0


def test_accuracy_counts_right_samples_and_gives_ties_to_the_lower_class():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 3.0], [3.0, 3.0]])
    # right, wrong, tie won, tie lost
    assert accuracy(logits, np.array([0, 0, 0, 1])) == 0.5


def test_ece_of_equal_width_in_all_norms():
    # (.6, .7]: .65 - 1 = -.35; (.8, .9]: .85 + .85 - 1 = .7, of 2 samples.
    logits, labels = two_class([0.65, 0.85, 0.85], [1, 1, 0])
    assert ece(logits, labels) == pytest.approx((0.35 + 0.7) / 3)
    # .35 ** 2 + .7 ** 2 / 2
    assert ece(logits, labels, norm="l2") == pytest.approx(((0.1225 + 0.245) / 3) ** 0.5)
    assert ece(logits, labels, norm="max") == pytest.approx(0.35)


def test_signs_and_maxima_of_bins():
    # (.6, .7]: .65 - 1 = -.35, 1 sample; (.8, .9]: (.85 + .85 - 1) / 2 = .35, 2 samples.
    logits, labels = two_class([0.65, 0.85, 0.85], [1, 1, 0])
    assert signed_gap(logits, labels) == pytest.approx((0.65 + 0.85 + 0.85 - 2) / 3)
    assert mce(logits, labels) == pytest.approx(0.35)
    # (.6, .7]: .65 of a miss; of bins of two samples the largest gap is .35
    logits, labels = two_class([0.65, 0.85, 0.85], [0, 1, 0])
    assert mce(logits, labels) == pytest.approx(0.65)
    assert mce(logits, labels, min_count=2) == pytest.approx(0.35)


def test_debiased_ece_takes_the_noise_of_each_bin_away():
    # one bin of four at .85, three right: (.85 - .75) ** 2 - .75 * .25 / 3 = .01 - .0625 < 0;
    # at .95: .04 - .0625 < 0; none right at .85: .7225
    assert ece_debiased(*two_class([0.85] * 4, [1, 1, 1, 0])) == 0.0
    assert ece_debiased(*two_class([0.85] * 4, [0, 0, 0, 0])) == pytest.approx(0.85)


def test_ece_of_equal_mass_in_all_norms():
    # Two bins of two: .6 + .7 - 1 = .3 and .8 + .9 - 1 = .7.
    logits, labels = two_class([0.9, 0.6, 0.8, 0.7], [0, 1, 1, 0])
    mass = functools.partial(ece, logits, labels, n_bins=2, binning="mass")
    assert mass() == pytest.approx((0.3 + 0.7) / 4)
    # (.09 / 2 + .49 / 2) / 4 = .0725
    assert mass(norm="l2") == pytest.approx(0.0725**0.5)
    assert mass(norm="max") == pytest.approx(0.35)


def test_equal_confidences_stay_in_one_bin_of_equal_mass():
    # The block of three .6 has its middle at 1.5 of 4, the first half: 1.8 - 1 = .8;
    # the other bin: .9 - 1 = -.1. Cut in the middle it would depend on the order.
    for correct in ([1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]):
        logits, labels = two_class([0.6, 0.6, 0.6, 0.9], correct)
        assert ece(logits, labels, n_bins=2, binning="mass") == pytest.approx((0.8 + 0.1) / 4)


def test_more_bins_of_equal_mass_than_samples_leave_each_sample_alone():
    logits, labels = two_class([0.6, 0.7, 0.8], [1, 0, 1])
    # (.4 + .7 + .2) / 3
    assert ece(logits, labels, n_bins=50, binning="mass") == pytest.approx(1.3 / 3)


def test_batch_mean_is_of_batches_in_the_order_of_the_classes():
    # Sorted by label, stable: .65 and .85 (right), then .65 (wrong). Batches of two:
    # (.35 + .15) / 2 = .25 and .65; (2 * .25 + 1 * .65) / 3 = 1.15 / 3.
    logits, labels = two_class([0.65, 0.65, 0.85], [1, 0, 1])
    assert ece_batch_mean(logits, labels, batch_size=2) == pytest.approx(1.15 / 3)
    # At once: (.65 + .65 - 1) + .15 = .45.
    assert ece_batch_mean(logits, labels) == pytest.approx(0.45 / 3)
    assert ece_batch_mean(logits, labels, batch_size=np.int16(2)) == pytest.approx(1.15 / 3)


def test_classwise_ece_is_the_mean_over_classes():
    # Class 0: .85 of a hit, gap .15; .65 of a miss, gap .65; mean .4. Class 1 is its mirror:
    # .15 of a miss and .35 of a hit: (.15 + .65) / 2 = .4.
    logits, labels = two_class([0.85, 0.65], [1, 0])
    assert classwise_ece(logits, labels) == pytest.approx(0.4)


def test_classwise_ece_sees_what_the_top_class_hides():
    # Top class: (.6 + .6 - 1) / 2 = .1. Classes: 0 has .6 twice, one hit: .1; 1 has .3 twice, no
    # hit: .3; 2 has .1 twice, one hit: .4. Mean .8 / 3.
    logits = np.log([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    assert ece(logits, np.array([0, 2])) == pytest.approx(0.1)
    assert classwise_ece(logits, np.array([0, 2])) == pytest.approx(0.8 / 3)


def test_nll_is_the_mean_of_minus_log_probability():
    logits, labels = two_class([0.8, 0.6], [1, 0])
    np.testing.assert_allclose(nll_of_samples(logits, labels), [-np.log(0.8), -np.log(0.4)])
    # ln 1 / (.8 * .4) = ln 3.125, halved
    assert nll(logits, labels) == pytest.approx(np.log(3.125) / 2)


def test_brier_sums_over_all_classes():
    # .2 ** 2 + .2 ** 2 = .08; .6 ** 2 + .6 ** 2 = .72.
    logits, labels = two_class([0.8, 0.6], [1, 0])
    np.testing.assert_allclose(brier_of_samples(logits, labels), [0.08, 0.72])
    assert brier(logits, labels) == pytest.approx(0.4)


def test_certain_predictions_reach_the_bounds():
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    right, wrong = np.array([0, 1]), np.array([1, 0])
    assert (nll(logits, right), brier(logits, right), ece(logits, right)) == (0.0, 0.0, 0.0)
    assert (nll(logits, wrong), brier(logits, wrong), ece(logits, wrong)) == (1000.0, 2.0, 1.0)
    assert (aurc(logits, right), aurc(logits, wrong)) == (0.0, 1.0)


def test_uniform_predictions_cost_the_logarithm_of_the_classes():
    # ln 4; 1 - 2 / 4 + 4 / 16 = .75
    logits, labels = np.zeros((8, 4)), np.arange(8) % 4
    assert nll(logits, labels) == pytest.approx(np.log(4))
    assert brier(logits, labels) == pytest.approx(0.75)
    assert ece(logits, labels) == pytest.approx(0, abs=1e-12)


def test_brier_parts_by_hand():
    # Bins at .85 (2, accuracy 1) and .65 (2, accuracy .5); mean accuracy .75.
    stats = BinStats.from_confidences([0.85, 0.85, 0.65, 0.65], [1, 1, 1, 0])
    parts = brier_parts(stats)
    # (2 * .15 ** 2 + 2 * .15 ** 2) / 4, (2 * .25 ** 2 + 2 * .25 ** 2) / 4, .75 * .25
    assert parts["reliability"] == pytest.approx(0.0225)
    assert parts["resolution"] == pytest.approx(0.0625)
    assert parts["uncertainty"] == pytest.approx(0.1875)
    # The score of the bins' means: (2 * .0225 + .35 ** 2 + .65 ** 2) / 4 = .1475
    score = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    assert score == pytest.approx((2 * 0.0225 + 0.1225 + 0.4225) / 4)


def test_aurc_is_the_mean_risk_of_all_coverages():
    # From the most confident: right, wrong, right: risks 0, 1 / 2, 1 / 3.
    logits, labels = two_class([0.7, 0.9, 0.8], [1, 1, 0])
    assert aurc(logits, labels) == pytest.approx((1 / 2 + 1 / 3) / 3)


def test_aurc_of_equal_confidences_is_their_error_rate_in_any_order():
    for correct in ([1, 1, 0], [1, 0, 1], [0, 1, 1]):
        assert aurc(*two_class([0.7, 0.7, 0.7], correct)) == pytest.approx(1 / 3)


def test_coverage_is_the_largest_share_that_is_right_often_enough():
    # Accuracies of the first k: 1, 1 / 2, 2 / 3, 3 / 4.
    logits, labels = two_class([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1])
    assert coverage_at_accuracy(logits, labels, 1.0) == 0.25
    assert coverage_at_accuracy(logits, labels, 0.75) == 1.0
    assert coverage_at_accuracy(logits, labels, 0.76) == 0.25
    assert coverage_at_accuracy(*two_class([0.9, 0.8], [0, 1]), 0.6) == 0.0


# Properties


@relaxed
@given(sets, st.integers(1, 20), st.sampled_from(["width", "mass"]))
def test_calibration_errors_are_ordered_between_zero_and_one(drawn, n_bins, binning):
    logits, labels = random_logits(*drawn)
    l1, l2, top = (
        ece(logits, labels, n_bins=n_bins, norm=norm, binning=binning)
        for norm in ("l1", "l2", "max")
    )
    assert 0 <= l1 <= l2 + 1e-12
    assert l2 <= top + 1e-12
    assert top <= 1 + 1e-12
    confidences, correct = top_confidences(logits, labels)
    assert l1 >= abs(confidences.mean() - correct.mean()) - 1e-11


@relaxed
@given(sets)
def test_one_bin_is_the_gap_of_the_means_in_either_binning(drawn):
    logits, labels = random_logits(*drawn)
    confidences, correct = top_confidences(logits, labels)
    gap = abs(confidences.mean() - correct.mean())
    for binning in ("width", "mass"):
        assert ece(logits, labels, n_bins=1, binning=binning) == pytest.approx(gap, abs=1e-11)


@relaxed
@given(sets)
def test_every_metric_stays_in_its_range(drawn):
    logits, labels = random_logits(*drawn)
    assert (nll_of_samples(logits, labels) >= 0).all()
    scores = brier_of_samples(logits, labels)
    assert (scores >= 0).all()
    assert (scores <= 2 + 1e-12).all()
    for metric in (accuracy, classwise_ece, aurc, ece_batch_mean, rmsce, mce, ece_debiased):
        assert 0 <= metric(logits, labels) <= 1 + 1e-12
    assert -1 <= signed_gap(logits, labels) <= 1
    assert ece_batch_mean(logits, labels, batch_size=7) >= ece(logits, labels) - 1e-12
    assert 0 <= coverage_at_accuracy(logits, labels, 0.9) <= 1


@every_metric
@relaxed
@given(drawn=sets, random=st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(metric, drawn, random):
    logits, labels = random_logits(*drawn)
    order = random.sample(range(len(labels)), len(labels))
    shuffled = metric(logits[order], labels[order])
    assert shuffled == pytest.approx(metric(logits, labels), abs=1e-10)


@every_metric
@relaxed
@given(drawn=sets, shift=st.sampled_from([-8.0, 4.0, 64.0]))
def test_a_constant_added_to_a_samples_logits_does_not_matter(metric, drawn, shift):
    # Logits on a grid, so that the sums are exact.
    logits, labels = random_logits(*drawn)
    logits = np.round(logits * 2**20) / 2**20
    assert metric(logits + shift, labels) == pytest.approx(metric(logits, labels), abs=1e-10)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"aurc", "coverage", "ece_debiased"}))
@relaxed
@given(drawn=sets)
def test_repeating_every_sample_does_not_matter(name, drawn):
    logits, labels = random_logits(*drawn)
    twice = ALL[name](np.concatenate([logits, logits]), np.concatenate([labels, labels]))
    assert twice == pytest.approx(ALL[name](logits, labels), abs=1e-10)


@every_metric
def test_a_label_space_is_the_same_as_slicing_the_logits(metric):
    logits, labels = random_logits(200, 6)
    space = LabelSpace(6, ((4,), (1,), (5,)))
    masked = metric(logits, labels % 3, label_space=space)
    assert masked == pytest.approx(metric(logits[:, [4, 1, 5]], labels % 3), abs=1e-12)


@every_metric
def test_a_coarser_label_space_is_the_same_as_taking_maxima(metric):
    logits, labels = random_logits(200, 6)
    space = LabelSpace(6, ((0, 1, 2), (3, 5)))
    coarse = np.stack([logits[:, :3].max(axis=1), logits[:, [3, 5]].max(axis=1)], axis=1)
    merged = metric(logits, labels % 2, label_space=space)
    assert merged == pytest.approx(metric(coarse, labels % 2), abs=1e-12)


@every_metric
def test_tensors_and_arrays_agree_and_stay_as_they_were(metric):
    logits, labels = random_logits(100, 5)
    before = logits.copy()
    value = metric(torch.tensor(logits, requires_grad=True), torch.tensor(labels))
    assert value == metric(logits, labels)
    assert type(value) is float
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_the_functions_say_what_the_statistics_say(n_bins):
    logits, labels = random_logits(500, 5)
    stats = BinStats.from_logits(logits, labels, n_bins)
    assert ece(logits, labels, n_bins=n_bins) == stats.ece()
    assert ece(logits, labels, n_bins=n_bins, norm="l2") == stats.rmsce()
    assert ece(logits, labels, n_bins=n_bins, norm="max") == stats.mce()
    assert rmsce(logits, labels, n_bins=n_bins) == stats.rmsce()
    assert mce(logits, labels, n_bins=n_bins) == stats.mce()
    assert mce(logits, labels, n_bins=n_bins, min_count=9) == stats.mce(9)
    assert ece_debiased(logits, labels, n_bins=n_bins) == stats.ece_debiased()
    assert signed_gap(logits, labels) == pytest.approx(stats.signed_gap(), abs=1e-15)
    assert accuracy(logits, labels) == stats.mean_accuracy()


def test_one_batch_is_the_ece_and_many_are_larger():
    logits, labels = random_logits(1000, 5)
    whole = ece(logits, labels)
    assert ece_batch_mean(logits, labels, batch_size=1000) == pytest.approx(whole, abs=1e-12)
    assert ece_batch_mean(logits, labels, batch_size=50) > whole


def test_the_batch_mean_takes_a_label_space():
    logits, labels = random_logits(200, 6)
    space = LabelSpace(6, ((4,), (1,), (5,)))
    masked = ece_batch_mean(logits, labels % 3, batch_size=64, label_space=space)
    assert masked == ece_batch_mean(logits[:, [4, 1, 5]], labels % 3, batch_size=64)


@pytest.mark.parametrize("name", sorted(ALL))
def test_pieces_and_threads_change_no_bit(name, monkeypatch):
    logits, labels = random_logits(9000, 40)  # two pieces
    value = ALL[name](logits, labels)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr("carot_lib.calibration.scores.PIECE", 1000)
    assert ALL[name](np.asfortranarray(logits), labels) == value


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_metric_copies_all_logits(name, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    logits, labels = random_logits(9000, 600)
    logits = logits.astype(np.float32)
    tracemalloc.start()
    try:
        ALL[name](logits, labels)
        # 21.6 MB of logits; a float64 piece of 262,144 is 2 MB, and no metric needs six
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


# Other libraries


def test_accuracy_nll_and_brier_agree_with_scikit_learn_and_one_hot_labels():
    logits, labels = random_logits(1000, 7)
    probabilities = softmax(logits)
    assert accuracy(logits, labels) == accuracy_score(labels, probabilities.argmax(axis=1))
    assert nll(logits, labels) == pytest.approx(log_loss(labels, probabilities, labels=range(7)))
    by_hand = ((probabilities - np.eye(7)[labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(brier_of_samples(logits, labels), by_hand, atol=1e-12)


def test_nll_agrees_with_torch_in_single_precision_too():
    logits, labels = random_logits(1000, 7)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none"
    )
    np.testing.assert_allclose(nll_of_samples(logits, labels), theirs.numpy(), atol=1e-12)
    assert nll(logits.astype(np.float32), labels) == pytest.approx(nll(logits, labels), abs=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_calibration_errors_agree_with_torchmetrics(norm):
    logits, labels = random_logits(3000, 5)
    below = softmax(logits).max(axis=1) < 1.0  # torchmetrics puts 1.0 into a bin of its own
    logits, labels = logits[below], labels[below]
    theirs = multiclass_calibration_error(
        torch.tensor(softmax(logits)), torch.tensor(labels), num_classes=5, n_bins=10, norm=norm
    )
    assert ece(logits, labels, norm=norm) == pytest.approx(theirs.item(), abs=1e-6)


def test_aurc_agrees_with_the_plain_definition():
    logits, labels = random_logits(400, 4)
    confidences, correct = top_confidences(logits, labels)
    order = np.argsort(-confidences)
    risks = [1 - correct[order[: k + 1]].mean() for k in range(400)]
    assert aurc(logits, labels) == pytest.approx(np.mean(risks), abs=1e-12)


# Bad input


@every_metric
def test_logits_that_are_not_finite_are_refused(metric):
    with pytest.raises(ValueError, match="logits must be finite"):
        metric(np.array([[np.nan, 0.0]]), np.array([0]))


@every_metric
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 3, 1)])
def test_logits_of_a_wrong_shape_are_refused(metric, shape):
    with pytest.raises(ValueError, match=r"logits must be \[N, K\]"):
        metric(np.zeros(shape), np.zeros(shape[0], dtype=int))


@every_metric
def test_labels_that_do_not_fit_are_refused(metric):
    logits = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"labels \[3\] do not fit logits \[2, 3\]"):
        metric(logits, np.zeros(3, dtype=int))
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        metric(logits, np.zeros(2))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 0 to 3"):
        metric(logits, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got -1 to 0"):
        metric(logits, np.array([0, -1]))


@every_metric
def test_logits_of_16_bits_warn(metric):
    with pytest.warns(UserWarning, match="logits have 16 bits"):
        metric(np.zeros((2, 3), dtype=np.float16), np.array([0, 1]))


@pytest.fixture
def _as_in_use(monkeypatch):
    """No checker of signatures stands before the functions."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


BINNED = ("ece", "ece_mass", "rmsce", "mce", "ece_debiased", "classwise_ece")


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("name", BINNED)
@pytest.mark.parametrize("n_bins", [0, -3, 2.0, True, None, "10", 10**12])
def test_a_number_of_bins_that_is_none_is_refused(name, n_bins):
    with pytest.raises(ValueError, match="n_bins must be a positive integer"):
        ALL[name](np.zeros((2, 3)), np.array([0, 1]), n_bins=n_bins)


@pytest.mark.parametrize("name", BINNED)
def test_any_number_of_bins_will_do(name):
    logits, labels = random_logits(30, 4)
    for n_bins in (1, np.int64(2), np.uint8(15), 1000):
        assert 0 <= ALL[name](logits, labels, n_bins=n_bins) <= 1


@every_metric
def test_one_class_is_certain_and_right(metric):
    # confidence 1, accuracy 1: no error but the perfect scores, and all of the samples
    value = metric(np.array([[3.0], [-2.0]]), np.array([0, 0]))
    assert value == (1.0 if metric in (accuracy, ALL["coverage"]) else 0.0)


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None, False, "512"])
def test_a_size_of_batches_below_one_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        ece_batch_mean(np.zeros((2, 3)), np.array([0, 1]), batch_size=batch_size)


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("wanted", [-0.1, 1.1, np.nan, np.inf, None, "0.5", True])
def test_a_wanted_accuracy_outside_the_unit_interval_is_refused(wanted):
    with pytest.raises(ValueError, match="wanted must be a number, from 0 to 1"):
        coverage_at_accuracy(np.zeros((2, 3)), np.array([0, 1]), wanted)


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("word", ["l3", "", None, 1, ["l1"], np.array(["l1", "l2"])])
def test_an_unknown_norm_or_binning_is_refused(word):
    with pytest.raises(ValueError, match="norm must be one of l1, l2, max, got"):
        ece(np.zeros((2, 3)), np.array([0, 1]), norm=word)
    with pytest.raises(ValueError, match="binning must be one of width, mass, got"):
        ece(np.zeros((2, 3)), np.array([0, 1]), binning=word)


def test_the_parts_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        brier_parts(BinStats.empty())


@pytest.mark.usefixtures("_as_in_use")
def test_parts_are_of_statistics_only():
    with pytest.raises(TypeError, match="stats must be BinStats, got ndarray"):
        brier_parts(np.zeros((4, 10)))


@every_metric
def test_every_metric_states_its_range_and_its_source(metric):
    function = getattr(metric, "func", metric)
    words = inspect.getdoc(function)
    assert "[" in words or ">= 0" in words
    # a share needs none; who passes on to the statistics says so
    assert "Source:" in words or "`BinStats." in words or function is accuracy
