"""Reading logits and labels: the same bits in any form and split, and a word on what is wrong."""

import itertools
import os
import tracemalloc
import warnings

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_logits import random_logits

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.scores import (
    MOST,
    MOST_ROWS,
    Scores,
    as_array,
    check_choice,
    check_fraction,
    check_integer,
    check_scores,
    check_temperature,
    top_confidences,
)

relaxed = settings(deadline=None, max_examples=100)


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


def test_ties_go_to_the_lower_class():
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_hottest_temperature_makes_all_classes_alike(dtype):
    confidences, _ = top_confidences(np.array([[3.0, 1, 2, 0]], dtype), np.array([0]), 1e30)
    assert confidences.tolist() == [0.25]


def test_one_class_is_certain():
    confidences, correct = top_confidences(np.array([[-3.0], [5.0]]), np.array([0, 0]))
    assert (confidences.tolist(), correct.tolist()) == ([1.0, 1.0], [True, True])


# Properties


@relaxed
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


@relaxed
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.randoms(use_true_random=False))
def test_classes_may_be_listed_in_any_order(seed, k, random):
    logits, labels = random_logits(30, k, seed)
    order = random.sample(range(k), k)
    confidences, correct = top_confidences(logits[:, order], np.argsort(order)[labels])
    expected, also_correct = top_confidences(logits, labels)
    np.testing.assert_allclose(confidences, expected, atol=1e-15)
    np.testing.assert_array_equal(correct, also_correct)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [1, 2, 200])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_any_split_and_memory_layout_give_the_same_bits(
    dtype, n_classes, order, subset, temperature
):
    logits, labels = random_logits(MOST_ROWS + 900, n_classes)
    space = LabelSpace(n_classes, tuple((i,) for i in range(0, n_classes, 2))) if subset else None
    labels = labels // 2 if subset else labels
    logits = np.array(logits, dtype=dtype, order=order)
    whole = top_confidences(logits, labels, temperature, space)
    ends = [*range(101), 1000, len(logits)]
    parts = [
        top_confidences(logits[i:j].copy(), labels[i:j], temperature, space)
        for i, j in itertools.pairwise(ends)
    ]
    assert_same_bits([np.concatenate(one) for one in zip(*parts, strict=True)], whole)


@pytest.mark.parametrize("threads", [1, 2, 3, 16, None])
def test_any_number_of_threads_gives_the_same_bits(threads, monkeypatch):
    logits, labels = random_logits(3 * MOST_ROWS + 5, 20)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    expected = top_confidences(logits, labels)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    assert_same_bits(top_confidences(logits, labels), expected)


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
    "masked array without a mask": np.ma.MaskedArray,
    "memory map": lambda values: values.view(np.memmap),
    "list": lambda values: values.tolist(),
    "tuple of arrays": tuple,
    "tensor": torch.tensor,
    "transposed tensor": lambda values: torch.tensor(values.T.copy()).t(),
    "pandas": lambda values: (pd.Series if values.ndim == 1 else pd.DataFrame)(values),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_any_form_gives_the_same_bits_and_stays_as_it_was(form):
    logits, labels = random_logits(70, 5)
    expected = top_confidences(logits, labels)
    given_logits, given_labels = form(logits), form(labels)
    assert_same_bits(top_confidences(given_logits, given_labels), expected)
    np.testing.assert_array_equal(np.asarray(given_logits), logits)
    np.testing.assert_array_equal(np.asarray(given_labels), labels)


def test_tensors_that_need_a_gradient_are_read_without_one():
    logits, labels = random_logits(70, 5)
    tensor = torch.tensor(logits, requires_grad=True)
    assert_same_bits(top_confidences(tensor, torch.tensor(labels)), top_confidences(logits, labels))
    assert tensor.grad is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, ">i2"])
def test_labels_may_be_integers_of_any_kind(dtype):
    logits, labels = random_logits(70, 5)
    assert_same_bits(top_confidences(logits, labels.astype(dtype)), top_confidences(logits, labels))


def test_wider_floats_are_read_as_double():
    logits, labels = random_logits(70, 5)
    wide = logits.astype(np.longdouble)
    assert_same_bits(top_confidences(wide, labels), top_confidences(logits, labels))


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
def test_tensors_on_a_gpu_give_the_same_bits_and_are_moved_in_pieces():
    logits, labels = random_logits(20_000, 100)
    expected = top_confidences(logits, labels)
    on_gpu = torch.tensor(logits, device="cuda"), torch.tensor(labels, device="cuda")
    tracemalloc.start()
    try:
        assert_same_bits(top_confidences(*on_gpu), expected)
        assert tracemalloc.get_traced_memory()[1] < logits.nbytes
    finally:
        tracemalloc.stop()


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


def test_checked_scores_are_what_was_given_where_that_will_do():
    logits, labels = random_logits(10, 4)
    checked, _ = check_scores(logits, labels, "logits")
    assert checked is logits
    checked, _ = check_scores(logits, labels, "logits", LabelSpace.identity(4))
    assert checked is logits
    space = LabelSpace(4, ((3,), (1, 2)))
    projected, _ = check_scores(torch.tensor(logits), labels % 2, "logits", space)
    np.testing.assert_array_equal(projected, space.project(logits))


# Bad input

Y = np.array([0, 1])
BAD_LOGITS = {
    "NaN": ([[0.0, np.nan], [0.0, 1.0]], ValueError, "logits must be finite"),
    "inf": ([[0.0, np.inf], [0.0, 1.0]], ValueError, "logits must be finite"),
    "mask": ([[0.0, -np.inf], [0.0, 1.0]], ValueError, "masked class belongs in `label_space`"),
    "least float32": (
        np.full((2, 2), np.finfo(np.float32).min),
        ValueError,
        "masked class belongs in `label_space`",
    ),
    "no samples": (np.zeros((0, 2)), ValueError, r"logits must be \[N, K\] .* got shape \[0, 2\]"),
    "no classes": (np.zeros((2, 0)), ValueError, r"logits must be \[N, K\]"),
    "one axis": (np.zeros(2), ValueError, r"logits must be \[N, K\]"),
    "three axes": (np.zeros((2, 2, 1)), ValueError, r"logits must be \[N, K\]"),
    "a number": (1.0, ValueError, r"logits must be \[N, K\]"),
    "None": (None, ValueError, r"logits must be \[N, K\]"),
    "a dictionary": ({"logits": 1}, ValueError, r"logits must be \[N, K\]"),
    "ragged": ([[0.0, 1.0], [0.0]], ValueError, "logits cannot be read as an array"),
    "integers": ([[0, 1], [1, 0]], TypeError, "logits must be floating-point"),
    "truth values": (np.eye(2, dtype=bool), TypeError, "logits must be floating-point"),
    "complex": (np.eye(2) * 1j, TypeError, "logits must be floating-point"),
    "words": ([["a", "b"], ["c", "d"]], TypeError, "logits must be floating-point"),
    "objects": (np.array([[None, 1.0], [2.0, 3.0]]), TypeError, "logits must be floating-point"),
    "dates": (np.zeros((2, 2), "M8[D]"), TypeError, "logits must be floating-point"),
    "masked": (
        np.ma.MaskedArray(np.zeros((2, 2)), [[0, 1], [0, 0]]),
        ValueError,
        "logits has masked entries",
    ),
    "sparse tensor": (torch.eye(2).to_sparse(), ValueError, "logits cannot be read as an array"),
    "tensor without data": (
        torch.zeros(2, 2, device="meta"),
        ValueError,
        "logits cannot be read as an array",
    ),
    "complex tensor": (torch.eye(2) * 1j, TypeError, "logits must be floating-point"),
    "tensor of truth values": (torch.eye(2).bool(), TypeError, "logits must be floating-point"),
    "pandas with a gap": (pd.DataFrame([[0.0, None], [1.0, 2.0]]), ValueError, "logits must be"),
}
BAD_LABELS = {
    "too large": ([0, 2], ValueError, r"labels must be in \[0, 2\), got 0 to 2"),
    "negative": ([-1, 0], ValueError, r"labels must be in \[0, 2\), got -1 to 0"),
    "beyond int64": (np.array([0, 2**64 - 1], dtype=np.uint64), ValueError, "got 0 to 1844674"),
    "too few": ([0], ValueError, r"labels \[1\] do not fit logits \[2, 2\]"),
    "too many": ([0, 1, 1], ValueError, r"labels \[3\] do not fit"),
    "a column": ([[0], [1]], ValueError, r"labels \[2, 1\] do not fit"),
    "one-hot": (np.eye(2, dtype=int), ValueError, r"labels \[2, 2\] do not fit"),
    "a number": (1, ValueError, r"labels \[\] do not fit"),
    "floats": ([0.0, 1.0], TypeError, "labels must be integers, got float64"),
    "truth values": ([False, True], TypeError, "labels must be integers, got bool"),
    "complex": (np.zeros(2, complex), TypeError, "labels must be integers, got complex"),
    "words": (["0", "1"], TypeError, "labels must be integers"),
    "objects": (np.array([0, None]), TypeError, "labels must be integers, got object"),
    "None": (None, TypeError, "labels must be integers, got object"),
    "ragged": ([[0], [0, 1]], ValueError, "labels cannot be read as an array"),
    "masked": (np.ma.MaskedArray([0, 1], [0, 1]), ValueError, "labels has masked entries"),
    "pandas with a gap": (pd.Series([0, None]), TypeError, "labels must be integers"),
    "categories": (pd.Series(["a", "b"], dtype="category"), TypeError, "labels must be integers"),
}


@pytest.mark.parametrize(("logits", "error", "message"), BAD_LOGITS.values(), ids=BAD_LOGITS.keys())
def test_bad_logits_are_refused_by_name(logits, error, message):
    with pytest.raises(error, match=message):
        top_confidences(logits, Y)
    with pytest.raises(error, match=message):
        check_scores(logits, Y, "logits")


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_bad_labels_are_refused_by_name(labels, error, message):
    with pytest.raises(error, match=message):
        top_confidences(np.eye(2), labels)


@pytest.mark.parametrize("row", [0, 3000, 3 * MOST_ROWS - 1])
def test_one_bad_number_among_many_is_found_by_whichever_thread(row, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    logits, labels = random_logits(3 * MOST_ROWS, 10)
    logits[row, 4] = np.nan
    with pytest.raises(ValueError, match="logits must be finite"):
        top_confidences(logits, labels)


def test_a_label_space_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="label_space wants 3 columns, logits have 2"):
        top_confidences(np.eye(2), Y, label_space=LabelSpace(3, ((0,), (1,))))
    with pytest.raises(ValueError, match="label_space wants 3 columns, logits have 2"):
        top_confidences(np.eye(2), Y, label_space=LabelSpace.identity(3))
    # label 1 is hidden by a mask that leaves one class
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\), got 0 to 1"):
        top_confidences(np.eye(2), Y, label_space=LabelSpace(2, ((0,),)))


@pytest.fixture
def _as_in_use(monkeypatch):
    """No checker of signatures stands before the functions."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("space", [((0,), (1,)), [[0], [1]], 2, "all"])
def test_something_else_than_a_label_space_is_refused(space):
    with pytest.raises(TypeError, match="label_space must be a LabelSpace"):
        top_confidences(np.eye(2), Y, label_space=space)


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize(
    "value",
    [0, 0.0, -1.0, np.nan, np.inf, 10**400, 1e-31, 1e31, None, "1", True, 1j, [1.0], np.ones(1)],
)
def test_bad_temperatures_are_refused(value):
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        top_confidences(np.eye(2), Y, value)


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("value", [2, np.float16(2), np.float32(2), np.int64(2), 2.0])
def test_temperatures_may_be_any_real_number(value):
    assert check_temperature(value) == 2.0
    assert type(check_temperature(value)) is float


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize(
    "value", [0, -3, 2.0, "2", None, True, np.bool_(True), np.nan, [2], np.ones(2, int), MOST + 1]
)
def test_what_is_no_positive_integer_is_refused(value):
    with pytest.raises(ValueError, match="n_bins must be a positive integer up to 100000, got"):
        check_integer(value, "n_bins")


@pytest.mark.parametrize("value", [7, np.int8(7), np.uint64(7), np.array(7), torch.tensor(7)])
def test_integers_may_be_of_any_kind(value):
    assert check_integer(value, "n_bins") == 7
    assert type(check_integer(value, "n_bins")) is int


@pytest.mark.usefixtures("_as_in_use")
@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf, None, "half", True])
def test_what_is_no_fraction_is_refused(value):
    with pytest.raises(ValueError, match="wanted must be a number, from 0 to 1, got"):
        check_fraction(value, "wanted")


@pytest.mark.parametrize("value", ["l3", "", "L1"])
def test_an_unknown_word_is_refused_with_those_that_are_known(value):
    with pytest.raises(ValueError, match="norm must be one of l1, l2, got"):
        check_choice(value, "norm", ("l1", "l2"))


def test_iterating_yields_every_row_once_in_order():
    logits, labels = random_logits(2 * MOST_ROWS + 3, 2)
    scores = Scores(logits, labels)
    pieces = list(scores)
    assert len(scores) == len(labels)
    np.testing.assert_array_equal(np.concatenate([part for part, _ in pieces]), logits)
    np.testing.assert_array_equal(np.concatenate([truth for _, truth in pieces]), labels)


def test_reading_an_array_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_array([[1, 2], [3, 4]], "values").tolist() == [[1, 2], [3, 4]]
        assert as_array(torch.ones(3), "values", slice(1, 2)).tolist() == [1.0]
