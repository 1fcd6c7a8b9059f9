"""Accuracy, calibration and rejection rate of a model's predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from train.data import Digits
from train.fit import TrainedModel, predict_logits

BINS = 15  # of confidence, for the calibration error
BOOTSTRAP_SAMPLES = 2_000
SIMULATIONS = 100  # for the floor of the calibration error

Probabilities = NDArray[np.float32]  # [n, 10]
Confidences = NDArray[np.float32]  # [n]


def predict_probabilities(model: TrainedModel, digits: Digits) -> Probabilities:
    """Return the calibrated probabilities."""
    logits = predict_logits(model.network, digits)
    probabilities: Probabilities = F.softmax(logits / model.temperature, dim=1).numpy()
    return probabilities


def evaluate(
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    confidence_threshold: float,
    writers: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the metrics of predictions [n, 10] for labels [n], as in the model card.

    writers: of the digits, [n]; if given, intervals over writers are added.

    `ece` is the expected calibration error and `ece_floor` the value that a perfectly calibrated
    model would show on so few digits; `confusion` counts true digits (rows) by predictions
    (columns).
    """
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    is_correct, is_uncertain = predicted == labels, confidences < confidence_threshold
    is_confident_error = ~is_correct & ~is_uncertain  # [n], like these
    rates = {"accuracy": is_correct, "confident_error_rate": is_confident_error}
    intervals = {
        f"{name}_interval": bootstrap_interval(values, writers)
        for name, values in rates.items()
        if writers
    }
    return {
        "digits": len(labels),
        **{name: float(values.mean()) for name, values in rates.items()},
        **intervals,
        "uncertain_correct_rate": float(is_uncertain[is_correct].sum() / max(is_correct.sum(), 1)),
        "ece": calibration_error(confidences, is_correct),
        "ece_floor": _calibration_error_floor(confidences),
        "rejection_rate": rejection_rate(probabilities, confidence_threshold),
        "confusion": confusion.tolist(),
    }


def bootstrap_interval(values: NDArray[np.bool_], writers: Sequence[str]) -> list[float]:
    """Return the 95 % interval of the mean of values [n] over samples of their writers [n].

    Source: the percentile bootstrap, Efron and Tibshirani 1993, "An Introduction to the Bootstrap".
    """
    _, writer = np.unique(writers, return_inverse=True)
    sums, counts = np.bincount(writer, weights=values), np.bincount(writer)  # [writers] each
    rng = np.random.default_rng(0)
    samples = rng.integers(len(counts), size=(BOOTSTRAP_SAMPLES, len(counts)))
    means = sums[samples].sum(axis=1) / counts[samples].sum(axis=1)  # [samples]
    return [float(limit) for limit in np.quantile(means, (0.025, 0.975))]


def rejection_rate(probabilities: Probabilities, confidence_threshold: float) -> float:
    """Return the share of predictions below the confidence threshold."""
    return float((probabilities.max(axis=1) < confidence_threshold).mean())


def calibration_bins(
    confidences: Confidences, correct: NDArray[np.bool_]
) -> list[tuple[float, float, float]]:
    """Return each bin's share of the predictions, their accuracy and their mean confidence."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)  # [n]
    return [
        (float(inside.mean()), float(correct[inside].mean()), float(confidences[inside].mean()))
        for inside in (bins == number for number in range(BINS))
        if inside.any()
    ]


def calibration_error(confidences: Confidences, correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017)."""
    bins = calibration_bins(confidences, correct)
    return sum(share * abs(accuracy - confidence) for share, accuracy, confidence in bins)


def _calibration_error_floor(confidences: Confidences) -> float:
    rng = np.random.default_rng(0)
    simulations = (rng.random(len(confidences)) < confidences for _ in range(SIMULATIONS))
    return float(np.mean([calibration_error(confidences, correct) for correct in simulations]))
