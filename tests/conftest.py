"""What several tests share: the order of the files, the number of examples, a small CLIP."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import settings
from jaxtyping import Int
from torch import Tensor

from carot_lib.data.prompts import tokenize_prompts
from carot_lib.models.clip import Clip, build_clip
from carot_lib.report.styles import use_style
from carot_lib.training.pretraining import SmallClipParams

ROOT = Path(__file__).parents[1]
TEMPLATES = [
    lambda name: f"a {name}.",
    lambda name: f"a photo of the {name}.",
    lambda name: f"a rather bad drawing of one small {name} in a dark room.",
    lambda name: f"itap of my {name}.",
]

# HYPOTHESIS_PROFILE selects one; `make test-slow` takes `thorough`. No deadline: the first call of
# a function also pays for its imports.
for name, examples in (("default", 20), ("thorough", 100)):
    settings.register_profile(
        name, max_examples=examples, deadline=None, derandomize="CI" in os.environ
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Files that take minutes; `--no-loadscope-reorder` in the Makefile keeps them in front.
SLOWEST_FILES = ("test_pipeline.py", "test_folders.py", "test_checkpoint.py", "test_memory.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest files, so that none is left alone at the end."""
    ranks = {name: rank for rank, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session")
def clip_config() -> dict:
    """A config of `open_clip.CLIP`: convolutions with BatchNorm and a one-layer text tower."""
    params = SmallClipParams(
        vision="test_resnet",
        text_width=16,
        text_heads=2,
        text_layers=1,
        context_length=32,
        embed_dim=16,
        initial_logit_scale=10.0,
    )
    return params.config(image_size=32)


@pytest.fixture(scope="session")
def make_clip(clip_config: dict) -> Callable[[], Clip]:
    """Builds the same tiny model at every call."""

    def make(seed: int = 0) -> Clip:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_clip(clip_config)

    return make


@pytest.fixture(scope="session")
def class_prompts() -> Int[Tensor, "3 4 context"]:
    """Token ids of three classes in four templates of different lengths."""
    return tokenize_prompts(["cat", "steam locomotive", "tea pot"], TEMPLATES, 32)


@pytest.fixture
def figure_style() -> Iterator[None]:
    """Figures in the style of the report during a test, and all closed after it."""
    with mpl.rc_context():
        use_style()
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def run_processes() -> Callable[[str, Path], None]:
    """Runs a script of this folder, which starts further processes, on a folder."""

    def run(script: str, folder: Path) -> None:
        subprocess.run(
            [sys.executable, f"tests/{script}", str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            timeout=300,
        )

    return run
