"""Our numbers against libraries that others trust, on random and on adversarial input."""

import warnings

import calibration
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from netcal.metrics import ECE, MCE

from carot_lib.bin_stats import BinStats
from carot_lib.metrics import ece

LABELLED = [(0, 3, 10), (1, 100, 10), (2, 10, 15), (3, 3, 20), (4, 50, 1)]


def sample(seed: int, classes: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of an over-confident model, float64, and labels."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, classes)) * 2
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    logits *= 1.6
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def netcal(metric: type, probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # netcal's own
        return float(metric(bins).measure(probabilities, labels))


@pytest.mark.parametrize(("seed", "classes", "bins"), LABELLED)
def test_ece_and_mce_agree_with_netcal(seed: int, classes: int, bins: int):
    probabilities, labels = sample(seed, classes)
    stats = BinStats.from_probabilities(probabilities, labels, bins)
    assert stats.ece() == pytest.approx(netcal(ECE, probabilities, labels, bins), abs=1e-6)
    assert stats.mce() == pytest.approx(netcal(MCE, probabilities, labels, bins), abs=1e-6)


@pytest.mark.parametrize(("seed", "classes", "bins"), LABELLED)
def test_ece_agrees_with_uncertainty_calibration(seed: int, classes: int, bins: int):
    probabilities, labels = sample(seed, classes)
    theirs = calibration.get_ece(probabilities, labels, num_bins=bins)
    ours = BinStats.from_probabilities(probabilities, labels, bins).ece()
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_debiased_error_agrees_with_uncertainty_calibration_on_shared_bins(seed: int):
    # theirs takes (confidence, right) pairs grouped into bins, and refuses bins of one sample
    generator = np.random.default_rng(seed)
    confidences = generator.uniform(size=3000)
    correct = generator.random(3000) < confidences**1.5
    bins = np.ceil(confidences * 10)
    groups = [
        list(zip(confidences[bins == b], correct[bins == b].astype(float), strict=True))
        for b in np.unique(bins)
    ]
    squared = calibration.utils.unbiased_square_ce(groups)
    ours = BinStats.from_confidences(confidences, correct, 10).ece_debiased()
    assert ours == pytest.approx(np.sqrt(max(squared, 0)), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(
        np.int64, st.tuples(st.integers(2, 30), st.integers(3, 5)), elements=st.integers(1, 20)
    ),
    st.data(),
)
def test_ece_agrees_with_netcal_on_few_samples_and_tied_confidences(counts, data):
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    labels = np.array(
        data.draw(
            st.lists(
                st.integers(0, counts.shape[1] - 1),
                min_size=len(counts),
                max_size=len(counts),
            )
        )
    )
    labels[: counts.shape[1]] = np.arange(counts.shape[1])[: len(labels)]
    confidences = probabilities.max(axis=1)
    on_edge = np.isclose(confidences * 10, np.round(confidences * 10), atol=1e-9)
    probabilities, labels = probabilities[~on_edge], labels[~on_edge]
    if len(np.unique(labels)) < 3:  # netcal would read it as a binary task
        return
    ours = BinStats.from_probabilities(probabilities, labels).ece()
    assert ours == pytest.approx(netcal(ECE, probabilities, labels, 10), abs=1e-6)


def test_a_confidence_of_one_counts_in_the_last_bin_as_in_netcal():
    # bins (.9, 1]: confidences .95 and 1.0, accuracy 1/2: |.975 - .5| = .475
    stats = BinStats.from_confidences([0.95, 1.0], [True, False])
    assert stats.ece() == pytest.approx(0.475)


def test_equal_mass_ece_agrees_with_uncertainty_calibration():
    probabilities, labels = sample(5, 20, n=2000)
    theirs = calibration.get_ece_em(probabilities, labels, num_bins=10)
    ours = ece(np.log(probabilities), labels, binning="mass", n_bins=10)
    assert ours == pytest.approx(theirs, abs=1e-6)
