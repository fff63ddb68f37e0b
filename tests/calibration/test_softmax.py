"""The softmax at any temperature, interpolated: by hand and against the plain formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_logits import sharpened_logits

from carot_lib.calibration.metrics import proper_scores
from carot_lib.calibration.scores import top_confidences
from carot_lib.calibration.softmax import SoftmaxCurves, interpolation, nodes_between

SEEDS = st.integers(0, 2**32 - 1)


def test_two_classes_by_hand():
    # .9 and .1, label 1; at temperature 2 odds 9 become 3: .75 and .25
    curves = SoftmaxCurves.from_logits(np.log([[0.9, 0.1]]), np.array([1]), 0.5, 10.0)
    (confidence, nll, brier), (scaled, *_) = curves.at(np.array([1.0, 2.0]))
    assert curves.correct.tolist() == [False]
    assert confidence == pytest.approx([0.9], abs=1e-7)
    assert nll == pytest.approx([-np.log(0.1)], abs=1e-7)
    assert brier == pytest.approx([2 * 0.9**2], abs=1e-7)
    assert scaled == pytest.approx([0.75], abs=1e-7)


@pytest.mark.parametrize(("n", "classes"), [(1, 1), (1, 2), (400, 7), (4000, 100)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_are_the_plain_formulas_at_every_temperature(n: int, classes: int, dtype: type):
    logits, labels = sharpened_logits(n, classes)
    logits, temperatures = logits.astype(dtype), np.array([10.0, 0.5, 1.0, 0.57, 3.21])
    curves = SoftmaxCurves.from_logits(logits, labels, 0.5, 10.0)
    for temperature, (confidences, *losses) in zip(
        temperatures, curves.at(temperatures), strict=True
    ):
        scaled = logits.astype(np.float64) / temperature
        expected, correct = top_confidences(scaled, labels)
        np.testing.assert_array_equal(curves.correct, correct)
        np.testing.assert_allclose(confidences, expected, atol=1e-6)
        for ours, plain in zip(losses, proper_scores(scaled, labels), strict=True):
            np.testing.assert_allclose(ours, plain, atol=1e-5)


@given(SEEDS, st.integers(1, 30), st.integers(1, 12), st.floats(0, 1e4), st.floats(0.05, 5))
def test_scores_stay_in_their_range_whatever_the_logits(
    seed: int, n: int, classes: int, sharpness: float, temperature: float
):
    curves = SoftmaxCurves.from_logits(*sharpened_logits(n, classes, seed, sharpness), 0.05, 5.0)
    ((confidences, nll, brier),) = curves.at(np.array([temperature]))
    assert ((confidences >= 1 / classes - 1e-4) & (confidences <= 1)).all()
    assert (nll >= 0).all()
    assert ((brier >= -1e-4) & (brier <= 2 + 1e-4)).all()


@given(st.floats(0.01, 1), st.floats(1.1, 100))
def test_interpolation_is_exact_at_the_nodes_and_for_polynomials(low: float, factor: float):
    nodes = nodes_between(low, low * factor)
    assert 2.0 ** nodes[0] > low * factor
    assert 2.0 ** nodes[-1] < low
    inside = nodes[1:-1]
    np.testing.assert_allclose(
        interpolation(nodes, 2.0**inside), np.eye(len(nodes))[:, 1:-1], atol=1e-9
    )
    logs = np.linspace(nodes[-1], nodes[0], 50)
    centre = logs.mean()
    cubic = (nodes - centre) ** 3 @ interpolation(nodes, 2.0**logs)
    np.testing.assert_allclose(cubic, (logs - centre) ** 3, atol=1e-7)
