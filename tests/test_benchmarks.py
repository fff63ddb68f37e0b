"""The benchmarks run and write what they measured; how fast anything is, is not tested."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks import calibration, startup, training
from benchmarks.candidates import Counted, MatrixProduct, Ours, Plain
from benchmarks.cases import RUNS, miniature, published
from benchmarks.timing import forget_peak, in_turn, machine, peak_bytes, peak_memory
from carot_lib.data.datasets import write_set
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.models.clip import Clip, save_clip

ROOT = Path(__file__).parents[1]
VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
TEXT = {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}


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


def test_peak_memory_sees_tensors_that_are_gone():
    forget_peak()
    before = peak_memory()
    torch.ones(20_000_000).sum()
    assert 70e6 < peak_memory() - before < 160e6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[], Clip]) -> Path:
    """A project in which the miniature is a few pictures and its EMA update comes at step 3."""
    root = tmp_path_factory.mktemp("project")
    layout = Layout(root, "miniature")
    shutil.copy(ROOT / "dvc.yaml", root)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    training = {"batch_size": 8, "warmup": 1, "epochs": 10, "images_per_class": None}
    tree["miniature"]["training"] |= training
    tree["miniature"]["runs"]["carot"]["update_every"] = 3
    layout.params.write_text(yaml.safe_dump(tree))
    pictures = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    write_set(layout.data, "train", np.arange(30) % 3, images=pictures)
    names = ["cat", "steam locomotive", "tea pot"]
    write_json(layout.data / "classes.json", {"class_names": names, "label_spaces": {}})
    save_clip(make_clip(), layout.pretrained)
    return root


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.usefixtures("double_precision")
def test_both_ways_train_alike(world: Path, name: str, large: bool):
    # The two share no line but the schedule. In double precision, as the optimizer makes as much of
    # a gradient that is nothing but rounding as of any other. 6 steps and 2 EMA updates.
    case = published(world, TINY, batch_size=8, steps=3) if large else miniature(world)
    data = [dataclasses.replace(b, images=b.images.double()) for b in case.batches[name]]
    case = dataclasses.replace(case, clip=case.clip.double(), batches={name: data})
    ours, plain = Ours(case, name), Plain(case, name)
    losses = [(ours(), plain()) for _ in range(2)]
    for mine, other in losses:
        assert mine == pytest.approx(other, abs=1e-8)
    assert abs(losses[1][0] - losses[0][0]) > 1e-5  # they do train


def test_operations_are_counted_at_the_first_call():
    calls = []
    product = Counted(lambda: calls.append(torch.ones(2, 3) @ torch.ones(3, 4)) or 0.5)
    product()
    product()
    assert (product.flops, product.loss, len(calls)) == (2 * 2 * 3 * 4, 0.5, 2)
    assert MatrixProduct(torch.device("cpu"), "32-true", side=10, times=3).flops == 3 * 2000


def test_the_large_model_repeats_captions_as_the_real_run_does(world: Path):
    case = published(world, TINY, batch_size=32, steps=2)
    assert case.prompts.shape[:2] == (20, 1)  # 64 draws, 3.2 of each
    assert case.runs["carot"].update_every == 2
    assert case.batches["ft"][1].images.shape == (32, 3, 16, 16)


def test_the_start_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(startup, "CLASS_NAMES", ["cat", "steam locomotive", "tea pot"])
    found = startup.measure(1200)
    assert found["images"] == 1200
    assert list(found["parts"])[1:] == ["index, labels, fingerprint", "captions", "draws"]
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()))
    assert found["libraries_gigabytes"] > 0.1 > found["gigabytes"] >= 0


def test_training_benchmark_writes_both_files(
    world: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    start = {"images": 1200, "seconds": 3.0, "cpu_seconds": 2.0, "parts": {"draws": 3.0}}
    start |= {"gigabytes": 0.1, "libraries_gigabytes": 0.5}
    monkeypatch.setattr(startup, "measure", lambda n_images: start | {"images": n_images})
    training.main(world, TINY, batch_size=4, steps=2, rounds=1, n_images=1200)
    folder = world / "results" / "benchmarks"
    result = json.loads((folder / "training.json").read_text())
    assert [case["batch_size"] for case in result["cases"]] == [8, 4]
    for case in result["cases"]:
        rows = [(row["run"], row["way"]) for row in case["rows"]]
        assert rows == [(run, way) for run in RUNS for way in ("ours", "plain")]
        assert all(row["gigaflop_per_step"] > 0 for row in case["rows"])
        assert all(0 <= row["gigabytes"] < 1 for row in case["rows"])
        assert all(seconds > 0 for seconds in case["parts"].values())
        assert list(case["parts"])[-1] == "the rest"
        assert {"student, images", "teacher, texts", "EMA"} <= set(case["parts"])
    text = (folder / "training.md").read_text()
    assert text in capsys.readouterr().out
    assert "| CaRot, plain | " in text
    assert ("on a GPU" in text) == (not torch.cuda.is_available())


def test_a_miniature_that_was_not_made_is_said(tmp_path: Path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with pytest.raises(FileNotFoundError):
        miniature(tmp_path)
