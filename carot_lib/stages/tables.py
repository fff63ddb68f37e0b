"""Stage `tables`: every table of a profile, and the paper's claims, tested one by one.

Reads evaluations/<profile>/ and data/paper/; writes to results/<profile>/tables/ the long tables
metrics.csv and posthoc.csv; Tables 1 and 2 as CSV, Markdown and LaTeX, and compared with the
paper's (paper_table1.csv, paper_table2.csv); the ECEs with intervals and noise floors
(table1_intervals.md, posthoc.md); and replication.csv, the claims, with differences.csv, each run
against CaRot.
"""

import itertools

import numpy as np
import pandas as pd

from carot_lib.calibration.predictions import check_same_images
from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.files import read_json, reading, write_text
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
    level = load_evaluation(layout).bootstrap.level
    metrics, posthoc = (read_all(layout, name) for name in ("metrics.csv", "posthoc.csv"))
    replication, against_carot = replicate(layout)
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


def replicate(layout: Layout) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every claim and compare every run with CaRot.

    Returns:
        The results of `check_claims` and `differences`.

    Raises:
        ValueError: the runs were not all evaluated on the same images of a set.
    """
    params, rows = load_evaluation(layout), load_rows(layout)
    saved, fingerprints = {}, {name: {} for name in ("id_test", *params.ood)}
    for run, seed in itertools.product(rows.rows, rows.seeds):
        folder = layout.evaluation(run, seed)
        seen = read_json(folder / "temperature.json")["fingerprints"]
        for name, of_runs in fingerprints.items():
            of_runs[f"{run}, seed {seed}"] = seen[name]
        path = folder / "replicates.npz"
        with reading(path), np.load(path) as arrays:
            saved[run, seed] = dict(arrays)
    for name, of_runs in fingerprints.items():
        check_same_images(name, of_runs)
    value, replicates = saved_lookups(saved, params.ood, params.bootstrap.seed)
    estimate = estimator(value, replicates, params.bootstrap.level)
    paper, margin = paper_lookup(layout.paper), params.equivalence_margin
    claims = check_claims(CLAIMS, estimate, paper, margin, len(rows.seeds))
    others = [run for run in rows.rows if run != "carot"]
    return claims, differences(others, "carot", estimate)


def read_all(layout: Layout, name: str) -> pd.DataFrame:
    """One file of the evaluations of every run and seed, one below the other."""
    rows, parts = load_rows(layout), []
    for run, seed in itertools.product(rows.rows, rows.seeds):
        path = layout.evaluation(run, seed) / name
        with reading(path):
            parts.append(pd.read_csv(path))
    return pd.concat(parts)
