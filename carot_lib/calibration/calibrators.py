"""Post-hoc calibrators: fitted on held-out predictions of a run, applied to its other predictions.

They differ in what they change. A temperature scales all logits alike and keeps the predicted
class. Vector scaling moves each class by itself and so may change the prediction. Histogram binning
and isotonic regression keep the class and replace its confidence alone: no probabilities of the
other classes remain.
"""

import warnings
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import softmax

from carot_lib.calibration.predictions import Calibrated, Predictions
from carot_lib.calibration.temperature import temperature_of_least_nll

LBFGS_OPTIONS = {"maxiter": 500, "gtol": 1e-7, "ftol": 1e-14}


@runtime_checkable
class Calibrator(Protocol):
    """A calibration that was fitted on one set and can be applied to any."""

    def apply(self, predictions: Predictions) -> Calibrated:
        """The confidences after calibration, and whether the predictions are correct."""


@dataclass(frozen=True)
class Temperature:
    """One number that divides all logits.

    Above 1 it lowers the confidence.

    Source: Guo et al. 2017, Section 4.2.
    """

    temperature: float

    def apply(self, predictions: Predictions) -> Calibrated:
        """Softmax of the logits divided by the temperature."""
        return predictions.calibrated(self.temperature)


@dataclass(frozen=True)
class VectorScaling:
    """A factor and an offset for each of the classifier's classes, before the label space.

    It can change the prediction, and with it the accuracy. Unlike a softmax it depends on a number
    that is added to all logits of a sample, so the logits are taken as the classifier gives them.

    Attributes:
        scale: factor of the logit of each class.
        bias: offset that is added afterwards; `fit` makes its mean 0, as a common offset changes
            nothing.

    Source: Guo et al. 2017, Section 4.2 (vector scaling).
    """

    scale: Float[np.ndarray, " classes"]
    bias: Float[np.ndarray, " classes"]

    @classmethod
    def fit(cls, predictions: Predictions) -> "VectorScaling":
        """Minimise the NLL, a convex problem, by L-BFGS from the best single temperature.

        There is no minimum if a class has no sample, or if classes can be separated without error:
        the search then ends where the NLL hardly falls any more. After 500 steps it ends with a
        warning; 50 are usual.

        Raises:
            ValueError: the label space is not the identity, so some classes cannot be learnt.
        """
        if not predictions.label_space.is_identity:
            raise ValueError(
                f"vector scaling needs all classes, but {predictions.dataset} has a label space"
            )
        logits, labels = predictions.class_logits.astype(np.float64), predictions.labels
        factor = 1 / temperature_of_least_nll(logits, labels, low=1e-3, high=1e3)
        centre, units = _curvature(logits, factor)
        centred = logits - centre
        start = units * np.concatenate([np.full_like(centre, factor), factor * centre])

        def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = vector_nll(scaled / units, centred, labels)
            return value, gradient / units

        result = minimize(objective, start, jac=True, method="L-BFGS-B", options=LBFGS_OPTIONS)
        if result.status == 1:  # out of steps; otherwise converged, or at the end of precision
            warnings.warn(f"vector scaling did not converge: {result.message}", stacklevel=2)
        scale, bias = np.split(result.x / units, 2)
        bias -= scale * centre
        return cls(scale, bias - bias.mean())

    def apply(self, predictions: Predictions) -> Calibrated:
        """Softmax of the scaled logits over the target classes.

        Raises:
            ValueError: the classifier has another number of classes.
        """
        if (n_classes := predictions.class_logits.shape[1]) != len(self.scale):
            given = f"{predictions.dataset} have {n_classes} classes"
            raise ValueError(f"predictions on {given}, not {len(self.scale)}")
        logits = predictions.class_logits * self.scale + self.bias
        return Calibrated.from_logits(predictions.label_space.project(logits), predictions.labels)


def vector_nll(
    parameters: Float[np.ndarray, " twice_classes"], logits: np.ndarray, labels: np.ndarray
) -> tuple[float, Float[np.ndarray, " twice_classes"]]:
    """Mean NLL of vector scaling in nats, and its gradient by all factors, then all offsets."""
    scale, bias = np.split(parameters, 2)
    scores = logits * scale + bias
    scores -= scores.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    label_scores = scores[rows, labels]
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    value = (np.log(total[:, 0]) - label_scores).mean()
    scores /= total
    scores[rows, labels] -= 1  # probabilities minus one-hot labels: the gradient of the scores
    scores /= len(labels)
    return value, np.concatenate([np.einsum("nk,nk->k", scores, logits), scores.sum(axis=0)])


def _curvature(logits: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in which the NLL curves about alike in all factors and offsets.

    In them L-BFGS takes 40 steps instead of 1,300 on 4,000 samples of 100 classes.

    Returns:
        The mean logit of each class, weighted by how undecided the samples are about it; the roots
        of the curvatures along the factors, around these means, and along the offsets, all at a
        common factor of the logits.
    """
    probabilities = softmax(factor * logits, axis=1)
    undecided = probabilities * (1 - probabilities)
    weight = undecided.mean(axis=0)
    weight += 1e-3 * weight.mean() + 1e-12  # for a class that no sample is undecided about
    centre = (undecided * logits).mean(axis=0) / weight
    variance = (undecided * (logits - centre) ** 2).mean(axis=0) / weight
    return centre, np.sqrt(np.concatenate([(variance + 1e-12) * weight, weight]))


@dataclass(frozen=True)
class HistogramBinning:
    """Replaces the confidence by the accuracy of its bin; the bins hold equally many samples.

    All classes share the bins: there are only a few dozen validation images of each class.

    Attributes:
        edges: upper ends of all bins but the last, rising; an edge belongs to the bin below it.
        accuracies: accuracy in each bin, in [0, 1].

    Source: Zadrozny and Elkan 2001; equal mass as in Gupta and Ramdas 2021; applied to the top
    class, "confidence calibration" in Gupta and Ramdas 2022.
    """

    edges: Float[np.ndarray, " edges"]
    accuracies: Float[np.ndarray, " bins"]

    @classmethod
    def fit(cls, predictions: Predictions, n_bins: int) -> "HistogramBinning":
        """Count the correct samples of each bin; no bin is empty.

        Equal confidences stay together, so there are fewer bins than `n_bins` where many are equal
        or where there are fewer samples.
        """
        confidences, correct = predictions.confidences()
        last = -(-np.arange(1, n_bins) * len(confidences) // n_bins) - 1  # rank of each upper end
        edges = np.unique(np.sort(confidences)[last])
        edges = edges[edges < confidences.max()]
        bins = np.searchsorted(edges, confidences, side="left")
        return cls(edges, np.bincount(bins, correct) / np.bincount(bins))

    def apply(self, predictions: Predictions) -> Calibrated:
        """Accuracy of the bin into which each confidence falls."""
        confidences, correct = predictions.confidences()
        bins = np.searchsorted(self.edges, confidences, side="left")
        return Calibrated(self.accuracies[bins], correct)


@dataclass(frozen=True)
class Isotonic:
    """Replaces the confidence by the accuracy, as a rising function of the confidence.

    Attributes:
        confidences: knots of the function, rising.
        accuracies: its values there, in [0, 1]; linear in between, constant beyond the ends.

    Source: Zadrozny and Elkan 2002, applied to the top class.
    """

    confidences: Float[np.ndarray, " knots"]
    accuracies: Float[np.ndarray, " knots"]

    @classmethod
    def fit(cls, predictions: Predictions) -> "Isotonic":
        """Least squares among rising functions, by scikit-learn."""
        from sklearn.isotonic import IsotonicRegression  # takes a second, and few callers need it

        model = IsotonicRegression(out_of_bounds="clip").fit(*predictions.confidences())
        return cls(model.X_thresholds_, model.y_thresholds_)

    def apply(self, predictions: Predictions) -> Calibrated:
        """Value of the function at each confidence."""
        confidences, correct = predictions.confidences()
        return Calibrated(np.interp(confidences, self.confidences, self.accuracies), correct)
