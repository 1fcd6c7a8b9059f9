"""The model's card: what a machine checks and a person reads; and how it is put in place."""

import io
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import onnx

from export.graph import version_of
from train.report import plot_seeds

PICTURES = ("curves.png", "confusions.png", "reliability.png", "mistakes.png")
SOURCES = {
    "MNIST": "MNIST database of handwritten digits, LeCun, Cortes, Burges (CC BY-SA 3.0)",
    "drawings": "Pen-Based Recognition of Handwritten Digits, Alpaydin, Alimoglu, "
    "UCI Machine Learning Repository (CC BY 4.0)",
}
HOW = (
    "Measured once, after everything was chosen, on digits that neither taught nor chose: MNIST's "
    "test set, and pen strokes of writers 28 to 30, drawn on a canvas in four looks and prepared "
    "by the code that serves. accuracy: share read right. calibration_error: expected "
    "calibration error over 15 bins. calibration_noise: what that would be for so few digits were "
    "every confidence exact. uncertain: share under doubt_below. confusion: true digits "
    "(rows) by answers (columns). doubted: share under doubt_below of scribbles and letters of "
    "kinds and fonts that were not taught. seeds: accuracy over training runs that differ in "
    "their seed alone."
)


def make_card(
    graph: onnx.ModelProto, metrics: dict[str, Any], all_metrics: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the card of a graph that a run with these metrics left.

    all_metrics: of all runs, among them those with other seeds.
    """
    weights = sum(
        math.prod(tensor.dims)
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    )
    return {
        "version": version_of(graph),
        "made_at": metrics["made_at"],
        "doubt_below": metrics["doubt_below"],
        "temperature": metrics["temperature"],
        "weights": weights,
        "sources": {name: SOURCES[name] for name in metrics["data"]["choose"]},
        "data": metrics["data"],
        "settings": metrics["settings"],
        "figures": metrics["figures"],
        "doubted": metrics["doubted"],
        "seeds": over_seeds(metrics, all_metrics),
        "how": HOW,
    }


def over_seeds(
    metrics: dict[str, Any], all_metrics: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return each part's accuracy over the runs that differ in their seed alone.

    The deviation of a single run is None: it tells nothing of luck.
    """
    settings, data = metrics["settings"], metrics["data"]
    alike = {
        str(other["settings"]["seed"]): other["figures"]
        for other in (*all_metrics, metrics)  # last, and so kept, is the run that ships
        if other["settings"] | {"seed": settings["seed"]} == settings and other["data"] == data
    }
    seeds = {}
    for part in metrics["figures"]:
        each = {seed: figures[part]["accuracy"] for seed, figures in sorted(alike.items())}
        values = list(each.values())
        deviation = statistics.stdev(values) if len(values) > 1 else None
        seeds[part] = {"mean": statistics.mean(values), "deviation": deviation, "each": each}
    return seeds


def install(graph: onnx.ModelProto, card: dict[str, Any], run: Path, folder: Path) -> None:
    """Put graph, card and report into `folder`, each file replaced whole.

    The card travels inside the graph, so that one rename replaces both; model.json is a copy. What
    another model leaves is kept in previous/, for `make rollback`.
    """
    graph.metadata_props.add(key="card", value=json.dumps(card))
    (folder / "report").mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        replace_file(folder / "report" / picture, (run / picture).read_bytes())
    seeds = io.BytesIO()
    plot_seeds(card["seeds"]).savefig(seeds, dpi=120)
    replace_file(folder / "report" / "seeds.png", seeds.getvalue())
    _keep_previous(folder, card["version"])
    replace_file(folder / "model.json", (json.dumps(card, indent=2) + "\n").encode())
    replace_file(folder / "digits.onnx", graph.SerializeToString())


def _keep_previous(folder: Path, version: str) -> None:
    files = [folder / name for name in ("model.json", "digits.onnx")]
    if not all(file.exists() for file in files):
        return
    if json.loads(files[0].read_text())["version"] != version:
        (folder / "previous").mkdir(exist_ok=True)
        for file in files:
            replace_file(folder / "previous" / file.name, file.read_bytes())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole: whoever reads it sees the old content or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
