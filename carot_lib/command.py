"""The command line of the stages, the same for all."""

import argparse

from carot_lib.layout import Layout, find_root


def read_command(description: str, *options: str) -> argparse.Namespace:
    """Parse `--profile` and the options of a stage.

    Args:
        description: the stage's docstring; its first line is shown by `--help`.
        options: any of `run` (a row of the tables), `seed`, `notebook`.

    Returns:
        The arguments, and as `layout` the files of the profile.
    """
    helps = {
        "run": {"help": "a row of the tables, as in params.yaml"},
        "seed": {"help": "of the run's chances", "type": int},
        "notebook": {"help": "its name without .ipynb"},
    }
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--profile", required=True, help="miniature, imagenet or folders")
    for option in options:
        parser.add_argument(f"--{option}", required=True, **helps[option])
    arguments = parser.parse_args()
    arguments.layout = Layout(find_root(), arguments.profile)
    return arguments
