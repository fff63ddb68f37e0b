"""Label spaces: subsets and coarser namings of the classifier's classes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carot_lib.calibration.label_space import LabelSpace, label_space_of

LOGITS = np.array([[1.0, 5.0, 2.0, 4.0], [7.0, 0.0, 3.0, 6.0]])


def test_identity_returns_the_logits_unchanged():
    space = LabelSpace.identity(4)
    assert space.is_identity
    assert space.columns == ((0,), (1,), (2,), (3,))
    np.testing.assert_array_equal(space.project(LOGITS), LOGITS)


def test_a_subset_picks_its_columns_in_its_own_order():
    space = LabelSpace(4, ((3,), (0,)))
    assert not space.is_identity
    np.testing.assert_array_equal(space.project(LOGITS), [[4.0, 1.0], [6.0, 7.0]])
    assert not LabelSpace(2, ((1,), (0,))).is_identity


def test_a_class_of_several_columns_takes_their_largest_logit():
    # max(1, 2) = 2 and 5 alone; max(7, 3) = 7 and 0 alone.
    space = LabelSpace(4, ((0, 2), (1,)))
    np.testing.assert_array_equal(space.project(LOGITS), [[2.0, 5.0], [7.0, 0.0]])


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_projection_is_the_maximum_over_each_classs_columns(n_classes, seed):
    generator = np.random.default_rng(seed)
    order = generator.permutation(n_classes)[: generator.integers(1, n_classes + 1)]
    cuts = np.flatnonzero(generator.random(len(order) - 1) < 0.5) + 1
    columns = tuple(tuple(group.tolist()) for group in np.split(order, cuts))
    logits = generator.normal(size=(7, n_classes))
    projected = LabelSpace(n_classes, columns).project(logits)
    by_hand = np.stack([logits[:, list(group)].max(axis=1) for group in columns], axis=1)
    np.testing.assert_array_equal(projected, by_hand)


def test_projection_of_no_samples_is_no_samples():
    for columns in (((0,), (2,)), ((0, 1), (2,)), ((0,), (1,), (2,), (3,))):
        assert LabelSpace(4, columns).project(np.zeros((0, 4))).shape == (0, len(columns))


def test_projection_keeps_the_precision_and_leaves_its_input_alone():
    logits = LOGITS.astype(np.float32)
    before = logits.copy()
    for columns in (((0,), (2,)), ((0, 1), (2,))):
        projected = LabelSpace(4, columns).project(logits)
        assert projected.dtype == np.float32
        projected += 1
        np.testing.assert_array_equal(logits, before)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ((), ValueError, "at least one column"),
        (((),), ValueError, "at least one column"),
        (((0,), ()), ValueError, "at least one column"),
        (((0,), (0,)), ValueError, "must not share a column"),
        (((0, 1), (2, 1)), ValueError, "must not share a column"),
        (((3, 3),), ValueError, "must not share a column"),
        (((0,), (4,)), ValueError, r"columns must be in \[0, 4\), got 0 to 4"),
        (((-1,), (2,)), ValueError, r"columns must be in \[0, 4\), got -1 to 2"),
        (((0.0,),), TypeError, "columns must be a tuple of tuples of integers"),
        ((("0",),), TypeError, "columns must be a tuple of tuples of integers"),
        (((True,),), TypeError, "columns must be a tuple of tuples of integers"),
    ],
)
def test_bad_columns_are_refused(columns, error, message):
    with pytest.raises(error, match=message):
        LabelSpace(4, columns)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("shape", [(), (4,), (2, 4, 1), (2, 3)])
@pytest.mark.parametrize("columns", [((0,),), ((0,), (1,), (2,), (3,))])
def test_logits_of_a_wrong_shape_are_refused(shape, columns):
    with pytest.raises(ValueError, match=r"logits must be \[N, 4\], got"):
        LabelSpace(4, columns).project(np.zeros(shape))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("n_classes", [0, -1, 4.0, True, None, "4", np.nan])
def test_an_invalid_number_of_classes_is_refused(n_classes):
    with pytest.raises(ValueError, match="n_classes must be a positive integer"):
        LabelSpace(n_classes, ((0,),))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("entry", [{}, {"names": ["cat"]}, {"columns": 3}, {"columns": [0]}, [[0]]])
def test_an_entry_without_lists_of_columns_is_refused(entry):
    with pytest.raises(ValueError, match="a label space must hold lists of `columns`, got"):
        label_space_of(entry, 4)


def test_an_entry_survives_json_and_none_means_all_classes():
    entry = json.loads('{"names": ["cat", "dog"], "columns": [[2, 0], [1]]}')
    assert label_space_of(entry, 4) == LabelSpace(4, ((2, 0), (1,)))
    assert label_space_of(None, 3) == LabelSpace.identity(3)
