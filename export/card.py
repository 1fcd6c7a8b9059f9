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
ATTRIBUTIONS = {
    "MNIST": "MNIST database of handwritten digits, LeCun, Cortes, Burges (CC BY-SA 3.0)",
    "drawings": "Pen-Based Recognition of Handwritten Digits, Alpaydin, Alimoglu, and UJI Pen "
    "Characters (Version 2), Llorens et al., UCI Machine Learning Repository (CC BY 4.0)",
    "labelled": "drawings that the service stored, with labels by visitors or the operator",
}
METHODOLOGY = """\
All metrics are measured on data used for neither training nor validation; the gate uses the same
data. MNIST: its test set. white-on-black, black-on-white, transparent, photo: pen strokes by 17
other writers, drawn on a canvas in these styles and prepared by the service's code. shapes:
digits by the generator that also draws training data, with another seed. pictures: the digits
that the service finds in synthetic photographs of the writers' drawings, with kinds of clutter
not used in training, including pictures that the service would call unclear. labelled: drawings
by users of the service, none of whose drawings were used for training. Intervals are 95 %,
bootstrapped over the writers. confident_error_rate: share of the predictions that are wrong and
not uncertain. uncertain_correct_rate: share of the correct predictions that are uncertain, with a
confidence below doubt_below. rejection_rate: share of all predictions that are uncertain. ece:
expected calibration error, 15 bins. ece_floor: the ece of a perfectly calibrated model on as many
digits. confusion: true digits (rows) by predictions (columns). ood_rejection_rate: the
rejection_rate of drawings that are not one digit; only the templates of `symbols` are also used
in training, with other random numbers; five of the `other symbols` are among the training
letters. seed_statistics: accuracy of training runs that differ only in their seed.
"""


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
        "sources": {name: ATTRIBUTIONS[name] for name in metrics["data"]["val"]},
        "data": metrics["data"],
        "settings": metrics["settings"],
        "fine_tuned_from": metrics.get("fine_tuned_from"),
        "figures": metrics["test"],
        "ood_rejection_rate": metrics["ood_rejection_rate"],
        "seed_statistics": seed_statistics(metrics, all_metrics),
        "methodology": " ".join(METHODOLOGY.split()),
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
