"""Which results exist, and whether today's code, data and params.yaml made them.

DVC's own comparison with dvc.lock, but without its locks: it can run beside a running pipeline.
"""

import contextlib
import io

import networkx as nx
import pandas as pd
from pandas.io.formats.style import Styler

from carot_lib.layout import Layout, chosen_profile
from carot_lib.report.explain import compare_with_listing
from carot_lib.report.provenance import changes, pipeline
from carot_lib.report.styles import GREY, OVER, UNDER

MISSING, OUTDATED, GOOD = "missing", "out of date", "up to date"
COLOURS = {MISSING: GREY, OUTDATED: OVER, GOOD: UNDER}  # the worst state first


def state(layout: Layout) -> pd.DataFrame:
    """One row per stage of dvc.yaml: makes, runs, state, because, command.

    `state` is the worst of its runs: `missing` (it has not run, or its results are gone), `out of
    date` (it, or what it reads, was made by other code, data or parameters), or `up to date`. The
    notebooks, one of which shows this table, and whatever reads them are left out.

    Raises:
        ValueError: params.yaml selects another profile, which `dvc repro` would then run.
    """
    if (selected := chosen_profile(layout.root)) != layout.profile:
        change = f"set `profile: {layout.profile}` there to see its state"
        raise ValueError(f"params.yaml has the profile {selected}: {change}")
    # hashing large files shows its progress on standard error
    with contextlib.redirect_stderr(io.StringIO()), pipeline(layout) as index:
        graph = index.graph
        notebooks = [stage for stage in graph if stage.name.startswith("notebook")]
        left_out = set(notebooks).union(*(nx.ancestors(graph, stage) for stage in notebooks))
        states, reasons = {}, {}
        for stage in reversed(list(nx.topological_sort(graph))):  # first what others read
            if stage in left_out:
                continue
            if any(out.hash_info for out in stage.outs):
                missing = [f"{out.def_path} is missing" for out in stage.outs if not out.exists]
                changed = [f"{name}: {how}" for name, how in changes(stage).items()]
                if stage.always_changed:
                    changed += [what for ok, what in compare_with_listing(layout) if ok is False]
            else:
                missing, changed = ["it has not run yet"], []
            changed += [reasons[read] for read in graph.successors(stage) if read in reasons]
            if changed:
                reasons[stage] = changed[0]
            kind = MISSING if missing else OUTDATED if changed else GOOD
            states[stage] = kind, next(iter([*missing, *changed]), "")
    rows = [(s.name.split("@")[0], s.desc, *states[s]) for s in graph if s in states]
    runs = pd.DataFrame(rows, columns=["stage", "makes", "state", "because"])
    worst_first = runs["state"].map(list(COLOURS).index).sort_values(kind="stable").index
    worst = runs.loc[worst_first].drop_duplicates("stage").set_index("stage")
    table = worst.loc[runs["stage"].unique()]
    counts = (runs["state"] != GOOD).groupby(runs["stage"]).agg(["sum", "size"]).loc[table.index]
    bad, every = counts["sum"], counts["size"].astype(str)
    table.insert(1, "runs", every.where(bad == 0, bad.astype(str) + " of " + every))
    table["command"] = ("dvc repro " + table.index.to_series()).where(bad > 0, "")
    return table


def headline(table: pd.DataFrame) -> str:
    """What to do about a `state`, in a sentence."""
    lists = {
        "Missing": table.index[table["state"] == MISSING],
        "Out of date": table.index[table["state"] == OUTDATED],
    }
    said = [f"{name}: {', '.join(stages)}." for name, stages in lists.items() if len(stages)]
    if not said:
        return "Every result exists and is up to date with the code, the data and params.yaml."
    return " ".join([*said, "`make repro` makes them."])


def styled_state(table: pd.DataFrame) -> Styler:
    """The table with coloured states, for a notebook."""
    colours = table.style.map(
        lambda state: f"color: {COLOURS[state]}; font-weight: bold", subset=["state"]
    )
    return colours.set_properties(**{"text-align": "left"})
