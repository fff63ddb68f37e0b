"""Benchmark of the calibration code against its peers, on the same data in the same run.

python -m benchmarks.calibration

Writes results/benchmarks/calibration.json and .md. Peers get what they ask for: netcal and
uncertainty-calibration take probabilities, whose softmax is part of their time, as logits are what
a model gives.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmarks.timing import in_turn, machine, peak_bytes
from carot_lib.calibration.bin_stats import BinStats
from carot_lib.calibration.metrics import ece
from carot_lib.calibration.temperature import TemperatureChoice, direct_ece, select_temperature
from carot_lib.files import write_json, write_text
from carot_lib.layout import find_root

BINS = 10
PEER_TEMPERATURES = 5  # spread over the grid; a peer's time on all is estimated from these
SHARPENED = 1.6  # factor on the logits that labels are drawn from: the right temperature


def sample(n: int, classes: int) -> tuple[Float[np.ndarray, "n classes"], np.ndarray]:
    """Over-confident float32 logits and labels, of a fixed seed."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2.5, size=(n, classes)).astype(np.float32)
    labels = np.concatenate(
        [
            (part + generator.gumbel(size=part.shape)).argmax(axis=1)
            for part in np.array_split(logits, max(1, n // 1000))
        ]
    )
    logits *= SHARPENED
    return logits, labels


def torchmetrics_ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """Its functional, on tensors that share the arrays' memory."""
    scores, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    return float(multiclass_calibration_error(scores, truth, logits.shape[1], n_bins=BINS))


def netcal_ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """Its class, on probabilities."""
    from netcal.metrics import ECE  # warns where it is compiled, so not when this file is imported

    return float(ECE(BINS).measure(softmax(logits, axis=1), labels))


def uncertainty_calibration_ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """Its function with bins of equal width, on probabilities."""
    import calibration

    return float(calibration.get_ece(softmax(logits, axis=1), labels, num_bins=BINS))


def textbook_ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """As it is usually written: softmax, largest probability, a loop over bins."""
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for b in range(BINS):
        chosen = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if chosen.any():
            error += chosen.mean() * abs(right[chosen].mean() - confidence[chosen].mean())
    return float(error)


PEERS = {
    "textbook": textbook_ece,
    "torchmetrics": torchmetrics_ece,
    "netcal": netcal_ece,
    "uncertainty-calibration": uncertainty_calibration_ece,
}


def one_ece(logits: np.ndarray, labels: np.ndarray, rounds: int) -> list[dict]:
    """A row for each library: one ECE from logits."""
    candidates = {"ours": lambda: ece(logits, labels, n_bins=BINS)}
    candidates |= {name: lambda f=f: f(logits, labels) for name, f in PEERS.items()}
    seconds, values = in_turn(candidates, rounds)
    return [
        {
            "what": name,
            "seconds": seconds[name],
            "ratio": seconds[name] / seconds["ours"],
            "ece": values[name],
            "off": values[name] - values["ours"],
        }
        for name in candidates
    ]


def all_temperatures(
    logits: np.ndarray, labels: np.ndarray, rounds: int
) -> tuple[list[dict], dict[str, float]]:
    """A row for each way to the best of 951 temperatures, and what the choice was."""
    ours, found = in_turn({"ours": lambda: select_temperature(logits, labels)}, rounds)
    choice: TemperatureChoice = found["ours"]
    grid = choice.temperatures
    loop, curves = in_turn(
        {"loop": lambda: [direct_ece(logits, labels, t, BINS) for t in grid]}, rounds=1
    )
    direct = np.array(curves["loop"])
    tried = grid[np.linspace(0, len(grid) - 1, PEER_TEMPERATURES).astype(int)]
    candidates = {
        name: lambda f=f: [f(logits / np.float32(t), labels) for t in tried]
        for name, f in PEERS.items()
    }
    peers, _ = in_turn(candidates, rounds=1)
    rows = [
        {"what": "ours, sweep and verification", "seconds": ours["ours"], "measured": len(grid)},
        {"what": "ours, one by one", "seconds": loop["loop"], "measured": len(grid)},
    ]
    rows += [
        {
            "what": f"{name}, one by one",
            "seconds": seconds / len(tried) * len(grid),
            "measured": len(tried),
        }
        for name, seconds in peers.items()
    ]
    for row in rows:
        row["ratio"] = row["seconds"] / ours["ours"]
    facts = {
        "temperature": choice.temperature,
        "ece_at_the_choice": choice.value_after,
        "least_ece_one_by_one": float(direct.min()),
        "largest_error_of_the_curve": float(np.abs(direct - choice.values).max()),
        "peak_megabytes": peak_bytes(lambda: select_temperature(logits, labels)) / 2**20,
    }
    return rows, facts


def report(result: dict) -> str:
    """The tables as Markdown."""
    n, classes = result["samples"], result["classes"]
    host = result["machine"]
    lines = [
        f"{n:,} samples, {classes:,} classes, float32; {host['processor']}, {host['cores']} cores.",
        "",
        f"| One ECE, {BINS} bins, from logits | ms | ratio to ours | value | off ours |",
        "| :-- | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {row['what']} | {1000 * row['seconds']:.0f} | {row['ratio']:.1f} | {row['ece']:.7f} "
        f"| {row['off']:+.1e} |"
        for row in result["one_ece"]
    ]
    lines += [
        "",
        "| Best of 951 temperatures by ECE | s | ratio to ours | temperatures measured |",
        "| :-- | --: | --: | --: |",
    ]
    lines += [
        f"| {row['what']} | {row['seconds']:.1f} | {row['ratio']:.0f} | {row['measured']} |"
        for row in result["all_temperatures"]
    ]
    facts = result["facts"]
    lines += [
        "",
        f"Chosen: T = {facts['temperature']:.2f} with ECE {facts['ece_at_the_choice']:.9f}; the "
        f"least one by one: {facts['least_ece_one_by_one']:.9f}. The sweep's curve is off by "
        f"{facts['largest_error_of_the_curve']:.1e} at most, over all 951. Memory beyond the "
        f"logits: {facts['peak_megabytes']:.0f} MB. State of {BINS} bins: {result['state_bytes']} "
        "bytes.",
    ]
    return "\n".join(lines) + "\n"


def main(n: int, classes: int, rounds: int, folder: Path) -> None:
    """Run everything, write both files, print the tables."""
    warnings.simplefilter("ignore")  # of the peers
    logits, labels = sample(n, classes)
    rows, facts = all_temperatures(logits, labels, rounds)
    result = {
        "samples": n,
        "classes": classes,
        "machine": machine("numpy", "torch", "torchmetrics", "netcal", "uncertainty-calibration"),
        "one_ece": one_ece(logits, labels, 2 * rounds + 1),
        "all_temperatures": rows,
        "facts": facts,
        "state_bytes": BinStats.from_logits(logits[:1], labels[:1], BINS).state.nbytes,
    }
    write_json(folder / "calibration.json", result)
    write_text(folder / "calibration.md", report(result))
    print(report(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=find_root() / "results" / "benchmarks")
    arguments = parser.parse_args()
    main(arguments.samples, arguments.classes, arguments.rounds, arguments.out)
