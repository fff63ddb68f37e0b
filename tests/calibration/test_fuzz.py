"""Ten thousand calls with odd arguments: a finite answer, or an error that names an argument.

Each call starts from valid arguments in an odd but legal form (lists, tensors, read-only or
big-endian arrays, pandas objects), and most get one or two bad ones in their place. Whatever
comes, there is no other exception, no warning, no silent NaN, and nothing given is changed. Calls
in legal forms alone have the answer of plain arrays. Everything is seeded: a failure repeats.
"""

import copy
import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch

from carot_lib.calibration import metrics
from carot_lib.calibration.bin_stats import BinStats, bin_of
from carot_lib.calibration.label_space import LabelSpace, as_columns, label_space_of
from carot_lib.calibration.scores import check_confidences, check_scores, top_confidences
from carot_lib.calibration.temperature import select_temperature

CALLS = 10_000


def stats_method(name: str) -> Callable:
    """A method of statistics as a function of what they are made of and of its own arguments."""
    method = getattr(BinStats, name)

    def call(confidences: Any, correct: Any, n_bins: Any = 10, **own: Any) -> Any:
        return method(BinStats.from_confidences(confidences, correct, n_bins), **own)

    own = list(inspect.signature(method).parameters)[1:]
    call.arguments = ("confidences", "correct", "n_bins", *own)
    return call


def add(state: Any, n_bins: Any) -> BinStats:
    return BinStats(state) + BinStats.empty(n_bins)


def parts(confidences: Any, correct: Any, n_bins: Any = 10) -> dict[str, float]:
    return metrics.brier_parts(BinStats.from_confidences(confidences, correct, n_bins))


def project(n_classes: Any, columns: Any, logits: Any) -> np.ndarray:
    return LabelSpace(n_classes, columns).project(logits)


def temperature(logits: Any, labels: Any, **own: Any) -> tuple[float, ...]:
    """What is promised to no more than rounding: its sums follow the memory layout."""
    choice = select_temperature(logits, labels, **own)
    found = choice.temperature, choice.value_before, choice.value_after
    return tuple(round(value, 6) for value in found)


temperature.arguments = tuple(inspect.signature(select_temperature).parameters)
METRICS = {
    name: function
    for name, function in vars(metrics).items()
    if inspect.isfunction(function)
    and function.__module__ == metrics.__name__
    and not name.startswith("_")
}
TARGETS = {
    **METRICS,
    "brier_parts": parts,
    "brier_parts of anything": metrics.brier_parts,
    "from_logits": BinStats.from_logits,
    "from_probabilities": BinStats.from_probabilities,
    "from_confidences": BinStats.from_confidences,
    "empty": BinStats.empty,
    "add": add,
    "bin_of": bin_of,
    **{
        f"{name} of bins": stats_method(name)
        for name in ("ece", "mce", "rmsce", "ece_debiased", "noise_floor", "p_value", "consistency")
    },
    "top_confidences": top_confidences,
    "check_scores": check_scores,
    "check_confidences": check_confidences,
    "LabelSpace": LabelSpace,
    "identity": LabelSpace.identity,
    "label_space_of": label_space_of,
    "as_columns": as_columns,
    "project": project,
    "temperature": temperature,
}
SPOILT = {  # of these targets only some arguments; by default all
    "check_scores": ("scores", "labels", "label_space"),  # the name is how messages call them
}
RANGES = {  # of a number; others are not bounded by both sides
    **dict.fromkeys(
        ("accuracy", "ece", "rmsce", "mce", "ece_debiased", "ece_batch_mean", "classwise_ece"),
        (0, 1),
    ),
    **dict.fromkeys(("aurc", "coverage_at_accuracy", "noise_floor", "p_value", "parts"), (0, 1)),
    "signed_gap": (-1, 1),
    "nll": (0, np.inf),
    "brier": (0, 2),
}


def valid(random: np.random.Generator) -> dict[str, Any]:
    """Arguments by name that fit together."""
    n, k = int(random.integers(1, 13)), int(random.integers(1, 6))
    dtype = random.choice([np.float32, np.float64])
    scale = random.choice([0.0, 1e-3, 1.0, 30.0, 1e4, 1e30])
    logits = (random.normal(size=(n, k)) * scale).astype(dtype)
    if random.random() < 0.3:
        logits = np.round(logits)  # ties
    probabilities = np.exp(np.clip(logits - logits.max(axis=1, keepdims=True), -50, 0))
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(dtype)
    confidences = random.choice([random.random(n), random.integers(0, 11, n) / 10]).astype(dtype)
    order = random.permutation(k)[: random.integers(1, k + 1)]
    cuts = np.flatnonzero(random.random(len(order) - 1) < 0.5) + 1
    columns = tuple(tuple(group.tolist()) for group in np.split(order, cuts))
    space = random.choice([None, LabelSpace.identity(k), LabelSpace(k, columns)])
    own = k if space is None else len(space.columns)
    right = random.random(n) < confidences
    n_bins = int(random.choice([1, 2, 10, 15, 1000]))
    return {
        "logits": logits,
        "scores": logits,
        "labels": random.integers(0, own, n),
        "probabilities": probabilities,
        "confidences": confidences,
        "correct": right,
        "label_space": space,
        "n_classes": k,
        "columns": columns,
        "own": {"names": ["a"] * len(columns), "columns": [list(group) for group in columns]},
        "stats": BinStats.from_confidences(confidences, right),
        "state": BinStats.from_confidences(confidences, right, n_bins).state,
        "n_bins": n_bins,
        "min_count": 1,
        "batch_size": int(random.integers(1, 20)),
        "temperature": float(random.choice([1.0, 0.01, 1.7, 100.0])),
        "wanted": float(random.choice([0.0, 0.5, 0.9, 1.0])),
        "level": 0.95,
        "seed": int(random.integers(0, 100)),
        "resamples": int(random.integers(1, 50)),
        "norm": random.choice(["l1", "l2", "max"]).item(),
        "binning": random.choice(["width", "mass"]).item(),
        "criterion": random.choice(["ece", "nll"]).item(),
        "low": 0.5,
        "high": 3.0,
        "step": 0.5,
        "selected_on": "id_val",
        "name": "scores",
    }


def big_endian(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder(">"))


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


def as_pandas(values: np.ndarray) -> pd.DataFrame | pd.Series:
    return (pd.Series if values.ndim == 1 else pd.DataFrame)(values)


FORMS = [
    np.copy,
    np.asfortranarray,
    big_endian,
    read_only,
    as_pandas,
    np.ma.MaskedArray,
    lambda values: np.repeat(values, 2, axis=0)[::2],
    lambda values: values[::-1].copy()[::-1],
    lambda values: values.tolist() if values.dtype != np.float32 else values,
    lambda values: torch.tensor(values),
    lambda values: torch.tensor(values).requires_grad_(values.dtype.kind == "f"),
]
NUMBERS = {int: [np.int64, np.int16, np.array], float: [np.float64, np.float64]}
ARRAYS = ("logits", "scores", "labels", "probabilities", "confidences", "correct")


def in_another_form(name: str, value: Any, random: np.random.Generator) -> Any:
    """The same value as another type or memory layout that is welcome too."""
    if name in ARRAYS:
        return FORMS[random.integers(len(FORMS))](value)
    if name in ("n_bins", "min_count", "batch_size", "resamples", "seed", "temperature", "wanted"):
        kinds = NUMBERS[type(value)]
        return kinds[random.integers(len(kinds))](value)
    return value


JUNK: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: 0,
    lambda: -1,
    lambda: 7,
    lambda: 2**31,
    lambda: 10**30,
    lambda: 0.0,
    lambda: -0.5,
    lambda: 0.5,
    lambda: 2.5,
    lambda: 1e300,
    lambda: 5e-324,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: -float("inf"),
    lambda: 1j,
    lambda: "",
    lambda: "ece",
    lambda: "0.5",
    lambda: b"\x00",
    lambda: [],
    lambda: [[]],
    lambda: [1, 2, 3],
    lambda: [0.5, 0.5],
    lambda: [[0.5, 0.5], [0.5]],
    lambda: [[0.1, "a"], [0.2, None]],
    lambda: [None, None],
    lambda: ["a", "b"],
    lambda: (0, (1,)),
    lambda: {},
    lambda: {"columns": [[0]]},
    lambda: {"columns": None},
    lambda: {0, 1},
    lambda: range(3),
    lambda: slice(None),
    lambda: Ellipsis,
    lambda: object,
    lambda: len,
    lambda: np.nan,
    lambda: np.bool_(True),
    lambda: np.int8(-3),
    lambda: np.uint64(2**64 - 1),
    lambda: np.float32(0.25),
    lambda: np.float16(2),
    lambda: np.longdouble(1.5),
    lambda: np.complex64(1),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.array(3),
    lambda: np.array(0.5),
    lambda: np.zeros((0,)),
    lambda: np.zeros((0, 3)),
    lambda: np.zeros((3, 0)),
    lambda: np.zeros((2, 2, 2)),
    lambda: np.eye(3),
    lambda: np.eye(3, dtype=np.int64),
    lambda: np.eye(3, dtype=bool),
    lambda: np.array([[0.1, 0.2], [0.3, 0.4]], dtype=object),
    lambda: np.array([0, 1, None]),
    lambda: np.array(["a", "b"]),
    lambda: np.zeros(3, dtype="M8[s]"),
    lambda: np.zeros(3, dtype=[("a", "f8"), ("b", "i4")]),
    lambda: np.zeros(3, dtype=complex),
    lambda: np.full((3, 3), 1e-320),
    lambda: np.full((3, 3), -1.7e308),
    lambda: np.full((3, 3), np.finfo(np.longdouble).max),
    lambda: np.full(3, np.finfo(np.longdouble).max),
    lambda: np.full((3, 3), np.finfo(np.float32).min, dtype=np.float32),
    lambda: np.ma.MaskedArray(np.eye(3), np.eye(3)),
    lambda: np.ma.MaskedArray([0, 1, 0], [0, 1, 0]),
    lambda: torch.tensor(3),
    lambda: torch.tensor(0.5),
    lambda: torch.tensor(True),
    lambda: torch.zeros(0, 3),
    lambda: torch.eye(3),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.eye(3, device="meta"),
    lambda: torch.eye(3).bool(),
    lambda: torch.eye(3) * 1j,
    lambda: torch.eye(3).half(),
    lambda: torch.eye(3).bfloat16(),
    lambda: torch.eye(3, requires_grad=True),
    lambda: torch.arange(3),
    lambda: pd.Series([0.5, None]),
    lambda: pd.Series([0, 1], dtype="Int64"),
    lambda: pd.Series([0, None], dtype="Int64"),
    lambda: pd.Series(["a", "b"], dtype="category"),
    lambda: pd.DataFrame({"a": [0.1, 0.2], "b": ["x", "y"]}),
    lambda: pd.DataFrame([[0.1, 0.9], [0.2, 0.8]]),
    lambda: pd.Timestamp("2020-01-01"),
    lambda: BinStats.empty(),
    lambda: LabelSpace.identity(3),
]


def damaged(values: np.ndarray, random: np.random.Generator) -> Any:
    """An array of another shape or type, or with one bad number in it."""
    how = int(random.integers(8))
    if how == 0:
        return values[: len(values) - 1]
    if how == 1:
        return np.concatenate([values, values])
    if how == 2:
        return values[:, None] if random.random() < 0.5 else values.T
    if how == 3:
        with np.errstate(all="ignore"):
            kind = random.choice(["f2", "f4", "f8", "g", "i1", "i8", "u8", "?", "c16"])
            return values.astype(kind)
    if how == 4:
        return values.astype(object)
    if how == 5:
        return values.astype(str)
    bad = values.astype(np.float64) if values.dtype.kind == "b" else values.copy()
    if bad.size:
        place = np.unravel_index(random.integers(bad.size), bad.shape)
        floats = [np.nan, np.inf, -np.inf, 3e38, -1e38, 1 + 1e-3, -1e-9, 1e30, -0.0, 0.5]
        bad[place] = random.choice(floats if bad.dtype.kind == "f" else [-1, 1000, -(2**62)])
    return bad


def bits(value: Any) -> Any:
    """What equals that of another value only if not a bit of the two differs."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense() if value.is_sparse else value.detach()
        numbers = None if dense.is_meta else repr(dense.flatten().tolist())
        return value.shape, value.dtype, value.requires_grad, numbers
    if isinstance(value, np.ndarray) and value.dtype != object:
        mask = bits(np.ma.getmaskarray(value)) if np.ma.isMaskedArray(value) else None
        return value.dtype.str, value.shape, value.tobytes(), mask
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [bits(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple | list):
        return [bits(one) for one in value]
    return repr(value)


def check_answer(name: str, answer: Any) -> None:
    """Finite, in range; NaN only where a bin is empty, as it is documented."""
    if isinstance(answer, BinStats):
        assert (answer.state >= 0).all()
        if answer.n:
            for values in (answer.accuracy, answer.confidence, *answer.consistency()):
                np.testing.assert_array_equal(np.isnan(values), answer.count == 0)
    elif dataclasses.is_dataclass(answer):
        for field in dataclasses.fields(answer):
            check_answer("", getattr(answer, field.name))
    elif isinstance(answer, dict):
        for value in answer.values():
            check_answer("parts", value)
    elif isinstance(answer, tuple | list):
        for value in answer:
            check_answer(name, value)
    elif isinstance(answer, np.ndarray):
        assert answer.dtype.kind in "fiub"
        if name == "project":
            return  # as finite as what came in
        if name == "consistency":
            answer = answer[~np.isnan(answer)]
        assert np.isfinite(answer).all()
    elif isinstance(answer, float):
        low, high = RANGES.get(name, (-np.inf, np.inf))
        assert np.isfinite(answer)
        assert low - 1e-12 <= answer <= high + 1e-12


def chosen_arguments(
    target: str, random: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same arguments of a target twice: plain, and in other forms."""
    signature = inspect.signature(TARGETS[target]).parameters
    names = getattr(TARGETS[target], "arguments", list(signature))
    plain = valid(random)
    optional = {n for n, one in signature.items() if one.default is not inspect.Parameter.empty}
    if plain["label_space"] is not None:
        optional -= {"label_space"}  # the labels are of its classes
    if target == "temperature":  # it knows none; and a grid of 951 would take long
        plain["labels"] %= plain["logits"].shape[1]
    names = [n for n in names if n in plain and (n not in optional or random.random() < 0.6)]
    used = {n: plain[n] for n in names}
    if target == "project":  # it takes arrays as they come out of the checks
        return used, copy.copy(used)
    return used, {n: in_another_form(n, value, random) for n, value in used.items()}


def outcome(target: str, arguments: dict[str, Any], plain: dict[str, Any] | None) -> str:
    """Of one call: "answer" or "error"; `plain` must give the same answer, if there is any."""
    before, answer = {n: bits(value) for n, value in arguments.items()}, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".* have 16 bits")  # documented
            answer = TARGETS[target](**arguments)
    except (ValueError, TypeError) as error:
        named = set(re.findall(r"\w+", str(error))) & {*arguments, "columns"}
        if plain or not (named or "no samples" in str(error)):
            raise AssertionError("nothing bad is named") from error
    for n, value in arguments.items():
        assert bits(value) == before[n], f"{n} was changed"
    check_answer(target.split()[0], answer)
    if plain:
        assert bits(TARGETS[target](**plain)) == bits(answer), "another answer than of plain arrays"
    return "error" if answer is None else "answer"


def call(target: str, seed: int) -> str:
    """One call; returns its outcome."""
    random = np.random.default_rng([seed, *target.encode()])
    plain, arguments = chosen_arguments(target, random)
    if bad := random.random() < 0.7:
        names = [n for n in arguments if n in SPOILT.get(target, arguments)]
        for n in random.choice(names, min(len(names), int(random.integers(1, 3))), replace=False):
            spoil = n in ARRAYS and random.random() < 0.5
            arguments[n] = (
                damaged(plain[n], random) if spoil else JUNK[random.integers(len(JUNK))]()
            )
    try:
        return outcome(target, arguments, None if bad else plain)
    except Exception as error:
        raise AssertionError(f"{error!r} in call {seed} of {target}: {arguments!r}") from error


@pytest.mark.parametrize("target", TARGETS)
def test_odd_arguments_give_a_finite_answer_or_an_error_that_names_one(target, monkeypatch):
    # as in use, where no checker of signatures stands before the functions
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    calls = -(-CALLS // len(TARGETS))
    outcomes = [call(target, seed) for seed in range(calls)]
    assert {"answer", "error"} <= set(outcomes), "the fuzz is too tame or too wild"
