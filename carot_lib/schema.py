"""The base of all parameter classes, the value types they share, and the reading of YAML."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]
# a count of optimizer steps (500), or a share of all steps of the training (0.02)
_BY_NUMBER = Discriminator(lambda value: "share" if isinstance(value, float) else "count")
_Share = Annotated[float, Field(gt=0, lt=1), Tag("share")]
Steps = Annotated[Annotated[int, Field(strict=True, ge=0), Tag("count")] | _Share, _BY_NUMBER]
PositiveSteps = Annotated[
    Annotated[int, Field(strict=True, gt=0), Tag("count")] | _Share, _BY_NUMBER
]


def count_steps(steps: int | float, total_steps: int) -> int:
    """Number of optimizer steps that a value of type `Steps` stands for.

    Args:
        steps: a count, or a share of `total_steps` in (0, 1), which is rounded, but never to 0.
        total_steps: length of the training.
    """
    return steps if isinstance(steps, int) else max(1, round(steps * total_steps))


class StrictParams(BaseModel):
    """Base of all parameter classes: immutable, and an unknown key is an error.

    So is a number written as text, as YAML 1.1 reads 1e-5, and one that is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML's parsers keep the last in silence."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Read one mapping, before merge keys are resolved."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = f"line {key.start_mark.line + 1}: the key {key.value!r} occurs twice"
                raise yaml.YAMLError(line)
            seen.add(key.value)
        return node


AnyParams = TypeVar("AnyParams", bound=BaseModel)


def read_params(path: Path, model: type[AnyParams], *keys: str) -> AnyParams:
    """Read and check a params file, or one branch of it.

    Args:
        path: a YAML file.
        model: the class that the tree must fit.
        keys: the path from the top of the file to the branch.

    Raises:
        ValueError: the file is missing or not YAML, or a key is unknown, missing, repeated,
            ill-typed or out of range; one line per problem, each with the path of its key.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
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
    return check_params(tree, model, path.name, *keys)


def check_params(tree: Any, model: type[AnyParams], file: str, *keys: str) -> AnyParams:
    """Check numbers that were already read.

    Args:
        tree: one branch of a params file, as plain lists and dictionaries.
        model: the class that it must fit.
        file: name of the file, for messages.
        keys: the path from the top of the file to the branch, for messages.

    Raises:
        ValueError: see `read_params`.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = dict.fromkeys(_line(problem, tree, keys) for problem in error.errors())
        raise ValueError("\n".join(f"{file}: {line}" for line in lines)) from error


def _line(problem: Any, tree: Any, keys: tuple[str, ...]) -> str:
    """`miniature.runs.carot.learning_rate: unknown key` for a problem that pydantic found."""
    path, value = _path(problem, tree, keys), problem["input"]
    if problem["type"] == "value_error":  # from our own validator, which names the rest of the path
        return ".".join(filter(None, [path, str(problem["ctx"]["error"])]))
    message = {"extra_forbidden": "unknown key", "missing": "missing"}.get(problem["type"])
    if message is None:
        shown = f", not {value!r}" if isinstance(value, str | int | float) else ""
        message = problem["msg"] + shown
    return f"{path}: {message}" if path else message


def _path(problem: Any, tree: Any, keys: tuple[str, ...]) -> str:
    """The path of the key as it stands in the file.

    Pydantic inserts the chosen member of a union behind its key, a word that stands in no file: a
    step that the tree does not have, unless it is the last one (a missing or unknown key).
    """
    kept, node = list(keys), tree
    for i, key in enumerate(problem["loc"]):
        is_last = i == len(problem["loc"]) - 1
        if (isinstance(node, dict) and key in node) or (
            isinstance(node, list) and isinstance(key, int)
        ):
            node = node[key]
            kept.append(str(key))
        elif is_last and problem["type"] in ("missing", "extra_forbidden"):
            kept.append(str(key))
    return ".".join(kept)
