"""Logits and labels as users pass them: checks, and a threaded reduction of logits.

They may be lists, arrays of any memory layout or tensors on any device, and are never written to.
Logits are reduced in chunks of rows that fit into the cache, so little memory is needed beyond
them. Every row is computed by itself: no bit depends on batches, memory layout or threads.
"""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral, Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

CHUNK_SIZE = 2**18  # logits at a time: 1 MB fits into the cache; smaller, and threads idle
MAX_LOGIT = 1e38  # absolute value: the difference of any two still fits into float32
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30  # float32 can be divided by these
FIRST_ROWS = 100  # that are asked whether they are probabilities
MAX_SIZE = 100_000  # bins and temperatures: more would be a slip, and fill the memory

Array = Any  # a numpy array, a torch tensor or nested lists


def top_confidences(
    logits: Array, labels: Array, temperature: float = 1.0
) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
    """Largest softmax probability of each sample, in (0, 1], and whether its class is the label.

    Ties go to the lower class. Sums are float64; a few MB of memory are needed beyond the logits.

    Args:
        logits: [N, K], unnormalised scores; a softmax is always taken, whatever their range.
        labels: [N], integers in [0, K).
        temperature: divides the logits; positive.

    Raises:
        ValueError: a temperature that is not positive, or as `map_rows`.
        TypeError: as `read_logits`.
    """
    temperature = check_temperature(temperature)

    def confidence(part: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted = part.argmax(axis=1)
        mass = part - np.take_along_axis(part, predicted[:, None], axis=1)
        if temperature != 1:
            with np.errstate(over="ignore"):  # to -inf, which has no mass
                mass /= temperature
        np.exp(mass, out=mass)
        return 1 / mass.sum(axis=1, dtype=np.float64), predicted == truth

    return map_rows(confidence, logits, labels)


def map_rows(
    function: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]],
    logits: Array,
    labels: Array,
) -> tuple[np.ndarray, ...]:
    """Apply a function to chunks of rows, in threads, and concatenate the arrays it returns.

    The function must not change the logits. Threads help, as numpy releases the lock.

    Raises:
        ValueError: a logit that is not finite, or as `read_logits`.
        TypeError: as `read_logits`.
    """
    values, labels = read_logits(logits, labels)
    rows = max(1, CHUNK_SIZE // values.shape[1])

    def work(start: int) -> tuple[np.ndarray, ...]:
        part = np.ascontiguousarray(values[start : start + rows])
        check_finite(part)
        return function(part, labels[start : start + rows])

    if len(values) <= rows:  # it takes longer to start a thread
        return work(0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(work, range(0, len(values), rows)))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def read_logits(
    logits: Array, labels: Array
) -> tuple[Float[np.ndarray, "samples classes"], Int[np.ndarray, " samples"]]:
    """Logits as a float32 or float64 array, without a copy if they are one, and int64 labels.

    Warns of logits that look like probabilities: a softmax of those has no confidence.

    Raises:
        ValueError: empty, of the wrong shape, or a label out of range.
        TypeError: labels that are not integers, or logits that are not real numbers.
    """
    logits, labels = as_array(logits, "logits"), as_array(labels, "labels")
    if logits.ndim != 2 or not logits.size:
        raise ValueError(f"logits must be [N, K] with N, K >= 1, got shape {list(logits.shape)}")
    if logits.dtype.kind not in "fiu":
        raise TypeError(f"logits must be real numbers, got {logits.dtype}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels {list(labels.shape)} do not fit logits {list(logits.shape)}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        given = f"got {labels.min()} to {labels.max()}"
        raise ValueError(f"labels must be in [0, {logits.shape[1]}), {given}")
    if _are_probabilities(logits[:FIRST_ROWS]):
        message = "logits look like probabilities: each row is in [0, 1] and sums to 1"
        warnings.warn(f"{message}; give logits, or the logarithms", stacklevel=3)
    is_single = logits.dtype.kind == "f" and logits.dtype.itemsize <= 4
    precision = np.float32 if is_single else np.float64
    return logits.astype(precision, copy=False), labels.astype(np.int64, copy=False)


def _are_probabilities(logits: np.ndarray) -> bool:
    """Whether ten rows or more are all distributions, up to rounding; zeros and ones are none."""
    if len(logits) < 10 or not ((logits >= 0) & (logits <= 1)).all():
        return False
    is_sharp = ((logits == 0) | (logits == 1)).all()
    return not is_sharp and bool(np.abs(logits.sum(axis=1, dtype=np.float64) - 1).max() < 1e-3)


def check_finite(logits: Float[np.ndarray, "samples classes"]) -> None:
    """Raise ValueError if a logit is not finite or is beyond 1e38."""
    if not (logits.min() >= -MAX_LOGIT and logits.max() <= MAX_LOGIT):  # NaN compares false
        raise ValueError("logits must be finite, within 1e38; for fewer classes see `LabelSpace`")


def as_array(values: Array, name: str) -> np.ndarray:
    """Lists, arrays or tensors as a numpy array; raises ValueError by name, warns of 16 bits."""
    if str(getattr(values, "dtype", None)).endswith("float16"):
        message = f"{name} have 16 bits: their rounding shows in the calibration error"
        warnings.warn(message, stacklevel=4)
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            if "bfloat16" in str(values.dtype):  # unknown to numpy
                values = values.float()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error


def check_integer(value: int, name: str, minimum: int = 1, maximum: int = MAX_SIZE) -> int:
    """Return an integer of Python or numpy; raise ValueError if it is outside the range."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not (is_integer and minimum <= value <= maximum):
        raise ValueError(f"{name} must be an integer in [{minimum}, {maximum}], got {value!r}")
    return int(value)


def check_temperature(temperature: float, name: str = "temperature") -> float:
    """Return the temperature; raise ValueError unless float32 can be divided by it."""
    is_number = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not (is_number and MIN_TEMPERATURE <= float(temperature) <= MAX_TEMPERATURE):
        raise ValueError(f"{name} must be positive and finite, got {temperature!r}")
    return float(temperature)


def check_level(level: float) -> float:
    """Return the level of an interval; raise ValueError if it is not in (0, 1)."""
    if not (isinstance(level, Real) and 0 < level < 1):
        raise ValueError(f"level must be in (0, 1), got {level!r}")
    return float(level)
