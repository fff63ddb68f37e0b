"""The base of all parameter classes, the value ranges they share, and the reading of YAML."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]


class StrictParams(BaseModel):
    """Base of all parameter classes: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyParams = TypeVar("AnyParams", bound=BaseModel)


def read_params(path: Path, model: type[AnyParams], *keys: str) -> AnyParams:
    """Read and check a params file, or one branch of it.

    Args:
        path: a YAML file.
        model: the class that the tree must fit.
        keys: the way from the top of the file to the branch.

    Raises:
        ValueError: the file is missing or no YAML, or a key is unknown, missing, ill-typed or out
            of range; one line a fault, each with the path of its key.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    for depth, key in enumerate(keys):
        if not isinstance(tree, dict) or key not in tree:
            raise ValueError(f"{path.name}: {'.'.join(keys[: depth + 1])}: missing")
        tree = tree[key]
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults = [f"{path.name}: {_line(fault, tree, keys)}" for fault in error.errors()]
        raise ValueError("\n".join(faults)) from error


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Say a `ValueError` or a missing file in its own words, without traceback; exit code 2."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _line(fault: Any, tree: Any, keys: tuple[str, ...]) -> str:
    """`miniature.runs.carot.learning_rate: unknown key` for a fault that pydantic found."""
    path, value = _path(fault, tree, keys), fault["input"]
    if fault["type"] == "value_error":  # of a validator of ours, which names the rest of the path
        return ".".join(filter(None, [path, str(fault["ctx"]["error"])]))
    message = {"extra_forbidden": "unknown key", "missing": "missing"}.get(fault["type"])
    if message is None:
        shown = f", not {value!r}" if isinstance(value, str | int | float) else ""
        message = fault["msg"] + shown
    return f"{path}: {message}" if path else message


def _path(fault: Any, tree: Any, keys: tuple[str, ...]) -> str:
    """The way to the key, as it stands in the file.

    Pydantic puts the chosen kind of a union behind its key, a word that stands in no file: a step
    that the tree does not have, unless it is the last one (a missing or unknown key).
    """
    kept, node = list(keys), tree
    for i, key in enumerate(fault["loc"]):
        is_last = i == len(fault["loc"]) - 1
        if (isinstance(node, dict) and key in node) or (
            isinstance(node, list) and isinstance(key, int)
        ):
            node = node[key]
            kept.append(str(key))
        elif is_last and fault["type"] in ("missing", "extra_forbidden"):
            kept.append(str(key))
    return ".".join(kept)
