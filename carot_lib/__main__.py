"""The command line, `python -m carot_lib <command>`: the stages of the pipeline, and the rest.

A command imports its code when it is chosen: those that only read saved predictions start without
torch.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from carot_lib.files import StageError
from carot_lib.layout import Layout, chosen_profile, find_root
from carot_lib.processes import end_with_parent


class Command(NamedTuple):
    """One command: the function that it calls, `module:name`, a line of help, and its options."""

    function: str
    help: str
    options: tuple[str, ...] = ()


RUN = ("run", "seed")
COMMANDS = {
    # the pipeline, in its order: see dvc.yaml
    "list_images": Command("carot_lib.sources.listing:list_images", "note which files there are"),
    "check_data": Command("data:check", "decode every image and list all problems at once"),
    "data": Command("data:prepare", "draw or index every set of images"),
    "pretrain": Command("pretrain:pretrain", "train or fetch the pre-trained CLIP"),
    "zero_shot": Command("zero_shot:zero_shot", "build the row ZS from the CLIP", ("seed",)),
    "train": Command("train:train", "fine-tune one row by its method", RUN),
    "wise_ft": Command("wise_ft:wise_ft", "average the weights of ZS and of a row", RUN),
    "predict": Command("predict:predict", "save the logits of one row on every set", RUN),
    "evaluate": Command("evaluate:evaluate", "calibrate and evaluate the logits of one row", RUN),
    "tables": Command("tables:tables", "write all tables and test the claims"),
    "notebook": Command("notebook:run_notebook", "execute a notebook", ("notebook",)),
    "provenance": Command("carot_lib.report.provenance:write_provenance", "record the origins"),
    "appendix": Command("appendix:appendix", "render the notebooks as a site and a PDF"),
    # by hand
    "check_params": Command("carot_lib.params:check", "check the whole of params.yaml"),
    "choose_adversarial": Command("data:choose", "choose the pictures of the miniature's set a"),
    "pilot": Command(
        "pilot:pilot", "choose the miniature's regime by ZS and FT alone", ("candidate",)
    ),
    "repro": Command("repro:repro", "run every stage that is out of date", ("jobs",)),
    "search": Command("search:search", "choose rates and smoothing on the ID validation set"),
    "explain": Command("carot_lib.report.explain:explain", "show where a number comes from"),
}
OPTIONS = {
    "run": {"required": True, "help": "row of the tables, as in params.yaml"},
    "seed": {"required": True, "type": int, "help": "training seed"},
    "notebook": {"required": True, "help": "name without .ipynb"},
    "candidate": {"help": "the one to try, of data/pilot.yaml; default: all"},
    "jobs": {"type": int, "help": "stages at a time; default: as many as the cores suffice for"},
}


def main(words: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends in one line on standard error, see `exit_on_bad_input`.

    Args:
        words: the command line; None: that of the process.
    """
    arguments = vars(_parser().parse_args(words))
    name = arguments.pop("command")
    if "DVC_STAGE" in os.environ:  # a killed DVC leaves no training behind
        end_with_parent()
    module, function = COMMANDS[name].function.split(":")
    with exit_on_bad_input():
        if name == "explain":
            _explain(**arguments)
            return
        root = find_root()
        layout = Layout(root, arguments.pop("profile", None) or chosen_profile(root))
        module = module if "." in module else f"carot_lib.stages.{module}"
        getattr(import_module(module), function)(layout, **arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m carot_lib", description="The stages of the pipeline, in its order."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        if name == "explain":
            one.add_argument("table", type=Path, help="results/<profile>/tables/<table>.csv")
            one.add_argument("words", nargs="+", metavar="word", help="the row, and the column")
            one.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
            continue
        if name != "repro":  # DVC asks params.yaml
            one.add_argument("--profile", help="default: the one that params.yaml chooses")
        for option in command.options:
            one.add_argument(f"--{option}", **OPTIONS[option])
    return parser


def _explain(table: Path, words: Sequence[str], as_json: bool) -> None:
    """Print where a number comes from; exit code 1 if it comes out differently today."""
    from carot_lib.report.explain import as_text, explain

    explained = explain(table, words)
    content = json.dumps(explained, indent=1, ensure_ascii=False) if as_json else as_text(explained)
    print(content)
    if explained["checks"][0]["ok"] is False:
        raise SystemExit(1)


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Report bad input, a full disk or a failed computation in one line, without a traceback.

    A missing file is reported with the stage that writes it. The exit code is 2, or 1 where the
    computation failed (the loss is not finite, memory is too small, a notebook failed), and 130
    after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except (FloatingPointError, MemoryError, StageError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except (ValueError, OSError, SafetensorError) as error:
        print(_message(error), file=sys.stderr)
        raise SystemExit(2) from None


def _message(error: Exception) -> str:
    """The message of an error; for one of the operating system, in words about the path."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror.lower()
    path = Path(os.fsdecode(error.filename2 or error.filename))
    if isinstance(error, FileNotFoundError):
        stage = _stage_that_writes(path)
        return f"{path} is missing" + (f": run `dvc repro {stage}`" if stage else "")
    if isinstance(error, FileExistsError):  # from mkdir
        return f"{path}: a file stands where a folder is to be made"
    return f"{path}: {error.strerror.lower()}"


def _stage_that_writes(path: Path) -> str | None:
    """The stage that has a file, or a folder around it, among its outputs."""
    import warnings

    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with warnings.catch_warnings(), Repo(str(find_root())) as repo:
            warnings.simplefilter("ignore")  # a library of DVC's about its own future
            (out, *_) = repo.find_outs_by_path(str(path.resolve()), strict=False)
            return out.stage.addressing
    except (DvcException, FileNotFoundError):
        return None


if __name__ == "__main__":
    main()
