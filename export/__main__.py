"""Export a training run to artifacts/: python -m export --help."""

import argparse
import json
import sys
from pathlib import Path

import torch

from export.card import make_card, publish
from export.graph import make_graph
from train.model import Network


def main() -> None:
    """Export one run after verifying that its graph agrees with its network."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run (default: the newest)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="destination")
    options = parser.parse_args()
    runs = (file.parent for file in options.runs.glob("*/checkpoint.pt"))
    run = options.run or max(runs, default=options.runs)
    if not (run / "checkpoint.pt").is_file():
        sys.exit(f"There is no training run at {run}. Create one with python -m train.")

    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    network = Network(checkpoint["settings"]["width"])
    network.load_state_dict(checkpoint["state_dict"])
    graph = make_graph(network.eval(), checkpoint["temperature"], checkpoint["parity_inputs"])
    all_metrics = [json.loads(file.read_text()) for file in run.parent.glob("*/metrics.json")]
    card = make_card(graph, json.loads((run / "metrics.json").read_text()), all_metrics)
    publish(graph, card, run, options.artifacts)
    print(f"Exported {run} to {options.artifacts / 'digits.onnx'}, version {card['version']}")


if __name__ == "__main__":
    main()
