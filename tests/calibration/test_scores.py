"""Reading logits and labels: the same bits in any form and split, and a word on what is wrong."""

import itertools
import os
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_logits import random_logits
from scipy.special import softmax

from carot_lib.calibration.scores import (
    CHUNK_SIZE,
    MAX_SIZE,
    as_array,
    check_integer,
    check_level,
    check_temperature,
    read_logits,
    top_confidences,
)


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# By hand


def test_a_softmax_is_always_taken_even_if_logits_look_like_probabilities():
    # softmax of (1, 0): 1 / (1 + 1 / e) = .731059
    confidences, correct = top_confidences(np.array([[1.0, 0.0]]), np.array([0]))
    assert confidences[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert correct.tolist() == [True]
    # ties go to the lower class
    _, correct = top_confidences(np.zeros((2, 3)), np.array([0, 1]))
    assert correct.tolist() == [True, False]


def test_temperature_divides_the_logits():
    # softmax of (2, 0) / 4: 1 / (1 + e ** -.5)
    confidences, _ = top_confidences(np.array([[2.0, 0.0]]), np.array([0]), 4.0)
    assert confidences[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    logits, labels = random_logits(200, 5)
    assert_same_bits(top_confidences(logits, labels, 4.0), top_confidences(logits / 4, labels))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e4, 1e30, 9e37])
def test_large_logits_do_not_overflow(dtype, size):
    logits = np.array([[size, 0.0, -size], [-size, size, size]], dtype=dtype)
    for temperature in (1.0, 1e-30, 0.5):
        confidences, correct = top_confidences(logits, np.array([0, 1]), temperature)
        assert confidences.tolist() == [1.0, 0.5]
        assert correct.all()
    confidences, _ = top_confidences(np.array([[3.0, 1, 2, 0]], dtype), np.array([0]), 1e30)
    assert confidences.tolist() == [0.25]  # the hottest temperature makes all classes alike


# Properties


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_temperature_changes_no_prediction_and_higher_ones_lower_confidence(seed, k, one, other):
    logits, labels = random_logits(40, k, seed)
    cold, correct = top_confidences(logits, labels, min(one, other))
    hot, also_correct = top_confidences(logits, labels, max(one, other))
    np.testing.assert_array_equal(correct, also_correct)
    assert (hot <= cold + 1e-15).all()
    assert (hot >= 1 / k - 1e-15).all()
    if max(one, other) > 1.01 * min(one, other):
        assert (hot < cold)[cold < 1 - 1e-9].all() or k == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [1, 2, 200])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("temperature", "threads"), [(1.0, 1), (1.7, 3), (1.7, None)])
def test_any_split_memory_layout_and_number_of_threads_give_the_same_bits(
    dtype, n_classes, order, temperature, threads, monkeypatch
):
    logits, labels = random_logits(CHUNK_SIZE // n_classes + 900, n_classes)
    logits = np.array(logits, dtype=dtype, order=order)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    whole = top_confidences(logits, labels, temperature)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    ends = [*range(101), 1000, len(logits)]
    parts = [
        top_confidences(logits[i:j].copy(), labels[i:j], temperature)
        for i, j in itertools.pairwise(ends)
    ]
    assert_same_bits([np.concatenate(one) for one in zip(*parts, strict=True)], whole)


def read_only(values):
    values = values.copy()
    values.flags.writeable = False
    return values


FORMS = {
    "read-only": read_only,
    "in Fortran's order": np.asfortranarray,
    "every other row": lambda values: np.repeat(values, 2, axis=0)[::2],
    "backwards": lambda values: values[::-1].copy()[::-1],
    "big-endian": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "memory map": lambda values: values.view(np.memmap),
    "list": lambda values: values.tolist(),
    "tensor": lambda values: torch.tensor(values).requires_grad_(values.dtype.kind == "f"),
    "transposed tensor": lambda values: torch.tensor(values.T.copy()).t(),
    "pandas": lambda values: (pd.Series if values.ndim == 1 else pd.DataFrame)(values),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_any_form_gives_the_same_bits_and_stays_as_it_was(form):
    logits, labels = random_logits(70, 5)
    expected = top_confidences(logits, labels)
    given_logits, given_labels = form(logits), form(labels)
    assert_same_bits(top_confidences(given_logits, given_labels), expected)
    np.testing.assert_array_equal(as_array(given_logits, "logits"), logits)
    np.testing.assert_array_equal(as_array(given_labels, "labels"), labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, ">i2"])
def test_labels_may_be_integers_of_any_kind(dtype):
    logits, labels = random_logits(70, 5)
    assert_same_bits(top_confidences(logits, labels.astype(dtype)), top_confidences(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("array", [False, True])
def test_sixteen_bits_warn_and_are_the_same_as_upcast_input(dtype, array):
    logits, labels = random_logits(70, 5)
    half = torch.tensor(logits).to(dtype)
    if array and dtype == torch.float16:
        half_given, wide = half.numpy(), half.float().numpy()
    else:
        half_given, wide = half, half.float()
    with pytest.warns(UserWarning, match="logits have 16 bits"):
        found = top_confidences(half_given, labels)
    assert_same_bits(found, top_confidences(wide, labels))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_gpu_give_the_same_bits():
    logits, labels = random_logits(20_000, 100)
    expected = top_confidences(logits, labels)
    on_gpu = torch.tensor(logits, device="cuda"), torch.tensor(labels, device="cuda")
    assert_same_bits(top_confidences(*on_gpu), expected)


def test_little_memory_is_needed_beyond_the_logits(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    logits, labels = random_logits(20_000, 500)
    logits = logits.astype(np.float32)
    top_confidences(logits[:10], labels[:10])  # what is imported and cached at the first call
    tracemalloc.start()
    try:
        top_confidences(logits, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 40 MB of logits; the exponentials of two pieces are 2 MB, the results .2 MB twice
    assert logits.nbytes == 40_000_000
    assert peak < 4_000_000


def test_logits_are_read_without_a_copy():
    logits, labels = random_logits(10, 4)
    assert read_logits(logits, labels)[0] is logits
    tensor = torch.tensor(logits)
    assert np.shares_memory(read_logits(tensor, labels)[0], tensor.numpy())


# Bad input

Y = np.array([0, 1])
BAD_LOGITS = {
    "NaN": ([[0.0, np.nan], [0.0, 1.0]], ValueError, "logits must be finite"),
    "inf": ([[0.0, np.inf], [0.0, 1.0]], ValueError, "logits must be finite"),
    "mask": ([[0.0, -np.inf], [0.0, 1.0]], ValueError, "for fewer classes see `LabelSpace`"),
    "least float32": (np.full((2, 2), np.finfo(np.float32).min), ValueError, "must be finite"),
    "no samples": (np.zeros((0, 2)), ValueError, r"logits must be \[N, K\] .* got shape \[0, 2\]"),
    "no classes": (np.zeros((2, 0)), ValueError, r"logits must be \[N, K\]"),
    "one axis": (np.zeros(2), ValueError, r"logits must be \[N, K\]"),
    "three axes": (np.zeros((2, 2, 1)), ValueError, r"logits must be \[N, K\]"),
    "None": (None, ValueError, r"logits must be \[N, K\]"),
    "ragged": ([[0.0, 1.0], [0.0]], ValueError, "logits cannot be read as an array"),
    "truth values": (np.eye(2, dtype=bool), TypeError, "logits must be real numbers, got bool"),
    "complex": (np.eye(2) * 1j, TypeError, "logits must be real numbers, got complex"),
    "words": ([["a", "b"], ["c", "d"]], TypeError, "logits must be real numbers"),
    "sparse tensor": (torch.eye(2).to_sparse(), ValueError, "logits cannot be read as an array"),
    "pandas with a gap": (pd.DataFrame([[0.0, None], [1.0, 2.0]]), ValueError, "logits must be"),
}
BAD_LABELS = {
    "too large": ([0, 2], ValueError, r"labels must be in \[0, 2\), got 0 to 2"),
    "negative": ([-1, 0], ValueError, r"labels must be in \[0, 2\), got -1 to 0"),
    "too few": ([0], ValueError, r"labels \[1\] do not fit logits \[2, 2\]"),
    "a column": ([[0], [1]], ValueError, r"labels \[2, 1\] do not fit"),
    "a number": (1, ValueError, r"labels \[\] do not fit"),
    "floats": ([0.0, 1.0], TypeError, "labels must be integers, got float64"),
    "truth values": ([False, True], TypeError, "labels must be integers, got bool"),
    "words": (["0", "1"], TypeError, "labels must be integers"),
    "ragged": ([[0], [0, 1]], ValueError, "labels cannot be read as an array"),
    "pandas with a gap": (pd.Series([0, None]), TypeError, "labels must be integers"),
}


@pytest.mark.parametrize(("logits", "error", "message"), BAD_LOGITS.values(), ids=BAD_LOGITS.keys())
def test_bad_logits_are_refused_by_name(logits, error, message):
    with pytest.raises(error, match=message):
        top_confidences(logits, Y)


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_bad_labels_are_refused_by_name(labels, error, message):
    with pytest.raises(error, match=message):
        top_confidences(np.eye(2), labels)


def test_integers_are_logits_too():
    given, _ = top_confidences([[0, 2], [3, 1]], Y)
    assert given.dtype == np.float64
    np.testing.assert_array_equal(given, top_confidences([[0.0, 2.0], [3.0, 1.0]], Y)[0])


@pytest.mark.parametrize("scale", [np.float32, np.float64])
def test_probabilities_in_place_of_logits_are_warned_of(scale: type):
    logits, labels = random_logits(50, 4)
    probabilities = softmax(logits, axis=1).astype(scale)
    with pytest.warns(UserWarning, match="logits look like probabilities"):
        top_confidences(probabilities, labels)
    for other in (logits, probabilities * 1.01, probabilities - 0.1, np.log(probabilities)):
        top_confidences(other, labels)  # a warning would be an error


@pytest.mark.parametrize("row", [0, 30_000, 79_999])
def test_one_bad_number_among_many_is_found_by_whichever_thread(row, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    logits, labels = random_logits(80_000, 10)  # three chunks and a bit
    logits[row, 4] = np.nan
    with pytest.raises(ValueError, match="logits must be finite"):
        top_confidences(logits, labels)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "value", [0, 0.0, -1.0, np.nan, np.inf, 1e-31, 1e31, None, "1", True, 1j, [1.0], np.ones(1)]
)
def test_bad_temperatures_are_refused(value):
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        top_confidences(np.eye(2), Y, value)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "value", [0, -3, 2.0, "2", None, True, np.bool_(True), np.nan, [2], MAX_SIZE + 1]
)
def test_an_invalid_integer_is_refused(value):
    with pytest.raises(ValueError, match=r"n_bins must be an integer in \[1, 100000\], got"):
        check_integer(value, "n_bins")


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("value", [2, np.int8(2), np.uint64(2), np.float16(2), np.float32(2), 2.0])
def test_numbers_may_be_of_any_kind(value):
    assert type(check_temperature(value)) is float
    if not isinstance(value, float | np.floating):
        assert type(check_integer(value, "n_bins")) is int
    assert check_temperature(value) == 2


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("value", [0, 1, -0.01, 1.01, np.nan, np.inf, None, "half", True])
def test_a_level_outside_the_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got"):
        check_level(value)
