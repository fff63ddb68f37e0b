"""Predicts in several processes by gloo, for tests/models/test_inference.py.

python tests/many_predictors.py FOLDER: writes into FOLDER what one, two and four processes predict
of the sets that the test put there.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from many_devices import model, on_one_two_and_four, prompts
from tiny import hardware

from carot_lib.data.datasets import read_set
from carot_lib.models import inference

# by number of images, which come in batches of two
SETS = (*(f"memory{size}" for size in (1, 2, 3, 4, 9, 16, 23)), "files3")


def device(rank: int, devices: int, port: int, folder: Path) -> None:
    """One process of several."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(devices)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fabric = hardware(devices=devices).launch()
    inference.BATCH_SIZE = 2
    classifier = model().zero_shot_classifier(prompts())
    seen: list[int] = []
    classifier.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    predicted = {}
    for name in SETS:
        seen.clear()
        dataset = read_set(folder, name)
        predicted[name] = inference.predict_logits(classifier, dataset, fabric.device)
        predicted[f"{name} seen"] = np.array(seen, dtype=np.int64)
    np.savez(folder / f"predicted-{devices}-{rank}.npz", **predicted)


if __name__ == "__main__":
    on_one_two_and_four(device, Path(sys.argv[1]))
