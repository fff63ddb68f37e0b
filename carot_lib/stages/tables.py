"""Stage `tables`: every table of a profile, and the paper's claims, tested one by one.

Reads evaluations/<profile>/ and data/paper/; writes to results/<profile>/tables/ the long table
metrics.csv; Tables 1 and 2 as CSV, Markdown and LaTeX, and compared with the paper's
(paper_table1.csv, paper_table2.csv); the ECEs of Table 1 with intervals and noise floors
(table1_intervals.md), and further numbers of its rows (table1_appendix.csv, .md); and
replication.csv, the claims, with differences.csv, each run against CaRot. Tables have the rows that
params.yaml lists; a table without any is not written.
"""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carot_lib.calibration.predictions import check_same_images
from carot_lib.evaluation import RowParams, load_evaluation, load_rows
from carot_lib.files import reading, write_text
from carot_lib.layout import VALIDATION, Layout
from carot_lib.report.claims import paper_claims
from carot_lib.report.estimates import published_estimator, saved_estimator
from carot_lib.report.names import RUN_NAMES, UPDATE_NAMES
from carot_lib.report.tables import (
    appendix_markdown,
    compare_with_paper,
    intervals_markdown,
    make_table,
    mark_bounds,
    to_latex,
    to_markdown,
)
from carot_lib.report.verdicts import check_claims, differences

CAPTIONS = {
    "table1": "Accuracy and expected calibration error, in distribution (ID) and as the mean over "
    "the distribution shifts (OOD), without and with temperature scaling (TS); T is the "
    "temperature.",
    "table2": "CaRot by how often its EMA teacher is updated.",
}


def tables(layout: Layout) -> None:
    """Write every table of a profile.

    Raises:
        ValueError: a number is missing, an evaluation is of another run or seed than its folder
            says, or the runs were not all evaluated on the same images.
    """
    evaluation, rows = load_evaluation(layout), load_rows(layout)
    level = evaluation.bootstrap.level
    metrics = pd.concat(read_all(layout, rows, "metrics.csv", pd.read_csv).values())
    chosen = read_all(layout, rows, "temperature.json", lambda path: json.loads(path.read_bytes()))
    check_origin(chosen)
    for name in (VALIDATION, "id_test", *evaluation.ood):
        seen = {f"{run}, seed {s}": one["fingerprints"][name] for (run, s), one in chosen.items()}
        check_same_images(name, seen)
    saved = read_all(layout, rows, "replicates.npz", lambda path: dict(np.load(path)))
    ours, published = saved_estimator(saved, evaluation.ood), published_estimator(layout.paper)
    claims = paper_claims(evaluation.ood)
    others = [run for run in rows.rows if run != "carot" and "carot" in rows.rows]
    csv = {
        "metrics": metrics,
        "replication": check_claims(
            claims, ours, published, evaluation.margins, level, len(rows.seeds)
        ),
        "differences": differences(others, "carot", ours, level),
    }
    files = {"table1_intervals.md": intervals_markdown(metrics, RUN_NAMES, ours, level)}
    for name, names in (("table1", RUN_NAMES), ("table2", UPDATE_NAMES)):
        table = make_table(name, metrics)
        if table.empty:
            continue
        csv[name] = table
        csv[f"paper_{name}"] = compare_with_paper(table, pd.read_csv(layout.paper / f"{name}.csv"))
        files[f"{name}.md"] = to_markdown(table, names)
        files[f"{name}.tex"] = to_latex(table, names, CAPTIONS[name], f"tab:{name}")
    appendix = make_table("table1_appendix", metrics)
    if not appendix.empty:
        csv["table1_appendix"] = appendix = mark_bounds(appendix, chosen)
        files["table1_appendix.md"] = appendix_markdown(
            appendix, RUN_NAMES, evaluation.batch_mean_size
        )
    files |= {f"{name}.csv": to_csv(table) for name, table in csv.items()}
    for name, text in files.items():
        write_text(layout.tables / name, text)
    # what reads the results takes the whole folder, which nobody makes where no row is averaged
    layout.wise_ft_curves.mkdir(parents=True, exist_ok=True)


def to_csv(table: pd.DataFrame) -> str:
    """CSV with six decimals."""
    return table.to_csv(index=False, float_format="%.6f")


def check_origin(chosen: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Refuse an evaluation that lies in the folder of another run or training seed."""
    for (run, seed), content in chosen.items():
        if (content["run"], content["seed"]) != (run, seed):
            held = f"the evaluation of {content['run']}, seed {content['seed']}"
            raise ValueError(f"{run}, seed {seed}, holds {held}: run stage `evaluate` again")


def read_all(
    layout: Layout, rows: RowParams, name: str, read: Callable[[Path], Any]
) -> dict[tuple[str, int], Any]:
    """One file of the evaluations of every run and seed, by both."""
    contents = {}
    for key in product(rows.rows, rows.seeds):
        path = layout.evaluation(*key) / name
        with reading(path):
            contents[key] = read(path)
    return contents
