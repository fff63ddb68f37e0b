"""Logits, probabilities and labels as users hand them over: checked, and read in pieces.

They may be lists, arrays of any memory layout or tensors on any device, and are never written to.
All of them are never copied at once: a piece of a few rows at a time is brought into the cache,
checked there and reduced to numbers of its samples. Every row is computed by itself and summed in
one order, so the bits do not depend on the batches, the layout or the number of threads.
"""

import operator
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from carot_lib.calibration.label_space import LabelSpace

PIECE = 2**18  # scores at a time: 1 MB stays in the cache; less, and threads wait for each other
MOST_ROWS = 2**13  # at a time: float64 adds so many fixed-point confidences without rounding
LARGEST = 1e38  # of a score: the distance of any two still fits into float32
COLDEST, HOTTEST = 1e-30, 1e30  # temperatures that float32 can divide by
MOST = 100_000  # bins, resamples and the like: more would be a slip, and fill the memory

Array = Any  # a numpy array, a torch tensor or nested lists


class Scores:
    """Logits or probabilities over K classes of N samples, and the samples' labels.

    Iterating yields pieces: scores, [rows, K], in C order, float64 if they came so and else
    float32, over the classes of the label space; and their labels. A piece may be a view of what
    was handed over: read it only.

    Args:
        values: [N, K], floating-point.
        labels: [N], integers in [0, K), or in the label space's own classes.
        name: of the values in messages.
        label_space: what columns mean; None: a class each.

    Raises:
        ValueError: empty, of the wrong shape, or a label out of range; when a piece is read: a
            score that is not finite.
        TypeError: labels that are no integers, or scores that are no real numbers.
    """

    def __init__(
        self,
        values: Array,
        labels: Array,
        name: str = "logits",
        label_space: LabelSpace | None = None,
    ):
        self.values = values if hasattr(values, "detach") else as_array(values, name)
        self.name = name
        shape = tuple(self.values.shape)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{name} must be [N, K] with N, K >= 1, got shape {list(shape)}")
        probe = as_array(self.values, name, slice(0, 0)).dtype
        if probe.kind != "f":
            raise TypeError(f"{name} must be floating-point numbers, got {probe}")
        _warn_of_16_bits(self.values, name)
        self.dtype = np.dtype(np.float32 if probe.itemsize <= 4 else np.float64)
        self.rows = max(1, min(MOST_ROWS, PIECE // shape[1]))
        self.label_space, self.n_classes = None, shape[1]
        if label_space is not None:
            if not isinstance(label_space, LabelSpace):
                kind = type(label_space).__name__
                raise TypeError(f"label_space must be a LabelSpace, got {kind}")
            if label_space.n_classes != shape[1]:
                wanted = f"label_space wants {label_space.n_classes} columns"
                raise ValueError(f"{wanted}, {name} have {shape[1]}")
            self.label_space = None if label_space.is_identity else label_space
            self.n_classes = len(label_space.columns)
        self.labels = _check_labels(labels, name, list(shape), self.n_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return map(self.piece, range(0, len(self), self.rows))

    def piece(
        self, start: int
    ) -> tuple[Float[np.ndarray, "rows classes"], Int[np.ndarray, " rows"]]:
        """Scores and labels from row `start` on.

        Raises:
            ValueError: a score is not finite.
        """
        rows = slice(start, start + self.rows)
        with np.errstate(over="ignore"):  # of floats wider than double: to inf, refused below
            part = as_array(self.values, self.name, rows).astype(self.dtype, order="C", copy=False)
        if not (part.min() >= -LARGEST and part.max() <= LARGEST):  # NaN compares false
            raise ValueError(
                f"{self.name} must be finite, within 1e38; a masked class belongs in `label_space`"
            )
        if self.label_space is not None:
            part = self.label_space.project(part)
        return part, self.labels[rows]

    def per_sample(self, reduce: Callable) -> tuple[np.ndarray, ...]:
        """Arrays [N] of whatever `reduce(scores, labels)` finds of the samples of a piece.

        In as many threads as there are cores: numpy holds no lock while it computes.
        """
        starts = range(0, len(self), self.rows)
        found: list = [None] * len(starts)
        todo = enumerate(starts)

        def work(_: int) -> None:
            for i, start in todo:  # shared by the threads: who is free takes the next piece
                found[i] = reduce(*self.piece(start))

        threads = min(os.cpu_count() or 1, len(starts))
        if threads == 1:
            work(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(threads)))  # the list lets errors out
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def whole(self) -> Float[np.ndarray, "samples classes"]:
        """All scores in one array, of any memory layout; what was handed over, if it is one.

        Raises:
            ValueError: a score is not finite.
        """
        as_it_is = isinstance(self.values, np.ndarray) and self.values.dtype == self.dtype
        if self.label_space is None and as_it_is:
            for _ in self:  # checks that it is finite
                pass
            return self.values
        found = np.empty((len(self), self.n_classes), self.dtype)
        for i, (part, _) in enumerate(self):
            found[i * self.rows : i * self.rows + len(part)] = part
        return found


def top_confidences(
    logits: Array, labels: Array, temperature: float = 1.0, label_space: LabelSpace | None = None
) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
    """Largest softmax probability of each sample, in (0, 1], and whether that class was right.

    Ties go to the lower class. Sums are float64; beyond the logits it takes a few MB of memory.

    Args:
        logits: [N, K], unnormalised scores; a softmax is always taken, whatever their range.
        labels: [N], integers in [0, K), or in the label space's own classes.
        temperature: divides the logits; positive.
        label_space: applied before the softmax.

    Raises:
        ValueError: a temperature that is not positive, or as `Scores`.
        TypeError: as `Scores`.
    """
    temperature = check_temperature(temperature)

    def reduce(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted = part.argmax(axis=1)
        mass = part - np.take_along_axis(part, predicted[:, None], axis=1)
        if temperature != 1:
            with np.errstate(over="ignore"):  # to -inf, which has no mass
                mass /= temperature
        np.exp(mass, out=mass)
        return 1 / mass.sum(axis=1, dtype=np.float64), predicted == truth

    confidences, correct = Scores(logits, labels, label_space=label_space).per_sample(reduce)
    return confidences, correct


def check_scores(
    scores: Array, labels: Array, name: str, label_space: LabelSpace | None = None
) -> tuple[Float[np.ndarray, "samples classes"], Int[np.ndarray, " samples"]]:
    """Logits or probabilities and their labels as numpy arrays that fit together.

    Raises:
        ValueError: empty, of the wrong shape, not finite, or a label out of range.
        TypeError: labels that are no integers, or scores that are no real numbers.
    """
    checked = Scores(scores, labels, name, label_space)
    return checked.whole(), checked.labels


def check_confidences(
    confidences: Array, correct: Array
) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
    """Confidences as float64 and truth values as bool, of one length.

    Raises:
        ValueError: empty, of different lengths, or a confidence outside [0, 1].
        TypeError: confidences that are no real numbers, or `correct` that holds something else
            than truth values.
    """
    _warn_of_16_bits(confidences, "confidences")
    confidences, correct = as_array(confidences, "confidences"), as_array(correct, "correct")
    if confidences.ndim != 1 or not len(confidences):
        raise ValueError(f"confidences must be [N] with N >= 1, got {list(confidences.shape)}")
    if confidences.dtype.kind not in "fiu":  # truth values: the arguments are swapped
        raise TypeError(f"confidences must be real numbers, got {confidences.dtype}")
    if correct.shape != confidences.shape:
        raise ValueError(f"correct {list(correct.shape)} does not fit {list(confidences.shape)}")
    if correct.dtype.kind not in "biuf" or not np.isin(correct, (0, 1)).all():
        raise TypeError("correct must hold truth values")
    with np.errstate(over="ignore"):  # of floats wider than double: to inf, refused below
        confidences = confidences.astype(np.float64)
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("confidences must be in [0, 1]; did you pass logits?")
    return confidences, correct.astype(bool)


def check_integer(value: SupportsIndex, name: str, least: int = 1, most: int = MOST) -> int:
    """A whole number in [least, most], of Python or numpy; a truth value is none.

    Raises:
        ValueError: it is none; the message names it.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        kind = "positive integer" if least == 1 else f"whole number from {least}"
        raise ValueError(f"{name} must be a {kind} up to {most}, got {value!r}")
    return number


def check_temperature(temperature: float, name: str = "temperature") -> float:
    """A positive, finite number that float32 can be divided by.

    Raises:
        ValueError: it is none.
    """
    return _check_real(temperature, name, COLDEST, HOTTEST, "positive and finite")


def check_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """One of some words.

    Raises:
        ValueError: it is none of them; the message names it and them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_fraction(value: float, name: str) -> float:
    """A number in [0, 1].

    Raises:
        ValueError: it is none; the message names it.
    """
    return _check_real(value, name, 0.0, 1.0, "a number")


def _check_real(value: float, name: str, low: float, high: float, wanted: str) -> float:
    try:  # first a float: a number of fewer bits cannot be compared with the bounds
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    except OverflowError:  # of an integer
        number = np.nan
    if not low <= number <= high:
        raise ValueError(f"{name} must be {wanted}, from {low:g} to {high:g}, got {value!r}")
    return number


def as_array(values: Array, name: str, rows: slice | None = None) -> np.ndarray:
    """A numpy array of whatever holds numbers, or of some of its rows.

    Tensors leave their device and their graph; only the wanted rows are moved.

    Raises:
        ValueError: it cannot be read as an array, as ragged lists and sparse tensors cannot, or
            some of its numbers are masked; the message names it.
    """
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked entries: select the others first")
    try:
        if rows is not None:
            values = values[rows]
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            if "bfloat16" in str(values.dtype):  # numpy does not know it
                values = values.float()
            values = values.numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error


def _check_labels(
    labels: Array, name: str, shape: list[int], n_classes: int
) -> Int[np.ndarray, " samples"]:
    labels = as_array(labels, "labels")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if list(labels.shape) != shape[:1]:
        raise ValueError(f"labels {list(labels.shape)} do not fit {name} {shape}")
    if labels.min() < 0 or labels.max() >= n_classes:
        found = f"got {labels.min()} to {labels.max()}"
        raise ValueError(f"labels must be in [0, {n_classes}), {found}")
    return labels.astype(np.int64, copy=False)


def _warn_of_16_bits(values: Array, name: str) -> None:
    if str(getattr(values, "dtype", None)).endswith("float16"):
        warnings.warn(
            f"{name} have 16 bits: their rounding shows in the calibration error", stacklevel=5
        )
