"""Our numbers against libraries that others trust: where we agree, and where they are wrong.

Agreement is to 1e-6 on random and on adversarial input. Each known wrong answer of a peer has a
test with the arithmetic, which fails if a new version of the peer answers otherwise.
"""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from random_logits import sharpened_logits
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from carot_lib.calibration.bin_stats import MIN_BIN_COUNT, BinStats, bin_of
from carot_lib.calibration.metrics import brier, ece, ece_batch_mean, nll

NORMS = pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("max", "mce")])

# ties, both ends, and every edge of ten bins with the floats beside it
CONFIDENCES = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0.0, 0.5, 1.0, np.nextafter(0, 1), np.nextafter(1, 0)]),
    st.sampled_from([float(np.nextafter(k / 10, d)) for k in range(1, 10) for d in (0, k / 10, 1)]),
)
COUNTS = npst.arrays(
    np.int64, st.tuples(st.integers(2, 30), st.integers(3, 5)), elements=st.integers(1, 20)
)
PAIRS = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=60)


def sample(seed: int, classes: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of an over-confident model, float64, and labels."""
    logits, labels = sharpened_logits(n, classes, seed, sharpness=1.6)
    return softmax(logits, axis=1), labels


def split(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([c for c, _ in pairs]), np.array([int(y) for _, y in pairs])


def off_the_edges(confidences: np.ndarray, bins: int, by: float = 1e-6) -> np.ndarray:
    """Which are not so near an edge that another rounding or side of it would change the bin."""
    scaled = confidences * bins
    return np.abs(scaled - np.round(scaled)) > by * bins


def stats_of(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> BinStats:
    correct = probabilities.argmax(axis=1) == labels
    return BinStats.from_confidences(probabilities.max(axis=1), correct, bins)


def in_large_bins(confidences: np.ndarray, bins: int) -> np.ndarray:
    """Which lie in a bin that our maximum error counts; the peers' count all."""
    of_each = bin_of(confidences, bins)
    return np.bincount(of_each)[of_each] >= MIN_BIN_COUNT


@pytest.fixture(scope="module")
def netcal(netcal_metrics) -> Callable:
    """One of netcal's metrics by name."""

    def measure(name: str, probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(getattr(netcal_metrics, name)(bins).measure(probabilities, labels))

    return measure


def torchmetrics(scores: torch.Tensor, labels: list[int], norm: str = "l1") -> float:
    return multiclass_calibration_error(
        scores, torch.tensor(labels), num_classes=scores.shape[1], n_bins=10, norm=norm
    ).item()


# Where we agree


@pytest.mark.parametrize(
    ("seed", "classes", "bins"), [(0, 3, 10), (1, 100, 10), (2, 10, 15), (3, 3, 20), (4, 50, 1)]
)
def test_every_number_agrees_with_every_peer(
    netcal, uncertainty_calibration, seed: int, classes: int, bins: int
):
    probabilities, labels = sample(seed, classes)
    logits, every = np.log(probabilities), range(classes)
    stats, large = stats_of(probabilities, labels, bins), in_large_bins(probabilities.max(1), bins)
    ours = [*[stats.ece()] * 2, stats.mce(), nll(logits, labels), brier(logits, labels)]
    theirs = [
        netcal("ECE", probabilities, labels, bins),
        uncertainty_calibration.get_ece(probabilities, labels, num_bins=bins),
        netcal("MCE", probabilities[large], labels[large], bins),
        log_loss(labels, probabilities, labels=every),
        brier_score_loss(labels, probabilities, labels=every, scale_by_half=False),
    ]
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert stats.mean_accuracy() == accuracy_score(labels, probabilities.argmax(axis=1))


@given(COUNTS, st.integers(0, 2**32 - 1))
def test_ece_agrees_with_netcal_on_few_samples_and_tied_confidences(netcal, counts, seed):
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    labels = np.random.default_rng(seed).integers(0, counts.shape[1], len(counts))
    inside = off_the_edges(probabilities.max(axis=1), 10)  # netcal's bins are closed on the left
    probabilities, labels = probabilities[inside], labels[inside]
    if len(np.unique(labels)) < 3:  # netcal would read it as a binary task
        return
    ours = stats_of(probabilities, labels).ece()
    assert ours == pytest.approx(netcal("ECE", probabilities, labels), abs=1e-6)


# Where we agree: torchmetrics, below a confidence of 1


@NORMS
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_errors_of_logits_agree_with_torchmetrics(norm, name, bins):
    probabilities, labels = sample(6, 6, n=3000)
    confidences = probabilities.max(axis=1)
    kept = (confidences < 1) & in_large_bins(confidences, bins)
    logits, labels = np.log(probabilities[kept]), labels[kept]
    theirs = multiclass_calibration_error(
        torch.tensor(logits), torch.tensor(labels), num_classes=6, n_bins=bins, norm=norm
    )
    ours = getattr(BinStats.from_logits(logits, labels, bins), name)()
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


@NORMS
@given(pairs=PAIRS)
def test_errors_of_confidences_agree_with_torchmetrics_off_the_edges(norm, name, pairs):
    confidences, correct = split(pairs)
    inside = off_the_edges(confidences, 10)  # it rounds to float32, and its bins are left-closed
    if not inside.any():
        return
    # repeated, so that every bin is large enough for our maximum error
    confidences, correct = (np.repeat(x[inside], MIN_BIN_COUNT) for x in (confidences, correct))
    theirs = binary_calibration_error(
        torch.tensor(confidences), torch.tensor(correct), n_bins=10, norm=norm
    )
    ours = getattr(BinStats.from_confidences(confidences, correct), name)()
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_adding_batches_agrees_with_the_class_of_torchmetrics():
    probabilities, labels = sample(7, 5)
    metric, ours = MulticlassCalibrationError(num_classes=5, n_bins=10), BinStats.empty()
    for start in range(0, len(labels), 300):
        rows = slice(start, start + 300)
        metric.update(torch.tensor(probabilities[rows]), torch.tensor(labels[rows]))
        ours += stats_of(probabilities[rows], labels[rows])
    assert ours.ece() == pytest.approx(metric.compute().item(), abs=1e-6)


# Where we agree: uncertainty-calibration, whose bins are ours to the last float


@given(PAIRS, st.integers(1, 30))
def test_errors_agree_with_uncertainty_calibration_on_every_edge_and_tie(
    uncertainty_calibration, pairs, bins
):
    confidences, correct = split(pairs)
    ours = BinStats.from_confidences(confidences, correct, bins)
    theirs = uncertainty_calibration.get_ece(confidences, correct, num_bins=bins)
    assert ours.ece() == pytest.approx(theirs, abs=1e-6)
    scheme = uncertainty_calibration.utils.get_equal_prob_bins
    options = {"p": 2, "debias": True, "num_bins": bins, "binning_scheme": scheme}
    theirs = uncertainty_calibration.lower_bound_scaling_ce(confidences, correct, **options)
    # squares, as a root near 0 turns a rounding of 1e-16 into 1e-8
    assert ours.rmsce_debiased() ** 2 == pytest.approx(theirs**2, abs=1e-9)


# Where we agree: scikit-learn


@given(PAIRS, st.sampled_from([1, 2, 4, 8, 10, 16]))
def test_bins_agree_with_the_calibration_curve_of_scikit_learn(pairs, bins):
    confidences, correct = split(pairs)
    if bins == 10:  # its edges are off by a rounding; those of powers of two are exact
        inside = off_the_edges(confidences, 10, by=1e-9)
        confidences, correct = confidences[inside], correct[inside]
    if len(set(correct)) < 2:  # it wants both
        return
    accuracies, means = calibration_curve(correct, confidences, n_bins=bins)
    ours = BinStats.from_confidences(confidences, correct, bins)
    filled = ours.count > 0
    np.testing.assert_allclose(ours.accuracy[filled], accuracies, atol=1e-6)
    np.testing.assert_allclose(ours.confidence[filled], means, atol=1e-6)


@given(
    npst.arrays(
        np.int64, st.tuples(st.integers(1, 30), st.integers(2, 5)), elements=st.integers(0, 9)
    ),
    st.integers(0, 2**32 - 1),
)
def test_proper_scores_agree_with_scikit_learn_on_certainty_and_ties(counts, seed):
    # class 0 is never impossible; the others may be: a logit of -600 is a probability of 1e-261
    counts[:, 0] += 1
    labels = np.random.default_rng(seed).integers(0, counts.shape[1], len(counts))
    counts[np.arange(len(counts)), labels] += 1  # and the label never is: sklearn clips its loss
    logits = np.where(counts > 0, np.log(np.maximum(counts, 1)), -600.0)
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    every = range(counts.shape[1])
    theirs = log_loss(labels, probabilities, labels=every)
    assert nll(logits, labels) == pytest.approx(theirs, abs=1e-6)
    theirs = brier_score_loss(labels, probabilities, labels=every, scale_by_half=False)
    assert brier(logits, labels) == pytest.approx(theirs, abs=1e-6)


# Where peers are wrong


def test_torchmetrics_counts_a_confidence_of_one_in_an_eleventh_bin():
    # Both are in (.9, 1]: |(.95 + 1) / 2 - 1 / 2| = .475. A bin that holds 1 alone makes it
    # (|.95 - 1| + |1 - 0|) / 2 = .525.
    theirs = binary_calibration_error(torch.tensor([0.95, 1.0]), torch.tensor([1, 0]), n_bins=10)
    assert theirs.item() == pytest.approx(0.525, abs=1e-6)
    assert BinStats.from_confidences([0.95, 1.0], [1, 0]).ece() == pytest.approx(0.475, abs=1e-11)
    # The same of many classes; as logits 50 apart, whose softmax is 1 in float32.
    probabilities = torch.tensor([[0.95, 0.05], [1.0, 0.0]])
    assert torchmetrics(probabilities, [0, 1]) == pytest.approx(0.525, abs=1e-6)
    assert stats_of(probabilities.numpy(), [0, 1]).ece() == pytest.approx(0.475)
    logits = torch.stack([probabilities[0].log(), torch.tensor([50.0, 0.0])])
    assert torchmetrics(logits, [0, 1]) == pytest.approx(0.525, abs=1e-6)
    assert ece(logits, [0, 1]) == pytest.approx(0.475, abs=1e-6)


def test_torchmetrics_takes_logits_between_zero_and_one_for_probabilities():
    # softmax of (1, 0) and of (0, -1) is .7311: one sample that is right has ECE .2689. The first
    # look like probabilities of 1 and 0, ECE 0.
    logits = torch.tensor([[1.0, 0.0]])
    right = 1 - 1 / (1 + np.exp(-1))
    assert torchmetrics(logits, [0]) == 0.0
    assert torchmetrics(logits - 1, [0]) == pytest.approx(right, abs=1e-6)
    assert ece(logits, [0]) == pytest.approx(right, abs=1e-7)
    assert ece(logits - 1, [0]) == pytest.approx(right, abs=1e-7)


def test_torchmetrics_takes_all_probabilities_for_logits_if_one_exceeds_one_by_a_rounding():
    # Confidences 1 and .6, both right: (0 + .4) / 2 = .2. One float above 1, and a softmax is
    # taken of every row: of (1, 0) .7311, of (.6, .4) .5498: (.2689 + .4502) / 2 = .3596.
    probabilities = torch.tensor([[1.0, 0.0], [0.6, 0.4]])
    above = probabilities.clone()
    above[0, 0] += torch.finfo(torch.float32).eps  # 1 + 1.2e-7
    assert torchmetrics(probabilities, [0, 0]) == pytest.approx(0.2, abs=1e-6)
    assert torchmetrics(above, [0, 0]) == pytest.approx(0.3596, abs=5e-5)
    for given_probabilities in (probabilities, above):
        stats = stats_of(np.minimum(given_probabilities.numpy(), 1), [0, 0])
        assert stats.ece() == pytest.approx(0.2, abs=1e-7)


def test_torchmetrics_takes_the_softmax_of_half_precision_in_half_precision():
    # Logits (8, 0), wrong, and (3, 0), right: 1 / (1 + e ** -8) = .999665, 1 / (1 + e ** -3) =
    # .952574. Both are in (.9, 1]: |(.999665 + .952574) / 2 - .5| = .476119. In bfloat16, whose
    # steps below 1 are 2 ** -8 = .0039, they become 1 and .953125, and 1 has the eleventh bin:
    # (|1 - 0| + |.953125 - 1|) / 2 = .523438.
    logits = torch.tensor([[8.0, 0.0], [3.0, 0.0]])  # exact in bfloat16
    assert torchmetrics(logits, [1, 0]) == pytest.approx(0.476119, abs=1e-6)
    assert torchmetrics(logits.bfloat16(), [1, 0]) == pytest.approx(0.523438, abs=1e-6)
    with pytest.warns(UserWarning, match="logits have 16 bits"):
        assert ece(logits.bfloat16(), [1, 0]) == pytest.approx(0.476119, abs=1e-6)


def test_a_mean_of_batch_eces_is_no_ece():
    # Four samples of confidence .75, three right: ECE 0. Alone, each is .25 or .75 off: the mean
    # is (3 * .25 + .75) / 4 = .375. torchmetrics returns each batch's ECE from `forward`, which
    # its users average, and the pooled one from `compute`; we name the two.
    logits = torch.tensor([[0.75, 0.25]] * 4).log()
    labels = torch.tensor([0, 0, 0, 1])
    metric = MulticlassCalibrationError(num_classes=2, n_bins=10)
    batches = [metric(logits[[i]], labels[[i]]).item() for i in range(4)]
    assert np.mean(batches) == pytest.approx(0.375, abs=1e-6)
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)
    assert ece_batch_mean(logits, labels, batch_size=1) == pytest.approx(0.375, abs=1e-6)
    assert ece(logits, labels) == pytest.approx(0, abs=1e-6)


def test_uncertainty_calibration_cannot_debias_a_bin_of_one_sample(uncertainty_calibration):
    # Confidence .35 alone and .95 four times, of which two are right: with ten bins most hold
    # less than two samples, and it refuses. Ours counts such bins 0:
    # 4 / 5 * ((.95 - .5) ** 2 - .25 / 3) = .8 * .119167 = .095333.
    confidences, correct = np.array([0.35, 0.95, 0.95, 0.95, 0.95]), np.array([1, 1, 1, 0, 0])
    with pytest.raises(ValueError, match="at least 2 points"):
        uncertainty_calibration.get_ece(confidences, correct, debias=True, num_bins=10)
    ours = BinStats.from_confidences(confidences, correct).rmsce_debiased()
    assert ours == pytest.approx(0.095333**0.5, abs=1e-5)


def test_netcal_takes_two_labels_for_a_binary_task(netcal):
    # Confidence .6 three times, right once (label 1 of the third row): |.6 - 1 / 3|.
    probabilities = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1]])
    labels = np.array([1, 1, 1])
    with pytest.raises(RuntimeError, match="Asserted binary classification"):
        netcal("ECE", probabilities, labels)
    ours = stats_of(probabilities, labels).ece()
    assert ours == pytest.approx(0.6 - 1 / 3)
    # Of two classes it takes the second column, not the top class: rows (.89, .11) and (.11, .89),
    # both labelled 0, are .11 and .89 of a class that never comes: (.11 + .89) / 2 = .5. The top
    # class is .89 twice and right once: .89 - .5 = .39.
    two = np.array([[0.89, 0.11], [0.11, 0.89]])
    assert netcal("ECE", two, np.array([0, 0])) == pytest.approx((0.11 + 0.89) / 2, abs=1e-6)
    assert stats_of(two, [0, 0]).ece() == pytest.approx(0.89 - 0.5)


def test_left_closed_bins_of_peers_differ_at_an_edge(netcal, uncertainty_calibration):
    # .5 and .45, one of two right: right-closed as in Guo et al. both are in (.4, .5]:
    # |.475 - .5| = .025. Left-closed, .5 is alone in [.5, .6): (|.5 - 1| + |.45 - 0|) / 2 = .475.
    confidences, correct = np.array([0.5, 0.45]), np.array([1, 0])
    assert BinStats.from_confidences(confidences, correct).ece() == pytest.approx(0.025)
    assert uncertainty_calibration.get_ece(confidences, correct, num_bins=10) == pytest.approx(
        0.025
    )
    assert netcal("ECE", confidences, correct) == pytest.approx(0.475)
    theirs = binary_calibration_error(torch.tensor(confidences), torch.tensor(correct), n_bins=10)
    assert theirs.item() == pytest.approx(0.475)
