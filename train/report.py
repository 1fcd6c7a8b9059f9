"""Evaluate a trained model on the test data, and write the folder of its run."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from train.data import Splits
from train.fit import TrainedModel
from train.metrics import evaluate, predict_probabilities, rejection_rate
from train.plots import DPI, plot_confusions, plot_curves, plot_errors, plot_reliability
from train.settings import Settings

PARITY_INPUTS = 1_000  # images in the checkpoint, on which export compares the graph to the network


def write_run(
    folder: Path,
    model: TrainedModel,
    splits: Splits,
    settings: Settings,
    fine_tuned_from: str | None = None,
) -> dict[str, Any]:
    """Evaluate the model on the test data; write its files; return the metrics.

    fine_tuned_from: the version of the model whose weights the training started with.
    """
    threshold = model.confidence_threshold
    predictions = {
        name: predict_probabilities(model, digits) for name, digits in splits.test.items()
    }
    metrics: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(settings),
        "fine_tuned_from": fine_tuned_from,
        "data": {
            "train": len(splits.train),
            "val": {name: len(digits) for name, digits in splits.val.items()},
            "test": {name: len(digits) for name, digits in splits.test.items()},
        },
        "temperature": model.temperature,
        "confidence_threshold": threshold,
        "test": {
            name: evaluate(
                predictions[name],
                digits.labels.numpy(),
                threshold,
                splits.test_writers if name.startswith("drawings,") else (),
            )
            for name, digits in splits.test.items()
        },
        "ood_rejection_rate": {
            name: rejection_rate(predict_probabilities(model, outliers), threshold)
            for name, outliers in splits.ood.items()
        },
        "epochs": [asdict(epoch) for epoch in model.epochs],
    }
    folder.mkdir(parents=True)
    _save_checkpoint(folder / "checkpoint.pt", model, splits, settings)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    plot_curves(model.epochs).savefig(folder / "curves.png", dpi=DPI)
    plot_confusions(metrics["test"]).savefig(folder / "confusions.png", dpi=DPI)
    plot_reliability(predictions, splits.test).savefig(folder / "reliability.png", dpi=DPI)
    plot_errors(predictions, splits.test).savefig(folder / "mistakes.png", dpi=DPI)
    return metrics


def _save_checkpoint(path: Path, model: TrainedModel, splits: Splits, settings: Settings) -> None:
    pixels = torch.cat([digits.pixels for digits in splits.val.values()])  # [n, 28, 28]
    checkpoint = {
        "settings": asdict(settings),
        "state_dict": model.network.state_dict(),
        "temperature": model.temperature,
        "parity_inputs": pixels[torch.linspace(0, len(pixels) - 1, PARITY_INPUTS).long()],
        # `export` compares the model with the published one on these.
        "test": {
            name: (digits.pixels, digits.labels)
            for name, digits in (splits.test | splits.ood).items()
        },
    }
    torch.save(checkpoint, path)
