"""Plots of training and evaluation, for artifacts/report/."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from train.data import Digits
from train.fit import EpochMetrics
from train.metrics import Probabilities, calibration_bins

DPI = 120
PALETTE = ("#1f5fbf", "#c2571a", "#2e8b57", "#7a4fb5", "#9c8420")
COLUMNS = 16  # of the errors


def plot_curves(epochs: Sequence[EpochMetrics]) -> Figure:
    """Plot the training loss and the validation error rates by epoch."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.number for epoch in epochs]
    left.plot(numbers, [epoch.loss for epoch in epochs], color=PALETTE[0])
    left.set(title="Training loss", xlabel="epoch", yscale="log")
    for color, name in zip(PALETTE, epochs[-1].val_accuracy, strict=False):
        error_rates = [100 * (1 - epoch.val_accuracy[name]) for epoch in epochs]
        right.plot(numbers, error_rates, color=color, label=name)
    right.set(title="Validation error rate, %", xlabel="epoch", yscale="log")
    right.legend()
    return figure


def plot_seeds(statistics: dict[str, Any]) -> Figure:
    """Plot the accuracy on each test set: a row with a dot for each seed."""
    figure = Figure(figsize=(7, 0.5 * len(statistics) + 0.8), layout="constrained")
    axes = figure.subplots()
    for row, part in enumerate(statistics.values()):
        accuracies = [100 * accuracy for accuracy in part["accuracies"].values()]
        axes.plot(accuracies, [row] * len(accuracies), "o", color=PALETTE[0], alpha=0.6)
        axes.plot(100 * part["mean"], row, "|", color=PALETTE[1], markersize=20)
        deviation = "" if part["std"] is None else f" ± {100 * part['std']:.2f}"
        text, coordinates = f"{part['mean']:.2%}{deviation}", ("axes fraction", "data")
        axes.annotate(text, (1.02, row), xycoords=coordinates, va="center")
    axes.set(title="Test accuracy, %", yticks=range(len(statistics)), yticklabels=statistics)
    axes.invert_yaxis()
    return figure


def plot_ablations(ablations: dict[str, dict[str, list[float]]]) -> Figure:
    """Plot the error rates of each variant: a row with a dot for each fold."""
    baseline = next(iter(ablations.values()))
    size = 4 * len(baseline) + 2, 0.4 * len(ablations) + 0.8
    figure = Figure(figsize=size, layout="constrained")
    plots = figure.subplots(1, len(baseline), sharey=True)
    for color, axes, part in zip(PALETTE, plots, baseline, strict=False):
        for row, variant in enumerate(ablations.values()):
            error_rates = 100 * np.array(variant[part])
            axes.plot(error_rates, [row] * len(error_rates), "o", color=color, alpha=0.5)
            axes.plot(error_rates.mean(), row, "|", color=color, markersize=16)
        axes.axvline(100 * np.mean(baseline[part]), color="gray", linestyle=":")
        axes.set(title=f"{part} errors, %", yticks=range(len(ablations)), yticklabels=ablations)
    axes.invert_yaxis()
    return figure


def plot_confusions(metrics: dict[str, Any]) -> Figure:
    """Plot the confusion matrix of each test set, without its diagonal."""
    figure = Figure(figsize=(4 * len(metrics), 4.5), layout="constrained")
    plots = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (name, part) in zip(plots, metrics.items(), strict=True):
        errors = np.array(part["confusion"]) * (1 - np.eye(10, dtype=int))
        axes.imshow(errors, cmap="Oranges", vmin=0, vmax=max(errors.max(), 1))
        for label, predicted in np.argwhere(errors):
            axes.text(predicted, label, str(errors[label, predicted]), ha="center", va="center")
        axes.set(title=f"{name}: {part['accuracy']:.2%}", xlabel="prediction", ylabel="label")
        axes.set(xticks=range(10), yticks=range(10))
    return figure


def plot_reliability(predictions: Mapping[str, Probabilities], test: dict[str, Digits]) -> Figure:
    """Plot accuracy by confidence (Guo et al. 2017); larger dots stand for more predictions."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="gray", linestyle=":")
    for color, name in zip(PALETTE, [*test][:2], strict=False):  # MNIST, one style of drawings
        probabilities = predictions[name]
        correct = probabilities.argmax(axis=1) == test[name].labels.numpy()
        bins = calibration_bins(probabilities.max(axis=1), correct)
        shares, accuracies, confidences = zip(*bins, strict=True)
        sizes = [10 + 300 * share**0.5 for share in shares]
        axes.scatter(confidences, accuracies, sizes, color=color, alpha=0.6, label=name)
    axes.set(title="Reliability diagram", xlabel="confidence", ylabel="accuracy")
    axes.legend(loc="lower right", markerscale=0.3)
    return figure


def plot_errors(predictions: Mapping[str, Probabilities], test: dict[str, Digits]) -> Figure:
    """Plot the most confident errors on MNIST and on one style of drawings."""
    rows = []
    for name in [*test][:2]:  # the errors in the other styles are similar
        probabilities = predictions[name]
        errors = np.flatnonzero(probabilities.argmax(axis=1) != test[name].labels.numpy())
        worst = errors[np.argsort(-probabilities[errors].max(axis=1))][: 3 * COLUMNS]
        rows += [(name, worst[start : start + COLUMNS]) for start in range(0, len(worst), COLUMNS)]
    # One pair of axes: a pair for each picture takes seconds to lay out.
    figure = Figure(figsize=(COLUMNS, 1.4 * max(len(rows), 1)))
    axes = figure.add_axes((0.02, 0, 0.98, 1))
    axes.set_axis_off()
    for number, (name, worst) in enumerate(rows):
        axes.text(0, number + 0.65, name.split(",")[0], rotation=90, ha="right", va="center")
        for column, index in enumerate(worst):
            label, probabilities = test[name].labels[index], predictions[name][index]
            image = test[name].pixels[index].numpy()
            extent = (column + 0.05, column + 0.95, number + 0.98, number + 0.34)
            axes.imshow(image, cmap="gray_r", extent=extent, aspect="auto")
            title = f"{label} as {probabilities.argmax()}\n{probabilities.max():.0%}"
            axes.text(column + 0.5, number + 0.32, title, ha="center", va="bottom", size="x-small")
    axes.set(xlim=(0, COLUMNS), ylim=(max(len(rows), 1), 0))
    return figure
