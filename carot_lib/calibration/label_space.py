"""Label spaces: how logits over all classes become logits over a test set's own classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

MOST = 1_000_000  # classes: more would be a slip, and fill the memory


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a set, each one or several of the classifier's classes.

    A subset of the classes (ImageNet-R and -A) and a coarser naming of them (ObjectNet) are the
    same thing: each class of the set owns some columns, and its logit is their largest. It is
    applied before the softmax: probabilities over classes that cannot occur would be lost mass.

    Attributes:
        n_classes: of the classifier.
        columns: for each class of the set, the classifier's classes that mean it.

    Raises:
        ValueError: a class without columns, a column that stands twice or that the classifier
            lacks.
        TypeError: something else than integers in tuples; `as_columns` makes them of lists.
    """

    n_classes: int
    columns: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        _check_classes(self.n_classes)
        _check_columns(self.columns)
        flat = [column for group in self.columns for column in group]
        if not self.columns or not all(self.columns):
            raise ValueError("columns: every class of a label space needs at least one column")
        if len(set(flat)) != len(flat):
            raise ValueError("columns: a column stands in two classes of the label space")
        if min(flat) < 0 or max(flat) >= self.n_classes:
            found = f"got {min(flat)} to {max(flat)}"
            raise ValueError(f"columns must be in [0, {self.n_classes}), {found}")

    @classmethod
    def identity(cls, n_classes: int) -> "LabelSpace":
        """The classifier's own classes."""
        _check_classes(n_classes)
        return cls(n_classes, tuple((i,) for i in range(n_classes)))

    @cached_property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        own = len(self.columns) == self.n_classes
        return own and all(group == (i,) for i, group in enumerate(self.columns))

    @cached_property
    def _flat(self) -> tuple[Int[np.ndarray, " all"], Int[np.ndarray, " own"]]:
        """All columns, class by class, and where each class begins among them."""
        sizes = [len(group) for group in self.columns]
        return np.concatenate(self.columns), np.cumsum([0, *sizes[:-1]])

    def project(self, logits: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, "batch own"]:
        """Logits over the set's own classes: the maximum of each one's columns, finite or not.

        Raises:
            ValueError: the logits are no array with `n_classes` columns.

        Source: Hendrycks et al. 2021 (class subsets of -A and -R); the ObjectNet evaluation of
        WiSE-FT (maximum over ids).
        """
        if not isinstance(logits, np.ndarray) or logits.ndim != 2 or logits.dtype.kind not in "fiu":
            raise ValueError("logits must be an array [N, classes] of numbers")
        if logits.shape[1] != self.n_classes:
            raise ValueError(f"logits have {logits.shape[1]} columns, not {self.n_classes}")
        if self.is_identity:
            return logits
        columns, first = self._flat
        picked = np.take(logits, columns, axis=1)
        return picked if len(first) == len(columns) else np.maximum.reduceat(picked, first, axis=1)


def label_space_of(own: Mapping[str, Any] | None, n_classes: int) -> LabelSpace:
    """The label space that `classes.json` states for a set; the classifier's own if none.

    Args:
        own: `{"names": [...], "columns": [[...], ...]}`, or None.
        n_classes: of the classifier.

    Raises:
        ValueError: `own` has no columns, or as `LabelSpace`.
        TypeError: as `LabelSpace`.
    """
    if own is None:
        return LabelSpace.identity(n_classes)
    if not isinstance(own, Mapping) or "columns" not in own:
        raise ValueError(f"own must be a mapping that holds `columns`, got {own!r}")
    return LabelSpace(n_classes, as_columns(own["columns"]))


def as_columns(columns: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Nested lists, as JSON holds them, as the immutable form of `LabelSpace.columns`.

    Raises:
        TypeError: they are no lists of lists of integers.
    """
    try:
        nested = tuple(tuple(group) for group in columns)
    except TypeError as error:
        raise TypeError(f"columns must be lists of lists of integers, got {columns!r}") from error
    _check_columns(nested)
    return nested


def _check_columns(columns: tuple[tuple[int, ...], ...]) -> None:
    in_tuples = isinstance(columns, tuple) and all(isinstance(group, tuple) for group in columns)
    if not in_tuples or not all(_is_integer(column) for group in columns for column in group):
        raise TypeError("columns must be integers in tuples in a tuple")


def _check_classes(n_classes: int) -> None:
    if not _is_integer(n_classes) or not 1 <= n_classes <= MOST:
        raise ValueError(f"n_classes must be a positive integer up to {MOST}, got {n_classes!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
