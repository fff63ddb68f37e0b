"""Logits that several tests draw alike."""

import numpy as np


def random_logits(
    n: int, k: int, seed: int = 0, scale: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that are right more often than by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    logits = generator.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += 1
    return logits, labels


def sharpened_logits(
    n: int, k: int, seed: int = 0, sharpness: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `sharpness` times those that the labels were drawn from: the best temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, size=(n, k))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return sharpness * logits, labels
