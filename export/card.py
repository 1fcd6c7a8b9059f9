"""Write the model card, and publish it with its graph in artifacts/."""

import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import onnx

from export.versions import replace_file, replace_model
from train.plots import DPI, plot_seeds
from webapp.graphs import version_of

REPORT = ("curves.png", "confusions.png", "reliability.png", "mistakes.png", "comparison.md")
SOURCES = {
    "MNIST": "MNIST database of handwritten digits, LeCun, Cortes, Burges (CC BY-SA 3.0)",
    "drawings": "Pen-Based Recognition of Handwritten Digits, Alpaydin, Alimoglu, and UJI Pen "
    "Characters (Version 2), Llorens et al., UCI Machine Learning Repository (CC BY 4.0)",
    "labelled": "drawings that the service stored, with labels that the operator reviewed",
}
METHODOLOGY = (
    "The metrics were measured on data used for neither training nor validation: MNIST's "
    "test set, and pen strokes by 17 other writers, drawn on a canvas in four styles and prepared "
    "by the code that serves. `shapes`: digits drawn by the generator that also draws some of the "
    "training data, with other random numbers. `pictures`: the digits that this code finds in "
    "synthetic photographs of the drawings, with clutter of kinds that were not used in training, "
    "also where the service would say that a picture is unclear. `labelled`: "
    "drawings by users of the service whose other drawings were not used either. "
    "The comparison that decides about publication uses the same data. "
    "Intervals (95 %) are bootstrapped over the writers. "
    "confident_error_rate: share of the predictions that are wrong and not uncertain. "
    "uncertain_correct_rate: share of the correct predictions that are uncertain, with a "
    "confidence under doubt_below. rejection_rate: the same share of all predictions. "
    "ece: expected calibration error, 15 bins. ece_floor: the ece of a "
    "perfectly calibrated model on so few digits. "
    "confusion: true digits (rows) by predictions (columns). "
    "ood_rejection_rate: the rejection_rate of scribbles and letters of kinds and fonts that were "
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
        "version": version_of(graph.SerializeToString(deterministic=True)),
        "made_at": metrics["made_at"],
        "doubt_below": metrics["confidence_threshold"],
        "temperature": metrics["temperature"],
        "weights": weights,
        "sources": {name: SOURCES[name] for name in metrics["data"]["val"]},
        "data": metrics["data"],
        "settings": metrics["settings"],
        "fine_tuned_from": metrics.get("fine_tuned_from"),
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
    copy.
    """
    graph.metadata_props.add(key="card", value=json.dumps(card))
    (folder / "report").mkdir(parents=True, exist_ok=True)
    for name in REPORT:
        replace_file(folder / "report" / name, (run / name).read_bytes())
    seeds = io.BytesIO()
    plot_seeds(card["seed_statistics"]).savefig(seeds, dpi=DPI)
    replace_file(folder / "report" / "seeds.png", seeds.getvalue())
    text = json.dumps(card, indent=2) + "\n"
    replace_model(folder, text.encode(), graph.SerializeToString())
