"""What the documentation says one can do, to its last line: fewer rows, and another method."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from shrunken_project import make_project, repro, run, write_yaml

pytestmark = pytest.mark.slow

LP_FT = '''"""FT with a learning rate of its own for the head, as in LP-FT (Kumar et al. 2022)."""

from typing import Any, Literal

from pydantic import PositiveFloat

from carot_lib.methods.base import Setup
from carot_lib.methods.fine_tune import FineTune, FineTuneParams
from carot_lib.models.clip import ImageClassifier


class LpFtParams(FineTuneParams):
    """A `kind: lp_ft` entry of params.yaml."""

    kind: Literal["lp_ft"]
    head_rate: PositiveFloat

    def build(self, setup: Setup) -> FineTune:
        return FineTune(setup, self)

    def parameter_groups(self, model: ImageClassifier) -> list[dict[str, Any]]:
        return [
            {"params": list(model.visual.parameters()), "lr": self.learning_rate},
            {"params": list(model.head.parameters()), "lr": self.head_rate},
        ]
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world with three rows only, after one `dvc repro`."""
    root = make_project(tmp_path_factory.mktemp("project"))
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["rows"] = ["zs", "ft", "carot"]
    tree["methods"] = {"fine_tune": ["ft"], "wise_ft": [], "flyp": [], "carot": ["carot"]}
    write_yaml(root / "params.yaml", tree)
    repro(root)
    return root


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "results" / "miniature" / "tables" / f"{name}.csv")


def test_with_fewer_rows_tables_claims_notebooks_and_appendix_say_what_was_not_run(project: Path):
    assert table(project, "table1")["run"].tolist() == ["zs", "ft", "carot"]
    assert table(project, "table2")["ema_update"].tolist() == ["default"]
    parts = table(project, "replication").set_index("part")
    assert parts.loc["ID accuracy: CaRot - FT", "verdict"] != "not run"
    without = parts[parts.index.str.contains("FLYP|WiSE|LS", regex=True)]
    assert set(without["verdict"]) == {"not run"}
    results = project / "results" / "miniature"
    assert len(list(results.glob("notebooks/*/*.ipynb"))) == 11
    assert (results / "appendix.pdf").stat().st_size > 100_000
    page = (project / "site" / "miniature" / "07_replication.html").read_text()
    assert "not run" in page


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def test_a_method_of_ones_own_is_trained_alone_and_printed_in_table_1(project: Path):
    (project / "carot_lib" / "methods" / "lp_ft.py").write_text(LP_FT)
    params, stages = project / "carot_lib" / "params.py", project / "dvc.yaml"
    report = project / "carot_lib" / "report"
    edit(params, "FineTuneParams | FlypParams", "FineTuneParams | LpFtParams | FlypParams")
    edit(
        params,
        "from carot_lib.methods.flyp import FlypParams\n",
        "from carot_lib.methods.flyp import FlypParams\n"
        "from carot_lib.methods.lp_ft import LpFtParams\n",
    )
    text = stages.read_text()
    flyp = text[text.index("  flyp:\n") : text.index("  carot:\n")]
    lp_ft = flyp.replace("  flyp:\n", "  lp_ft:\n").replace("methods.flyp", "methods.lp_ft")
    lp_ft = lp_ft.replace("methods/flyp.py", "methods/lp_ft.py")
    lp_ft = lp_ft.replace("methods/losses.py", "methods/fine_tune.py")
    stages.write_text(text.replace(flyp, flyp + lp_ft))
    edit(report / "names.py", '    "ft": "FT",\n', '    "ft": "FT",\n    "lp_ft": "LP-FT",\n')
    edit(report / "styles.py", '    "flyp": (', '    "lp_ft": ("#999933", "h"),\n    "flyp": (')
    edit(report / "tables.py", '"carot")\nTABLE2', '"carot", "lp_ft")\nTABLE2')
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree["rows"].append("lp_ft")
    tree["methods"]["lp_ft"] = ["lp_ft"]
    ft = tree["miniature"]["runs"]["ft"]
    tree["miniature"]["runs"]["lp_ft"] = {**ft, "kind": "lp_ft", "head_rate": 1.0e-3}
    write_yaml(project / "params.yaml", tree)
    before = table(project, "table1").set_index("run")
    done = run(project, "dvc", "repro", "tables@miniature")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    trained = re.findall(r"> python -m carot_lib train .*--run (\w+) ", done.stdout)
    assert trained == ["lp_ft"]
    after = table(project, "table1").set_index("run")
    assert list(after.index) == ["zs", "ft", "carot", "lp_ft"]
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    markdown = (project / "results" / "miniature" / "tables" / "table1.md").read_text()
    assert "LP-FT" in markdown
