"""How one number of a table came about.

python -m carot_lib.stages.explain results/miniature/table1.csv carot id_ece

Names a number by its row and column and prints the runs, seeds, predictions, calibration, models,
parameters, stages and versions behind it. What lies on disk is checked: the number is computed anew
from the predictions, and DVC says whether the files are those of dvc.lock. On a fresh clone, to
which git brings the results alone, all else is told from dvc.lock and the record of provenance.
Exit code 1: the number computed anew is another one.
"""

import argparse
import json
from pathlib import Path

from carot_lib.report.explanation import explain
from carot_lib.report.explanation_text import as_text
from carot_lib.schema import exit_on_bad_input

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="results/<profile>/<table>.csv")
    parser.add_argument("words", nargs="+", metavar="word", help="the row, and the column")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    with exit_on_bad_input():
        explained = explain(arguments.table, arguments.words)
        text = json.dumps(explained, indent=1, ensure_ascii=False)
        print(text if arguments.json else as_text(explained))
        if explained["checks"][0]["ok"] is False:
            raise SystemExit(1)
