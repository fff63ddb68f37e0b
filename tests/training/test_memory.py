"""Memory does not grow with the steps, and too little of it is reported with what to change."""

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from tiny import labelled_set, project
from torch import Tensor

from carot_lib.layout import Layout
from carot_lib.methods.base import Batch, Setup
from carot_lib.models.clip import Clip, build_clip, load_classifier, save_clip
from carot_lib.params import load_params
from carot_lib.schema import read_params
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.loop import fit
from carot_lib.training.optimizer import build_optimizer

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
WARM_UP, STEPS = 100, 1000
KILOBYTE = 1024  # of growth a step at most; what one step computes is many times that


def tiny_clip(image_size: int, patch_size: int, width: int) -> Clip:
    """A transformer without BatchNorm, whose batches may be split."""
    vision = {"image_size": image_size, "patch_size": patch_size, "width": width, "layers": 1}
    text = {"context_length": 32, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    vision["head_width"] = 4
    return build_clip({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})


def release_memory() -> None:
    """Return free memory to the system: what other tests left would hide a growth."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def growth(run: str, steps: int, keep: Callable[[dict[str, Tensor]], None] | None = None) -> int:
    """Bytes by which this process grows over some steps of `fit`, after a warm-up.

    Args:
        run: of the miniature.
        steps: optimizer steps after the warm-up.
        keep: is given the losses of each step.
    """
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, 9, (3, 4, 6), generator=generator)
    prompts[:, :, -1] = 9  # the end mark
    method = load_params(PARAMS).miniature.run(run)
    total = WARM_UP + steps
    trained = method.build(Setup(tiny_clip(8, 8, 8), prompts, total))
    if keep is not None:
        inner = trained.loss_terms

        def loss_terms(encoded: dict[str, Tensor]) -> dict[str, Tensor]:
            terms = inner(encoded)
            keep(terms)
            return terms

        trained.loss_terms = loss_terms
    sizes = {}

    def data() -> Iterator[Batch]:
        for _ in range(total):
            images = torch.randn(4, 3, 8, 8, generator=generator)
            labels = torch.randint(3, (4,), generator=generator)
            yield Batch(images, labels, torch.randint(4, (4,), generator=generator))

    def log(record: dict[str, float]) -> None:
        if record["step"] in (WARM_UP, total):
            release_memory()
            sizes[record["step"]] = psutil.Process().memory_info().rss

    fabric = read_params(PARAMS, HardwareParams, "miniature", "hardware").launch()
    optimizer = build_optimizer([{"params": trained.model.parameters(), "lr": 1e-3}], 0.1)
    fit(trained, data(), total, optimizer, 10, method.clip_gradient_norm, fabric, log)
    return sizes[total] - sizes[WARM_UP]


slow = pytest.mark.slow


@pytest.mark.parametrize("run", [*(pytest.param(n, marks=slow) for n in ("ft", "flyp")), "carot"])
def test_memory_does_not_grow_over_a_thousand_steps(run: str):
    assert growth(run, STEPS) < STEPS * KILOBYTE


def test_losses_that_are_kept_would_be_noticed():
    # the same measure, of a loop that holds on to what each step computed
    kept = []
    assert growth("flyp", 200, kept.append) > 200 * KILOBYTE
    assert len(kept) == WARM_UP + 200


# The stage as it is, in a process that may take only so many megabytes more than what it imports.
LIMITED = """
import resource, sys
import carot_lib.stages.train, pandas
from carot_lib.__main__ import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv.pop(1)) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main(["train", *sys.argv[1:]])
"""
BATCH = 4000  # 65 positions of width 64 in float32: 67 MB for each activation that is kept


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A world in which one step of a run is the whole training, and a large one."""
    sets = labelled_set("train", BATCH), labelled_set("id_val", 9)
    numbers = {"epochs": 1, "images_per_class": None, "batch_size": BATCH, "warmup": 0}
    layout = project(tmp_path, *sets, training=numbers)
    save_clip(tiny_clip(32, 4, 64), layout.pretrained)
    return layout


def train_within(layout: Layout, megabytes: int) -> subprocess.CompletedProcess:
    words = [str(megabytes), "--profile", "miniature", "--run", "ft", "--seed", "0"]
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        cwd=layout.root,
        capture_output=True,
        text=True,
        check=False,
    )


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is read from Linux's /proc")
def test_too_little_memory_stops_the_stage_and_its_advice_helps(layout: Layout):
    done = train_within(layout, 500)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith("training ft: ")] == [
        f"ft: out of memory at batch_size {BATCH} on 1 device(s) with accumulation 1: set "
        "hardware.accumulation to 2 (the results are the same)"
    ]
    assert not layout.model("ft", 0).parent.exists()  # nothing is left half made
    assert not list(layout.root.rglob("*.unfinished"))
    split = layout.params.read_text().replace("accumulation: 1\n", "accumulation: 16\n")
    layout.params.write_text(split)
    done = train_within(layout, 500)
    assert done.returncode == 0, done.stderr
    assert load_classifier(layout.model("ft", 0)).head.weight.shape == (3, 8)
