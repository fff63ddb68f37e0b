"""Benchmark of the training: the library's own `fit` against the plain way, in the same run.

python -m benchmarks.training

Two models: the miniature's (its pictures, its batch) and CLIP ViT-B/16 with random weights, on the
GPU if there is one. Writes results/benchmarks/training.json and .md. Reads the miniature's data and
pre-trained model (`make repro`); needs 16 GB of memory.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import startup
from benchmarks.candidates import WAYS, Counted, MatrixProduct, parts_of_a_step, peak_of
from benchmarks.cases import ARCHITECTURE, RUNS, Case, miniature, published
from benchmarks.tables import report
from benchmarks.timing import in_turn, machine
from carot_lib.__main__ import exit_on_bad_input
from carot_lib.files import write_json, write_text
from carot_lib.layout import find_root
from carot_lib.models.published import config_of


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process that has imported the library and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([peak_of.__module__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def measure(make: Callable[[], Case], rounds: int, side: int, times: int) -> dict[str, Any]:
    """All rows of one case.

    Args:
        make: the case.
        rounds: how often each candidate is timed.
        side: of the square matrices whose product is the measure of all.
        times: products in a row.
    """
    memory = {(way, name): in_a_process(peak_of, make, way, name) for name in RUNS for way in WAYS}
    case = make()
    device, precision = case.hardware.launch().device, case.hardware.precision
    candidates = {(way, name): Counted(WAYS[way](case, name)) for name in RUNS for way in WAYS}
    product = MatrixProduct(device, precision, side, times)
    seconds, _ = in_turn({"product": product, **candidates}, rounds)
    best = product.flops / seconds["product"]
    rows = []
    for (way, name), candidate in candidates.items():
        steps = len(case.batches[name])
        images = sum(len(batch.labels) for batch in case.batches[name])
        time_taken = seconds[way, name]
        rows.append(
            {
                "run": name,
                "way": way,
                "seconds_per_step": time_taken / steps,
                "images_per_second": images / time_taken,
                "gigabytes": memory[way, name] / 1e9,
                "gigaflop_per_step": candidate.flops / steps / 1e9,
                "gigaflops": candidate.flops / time_taken / 1e9,
                "share_of_product": candidate.flops / time_taken / best,
                "loss": candidate.loss,
            }
        )
    del candidates
    taken = {(row["way"], row["run"]): row["seconds_per_step"] for row in rows}
    return {
        "model": case.model,
        "device": device.type,
        "precision": precision,
        "batch_size": len(case.batches["carot"][0].labels),
        "steps": len(case.batches["carot"]),
        "product_gigaflops": best / 1e9,
        "rows": rows,
        "carot_to_ft": taken["ours", "carot"] / taken["ours", "ft"],
        "plain_to_ours": {name: taken["plain", name] / taken["ours", name] for name in RUNS},
        "parts": parts_of_a_step(case),
    }


def main(
    root: Path, config: dict[str, Any], batch_size: int, steps: int, rounds: int, n_images: int
) -> None:
    """Run everything, write both files, print the tables.

    Args:
        root: the project's folder.
        config: of the large model, see `build_clip`.
        batch_size: of the large model.
        steps: of one measurement of the large model.
        rounds: how often each candidate is timed.
        n_images: of the index whose reading is measured.
    """
    on_gpu = torch.cuda.is_available()
    size = (8192, 20) if on_gpu else (1024, 10)
    result = {
        "machine": machine("torch", "open_clip_torch", "lightning-fabric"),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "start": startup.measure(n_images),
        "cases": [
            measure(partial(miniature, root), rounds, 1024, 10),
            measure(partial(published, root, config, batch_size, steps), rounds, *size),
        ],
    }
    folder = root / "results" / "benchmarks"
    write_json(folder / "training.json", result)
    write_text(folder / "training.md", report(result))
    print(report(result))


if __name__ == "__main__":
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=512 if on_gpu else 4, help="of ViT-B/16")
    parser.add_argument("--steps", type=int, default=8 if on_gpu else 2, help="of ViT-B/16")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=int, default=1_281_167, help="of the index")
    arguments = parser.parse_args()
    numbers = arguments.batch_size, arguments.steps, arguments.rounds, arguments.images
    with exit_on_bad_input():
        main(find_root(), config_of(ARCHITECTURE), *numbers)
