"""Stage `tables` on made-up evaluations, without predictions behind them."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from carot_lib.evaluation import TABLE1_COLUMNS
from carot_lib.files import atomic_write, write_json, write_text
from carot_lib.layout import Layout
from carot_lib.report.tables import APPENDIX, TABLE1_RUNS, TABLE2_RUNS
from carot_lib.stages.tables import tables

ROOT = Path(__file__).parents[1]
RUNS = list(dict.fromkeys([*TABLE1_RUNS, *TABLE2_RUNS.values()]))
SHIFTS = ["v2", "r", "a", "sketch", "objectnet"]
CALIBRATIONS = ["none", "temperature", "temperature_nll"]
METRICS = ["accuracy", "ece", "ece_batch_mean", "nll", "brier"]
HEAD = ["run", "seed", "dataset", "calibration", "metric", "value", "low", "high"]


def value_of(run: str, seed: int, dataset: str, calibration: str, metric: str) -> float:
    """Runs differ by .02, trainings by .001, sets by .1; batches have .03 more ECE."""
    place = 0.02 * RUNS.index(run) + 0.001 * seed + 0.1 * (dataset in SHIFTS)
    return place + 0.03 * (metric == "ece_batch_mean") + 0.01 * CALIBRATIONS.index(calibration)


def write_evaluation(layout: Layout, run: str, seed: int, images: str = "images") -> None:
    """What stage `evaluate` leaves of one row."""
    keys = list(product(["id_test", *SHIFTS], CALIBRATIONS, METRICS))
    values = {key: value_of(run, seed, *key) for key in keys}
    # the same draw of images for every run and seed
    noise = {key: np.random.default_rng(i).normal(0, 0.001, 40) for i, key in enumerate(keys)}
    arrays = {"|".join(key): values[key] + noise[key] for key in keys}
    arrays |= {"|".join((*key, "value")): np.array(values[key]) for key in keys}
    path = layout.evaluation(run, seed) / "replicates.npz"
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    for calibration, metric in product(CALIBRATIONS, METRICS):
        of_sets = [values[name, calibration, metric] for name in SHIFTS]
        values["ood", calibration, metric] = np.mean(of_sets)
    for dataset, calibration in product(("id_test", "ood"), CALIBRATIONS):
        values[dataset, calibration, "ece_noise_floor"] = 0.01
        values[dataset, calibration, "ece_p_value"] = 0.001
    values |= {("id_val", c, "temperature"): 1.5 for c in CALIBRATIONS[1:]}
    rows = [(run, seed, *key, one, one - 0.01, one + 0.01) for key, one in values.items()]
    table = pd.DataFrame(rows, columns=HEAD)
    write_text(layout.evaluation(run, seed) / "metrics.csv", table.to_csv(index=False))
    content = {
        "run": run,
        "seed": seed,
        "at_bound": run == "ft",
        "at_bound_nll": False,
        "fingerprints": {name: f"{images} of {name}" for name in ("id_val", "id_test", *SHIFTS)},
    }
    write_json(layout.evaluation(run, seed) / "temperature.json", content)


def project(folder: Path, rows: list[str], seeds: list[int]) -> Layout:
    """A project with evaluations of these rows and seeds."""
    layout = Layout(folder, "miniature")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    write_text(layout.params, yaml.safe_dump(tree | {"rows": rows, "seeds": seeds}))
    (folder / "data").mkdir()
    (folder / "data" / "paper").symlink_to(ROOT / "data" / "paper")
    for run, seed in product(rows, seeds):
        write_evaluation(layout, run, seed)
    return layout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The tables of every row with three seeds."""
    layout = project(tmp_path_factory.mktemp("whole"), RUNS, [0, 1, 5])
    tables(layout)
    return layout


def read(layout: Layout, name: str) -> pd.DataFrame:
    return pd.read_csv(layout.tables / f"{name}.csv")


def test_every_table_is_written(whole: Layout):
    names = ["table1", "table2"]
    expected = {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")}
    expected |= {f"paper_{name}.csv" for name in names}
    expected |= {"table1_intervals.md", "table1_appendix.csv", "table1_appendix.md"}
    expected |= {"metrics.csv", "replication.csv", "differences.csv"}
    assert {path.name for path in whole.tables.iterdir()} == expected
    assert list(read(whole, "metrics")) == HEAD
    assert set(read(whole, "metrics")["seed"]) == {0, 1, 5}


def test_the_tables_hold_means_and_deviations_over_the_seeds(whole: Layout):
    table = read(whole, "table1").set_index("run")
    assert [column for column in table if not column.endswith("_sd")] == list(TABLE1_COLUMNS)
    # run 1: .02 + .1 + .01 * temperature + .001 * mean of 0, 1, 5
    assert table.loc["ft", "ood_ece_ts"] == pytest.approx(0.132)
    # (4 + 1 + 9) / 2 = 7
    assert table.loc["ft", "ood_ece_ts_sd"] == pytest.approx(0.001 * 7**0.5, abs=1e-6)
    compared = read(whole, "paper_table1").set_index("run")
    assert compared.loc["ft", "ood_ece_ts_difference"] == pytest.approx(0.132 - 0.1629)
    assert "± .0026" in (whole.tables / "table1.md").read_text()


def test_the_appendix_has_the_other_numbers_and_marks_bounds(whole: Layout):
    table = read(whole, "table1_appendix").set_index("run")
    assert {*APPENDIX, "temperature_at_bound", "temperature_nll_at_bound"} < set(table)
    assert table.index[table["temperature_at_bound"]].tolist() == ["ft"]
    # run 0: .1 + .03 + .002
    assert table.loc["zs", "ood_ece_batch_mean"] == pytest.approx(0.132)
    lines = (whole.tables / "table1_appendix.md").read_text().splitlines()
    assert [line.startswith("| FT |") for line in lines if "‡ |" in line] == [True]


def test_the_claims_are_judged_over_the_seeds(whole: Layout):
    table = read(whole, "replication")
    assert list(table) == [
        *("claim", "source", "text", "part", "relation", "value", "low", "high", "seeds", "df"),
        *("p", "p_holm", "verdict", "value_batch_mean", "verdict_batch_mean"),
        *("paper_value", "paper_low", "paper_high", "paper_verdict", "claim_verdict"),
    ]
    assert set(table["seeds"]) == {3}
    assert table["value"].notna().all()
    parts = table.set_index(["claim", "part"])
    # FT minus ZS is .02 with each seed and on each resample
    part = parts.loc[("1", "OOD ECE: FT - ZS")]
    assert part[["value", "low", "high"]].tolist() == pytest.approx([0.02] * 3)
    assert part["verdict"] == "holds"
    assert part["value_batch_mean"] == pytest.approx(0.02)
    assert pd.isna(parts.loc[("1", "OOD accuracy: FT - ZS"), "value_batch_mean"])
    assert parts.loc["6f"].index.tolist() == [f"ECE on {name}: CaRot - ZS" for name in SHIFTS]
    assert set(parts.loc["6f", "verdict"]) == {"fails"}  # CaRot, run 7: .14 more


def test_differences_are_from_carot(whole: Layout):
    table = read(whole, "differences")
    assert len(table) == (len(RUNS) - 1) * 2 * 3
    # ZS - CaRot, runs 0 and 7
    assert table.loc[table["run"] == "zs", "value"].tolist() == pytest.approx([-0.14] * 6)
    assert set(table.loc[table["run"] == "zs", "reading"]) == {"lower"}


def test_intervals_are_over_the_seeds(whole: Layout):
    lines = (whole.tables / "table1_intervals.md").read_text().splitlines()
    assert len(lines) == 2 + len(TABLE1_RUNS) + 2
    value, low, high = map(float, re.findall(r"-?\d\.\d+", lines[2].split(" | ")[1]))
    # seeds 0, 1, 5: standard error .001 * sqrt(7 / 3) = .00153, at least; t of two: 4.30
    assert value == pytest.approx(0.002)
    assert high - low == pytest.approx(2 * 4.3 * 0.00153, rel=0.25)


def test_a_profile_with_some_rows_has_their_tables(tmp_path: Path):
    layout = project(tmp_path, ["zs", "ft", "carot"], [0])
    tables(layout)
    assert read(layout, "table1")["run"].tolist() == ["zs", "ft", "carot"]
    assert read(layout, "table2")["ema_update"].tolist() == ["default"]
    claims = read(layout, "replication").drop_duplicates("claim").set_index("claim")
    assert claims.loc["1", "claim_verdict"] in ("holds", "fails", "undecided")
    assert claims.loc["3a", "claim_verdict"] == "not run"
    # published all the same
    assert claims.loc["3a", "paper_verdict"] == "holds"


def test_a_profile_with_no_row_of_a_table_has_no_such_table(tmp_path: Path):
    layout = project(tmp_path, ["zs", "ft"], [0])
    tables(layout)
    assert not (layout.tables / "table2.csv").exists()
    assert read(layout, "differences").empty


def test_rows_on_other_images_are_refused_by_set_and_row(tmp_path: Path):
    layout = project(tmp_path, ["zs", "ft"], [0])
    write_evaluation(layout, "ft", 0, images="another draw")
    with pytest.raises(ValueError, match=r"set id_val .*zs, seed 0 .*ft, seed 0 \(another draw"):
        tables(layout)
    assert not layout.tables.exists()


def test_an_evaluation_of_another_seed_is_refused_by_name(tmp_path: Path):
    layout = project(tmp_path, ["zs", "ft"], [0, 1])
    folder = layout.evaluation("ft", 1)
    for path in layout.evaluation("ft", 0).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"ft, seed 1, holds the evaluation of ft, seed 0: run"):
        tables(layout)


def test_an_evaluation_of_an_older_version_is_refused_by_number(tmp_path: Path):
    layout = project(tmp_path, ["zs", "carot"], [0])
    path = layout.evaluation("zs", 0) / "replicates.npz"
    with np.load(path) as file:
        kept = {name: file[name] for name in file if "nll" not in name}
    with path.open("wb") as file:
        np.savez(file, **kept)
    with pytest.raises(ValueError, match=r"no id_test\|none\|nll\|value in .*zs, seed 0: run"):
        tables(layout)
