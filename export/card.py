"""Write the model card, and publish it with its graph in artifacts/."""

import io
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import onnx

from export.graph import version_of
from train.plots import DPI, plot_seeds

PLOTS = ("curves.png", "confusions.png", "reliability.png", "mistakes.png")
SOURCES = {
    "MNIST": "MNIST database of handwritten digits, LeCun, Cortes, Burges (CC BY-SA 3.0)",
    "drawings": "Pen-Based Recognition of Handwritten Digits, Alpaydin, Alimoglu, "
    "UCI Machine Learning Repository (CC BY 4.0)",
}
METHODOLOGY = (
    "The figures were measured once, on data used for neither training nor validation: MNIST's "
    "test set, and pen strokes by writers 28 to 30, drawn on a canvas in four styles and prepared "
    "by the code that serves. ece: expected calibration error, 15 bins. ece_floor: the ece of a "
    "perfectly calibrated model on so few digits. rejection_rate: share of predictions with a "
    "confidence under doubt_below. confusion: true digits (rows) by predictions (columns). "
    "ood_rejection_rate: the same share for scribbles and letters of kinds and fonts that were "
    "not used in training. seed_statistics: accuracy over training runs that differ only in "
    "their seed."
)


def make_card(
    graph: onnx.ModelProto, metrics: dict[str, Any], all_metrics: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the model card of a graph.

    metrics: of the graph's run; all_metrics: of all runs, including those with other seeds.
    """
    weights = sum(
        math.prod(tensor.dims)
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    )
    return {
        "version": version_of(graph),
        "made_at": metrics["made_at"],
        "doubt_below": metrics["confidence_threshold"],
        "temperature": metrics["temperature"],
        "weights": weights,
        "sources": {name: SOURCES[name] for name in metrics["data"]["val"]},
        "data": metrics["data"],
        "settings": metrics["settings"],
        "figures": metrics["test"],
        "ood_rejection_rate": metrics["ood_rejection_rate"],
        "seed_statistics": seed_statistics(metrics, all_metrics),
        "methodology": METHODOLOGY,
    }


def seed_statistics(
    metrics: dict[str, Any], all_metrics: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return mean and standard deviation of each accuracy over runs that differ only in their seed.

    The standard deviation of a single run is None.
    """
    settings, data = metrics["settings"], metrics["data"]
    runs = {
        str(other["settings"]["seed"]): other["test"]
        for other in (*all_metrics, metrics)  # the exported run is last, and replaces others
        if other["settings"] | {"seed": settings["seed"]} == settings and other["data"] == data
    }
    result = {}
    for part in metrics["test"]:
        accuracies = {seed: test[part]["accuracy"] for seed, test in sorted(runs.items())}
        values = list(accuracies.values())
        std = statistics.stdev(values) if len(values) > 1 else None
        result[part] = {"mean": statistics.mean(values), "std": std, "accuracies": accuracies}
    return result


def publish(graph: onnx.ModelProto, card: dict[str, Any], run: Path, folder: Path) -> None:
    """Write graph, model card and report to `folder`, replacing each file atomically.

    The card is part of the graph's metadata, so that one rename replaces both; model.json is a
    copy. The model of another version is kept in previous/, for `make rollback`.
    """
    graph.metadata_props.add(key="card", value=json.dumps(card))
    (folder / "report").mkdir(parents=True, exist_ok=True)
    for name in PLOTS:
        replace_file(folder / "report" / name, (run / name).read_bytes())
    seeds = io.BytesIO()
    plot_seeds(card["seed_statistics"]).savefig(seeds, dpi=DPI)
    replace_file(folder / "report" / "seeds.png", seeds.getvalue())
    _keep_previous(folder, card["version"])
    replace_file(folder / "model.json", (json.dumps(card, indent=2) + "\n").encode())
    replace_file(folder / "digits.onnx", graph.SerializeToString())


def _keep_previous(folder: Path, version: str) -> None:
    card, graph = folder / "model.json", folder / "digits.onnx"
    if card.exists() and graph.exists() and json.loads(card.read_text())["version"] != version:
        (folder / "previous").mkdir(exist_ok=True)
        for file in (card, graph):
            replace_file(folder / "previous" / file.name, file.read_bytes())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see either the old content or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
