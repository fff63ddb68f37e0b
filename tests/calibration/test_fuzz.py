"""Thousands of calls with odd arguments: a finite answer, or an error that names an argument.

Each call starts from valid arguments in an odd but legal form (lists, tensors, read-only or
big-endian arrays, pandas objects), and most get one or two bad ones in their place. There must be
no other exception, no warning, no silent NaN, and no argument may be changed. Calls in legal forms
give the answer of plain arrays. Everything is seeded: a failure repeats.
"""

import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.metrics import aurc, brier, ece, ece_batch_mean, nll
from carot_lib.calibration.scores import top_confidences
from carot_lib.calibration.temperature import select_temperature, temperature_of_least_nll

CALLS = 150  # of each target


def p_value(confidences: Any, correct: Any, **options: Any) -> float:
    return BinStats.from_confidences(confidences, correct).p_value(**options)


def consistency(confidences: Any, correct: Any, **options: Any) -> tuple[np.ndarray, ...]:
    stats = BinStats.from_confidences(confidences, correct)
    return tuple(ends[stats.count > 0] for ends in stats.consistency(**options))


def temperature(logits: Any, labels: Any, **options: Any) -> tuple[float, ...]:
    choice = select_temperature(logits, labels, **options)
    values = choice.temperature, choice.value_before, choice.value_after
    return tuple(round(value, 6) for value in values)  # its sums depend on the memory layout


RANGES = {
    **dict.fromkeys((ece, ece_batch_mean, aurc, p_value, consistency), (0, 1)),
    top_confidences: (0, 1),
    nll: (0, np.inf),
    brier: (0, 2),
    temperature: (0, np.inf),
    temperature_of_least_nll: (0, np.inf),
    BinStats.from_logits: (0, np.inf),
    BinStats.from_confidences: (0, np.inf),
}
LOGITS_AND_LABELS = ("logits", "labels")
OPTIONS = {
    p_value: ("confidences", "correct", "seed", "resamples"),
    consistency: ("confidences", "correct", "level"),
    temperature: (*LOGITS_AND_LABELS, "low", "high", "step", "n_bins"),
}
OPTIONAL = ("n_bins", "seed", "resamples", "level", "batch_size", "temperature")
ARRAYS = ("logits", "labels", "confidences", "correct")


def valid_arguments(rng: np.random.Generator) -> dict[str, Any]:
    """Arguments by name that fit together."""
    n, k = int(rng.integers(1, 13)), int(rng.integers(1, 6))
    dtype = rng.choice([np.float32, np.float64])
    scale = rng.choice([0.0, 1e-3, 1.0, 30.0, 1e4, 1e30])
    logits = (rng.normal(size=(n, k)) * scale).astype(dtype)
    if rng.random() < 0.3:
        logits = np.round(logits)  # ties
    confidences = rng.choice([rng.random(n), rng.integers(0, 11, n) / 10]).astype(dtype)
    return {
        "logits": logits,
        "labels": rng.integers(0, k, n),
        "confidences": confidences,
        "correct": rng.random(n) < confidences,
        "n_bins": int(rng.choice([1, 2, 10, 15, 1000])),
        "batch_size": int(rng.integers(1, 20)),
        "temperature": float(rng.choice([1.0, 0.01, 1.7, 100.0])),
        "level": 0.95,
        "seed": int(rng.integers(0, 100)),
        "resamples": int(rng.integers(1, 50)),
        "low": 0.5,
        "high": 3.0,
        "step": 0.5,
    }


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


FORMS: list[Callable[[np.ndarray], Any]] = [
    np.copy,
    np.asfortranarray,
    read_only,
    lambda values: values.astype(values.dtype.newbyteorder(">")),
    lambda values: (pd.Series if values.ndim == 1 else pd.DataFrame)(values),
    lambda values: np.repeat(values, 2, axis=0)[::2],
    lambda values: values[::-1].copy()[::-1],
    lambda values: values.tolist() if values.dtype != np.float32 else values,
    lambda values: torch.tensor(values).requires_grad_(values.dtype.kind == "f"),
]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 2**31, 10**30, 0.0, -0.5, 1e300, 5e-324, 1j, "", "0.5", b"\x00"),
    *(float("nan"), float("inf"), [], [[]], [0.5, 0.5], [[0.5, 0.5], [0.5]], [[0.1, "a"], [1, 2]]),
    *([None, None], ["a", "b"], {}, {0, 1}, slice(None), object, len, np.bool_(True), np.int8(-3)),
    *(np.float16(2), np.array(3), np.zeros(0), np.zeros((0, 3)), np.zeros((3, 0)), np.eye(3)),
    *(np.zeros((2, 2, 2)), np.eye(3, dtype=bool), np.zeros(3, "M8[s]"), np.zeros(3, complex)),
    *(np.array([[0.1, 0.2]], dtype=object), np.full((3, 3), 1e-320), np.full((3, 3), -1.7e308)),
    *(torch.tensor(0.5), torch.zeros(0, 3), torch.eye(3), torch.eye(3).to_sparse()),
    *(torch.eye(3) * 1j, torch.eye(3).half(), torch.eye(3).bfloat16(), torch.arange(3)),
    *(pd.Series([0.5, None]), pd.Series([0, None], dtype="Int64"), pd.DataFrame({"a": ["x"]})),
]


def damaged(values: np.ndarray, rng: np.random.Generator) -> Any:
    """An array of another shape or type, or with one bad number in it."""
    kind = rng.choice(["f2", "i1", "u8", "?", "c16", "O", "U"])
    bad = values.astype(np.float64) if values.dtype.kind == "b" else values.copy()
    if bad.size:
        floats = [np.nan, np.inf, -np.inf, 3e38, 1 + 1e-3, -1e-9, 1e30, -0.0, 0.5]
        number = rng.choice(floats if bad.dtype.kind == "f" else [-1, 1000, -(2**62)])
        bad[np.unravel_index(rng.integers(bad.size), bad.shape)] = number
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways = [values[:-1], np.concatenate([values, values]), values[:, None], values.T, bad, bad]
        return [*ways, values.astype(kind)][rng.integers(len(ways) + 1)]


def bits(value: Any) -> Any:
    """Equal for two values only if not a bit of them differs."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, repr(value.detach().to_dense().flatten().tolist())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [bits(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return [bits(one) for one in value] if isinstance(value, tuple | list) else repr(value)


def check_range(answer: Any, low: float, high: float) -> None:
    if isinstance(answer, BinStats):
        answer = answer.state
    for values in answer if isinstance(answer, tuple) else (answer,):
        assert np.isfinite(values).all()
        assert ((np.asarray(values) >= low - 1e-12) & (np.asarray(values) <= high + 1e-12)).all()


def call(target: Callable, seed: int) -> str:
    """One call; returns whether it gave an "answer" or an "error"."""
    rng = np.random.default_rng([seed, *target.__name__.encode()])
    plain = valid_arguments(rng)
    names = OPTIONS.get(target, tuple(inspect.signature(target).parameters))
    names = [n for n in names if n not in OPTIONAL or rng.random() < 0.6]
    plain = {n: plain[n] for n in names}
    arguments = dict(plain)
    for n in set(names) & set(ARRAYS):
        arguments[n] = FORMS[rng.integers(len(FORMS))](plain[n])
    if spoilt := rng.random() < 0.7:
        for n in rng.choice(names, min(len(names), int(rng.integers(1, 3))), False):
            damage = n in ARRAYS and rng.random() < 0.5
            arguments[n] = damaged(plain[n], rng) if damage else JUNK[rng.integers(len(JUNK))]
    before = {n: bits(value) for n, value in arguments.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".* have 16 bits")  # documented
            answer = target(**arguments)
    except (ValueError, TypeError) as error:
        if not spoilt or not set(re.findall(r"\w+", str(error))) & set(arguments):
            raise AssertionError(f"no bad argument is named, call {seed}: {arguments}") from error
        return "error"
    finally:
        assert {n: bits(value) for n, value in arguments.items()} == before, "one was changed"
    check_range(answer, *RANGES[target])
    assert spoilt or bits(target(**plain)) == bits(answer), "another answer than of plain arrays"
    return "answer"


@pytest.mark.parametrize("target", RANGES, ids=lambda target: target.__name__)
@pytest.mark.usefixtures("_no_type_checker")
def test_odd_arguments_give_a_finite_answer_or_an_error_that_names_one(target):
    outcomes = {call(target, seed) for seed in range(CALLS)}
    assert outcomes == {"answer", "error"}, "the fuzz is too tame or too wild"
