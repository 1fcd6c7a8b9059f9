"""Turn a training run into artifacts/: python -m export --help."""

import argparse
import json
import sys
from pathlib import Path

import torch

from export.card import install, make_card
from export.graph import make_graph
from train.model import Network


def main() -> None:
    """Export one run, once its graph answers as its network does."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="a folder under runs/ (the newest)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where to")
    options = parser.parse_args()
    runs = (file.parent for file in options.runs.glob("*/checkpoint.pt"))
    run = options.run or max(runs, default=options.runs)
    if not (run / "checkpoint.pt").is_file():
        sys.exit(f"There is no training run at {run}: python -m train makes one.")

    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    network = Network(checkpoint["settings"]["channels"])
    network.load_state_dict(checkpoint["state_dict"])
    graph = make_graph(network.eval(), checkpoint["temperature"], checkpoint["probe"])
    metrics = [json.loads(file.read_text()) for file in run.parent.glob("*/metrics.json")]
    card = make_card(graph, json.loads((run / "metrics.json").read_text()), metrics)
    install(graph, card, run, options.artifacts)
    print(f"{options.artifacts / 'digits.onnx'} is version {card['version']}, from {run}")


if __name__ == "__main__":
    main()
