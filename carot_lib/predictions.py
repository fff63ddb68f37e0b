"""Saved predictions: the border between what needs a GPU and what does not."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from carot_lib.files import atomic_write


@dataclass(frozen=True)
class Predictions:
    """What one classifier said about one set of images.

    Attributes:
        logits: over the set's own classes (its label space is applied already).
        labels: in [0, classes).
        dataset: name of the set.
        fingerprint: of its labels and images; two predictions can be compared image by image
            only if it is the same.

    Raises:
        ValueError: the arrays do not fit together, are empty, or hold a non-finite logit or a
            label out of range; the message names the set.
    """

    logits: Float[np.ndarray, "samples classes"]
    labels: Int[np.ndarray, " samples"]
    dataset: str
    fingerprint: str

    def __post_init__(self) -> None:
        where = f"predictions on {self.dataset}"
        if self.logits.ndim != 2 or self.labels.shape != self.logits.shape[:1]:
            raise ValueError(
                f"{where}: logits {self.logits.shape} and labels {self.labels.shape} do not fit"
            )
        if not self.logits.size:
            raise ValueError(f"{where}: there are none")
        if not np.isfinite(self.logits).all():
            raise ValueError(f"{where}: some logits are not finite")
        if self.labels.min() < 0 or self.labels.max() >= self.logits.shape[1]:
            raise ValueError(f"{where}: labels must be in [0, {self.logits.shape[1]})")

    def save(self, path: Path) -> None:
        """Write a .npz file, whole or not at all: float32 logits, int64 labels."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                logits=self.logits.astype(np.float32),
                labels=self.labels.astype(np.int64),
                dataset=self.dataset,
                fingerprint=self.fingerprint,
            )

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file; the message names the stage to run.
            ValueError: the file is damaged or is not of predictions.
        """
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run stage `predict`")
        try:
            with path.open("rb") as file, np.load(file) as parts:
                dataset, fingerprint = str(parts["dataset"]), str(parts["fingerprint"])
                return cls(parts["logits"], parts["labels"], dataset, fingerprint)
        # EOFError: an empty file; TypeError: a single array; ValueError: text, or a bad array
        except (KeyError, OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} does not hold predictions ({error})") from error

    def confidences(
        self, temperature: float = 1.0
    ) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
        """Largest softmax probability of each sample, in float64, and whether it was right.

        Args:
            temperature: divides the logits; positive.
        """
        logits = self.logits.astype(np.float64) / temperature
        top = logits.max(axis=1)
        total = np.exp(logits - top[:, None]).sum(axis=1)
        return 1 / total, self.logits.argmax(axis=1) == self.labels
