"""Which results exist, and whether today's code, data and params.yaml made them.

DVC's own comparison with dvc.lock, but without its locks: it can run beside a running pipeline.
"""

import contextlib
import io

import networkx as nx
import pandas as pd
import yaml
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.stage import PipelineStage
from pandas.io.formats.style import Styler

from carot_lib.layout import Layout
from carot_lib.report.styles import GREY, OVER, UNDER

GOOD, MISSING, OUTDATED = "up to date", "missing", "out of date"
COLOURS = {GOOD: UNDER, MISSING: GREY, OUTDATED: OVER}
NO_GIT = {"core": {"no_scm": True}}  # also works in a copy that git does not know
COLUMNS = ["stage", "makes", "runs", "state", "because", "command"]


def state(layout: Layout) -> pd.DataFrame:
    """One row per stage of dvc.yaml: makes, runs, state, because, command.

    `state` is the worst of its runs: `missing` (it has not run, or its results are gone), `out of
    date` (it, or what it reads, was made by other code, data or parameters), or `up to date`. The
    notebooks, one of which shows this table, and whatever reads them are left out.

    Raises:
        ValueError: params.yaml selects another profile, whose pipeline dvc.yaml then describes.
    """
    selected = yaml.safe_load(layout.params.read_text(encoding="utf-8"))["profile"]
    if selected != layout.profile:
        change = f"set `profile: {layout.profile}` there to see its state"
        raise ValueError(f"params.yaml has the profile {selected}: {change}")
    # hashing large files shows its progress on standard error
    with contextlib.redirect_stderr(io.StringIO()), Repo(str(layout.root), config=NO_GIT) as repo:
        graph = Index.from_file(repo, str(layout.root / "dvc.yaml")).graph
        notebooks = {stage for stage in graph if stage.name.startswith("notebook")}
        left_out = notebooks.union(*(nx.ancestors(graph, stage) for stage in notebooks))
        states, reasons = {}, {}
        for stage in reversed(list(nx.topological_sort(graph))):  # first what others read
            if stage not in left_out:
                upstream = (reasons[read] for read in graph.successors(stage) if read in reasons)
                missing, reason = _compare(stage)
                if reason := reason or next(upstream, ""):
                    reasons[stage] = reason
                kind = MISSING if missing else OUTDATED if reason else GOOD
                states[stage] = kind, missing or reason
    runs = [(stage.name.split("@")[0], stage, *states[stage]) for stage in graph if stage in states]
    table = pd.DataFrame(runs, columns=["stage", "run", "state", "because"])
    return pd.DataFrame(
        [_row(kind, part) for kind, part in table.groupby("stage", sort=False)], columns=COLUMNS
    ).set_index("stage")


def headline(table: pd.DataFrame) -> str:
    """What to do about a `state`, in a sentence."""
    missing = list(table.index[table["state"] == MISSING])
    outdated = list(table.index[table["state"] == OUTDATED])
    if not missing and not outdated:
        return "Every result exists and is up to date with the code, the data and params.yaml."
    lists = {"Missing": missing, "Out of date": outdated}
    said = [f"{name}: {', '.join(stages)}." for name, stages in lists.items() if stages]
    return " ".join([*said, "`make repro` makes them."])


def styled_state(table: pd.DataFrame) -> Styler:
    """The table with coloured states, for a notebook."""
    colours = table.style.map(
        lambda state: f"color: {COLOURS[state]}; font-weight: bold", subset=["state"]
    )
    return colours.set_properties(**{"text-align": "left"})


def _row(kind: str, runs: pd.DataFrame) -> tuple[str, ...]:
    """The row of one stage: its worst run, and how many of its runs are not up to date."""
    worst = min(runs.itertuples(), key=lambda run: [MISSING, OUTDATED, GOOD].index(run.state))
    bad = int((runs["state"] != GOOD).sum())
    count = f"{bad} of {len(runs)}" if bad else str(len(runs))
    command = f"dvc repro {kind}" if bad else ""
    return kind, worst.run.desc, count, worst.state, worst.because, command


def _compare(stage: PipelineStage) -> tuple[str, str]:
    """Why the results of a run are missing, and what has changed since; empty if nothing."""
    if not any(out.hash_info for out in stage.outs):
        return "it has not run yet", ""
    missing = next((f"{out.def_path} is missing" for out in stage.outs if not out.exists), "")
    changes = {"its command": "modified"} if stage.changed_stage() else {}
    # where a result that it reads is missing, the stage that makes it says so
    for entry in (*stage.deps, *stage.outs):
        for word in entry.workspace_status().values() if entry.exists else ():
            changes |= word if isinstance(word, dict) else {entry.def_path: word}
    return missing, next((f"{name}: {word}" for name, word in changes.items()), "")
