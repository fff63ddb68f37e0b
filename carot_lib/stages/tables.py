"""Stage `tables`: Tables 1 and 2, alone and beside the paper's, and the long tables of metrics.

python -m carot_lib.stages.tables --profile miniature

Reads evaluations/<profile>/ and data/paper/; writes results/<profile>/{metrics,table1,table2,
paper_table1,paper_table2,posthoc}.csv, the two tables as Markdown and LaTeX, and as Markdown
table1_intervals, the ECEs of Table 1 with intervals and noise floors, and posthoc, the same after
each calibrator.
"""

import pandas as pd

from carot_lib.command import read_command
from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.files import reading, write_text
from carot_lib.layout import Layout
from carot_lib.report.styles import CALIBRATION_NAMES, RUN_NAMES, UPDATE_NAMES
from carot_lib.report.tables import (
    beside_paper,
    intervals_markdown,
    posthoc_markdown,
    table1,
    table2,
    to_latex,
    to_markdown,
)
from carot_lib.schema import exit_on_bad_input

CAPTIONS = {
    "table1": "Accuracy and expected calibration error, in distribution (ID) and as the mean over "
    "the distribution shifts (OOD), without and with temperature scaling (TS); T is the "
    "temperature.",
    "table2": "CaRot by how often its EMA teacher is updated.",
}


def tables(layout: Layout) -> None:
    """Write every table of a profile."""
    level = load_evaluation(layout).bootstrap.level
    metrics, posthoc = (read_all(layout, name) for name in ("metrics.csv", "posthoc.csv"))
    for file, text in {
        "metrics.csv": metrics.to_csv(index=False),
        "posthoc.csv": posthoc.to_csv(index=False),
        "table1_intervals.md": intervals_markdown(metrics, RUN_NAMES, level),
        "posthoc.md": posthoc_markdown(posthoc, RUN_NAMES, CALIBRATION_NAMES, level),
    }.items():
        write_text(layout.results / file, text)
    for name, make, names in (
        ("table1", table1, RUN_NAMES),
        ("table2", table2, UPDATE_NAMES),
    ):
        table = make(metrics)
        paper = pd.read_csv(layout.paper / f"{name}.csv")
        files = {
            f"{name}.csv": table.to_csv(index=False, float_format="%.6g"),
            f"paper_{name}.csv": beside_paper(table, paper).to_csv(
                index=False, float_format="%.6g"
            ),
            f"{name}.md": to_markdown(table, names),
            f"{name}.tex": to_latex(table, names, CAPTIONS[name], f"tab:{name}"),
        }
        for file, text in files.items():
            write_text(layout.results / file, text)


def read_all(layout: Layout, name: str) -> pd.DataFrame:
    """One file of the evaluations of every run and seed, one below the other."""
    rows, parts = load_rows(layout), []
    for path in (layout.evaluation(run, seed) / name for run in rows.rows for seed in rows.seeds):
        with reading(path):
            parts.append(pd.read_csv(path))
    return pd.concat(parts)


if __name__ == "__main__":
    with exit_on_bad_input():
        tables(read_command(__doc__).layout)
