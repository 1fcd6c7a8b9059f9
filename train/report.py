"""Measure what the network learnt, and keep it: a checkpoint, figures, pictures."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.data import Digits, Parts
from train.fit import Fitted, logits_of
from train.settings import Settings

BINS = 15  # of the reliability diagram
DRAWS = 100  # of answers that are right as often as their confidence says
COLUMNS = 16  # of the gallery of mistakes
PROBE = 1_000  # images kept in the checkpoint, for `export` to prove its graph on
PALETTE = ("#1f5fbf", "#c2571a", "#2e8b57", "#7a4fb5", "#9c8420")

Probabilities = NDArray[np.float32]  # [n, 10]


def write(folder: Path, fitted: Fitted, parts: Parts, settings: Settings) -> dict[str, Any]:
    """Look at the reported parts, once, and leave the run's folder; return its metrics."""
    answers = {name: _answers(fitted, part) for name, part in parts.report.items()}
    labels = {name: part.labels.numpy() for name, part in parts.report.items()}
    figures = {name: measure(answers[name], labels[name], fitted.doubt_below) for name in answers}
    doubted = {
        name: share_uncertain(_answers(fitted, part), fitted.doubt_below)
        for name, part in parts.doubt.items()
    }
    folder.mkdir(parents=True)
    _save_checkpoint(folder / "checkpoint.pt", fitted, parts, settings)
    metrics = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(settings),
        "data": {
            "teach": len(parts.teach),
            "choose": {name: len(part) for name, part in parts.choose.items()},
            "report": {name: len(part) for name, part in parts.report.items()},
        },
        "temperature": fitted.temperature,
        "doubt_below": fitted.doubt_below,
        "figures": figures,
        "doubted": doubted,
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    _plot_curves(fitted).savefig(folder / "curves.png", dpi=120)
    _plot_confusions(figures).savefig(folder / "confusions.png", dpi=120)
    _plot_reliability(answers, labels).savefig(folder / "reliability.png", dpi=120)
    _plot_mistakes(answers, parts.report).savefig(folder / "mistakes.png", dpi=120)
    return metrics


def measure(
    probabilities: Probabilities, labels: NDArray[np.int64], doubt_below: float
) -> dict[str, Any]:
    """Return a part's figures: digits, accuracy, calibration, doubt and confusion.

    `calibration_noise` is the calibration error that so few digits would show were every
    confidence exact; `confusion` counts true digits (rows) by answers (columns).
    """
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, answers), 1)
    return {
        "digits": len(labels),
        "accuracy": float((answers == labels).mean()),
        "calibration_error": _calibration_error(confidence, answers == labels),
        "calibration_noise": _calibration_noise(confidence),
        "uncertain": share_uncertain(probabilities, doubt_below),
        "confusion": confusion.tolist(),
    }


def share_uncertain(probabilities: Probabilities, doubt_below: float) -> float:
    """Return the share of answers whose confidence is under the threshold."""
    return float((probabilities.max(axis=1) < doubt_below).mean())


def _answers(fitted: Fitted, digits: Digits) -> Probabilities:
    logits = logits_of(fitted.network, digits)
    probabilities: Probabilities = F.softmax(logits / fitted.temperature, dim=1).numpy()
    return probabilities


def _calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017)."""
    bins = _bins(confidence, right)
    return sum(share * abs(accuracy - sure) for share, accuracy, sure in bins)


def _calibration_noise(confidence: NDArray[np.float32]) -> float:
    rng = np.random.default_rng(0)
    draws = (rng.random(len(confidence)) < confidence for _ in range(DRAWS))
    return float(np.mean([_calibration_error(confidence, right) for right in draws]))


def _bins(
    confidence: NDArray[np.float32], right: NDArray[np.bool_]
) -> list[tuple[float, float, float]]:
    """Return, of each bin of confidence: its share of the answers, accuracy, confidence."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (float(inside.mean()), float(right[inside].mean()), float(confidence[inside].mean()))
        for inside in (number == bin_ for bin_ in range(BINS))
        if inside.any()
    ]


def _save_checkpoint(path: Path, fitted: Fitted, parts: Parts, settings: Settings) -> None:
    probe = torch.cat([part.pixels for part in parts.choose.values()])
    spread = torch.linspace(0, len(probe) - 1, PROBE).long()
    torch.save(
        {
            "settings": asdict(settings),
            "state_dict": fitted.network.state_dict(),
            "temperature": fitted.temperature,
            "probe": probe[spread],
        },
        path,
    )


# ---- pictures --------------------------------------------------------------------------------


def _plot_curves(fitted: Fitted) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.number for epoch in fitted.epochs]
    left.plot(numbers, [epoch.loss for epoch in fitted.epochs], color=PALETTE[0])
    left.set(title="Loss while learning", xlabel="epoch", yscale="log")
    for color, part in zip(PALETTE, fitted.epochs[-1].held_out, strict=False):
        errors = [100 * (1 - epoch.held_out[part]) for epoch in fitted.epochs]
        right.plot(numbers, errors, color=color, label=part)
    right.set(title="Held-out digits read wrong, %", xlabel="epoch", yscale="log")
    right.legend()
    return figure


def plot_seeds(seeds: dict[str, Any]) -> Figure:
    """Show, a row a part, its accuracy in training runs of different seeds."""
    figure = Figure(figsize=(7, 0.5 * len(seeds) + 0.8), layout="constrained")
    axes = figure.subplots()
    for row, part in enumerate(seeds.values()):
        each = [100 * accuracy for accuracy in part["each"].values()]
        axes.plot(each, [row] * len(each), "o", color=PALETTE[0], alpha=0.6)
        axes.plot(100 * part["mean"], row, "|", color=PALETTE[1], markersize=20)
        text = f"{part['mean']:.2%}"
        if part["deviation"] is not None:
            text += f" ± {100 * part['deviation']:.2f}"
        axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center")
    axes.set(title="Read right, %: a dot for each seed", yticks=range(len(seeds)))
    axes.set_yticklabels(seeds)
    axes.invert_yaxis()
    return figure


def plot_study(study: dict[str, dict[str, list[float]]]) -> Figure:
    """Show, a row a variant, the share of each part that it reads wrong, a dot a fold."""
    parts = [*next(iter(study.values()))]
    figure = Figure(figsize=(4 * len(parts) + 2, 0.4 * len(study) + 0.8), layout="constrained")
    for color, axes, part in zip(
        PALETTE, figure.subplots(1, len(parts), sharey=True), parts, strict=False
    ):
        for row, wrong in enumerate(study.values()):
            axes.plot(
                [100 * share for share in wrong[part]],
                [row] * len(wrong[part]),
                "o",
                color=color,
                alpha=0.5,
            )
            axes.plot(100 * np.mean(wrong[part]), row, "|", color=color, markersize=16)
        axes.axvline(100 * np.mean(next(iter(study.values()))[part]), color="grey", linestyle=":")
        axes.set(title=f"{part} read wrong, %", yticks=range(len(study)), yticklabels=study)
    axes.invert_yaxis()
    return figure


def _plot_confusions(figures: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(4 * len(figures), 4.2), layout="constrained")
    for axes, (name, part) in zip(
        figure.subplots(1, len(figures), squeeze=False)[0], figures.items(), strict=True
    ):
        counts = np.array(part["confusion"])
        wrong = counts * (1 - np.eye(10, dtype=int))
        axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(wrong.max(), 1))
        for true, answer in np.argwhere(wrong):
            axes.text(answer, true, str(wrong[true, answer]), ha="center", va="center")
        axes.set(
            title=f"{name}: {part['accuracy']:.2%}",
            xlabel="answer",
            ylabel="true digit",
            xticks=range(10),
            yticks=range(10),
        )
    figure.suptitle("Mistakes")
    return figure


def _plot_reliability(
    answers: dict[str, Probabilities], labels: dict[str, NDArray[np.int64]]
) -> Figure:
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":")
    for color, (name, part) in zip(PALETTE, [*answers.items()][:2], strict=False):
        right = part.argmax(axis=1) == labels[name]
        shares, accuracies, confidences = zip(*_bins(part.max(axis=1), right), strict=True)
        sizes = [10 + 300 * share**0.5 for share in shares]
        axes.scatter(confidences, accuracies, sizes, color=color, alpha=0.6, label=name)
    axes.set(
        title="How often a confidence is right",
        xlabel="confidence (a larger dot: more answers)",
        ylabel="right",
    )
    axes.legend(loc="lower right", markerscale=0.3)
    return figure


def _plot_mistakes(answers: dict[str, Probabilities], parts: dict[str, Digits]) -> Figure:
    """Show the wrong answers given with most confidence, of MNIST and of one look of drawings."""
    rows = []
    for name in [*parts][:2]:  # the other looks are misread alike
        confidence, answer = answers[name].max(axis=1), answers[name].argmax(axis=1)
        wrong = np.flatnonzero(answer != parts[name].labels.numpy())
        worst = wrong[np.argsort(-confidence[wrong])][: 3 * COLUMNS]
        rows += [(name, worst[start : start + COLUMNS]) for start in range(0, len(worst), COLUMNS)]
    figure = Figure(figsize=(COLUMNS, 1.4 * len(rows) + 0.1), layout="constrained")
    places = figure.subplots(max(len(rows), 1), COLUMNS, squeeze=False)
    for (name, worst), row in zip(rows, places, strict=False):
        for axes, index in zip(row, worst, strict=False):
            digit, probabilities = parts[name].labels[index], answers[name][index]
            axes.imshow(parts[name].pixels[index].numpy(), cmap="gray_r")
            axes.set_title(
                f"{digit} read {probabilities.argmax()}\n{probabilities.max():.0%}",
                fontsize="x-small",
            )
        row[0].set_ylabel(name.split(",")[0])
    for axes in places.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    return figure
