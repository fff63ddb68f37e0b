"""How long a training on ImageNet takes to begin, and how much memory: a process of its own.

python -m benchmarks.startup FOLDER    prints it as JSON, of the prepared data in FOLDER

All is measured that comes before the first image is read, but for the model: the index with its
labels and fingerprint, the captions, and what every one of 25,030 steps will show.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from open_clip.transform import PreprocessCfg

from benchmarks.timing import peak_memory
from carot_lib.data.datasets import read_prompts, read_set, write_set
from carot_lib.files import write_json
from carot_lib.sources.imagenet import CLASS_NAMES
from carot_lib.training.samples import draw_pairs

EPOCHS, BATCH_SIZE, CONTEXT = 10, 512, 77  # the paper's, and CLIP's tokens


def write_index(folder: Path, n_images: int) -> None:
    """A prepared set `train` of paths as ImageNet's are, to files that are not there."""
    labels = np.arange(n_images) * len(CLASS_NAMES) // n_images
    paths = [f"train/n{label + 10**7}/n{label + 10**7}_{i}.JPEG" for i, label in enumerate(labels)]
    write_set(folder, "train", labels, paths=paths)
    write_json(folder / "classes.json", {"class_names": CLASS_NAMES, "label_spaces": {}})


def start(folder: Path) -> dict[str, float]:
    """Seconds of each part, since the process began, and gigabytes of memory."""
    clock, seconds = [time.time()], {}
    seconds["python and imports"] = clock[0] - psutil.Process().create_time()

    def done(what: str) -> None:
        clock.append(time.time())
        seconds[what] = clock[-1] - clock[-2]

    libraries = peak_memory()
    train = read_set(folder, "train")
    train.open_images(PreprocessCfg(), training=True)
    done("index, labels, fingerprint")
    prompts = read_prompts(folder, CONTEXT)
    done("captions")
    rng = np.random.default_rng(0)
    draws = draw_pairs(len(train.labels), prompts.shape[1], EPOCHS, BATCH_SIZE, rng)
    draws.share(0, 1)
    done("draws")
    return {
        "images": len(train.labels),
        "seconds": sum(seconds.values()),
        "cpu_seconds": time.process_time(),
        "parts": seconds,
        "gigabytes": (peak_memory() - libraries) / 1e9,
        "libraries_gigabytes": libraries / 1e9,
    }


def measure(n_images: int) -> dict:
    """What `start` finds in a fresh process, with a synthetic index."""
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), n_images)
        words = [sys.executable, "-m", "benchmarks.startup", folder]
        root = Path(__file__).parents[1]
        done = subprocess.run(words, cwd=root, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]))))
