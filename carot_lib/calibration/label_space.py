"""Label spaces: map logits over all classes to logits over the classes of a test set."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class LabelSpace:
    """The target classes of a test set, each of them one or several classes of the classifier.

    A subset of the classes (ImageNet-R and -A) and a coarser naming (ObjectNet) are the same thing:
    the logit of a target class is the maximum over its columns, taken before the softmax.

    Attributes:
        n_classes: number of classes of the classifier.
        columns: for each target class, the indices of the classifier's classes that belong to it.

    Raises:
        ValueError: a class without columns, a repeated column, or one outside [0, n_classes).
        TypeError: something other than integers in nested tuples.
    """

    n_classes: int
    columns: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not _is_integer(self.n_classes) or self.n_classes < 1:
            raise ValueError(f"n_classes must be a positive integer, got {self.n_classes!r}")
        flat = [column for group in self.columns for column in group]
        if not all(_is_integer(column) for column in flat):
            raise TypeError("columns must be a tuple of tuples of integers")
        if not self.columns or not all(self.columns):
            raise ValueError("columns: every class of a label space needs at least one column")
        if len(set(flat)) != len(flat):
            raise ValueError("columns: the classes of a label space must not share a column")
        if min(flat) < 0 or max(flat) >= self.n_classes:
            given = f"got {min(flat)} to {max(flat)}"
            raise ValueError(f"columns must be in [0, {self.n_classes}), {given}")

    @classmethod
    def identity(cls, n_classes: int) -> "LabelSpace":
        """The label space of a test set with all classes of the classifier, in its order."""
        return cls(n_classes, tuple((i,) for i in range(n_classes)))

    @cached_property
    def is_identity(self) -> bool:
        """Whether the target classes are those of the classifier, in its order."""
        return self.columns == tuple((i,) for i in range(self.n_classes))

    @cached_property
    def _flat(self) -> tuple[Int[np.ndarray, " columns"], Int[np.ndarray, " target_classes"]]:
        """All columns, class by class, and the position of the first one of each class."""
        sizes = [len(group) for group in self.columns]
        return np.concatenate(self.columns), np.cumsum([0, *sizes[:-1]])

    def project(
        self, logits: Float[np.ndarray, "samples classes"]
    ) -> Float[np.ndarray, "samples target_classes"]:
        """Logits over the target classes: the maximum over the columns of each class.

        Raises:
            ValueError: the logits do not have `n_classes` columns.

        Source: Hendrycks et al. 2021 (class subsets of -A and -R); the ObjectNet evaluation of
        WiSE-FT (maximum over ids).
        """
        if logits.ndim != 2 or logits.shape[1] != self.n_classes:
            raise ValueError(f"logits must be [N, {self.n_classes}], got {list(logits.shape)}")
        if self.is_identity:
            return logits
        columns, first = self._flat
        picked = np.take(logits, columns, axis=1)
        return picked if len(first) == len(columns) else np.maximum.reduceat(picked, first, axis=1)


def label_space_of(entry: Mapping[str, Any] | None, n_classes: int) -> LabelSpace:
    """The label space of a test set, from its entry in `classes.json`.

    Args:
        entry: `{"names": [...], "columns": [[...], ...]}`; None: all classes of the classifier.
        n_classes: number of classes of the classifier.

    Raises:
        ValueError: the entry has no lists of `columns`, or as `LabelSpace`.
        TypeError: as `LabelSpace`.
    """
    if entry is None:
        return LabelSpace.identity(n_classes)
    try:
        columns = tuple(tuple(group) for group in entry["columns"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"a label space must hold lists of `columns`, got {entry!r}") from error
    return LabelSpace(n_classes, columns)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
