"""Label spaces: how logits over all classes become logits over a test set's own classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a set, each one or several of the classifier's classes.

    A subset of the classes (ImageNet-R and -A) and a coarser naming of them (ObjectNet) are the
    same thing: each class of the set owns some columns, and its logit is their largest. It is
    applied before the softmax: probabilities over classes that cannot occur would be lost mass.

    Attributes:
        n_classes: of the classifier.
        columns: for each class of the set, the classifier's classes that mean it.
    """

    n_classes: int
    columns: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        flat = [column for group in self.columns for column in group]
        if not self.columns or not all(self.columns):
            raise ValueError("every class of a label space needs at least one column")
        if len(set(flat)) != len(flat):
            raise ValueError("a column stands in two classes of the label space")
        if min(flat) < 0 or max(flat) >= self.n_classes:
            raise ValueError(f"columns must be in [0, {self.n_classes}), got up to {max(flat)}")

    @classmethod
    def identity(cls, n_classes: int) -> "LabelSpace":
        """The classifier's own classes."""
        return cls(n_classes, tuple((i,) for i in range(n_classes)))

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.columns == tuple((i,) for i in range(self.n_classes))

    def project(self, logits: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, "batch own"]:
        """Logits over the set's own classes: the maximum of each one's columns.

        Raises:
            ValueError: the logits do not have `n_classes` columns.

        Source: Hendrycks et al. 2021 (class subsets of -A and -R); the ObjectNet evaluation of
        WiSE-FT (maximum over ids).
        """
        if logits.shape[1] != self.n_classes:
            raise ValueError(f"logits have {logits.shape[1]} columns, not {self.n_classes}")
        if self.is_identity:
            return logits
        if all(len(group) == 1 for group in self.columns):
            return logits[:, [group[0] for group in self.columns]]
        return np.stack([logits[:, list(group)].max(axis=1) for group in self.columns], axis=1)


def label_space_of(own: Mapping[str, Any] | None, n_classes: int) -> LabelSpace:
    """The label space that `classes.json` states for a set; the classifier's own if none.

    Args:
        own: `{"names": [...], "columns": [[...], ...]}`, or None.
        n_classes: of the classifier.
    """
    if own is None:
        return LabelSpace.identity(n_classes)
    return LabelSpace(n_classes, as_columns(own["columns"]))


def as_columns(columns: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Nested lists, as JSON holds them, as the immutable form of `LabelSpace.columns`."""
    return tuple(tuple(group) for group in columns)
