"""Post-hoc calibrators: fitted on held-out predictions of a run, applied to its others.

They differ in what they may touch. A temperature scales all logits alike and keeps the predicted
class. Vector scaling moves each class by itself and so may change it. Histogram binning and
isotonic regression keep the class and replace its confidence alone: no probabilities of the other
classes remain.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from carot_lib.calibration.predictions import Calibrated, Predictions
from carot_lib.calibration.temperature import select_temperature

SEARCH = {"maxiter": 500, "gtol": 1e-7, "ftol": 1e-14}  # of vector scaling's L-BFGS


@runtime_checkable
class Calibrator(Protocol):
    """What was learnt on one set and can be applied to any."""

    def apply(self, predictions: Predictions) -> Calibrated:
        """The confidences after calibration, and whether the predictions are right."""


@dataclass(frozen=True)
class Temperature:
    """One number that divides all logits.

    Attributes:
        temperature: positive; above 1 it lowers the confidence.

    Source: Guo et al. 2017, Section 4.2.
    """

    temperature: float

    @classmethod
    def fit(
        cls,
        predictions: Predictions,
        criterion: Literal["ece", "nll"],
        low: float,
        high: float,
        step: float,
        n_bins: int,
    ) -> "Temperature":
        """The best in [low, high]; args and raises as `carot_lib.calibration.temperature`."""
        logits, labels = predictions.logits, predictions.labels
        chosen = select_temperature(logits, labels, criterion, low, high, step, n_bins)
        return cls(chosen.temperature)

    def apply(self, predictions: Predictions) -> Calibrated:
        """Softmax of the logits over the temperature."""
        return predictions.calibrated(self.temperature)


@dataclass(frozen=True)
class VectorScaling:
    """A factor and an offset for each of the classifier's classes, before the label space.

    It can change the prediction, and with it the accuracy. Unlike a softmax it depends on a number
    that is added to all logits of a sample, so the logits are taken as the classifier gives them.

    Attributes:
        scale: factor of each class's logit.
        bias: added to it afterwards; `fit` makes its mean 0, for what is common changes nothing.

    Source: Guo et al. 2017, Section 4.2 (vector scaling).
    """

    scale: Float[np.ndarray, " classes"]
    bias: Float[np.ndarray, " classes"]

    @classmethod
    def fit(cls, predictions: Predictions) -> "VectorScaling":
        """Least NLL, a convex problem, by L-BFGS from the best single temperature.

        There is no least one if a class has no sample, or if classes can be told apart without
        error: the search then ends where the NLL hardly falls any more. After 500 steps it ends
        with a warning; 50 are usual.

        Raises:
            ValueError: the set has a label space of its own, so some classes cannot be learnt.
        """
        if not predictions.label_space.is_identity:
            raise ValueError(
                f"vector scaling needs all classes, but {predictions.dataset} has its own"
            )
        logits, labels = predictions.class_logits.astype(np.float64), predictions.labels
        wide = {"low": 1e-3, "high": 1e3, "step": 1e3}
        factor = 1 / select_temperature(logits, labels, "nll", **wide).temperature
        centre, spread, weight = _curvature(logits, factor)
        start = np.concatenate([factor * spread, factor * weight * centre])

        def parameters(moved: np.ndarray) -> np.ndarray:
            """Factors and offsets, from where L-BFGS searches: there all curve about alike."""
            of_scale, of_bias = np.split(moved, 2)
            scale = of_scale / spread
            return np.concatenate([scale, of_bias / weight - scale * centre])

        def objective(moved: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = vector_nll(parameters(moved), logits, labels)
            of_scale, of_bias = np.split(gradient, 2)
            return value, np.concatenate([(of_scale - centre * of_bias) / spread, of_bias / weight])

        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=SEARCH)
        if found.status == 1:  # out of steps; what else ends the search is the end of precision
            warnings.warn(f"vector scaling is unfinished: {found.message}", stacklevel=2)
        scale, bias = np.split(parameters(found.x), 2)
        return cls(scale, bias - bias.mean())

    def apply(self, predictions: Predictions) -> Calibrated:
        """Softmax of the scaled logits over the set's own classes.

        Raises:
            ValueError: the classifier has another number of classes.
        """
        if predictions.class_logits.shape[1] != len(self.scale):
            raise ValueError(
                f"predictions on {predictions.dataset} have {predictions.class_logits.shape[1]} "
                f"classes, not {len(self.scale)}"
            )
        logits = predictions.class_logits * self.scale + self.bias
        return Calibrated.from_logits(predictions.label_space.project(logits), predictions.labels)


def vector_nll(
    parameters: Float[np.ndarray, " twice_classes"],
    logits: Float[np.ndarray, "samples classes"],
    labels: Int[np.ndarray, " samples"],
) -> tuple[float, Float[np.ndarray, " twice_classes"]]:
    """Mean NLL in nats of vector scaling, and its gradient.

    Args:
        parameters: the factors of all classes, then their offsets.
        logits: before scaling.
        labels: in [0, classes).
    """
    scale, bias = np.split(parameters, 2)
    scores = logits * scale + bias
    scores -= scores.max(axis=1, keepdims=True)
    rows, of_label = np.arange(len(labels)), scores[np.arange(len(labels)), labels]
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    value = (np.log(total[:, 0]) - of_label).mean()
    scores /= total
    scores[rows, labels] -= 1  # probabilities minus one-hot labels: the gradient of the scores
    scores /= len(labels)
    return value, np.concatenate([np.einsum("nk,nk->k", scores, logits), scores.sum(axis=0)])


def _curvature(
    logits: Float[np.ndarray, "samples classes"], factor: float
) -> tuple[
    Float[np.ndarray, " classes"], Float[np.ndarray, " classes"], Float[np.ndarray, " classes"]
]:
    """Where and how strongly the NLL curves in each class's factor and offset.

    Args:
        logits: of the classes.
        factor: of all of them, where the curvature is taken.

    Returns:
        The mean of each class's logits, weighted by how undecided the samples are about it; the
        root of the curvature along its factor, around that mean; and along its offset. In these
        units L-BFGS takes 40 steps instead of 1,300 on 4,000 samples of 100 classes.
    """
    undecided = np.exp(factor * (logits - logits.max(axis=1, keepdims=True)))
    undecided /= undecided.sum(axis=1, keepdims=True)
    undecided *= 1 - undecided
    weight = undecided.mean(axis=0)
    weight += 1e-3 * weight.mean() + 1e-12  # for a class that is never in question
    centre = (undecided * logits).mean(axis=0) / weight
    variance = (undecided * (logits - centre) ** 2).mean(axis=0) / weight
    return centre, np.sqrt((variance + 1e-12) * weight), np.sqrt(weight)


@dataclass(frozen=True)
class HistogramBinning:
    """The confidence becomes the accuracy of its bin, of bins that hold equally many samples.

    All classes share the bins, by the confidence of the predicted one: each by itself would have a
    few dozen validation images for all its bins.

    Attributes:
        edges: upper ends of all bins but the last, rising; they belong to the bin below.
        accuracies: of the bins, in [0, 1].

    Source: Zadrozny and Elkan 2001; equal mass and the same samples for edges and accuracies as in
    Gupta and Ramdas 2021; applied to the top class, "confidence calibration" in Gupta and Ramdas
    2022.
    """

    edges: Float[np.ndarray, " edges"]
    accuracies: Float[np.ndarray, " bins"]

    @classmethod
    def fit(cls, predictions: Predictions, n_bins: int) -> "HistogramBinning":
        """Bins between samples, none of them empty.

        Equal confidences stay together, so there are fewer bins than `n_bins` where many are equal
        or where there are fewer samples.

        Raises:
            ValueError: fewer than one bin.
        """
        if n_bins < 1:
            raise ValueError(f"n_bins must be positive, got {n_bins}")
        confidences, correct = predictions.confidences()
        last = -(-np.arange(1, n_bins) * len(confidences) // n_bins) - 1  # rank of each upper end
        edges = np.unique(np.sort(confidences)[last])
        edges = edges[edges < confidences.max()]
        bins = np.searchsorted(edges, confidences, side="left")
        return cls(edges, np.bincount(bins, correct) / np.bincount(bins))

    def apply(self, predictions: Predictions) -> Calibrated:
        """Accuracy of the bin that each confidence falls into; beyond the ends, of the last one."""
        confidences, correct = predictions.confidences()
        bins = np.searchsorted(self.edges, confidences, side="left")
        return Calibrated(self.accuracies[bins], correct)


@dataclass(frozen=True)
class Isotonic:
    """The confidence becomes the accuracy, as a rising function of it.

    Attributes:
        confidences: where the function is known, rising.
        accuracies: there, in [0, 1]; linear in between, constant beyond the ends.

    Source: Zadrozny and Elkan 2002, applied to the top class.
    """

    confidences: Float[np.ndarray, " knots"]
    accuracies: Float[np.ndarray, " knots"]

    @classmethod
    def fit(cls, predictions: Predictions) -> "Isotonic":
        """Least squares among rising functions, by scikit-learn."""
        model = IsotonicRegression(out_of_bounds="clip").fit(*predictions.confidences())
        return cls(model.X_thresholds_, model.y_thresholds_)

    def apply(self, predictions: Predictions) -> Calibrated:
        """The function's value at each confidence."""
        confidences, correct = predictions.confidences()
        return Calibrated(np.interp(confidences, self.confidences, self.accuracies), correct)
