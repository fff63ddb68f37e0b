"""Stage `tables`: every table of a profile, and the paper's claims, tested one by one.

Reads evaluations/<profile>/ and data/paper/; writes to results/<profile>/tables/ the long tables
metrics.csv and posthoc.csv; Tables 1 and 2 as CSV, Markdown and LaTeX, and compared with the
paper's (paper_table1.csv, paper_table2.csv); the ECEs with intervals and noise floors
(table1_intervals.md, posthoc.md); and replication.csv, the claims, with differences.csv, each run
against CaRot.
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
from carot_lib.layout import Layout
from carot_lib.report.claims import (
    CLAIMS,
    check_claims,
    differences,
    estimator,
    paper_lookup,
    saved_lookups,
)
from carot_lib.report.names import CALIBRATION_NAMES, RUN_NAMES, UPDATE_NAMES
from carot_lib.report.tables import (
    compare_with_paper,
    intervals_markdown,
    make_table,
    posthoc_markdown,
    to_latex,
    to_markdown,
)

CAPTIONS = {
    "table1": "Accuracy and expected calibration error, in distribution (ID) and as the mean over "
    "the distribution shifts (OOD), without and with temperature scaling (TS); T is the "
    "temperature.",
    "table2": "CaRot by how often its EMA teacher is updated.",
}


def tables(layout: Layout) -> None:
    """Write every table of a profile.

    Raises:
        ValueError: a number is missing, or the runs were not all evaluated on the same images.
    """
    evaluation, rows = load_evaluation(layout), load_rows(layout)
    level = evaluation.bootstrap.level
    metrics = pd.concat(read_all(layout, rows, "metrics.csv", pd.read_csv).values())
    posthoc = pd.concat(read_all(layout, rows, "posthoc.csv", pd.read_csv).values())
    chosen = read_all(layout, rows, "temperature.json", lambda path: json.loads(path.read_bytes()))
    for name in ("id_test", *evaluation.ood):
        seen = {f"{run}, seed {s}": one["fingerprints"][name] for (run, s), one in chosen.items()}
        check_same_images(name, seen)
    saved = read_all(layout, rows, "replicates.npz", lambda path: dict(np.load(path)))
    lookups = saved_lookups(saved, evaluation.ood, evaluation.bootstrap.seed)
    estimate, paper = estimator(*lookups, level), paper_lookup(layout.paper)
    margin, others = evaluation.equivalence_margin, [run for run in rows.rows if run != "carot"]
    replication = check_claims(CLAIMS, estimate, paper, margin, len(rows.seeds))
    against_carot = differences(others, "carot", estimate)
    files = {
        "metrics.csv": metrics.to_csv(index=False),
        "posthoc.csv": posthoc.to_csv(index=False),
        "table1_intervals.md": intervals_markdown(metrics, RUN_NAMES, level),
        "posthoc.md": posthoc_markdown(posthoc, RUN_NAMES, CALIBRATION_NAMES, level),
        "replication.csv": replication.to_csv(index=False, float_format="%.6f"),
        "differences.csv": against_carot.to_csv(index=False, float_format="%.6f"),
    }
    for name, names in (("table1", RUN_NAMES), ("table2", UPDATE_NAMES)):
        table = make_table(name, metrics)
        compared = compare_with_paper(table, pd.read_csv(layout.paper / f"{name}.csv"))
        files |= {
            f"{name}.csv": table.to_csv(index=False, float_format="%.6g"),
            f"{name}.md": to_markdown(table, names),
            f"{name}.tex": to_latex(table, names, CAPTIONS[name], f"tab:{name}"),
            f"paper_{name}.csv": compared.to_csv(index=False, float_format="%.6g"),
        }
    for name, text in files.items():
        write_text(layout.tables / name, text)


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
