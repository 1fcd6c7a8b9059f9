"""Simulate one round of learning from labels: python -m bench.learning --help.

People whose handwriting slants backwards, which the model reads badly, post drawings through the
API and label them. The labels are reviewed or not, some are wrong. The data set is exported, the
published model is fine-tuned, and the comparison decides whether the result is published. It is
tested on other people with the same slant.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.population import (
    ARTIFACTS,
    SCENARIOS,
    Person,
    Scenario,
    collect,
    error_rate,
    population,
)
from train.__main__ import add_data_options, loading
from train.data import TEST_WRITERS, VAL_WRITERS, by_writers
from train.sources import read_drawings


def main() -> None:
    """Run the scenarios and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description=__doc__)
    add_data_options(parser)
    parser.add_argument("scenarios", nargs="*", help=f"default: all of {'; '.join(SCENARIOS)}")
    parser.add_argument("--epochs", help="of the training")
    parser.add_argument("--from-scratch", action="store_true", help="compare with a new network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not SCENARIOS.keys() >= {*options.scenarios}:
        parser.error(f"the scenarios are: {'; '.join(SCENARIOS)}")
    with loading():
        drawings = read_drawings(options.drawings, options.without)
    people = population(by_writers(drawings, VAL_WRITERS), options.seed)
    others = population(by_writers(drawings, TEST_WRITERS), options.seed + 1)
    arguments = ["--data", str(options.data), "--drawings", str(options.drawings)]
    arguments += ["--seed", str(options.seed)]
    arguments += ["--epochs", options.epochs] if options.epochs else []
    arguments += ["--from-scratch"] if options.from_scratch else []
    print("| labels | data set | error before | error after | minutes | result |")
    print("|---|---|--:|--:|--:|---|", flush=True)
    for name in options.scenarios or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            cells = run(Path(folder), SCENARIOS[name], people, others, arguments)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def run(
    folder: Path,
    scenario: Scenario,
    people: list[Person],
    others: list[Person],
    arguments: list[str],
) -> list[str]:
    """Run one round; return the cells of the table."""
    models, labels = folder / "artifacts", folder / "labels.npz"
    shutil.copytree(ARTIFACTS, models)
    before = error_rate(models, others)
    started = time.monotonic()
    exported = collect(folder, scenario, people, labels)
    command = [sys.executable, "-m", "train", "--labelled", str(labels), *arguments]
    command += ["--runs", str(folder / "runs"), "--published", str(models / "digits.onnx")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    command = [sys.executable, "-m", "export", "--runs", str(folder / "runs")]
    command += ["--artifacts", str(models)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    minutes = (time.monotonic() - started) / 60
    after = error_rate(models, others)
    return [exported, f"{before:.1%}", f"{after:.1%}", f"{minutes:.1f}", result]


if __name__ == "__main__":
    main()
