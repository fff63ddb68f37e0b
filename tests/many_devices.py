"""Trains in several processes by gloo, for tests/training/test_global_batch.py.

python tests/many_devices.py FOLDER: writes into FOLDER what one, two and four processes compute.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tiny import KINDS, hardware, labelled_set, run, training
from torch import Tensor

from carot_lib.files import write_json
from carot_lib.methods.base import Setup
from carot_lib.models.clip import Clip, build_clip
from carot_lib.training.loop import fine_tune, fit
from carot_lib.training.samples import Draws, batches

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 16,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1},
}
CHANGES = {
    "fine_tune": {"clip_gradient_norm": 1.0},
    "flyp": {},
    "carot": {"momentum_start": 0.5, "momentum_end": 0.5, "momentum_warmup": 0.0},
}
BATCH_SIZE = 7  # images of a batch: 4 + 3 on two devices, 2 + 2 + 2 + 1 on four


def model() -> Clip:
    """A CLIP with BatchNorm, the same at every call."""
    torch.manual_seed(0)
    return build_clip(CONFIG)


def prompts() -> Tensor:
    """Five classes in three templates of different lengths; 98 is the end token."""
    tokens = torch.randint(1, 97, (5, 3, 12), generator=torch.Generator().manual_seed(1))
    for template, length in enumerate((4, 7, 11)):
        tokens[:, template, length] = 98
        tokens[:, template, length + 1 :] = 0
    return tokens


def gradient_of_one_batch(
    kind: str, devices: int, accumulation: int = 1
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradient of every weight, clipped where the method clips, and the loss terms.

    In a teacher that differs from its student, the distillation has a gradient.
    """
    fabric = hardware(devices=devices).launch()
    params = run(kind, **CHANGES[kind])
    method = params.build(Setup(model(), prompts(), 10))
    if kind == "carot":
        with torch.no_grad():
            for value in method.teacher.model.parameters():
                value.mul_(1.1)
    before = {key: value.clone() for key, value in method.model.state_dict().items()}
    images = labelled_set("train", 11, 2, side=16, classes=5)
    draws = Draws([np.arange(BATCH_SIZE)], [np.arange(BATCH_SIZE) % 3])
    share = {"rank": fabric.global_rank, "world_size": devices}
    records: list[dict[str, float]] = []
    fit(
        method,
        batches(images.open_images(), images.labels, draws, workers=0, **share),
        1,
        torch.optim.SGD(method.model.parameters(), lr=1.0),
        0,
        params.clip_gradient_norm,
        fabric,
        records.append,
        accumulation=accumulation,
    )
    after = method.model.state_dict()
    kept = set(before) - {key for key, _ in method.model.named_parameters()}
    assert any(key.endswith("running_mean") for key in kept)
    assert all(torch.equal(before[key], after[key]) for key in kept)  # BatchNorm's statistics
    return {key: before[key] - after[key] for key in before if key not in kept}, records[0]


class KilledError(Exception):
    """What stands for a kill."""


def whole_run(kind: str, devices: int, folder: Path | None, deadly: int = 0) -> list[dict]:
    """The records of a run of six steps, and the weights under the name `.`; killed at a step."""
    records: list[dict] = []

    def log(record: dict) -> None:
        if record["step"] == deadly:
            raise KilledError
        records.append(record)

    classifier = fine_tune(
        run(kind, **CHANGES[kind]),
        training(epochs=3, batch_size=BATCH_SIZE, validate_every=3),
        hardware(devices=devices, checkpoint_every=1),
        model(),
        prompts(),
        labelled_set("train", 11, 2, side=16, classes=5),  # the second batch of an epoch has four
        0,
        log,
        "a run",
        folder,
        labelled_set("id_val", 9, 3, side=16, classes=5),  # 5 + 4, or 3 + 2 + 2 + 2
    )
    return [*records, {".": classifier.state_dict()}]


def device(rank: int, devices: int, port: int, folder: Path) -> None:
    """One process of several."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(devices)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mine = folder / f"{devices}-{rank}"
    for kind in KINDS:
        gradient, terms = gradient_of_one_batch(kind, devices)
        save_file({k: v.contiguous() for k, v in gradient.items()}, f"{mine}-{kind}.safetensors")
        *records, last = whole_run(kind, devices, None)
        write_json(folder / f"{devices}-{rank}-{kind}.json", [terms, *records])
        if devices == 2:
            saved = folder / "saved" / kind
            try:
                whole_run(kind, devices, saved, deadly=4)
            except KilledError:
                torch.distributed.barrier()
            *again, resumed = whole_run(kind, devices, saved)
            same = all(torch.equal(v, resumed["."][k]) for k, v in last["."].items())
            gaps = [(v - resumed["."][k]).abs().max().item() for k, v in last["."].items()]
            write_json(
                folder / f"resumed-{rank}-{kind}.json",
                {"same": same and again == records, "gap": max(gaps), "steps": len(again)},
            )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def on_one_two_and_four(device: Callable[[int, int, int, Path], None], folder: Path) -> None:
    """Run `device(rank, devices, port, folder)` in as many processes as there are devices."""
    fork = multiprocessing.get_context("fork")  # torch is imported once, and has computed nothing
    for devices in (1, 2, 4):
        arguments = (devices, free_port(), folder)
        processes = [fork.Process(target=device, args=(r, *arguments)) for r in range(devices)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if failed := [process.exitcode for process in processes if process.exitcode]:
            sys.exit(f"{devices} devices: exit codes {failed}")


if __name__ == "__main__":
    on_one_two_and_four(device, Path(sys.argv[1]))
