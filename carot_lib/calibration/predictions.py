"""Saved predictions: the border between what needs a GPU and what does not."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.scores import (
    check_finite,
    check_temperature,
    read_logits,
    top_confidences,
)
from carot_lib.files import atomic_write

# by a missing array, an empty file, a single number or array, text, or arrays that do not fit
UNREADABLE = (KeyError, OSError, EOFError, IndexError, TypeError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Predictions:
    """Logits of one classifier on one set of images, and its labels.

    Attributes:
        class_logits: logits over all classes of the classifier.
        labels: labels in the target classes of the label space.
        label_space: maps logits over all classes to logits over the target classes.
        dataset: name of the set.
        fingerprint: fingerprint of its labels and images; only predictions with the same one can be
            compared image by image.

    Raises:
        ValueError: the arrays do not fit together, are empty, or hold a non-finite logit or a
            label out of range; the message names the set.
    """

    class_logits: Float[np.ndarray, "samples classes"]
    labels: Int[np.ndarray, " samples"]
    label_space: LabelSpace
    dataset: str
    fingerprint: str

    def __post_init__(self) -> None:
        try:
            read_logits(self.logits, self.labels)
            check_finite(self.class_logits)
        except (TypeError, ValueError) as error:
            raise ValueError(f"predictions on {self.dataset}: {error}") from error

    @cached_property
    def logits(self) -> Float[np.ndarray, "samples target_classes"]:
        """Logits over the target classes, from which all metrics are computed."""
        return self.label_space.project(self.class_logits)

    def confidences(
        self, temperature: float = 1.0
    ) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
        """Confidence of each prediction, of logits divided by a temperature, and if it is correct.

        Raises:
            ValueError: the temperature is not positive and finite.
        """
        temperature = check_temperature(temperature)
        return top_confidences(self.logits.astype(np.float64) / temperature, self.labels)

    def save(self, path: Path) -> None:
        """Write a .npz file atomically, with float32 logits and int64 labels.

        The label space is stored as two arrays: the columns of all target classes in a row, and
        the number of columns of each.
        """
        groups = self.label_space.columns
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                class_logits=self.class_logits.astype(np.float32),
                labels=self.labels.astype(np.int64),
                columns=np.array([c for group in groups for c in group], dtype=np.int64),
                columns_of_each=np.array([len(group) for group in groups], dtype=np.int64),
                dataset=self.dataset,
                fingerprint=self.fingerprint,
            )

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file; the message names the stage to run.
            ValueError: the file is damaged or does not hold predictions.
        """
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run stage `predict`")
        try:
            with path.open("rb") as file, np.load(file) as parts:
                logits = parts["class_logits"]
                groups = np.split(parts["columns"], np.cumsum(parts["columns_of_each"])[:-1])
                if [len(group) for group in groups] != parts["columns_of_each"].tolist():
                    raise ValueError("columns and columns_of_each do not fit")
                return cls(
                    logits,
                    parts["labels"],
                    LabelSpace(logits.shape[-1], tuple(tuple(g.tolist()) for g in groups)),
                    str(parts["dataset"]),
                    str(parts["fingerprint"]),
                )
        except UNREADABLE as error:
            raise ValueError(f"{path} does not hold predictions ({error})") from error


def check_same_images(dataset: str, fingerprints: Mapping[str, str]) -> None:
    """Refuse an image-by-image comparison of runs that were predicted on different images.

    Raises:
        ValueError: the fingerprints, by run, differ; the message names the set and the runs.
    """
    if len(set(fingerprints.values())) > 1:
        seen = ", ".join(f"{run} ({fingerprint})" for run, fingerprint in fingerprints.items())
        raise ValueError(f"set {dataset} is not the same for all runs, predict again: {seen}")
