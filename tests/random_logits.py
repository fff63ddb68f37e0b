"""Logits that several tests draw alike."""

import numpy as np


def random_logits(n: int, k: int, seed: int = 0, scale: float = 2.0):
    """Logits and labels that are right more often than by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    logits = generator.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += 1
    return logits, labels
