"""The benchmarks run and write what they measured; how fast anything is, is not tested."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.timing import in_turn, machine, peak_bytes


def test_candidates_are_called_in_turn_and_once_uncounted():
    calls: list[str] = []
    seconds, returned = in_turn({k: lambda k=k: calls.append(k) or k for k in "ab"}, rounds=2)
    assert "".join(calls) == "ababab"
    assert returned == {"a": "a", "b": "b"}
    assert all(value >= 0 for value in seconds.values())


def test_peak_memory_sees_arrays_that_are_gone():
    assert 8_000_000 <= peak_bytes(lambda: np.zeros(1_000_000).sum()) < 9_000_000


def test_the_machine_is_named():
    assert machine("numpy")["numpy"] == np.__version__
    assert machine()["processor"]


@pytest.mark.filterwarnings("ignore")  # of the peers
def test_calibration_benchmark_writes_both_files_and_agrees_with_all_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    calibration.main(n=400, classes=7, rounds=1, folder=tmp_path)
    result = json.loads((tmp_path / "calibration.json").read_text())
    assert [row["what"] for row in result["one_ece"]] == ["ours", *calibration.PEERS]
    assert all(abs(row["off"]) < 1e-6 for row in result["one_ece"])
    facts = result["facts"]
    assert facts["ece_at_the_choice"] == facts["least_ece_one_by_one"]
    assert (tmp_path / "calibration.md").read_text() in capsys.readouterr().out
