"""The base of all parameter classes, the value ranges they share, and the reading of YAML."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from safetensors import SafetensorError

Fraction = Annotated[float, Field(ge=0, le=1)]

# optimizer steps: a whole number (500), or a fraction of all steps of the run (0.02)
_by_number = Discriminator(lambda value: "fraction" if isinstance(value, float) else "number")
_FractionOfSteps = Annotated[float, Field(gt=0, lt=1), Tag("fraction")]
Steps = Annotated[
    Annotated[int, Field(strict=True, ge=0), Tag("number")] | _FractionOfSteps, _by_number
]
PositiveSteps = Annotated[
    Annotated[int, Field(strict=True, gt=0), Tag("number")] | _FractionOfSteps, _by_number
]


def count_steps(steps: int | float, total_steps: int) -> int:
    """Number of steps: as given, or a fraction in (0, 1) of all steps, rounded, at least 1."""
    return steps if isinstance(steps, int) else max(1, round(steps * total_steps))


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
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 text ({error.reason})") from error
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
    """Say what is wrong with the input, the disk or the numbers in a line, without traceback.

    A missing file is said with the stage that writes it. Exit code 2, or 1 if it was the numbers;
    130 where Ctrl-C ended the work.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except FloatingPointError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except (ValueError, OSError, SafetensorError) as error:
        print(_said(error), file=sys.stderr)
        raise SystemExit(2) from None


def _said(error: Exception) -> str:
    """An error in its own words, or, where the system found it, in words about the path."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror.lower()
    path = Path(os.fsdecode(error.filename2 or error.filename))
    if isinstance(error, FileNotFoundError):
        stage = _stage_that_writes(path)
        return f"{path} is missing" + (f": run stage `{stage}`" if stage else "")
    if isinstance(error, FileExistsError):  # of mkdir
        return f"{path}: a file stands where a folder is to be made"
    return f"{path}: {error.strerror.lower()}"


def _stage_that_writes(path: Path) -> str | None:
    """The stage of dvc.yaml that has a file, or a folder around it, among its results."""
    root = next((folder for folder in path.parents if (folder / "dvc.yaml").exists()), None)
    if root is None:
        return None
    places = [path.relative_to(root), *path.relative_to(root).parents]
    found = {}
    for name, stage in yaml.safe_load((root / "dvc.yaml").read_text())["stages"].items():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            shape = re.sub(r"\$\{.*?\}", "*", out if isinstance(out, str) else next(iter(out)))
            depth = len(Path(shape).parts)
            if any(len(place.parts) == depth and place.match(shape) for place in places):
                found[shape] = name
    # `models/*/zs/seed*` says more than `models/*/*/seed*`
    return found[max(found, key=len)] if found else None


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
