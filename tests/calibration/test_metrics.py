"""Metrics of logits: by hand and by their properties; test_peers.py compares other libraries."""

import doctest
import os
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_logits import random_logits

import carot_lib
from carot_lib.calibration import metrics
from carot_lib.calibration.metrics import aurc, brier, ece, ece_batch_mean, nll, proper_scores
from carot_lib.calibration.scores import top_confidences

ALL = {"ece": ece, "nll": nll, "brier": brier, "aurc": aurc}
every_metric = pytest.mark.parametrize("metric", ALL.values(), ids=ALL.keys())


def two_class(confidences, correct):
    """Logits of two classes whose first has these probabilities, and labels."""
    confidences = np.array(confidences)
    logits = np.log(np.stack([confidences, 1 - confidences], axis=1))
    return logits, 1 - np.array(correct, dtype=int)


sets = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(0, 2**32 - 1))

# By hand


@pytest.mark.parametrize("module", [carot_lib, metrics], ids=lambda module: module.__name__)
def test_the_example_of_the_module_holds(module):
    # 0 of 0 would hold too
    ran = doctest.testmod(module)
    assert ran.attempted >= 4
    assert ran.failed == 0


def test_ece_by_hand():
    # (.6, .7]: .65 - 1 = -.35; (.8, .9]: .85 + .85 - 1 = .7, of 2 samples.
    logits, labels = two_class([0.65, 0.85, 0.85], [1, 1, 0])
    assert ece(logits, labels) == pytest.approx((0.35 + 0.7) / 3)
    # one bin: .65 + .85 + .85 - 2 = .35
    assert ece(logits, labels, n_bins=1) == pytest.approx(0.35 / 3)


def test_batch_mean_is_of_batches_in_the_order_of_the_classes():
    # Sorted by label, stable: .65 and .85 (right), then .65 (wrong). Batches of two:
    # (.35 + .15) / 2 = .25 and .65; (2 * .25 + 1 * .65) / 3 = 1.15 / 3.
    logits, labels = two_class([0.65, 0.65, 0.85], [1, 0, 1])
    assert ece_batch_mean(logits, labels, batch_size=2) == pytest.approx(1.15 / 3)
    # At once: (.65 + .65 - 1) + .15 = .45.
    assert ece_batch_mean(logits, labels) == pytest.approx(0.45 / 3)


def test_nll_is_minus_log_probability_and_brier_sums_over_all_classes():
    logits, labels = two_class([0.8, 0.6], [1, 0])
    losses, squares = proper_scores(logits, labels)
    np.testing.assert_allclose(losses, [-np.log(0.8), -np.log(0.4)])
    # .2 ** 2 + .2 ** 2 = .08; .6 ** 2 + .6 ** 2 = .72
    np.testing.assert_allclose(squares, [0.08, 0.72])
    # ln 1 / (.8 * .4) = ln 3.125, halved
    assert nll(logits, labels) == pytest.approx(np.log(3.125) / 2)
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


def test_aurc_is_the_mean_risk_of_all_coverages():
    # From the most confident: right, wrong, right: risks 0, 1 / 2, 1 / 3.
    logits, labels = two_class([0.7, 0.9, 0.8], [1, 1, 0])
    assert aurc(logits, labels) == pytest.approx((1 / 2 + 1 / 3) / 3)


def test_aurc_of_equal_confidences_is_their_error_rate_in_any_order():
    for correct in ([1, 1, 0], [1, 0, 1], [0, 1, 1]):
        assert aurc(*two_class([0.7, 0.7, 0.7], correct)) == pytest.approx(1 / 3)


# Properties


@given(sets)
def test_every_metric_stays_in_its_range(drawn):
    logits, labels = random_logits(*drawn)
    losses, squares = proper_scores(logits, labels)
    assert (losses >= 0).all()
    assert ((squares >= 0) & (squares <= 2 + 1e-12)).all()
    for metric in (ece, aurc, ece_batch_mean):
        assert 0 <= metric(logits, labels) <= 1 + 1e-12
    assert ece_batch_mean(logits, labels, batch_size=7) >= ece(logits, labels) - 1e-12


@every_metric
@given(drawn=sets, random=st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(metric, drawn, random):
    logits, labels = random_logits(*drawn)
    order = random.sample(range(len(labels)), len(labels))
    shuffled = metric(logits[order], labels[order])
    assert shuffled == pytest.approx(metric(logits, labels), abs=1e-10)


@every_metric
@given(drawn=sets, shift=st.sampled_from([-8.0, 4.0, 64.0]))
def test_a_constant_added_to_a_samples_logits_does_not_matter(metric, drawn, shift):
    # Logits on a grid, so that the sums are exact.
    logits, labels = random_logits(*drawn)
    logits = np.round(logits * 2**20) / 2**20
    assert metric(logits + shift, labels) == pytest.approx(metric(logits, labels), abs=1e-10)


@every_metric
def test_tensors_and_arrays_agree_and_stay_as_they_were(metric):
    logits, labels = random_logits(100, 5)
    before = logits.copy()
    value = metric(torch.tensor(logits, requires_grad=True), torch.tensor(labels))
    assert value == metric(logits, labels)
    assert type(value) is float
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("name", sorted(ALL))
def test_chunks_and_threads_change_no_bit(name, monkeypatch):
    logits, labels = random_logits(9000, 40)  # two chunks
    value = ALL[name](logits, labels)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr("carot_lib.calibration.scores.CHUNK_SIZE", 1000)
    assert ALL[name](np.asfortranarray(logits), labels) == value


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_metric_copies_all_logits(name, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    logits, labels = random_logits(9000, 600)
    logits = logits.astype(np.float32)
    tracemalloc.start()
    try:
        ALL[name](logits, labels)
        # 21.6 MB of logits; a float64 chunk of 262,144 is 2 MB, and no metric needs six
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


# Other formulas


def test_aurc_agrees_with_the_plain_definition():
    logits, labels = random_logits(400, 4)
    confidences, correct = top_confidences(logits, labels)
    order = np.argsort(-confidences)
    risks = [1 - correct[order[: k + 1]].mean() for k in range(400)]
    assert aurc(logits, labels) == pytest.approx(np.mean(risks), abs=1e-12)


# Bad input


@every_metric
def test_bad_input_is_refused(metric):
    with pytest.raises(ValueError, match="logits must be finite"):
        metric(np.array([[np.nan, 0.0]]), np.array([0]))
    with pytest.raises(ValueError, match=r"logits must be \[N, K\]"):
        metric(np.zeros((0, 3)), np.zeros(0, dtype=int))
    logits = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"labels \[3\] do not fit logits \[2, 3\]"):
        metric(logits, np.zeros(3, dtype=int))
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        metric(logits, np.zeros(2))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 0 to 3"):
        metric(logits, np.array([0, 3]))
    with pytest.warns(UserWarning, match="logits have 16 bits"):
        metric(logits.astype(np.float16), np.array([0, 1]))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_invalid_batch_size_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be an integer in"):
        ece_batch_mean(np.zeros((2, 3)), np.array([0, 1]), batch_size=batch_size)


@every_metric
def test_one_class_is_certain_and_right(metric):
    assert metric(np.array([[3.0], [-2.0]]), np.array([0, 0])) == 0.0
