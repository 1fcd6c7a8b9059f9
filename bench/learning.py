"""Simulate one round of learning from labels: python -m bench.learning --help.

People whose handwriting slants backwards, which the model reads badly, post drawings through the
API and label them. The labels are reviewed or not, some are wrong. The data set is exported, the
published model is trained further, and the comparison decides about its publication. Other people
with the same slant are the test.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask
from numpy.typing import NDArray

from train.__main__ import add_data_options, loading
from train.data import TEST_WRITERS, VAL_WRITERS, by_writers
from train.sources import Drawing, read_drawings
from webapp.app import create_app
from webapp.model import Model
from webapp.preprocess import prepare
from webapp.settings import Settings
from webapp.startup import check_and_migrate
from webapp.strokes import draw_strokes

ARTIFACTS = Path(__file__).parent.parent / "artifacts"
WRITERS, DIGITS = 40, 20  # people, and drawings by each
SLANT, SLANT_DEVIATION = -1.2, 0.2  # to the left, for each unit upwards
PEN_WIDTH = 0.07  # of the pad's edge
TOKEN = "of-the-operator"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}

Strokes = list[NDArray[np.float64]]  # as in webapp/strokes.py
Person = list[tuple[int, Strokes]]  # digits and their drawings
Labeller = Callable[[int, np.random.Generator], int]


@dataclass(frozen=True)
class Scenario:
    """How people label, and whether the operator reviews their labels."""

    label: Labeller
    is_reviewed: bool = False


def wrong(share: float) -> Labeller:
    """Return a labeller who is wrong at random."""
    return lambda digit, rng: (digit + (rng.random() < share) * int(rng.integers(1, 10))) % 10


SCENARIOS = {
    "reviewed": Scenario(wrong(0), is_reviewed=True),
    "unreviewed, all correct": Scenario(wrong(0)),
    "unreviewed, 10 % wrong": Scenario(wrong(0.1)),
    "unreviewed, 30 % wrong": Scenario(wrong(0.3)),
    "unreviewed, 7 called 1": Scenario(lambda digit, rng: 1 if digit == 7 else digit),
}


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


def population(drawings: Sequence[Drawing], seed: int) -> list[Person]:
    """Return people with a backward slant of their own, who draw each digit equally often."""
    rng = np.random.default_rng(seed)
    slants = rng.normal(SLANT, SLANT_DEVIATION, WRITERS)
    by_digit = [[each for each in drawings if each.digit == digit] for digit in range(10)]
    return [
        [
            (digit, _slanted(by_digit[digit][rng.integers(len(by_digit[digit]))].strokes, slant))
            for digit in [*range(10)] * (DIGITS // 10)
        ]
        for slant in slants
    ]


def _slanted(strokes: Sequence[NDArray[np.float64]], slant: float) -> Strokes:
    """Return strokes in the middle of the pad, with their x moved by `slant` times their height."""
    points = np.concatenate(strokes) @ np.array([[1, 0], [-slant, 1]])  # [n, 2], y points down
    low, span = points.min(axis=0), np.ptp(points, axis=0).max()
    ends = np.cumsum([len(stroke) for stroke in strokes])[:-1]
    placed = 0.5 + 0.8 * ((points - low) / span - np.ptp(points, axis=0) / span / 2)
    widths = np.full((len(points), 1), PEN_WIDTH)
    return np.split(np.hstack((placed, widths)), ends)


def collect(folder: Path, scenario: Scenario, people: list[Person], labels: Path) -> str:
    """Post and label the drawings, review and export them; return what the export prints."""
    app = new_app(folder)
    rng = np.random.default_rng(0)
    for person in people:
        client = app.test_client()  # with a cookie of its own
        for digit, strokes in person:
            body = {"strokes": [stroke.round(4).tolist() for stroke in strokes]}
            answer: Any = client.post("/api/predictions", json=body).json
            label, url = scenario.label(digit, rng), f"/api/predictions/{answer['id']}"
            assert client.patch(url, json={"true_digit": label}).status_code == 200
            if scenario.is_reviewed:
                review = {"true_digit": digit, "review": "accepted"}
                assert client.patch(url, json=review, headers=HEADERS).status_code == 200
    options = [] if scenario.is_reviewed else ["--unreviewed"]
    command = ["predictions", "export", "--labelled", *options, str(labels)]
    printed = app.test_cli_runner().invoke(args=command).output
    return printed.replace(f" in {labels}", "").strip().replace("\n", "; ")


def new_app(folder: Path) -> Flask:
    """Return a service with an empty database in a folder."""
    settings = Settings(data_dir=folder, model_dir=ARTIFACTS, operator_token=TOKEN)
    check_and_migrate(settings)
    return create_app(settings)


def error_rate(models: Path, people: list[Person]) -> float:
    """Return the share of drawings that the model in a folder reads wrong."""
    model = Model(models / "digits.onnx")
    wrong_answers = [
        model.classify(prepare(draw_strokes(strokes))).predicted_digit != digit
        for person in people
        for digit, strokes in person
    ]
    return float(np.mean(wrong_answers))


if __name__ == "__main__":
    main()
