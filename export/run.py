"""Export a training run: convert it, compare it with the published model, publish it."""

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from export.card import make_card, publish
from export.gate import ModelPredictions, as_markdown, compare, objections
from export.graph import make_graph, run_graph
from train.model import Network
from webapp.graphs import GRAPH_FILE

NOT_PUBLISHED = 3  # exit status

TestDigits = dict[str, tuple[Tensor, Tensor]]  # pixels, uint8 [n, 28, 28], and labels, int64 [n]


def export_run(run: Path, folder: Path, force: bool) -> None:
    """Publish a run in `folder`, or exit if it is not better than the model there.

    Raises ValueError if its graph does not agree with its network.
    """
    try:
        checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    except Exception as error:  # torch's errors have no common base class
        sys.exit(f"{run}/checkpoint.pt is damaged ({error}). Train again with python -m train.")
    if "test" not in checkpoint:
        sys.exit(f"{run} was made by an older release. Train again with python -m train.")
    network = Network(checkpoint["settings"]["width"])
    network.load_state_dict(checkpoint["state_dict"])
    graph = make_graph(network.eval(), checkpoint["temperature"], checkpoint["parity_inputs"])
    all_metrics = [json.loads(file.read_text()) for file in run.parent.glob("*/metrics.json")]
    card = make_card(graph, json.loads((run / "metrics.json").read_text()), all_metrics)
    comparison = compare_with_published(graph, card, checkpoint["test"], folder / GRAPH_FILE)
    comparison["forced"] = force and bool(comparison["objections"])
    report = as_markdown(comparison)
    (run / "comparison.md").write_text(report)
    print(report)
    # The last line is the result, for whoever runs this on a schedule.
    if comparison["objections"] and not force:
        print(f"Not published: {', '.join(comparison['objections'])}.")
        sys.exit(NOT_PUBLISHED)
    publish(graph, card | {"comparison": comparison}, run, folder)
    better = [part["part"] for part in comparison["parts"] if part["result"] == "better"]
    print(f"Published version {card['version']}. Better: {', '.join(better) or 'no part'}.")


def compare_with_published(
    graph: onnx.ModelProto, card: dict[str, Any], test: TestDigits, published: Path
) -> dict[str, Any]:
    """Return the comparison of a graph with the published one on the run's test digits."""
    comparison: dict[str, Any] = {"challenger": card["version"], "champion": None}
    if not published.exists():
        return comparison | {"objections": [], "parts": []}
    champion = published.read_bytes()
    try:
        (metadata,) = onnx.load_from_string(champion).metadata_props
        champion_card = json.loads(metadata.value)
        champion_predictions = _predict_test_sets(champion, champion_card, test)
    except Exception as error:  # neither onnx's errors nor onnxruntime's have a common base class
        sys.exit(f"{published} cannot be run ({error}). Roll back, or delete it.")
    labels = {name: labels.numpy() for name, (_, labels) in test.items()}
    predictions = _predict_test_sets(graph.SerializeToString(), card, test)
    parts = compare(labels, champion_predictions, predictions)
    comparison["champion"] = champion_card["version"]
    return comparison | {"objections": objections(parts), "parts": parts}


def _predict_test_sets(graph: bytes, card: dict[str, Any], test: TestDigits) -> ModelPredictions:
    return ModelPredictions(
        {name: run_graph(graph, pixels.numpy()) for name, (pixels, _) in test.items()},
        card["doubt_below"],
    )
