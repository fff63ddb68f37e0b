"""Saved predictions: the border between what needs a GPU and what does not."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.scores import top_confidences
from carot_lib.files import atomic_write

# what reading a file that holds no predictions may raise: KeyError: a part is missing; EOFError: an
# empty file; IndexError, TypeError: a single number or array; ValueError: text, or a bad array
UNREADABLE = (
    KeyError,
    OSError,
    EOFError,
    IndexError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Calibrated:
    """How sure of each of its predictions a classifier is on a set, and whether it was right.

    Attributes:
        confidences: of the predicted classes, in [0, 1].
        correct: whether they are the labels.
        logits: over the set's own classes, whose softmax gave the confidences; None where only the
            confidence was calibrated, so that there is neither an NLL nor a Brier score.
    """

    confidences: Float[np.ndarray, " samples"]
    correct: Bool[np.ndarray, " samples"]
    logits: Float[np.ndarray, "samples own"] | None = None

    @classmethod
    def from_logits(
        cls, logits: Float[np.ndarray, "samples own"], labels: Int[np.ndarray, " samples"]
    ) -> "Calibrated":
        """Largest softmax probability of each sample, in float64; ties go to the lower class."""
        logits = logits.astype(np.float64, copy=False)
        return cls(*top_confidences(logits, labels), logits)


@dataclass(frozen=True)
class Predictions:
    """What one classifier said about one set of images.

    Attributes:
        class_logits: over all of the classifier's classes.
        labels: in the set's own classes, [0, own).
        label_space: how those become logits over the set's own classes.
        dataset: name of the set.
        fingerprint: of its labels and images; two predictions can be compared image by image
            only if it is the same.

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
        where = f"predictions on {self.dataset}"
        shape, classes = self.class_logits.shape, self.label_space.n_classes
        if len(shape) != 2 or self.labels.shape != shape[:1]:
            raise ValueError(f"{where}: logits {shape} and labels {self.labels.shape} do not fit")
        if not self.class_logits.size:
            raise ValueError(f"{where}: there are none")
        if shape[1] != classes:
            raise ValueError(f"{where}: logits {shape} do not fit a label space of {classes}")
        if not np.isfinite(self.class_logits).all():
            raise ValueError(f"{where}: some logits are not finite")
        own = len(self.label_space.columns)
        if self.labels.min() < 0 or self.labels.max() >= own:
            raise ValueError(f"{where}: labels must be in [0, {own})")

    @cached_property
    def logits(self) -> Float[np.ndarray, "samples own"]:
        """Logits over the set's own classes: what is judged."""
        return self.label_space.project(self.class_logits)

    def calibrated(self, temperature: float = 1.0) -> Calibrated:
        """What the logits say as they are, or divided by a temperature.

        Args:
            temperature: positive; 1 changes nothing.

        Raises:
            ValueError: the temperature is not positive and finite.
        """
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        return Calibrated.from_logits(self.logits.astype(np.float64) / temperature, self.labels)

    def confidences(
        self, temperature: float = 1.0
    ) -> tuple[Float[np.ndarray, " samples"], Bool[np.ndarray, " samples"]]:
        """Largest softmax probability of each sample, in float64, and whether it was right.

        Args and raises: as `calibrated`.
        """
        calibrated = self.calibrated(temperature)
        return calibrated.confidences, calibrated.correct

    def save(self, path: Path) -> None:
        """Write a .npz file, whole or not at all: float32 logits, int64 labels.

        The label space stands in it as two arrays: the columns of all own classes in a row, and
        how many of them each own class has.
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
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file; the message names the stage to run.
            ValueError: the file is damaged or is not of predictions.
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
    """Refuse to compare, image by image, runs that saw other images.

    Args:
        dataset: the set's name.
        fingerprints: of each run's predictions on it.

    Raises:
        ValueError: they differ; the message names the set and the runs.
    """
    if len(set(fingerprints.values())) > 1:
        seen = ", ".join(f"{run} ({fingerprint})" for run, fingerprint in fingerprints.items())
        raise ValueError(f"set {dataset} is not the same for all runs, predict anew: {seen}")


def check_held_out(dataset: str, fingerprint: str, selected_on: str, selection: str) -> None:
    """Refuse to report calibration on the images that chose it.

    Args:
        dataset: name of the set that is reported.
        fingerprint: of its images.
        selected_on: name of the set that chose.
        selection: fingerprint of that set's images.

    Raises:
        ValueError: they are the same; the message names both sets.
    """
    if fingerprint == selection:
        raise ValueError(
            f"set {dataset} holds the images of {selected_on}, on which the calibration was "
            "selected: it cannot be reported there"
        )
