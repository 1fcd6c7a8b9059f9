"""People whose handwriting slants backwards, as users of the service. The model reads it badly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask
from numpy.typing import NDArray

from tests.conftest import ROOT
from train.sources import Drawing
from webapp.app import create_app
from webapp.model import Model
from webapp.preprocess import prepare_with_doubt
from webapp.settings import Settings
from webapp.startup import check_and_migrate
from webapp.strokes import draw_strokes

ARTIFACTS = ROOT / "artifacts"
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


def noisy_labeller(error_rate: float) -> Labeller:
    """Return a labeller who makes random errors."""
    return lambda digit, rng: (digit + (rng.random() < error_rate) * int(rng.integers(1, 10))) % 10


SCENARIOS = {
    "reviewed": Scenario(noisy_labeller(0), is_reviewed=True),
    "unreviewed, all correct": Scenario(noisy_labeller(0)),
    "unreviewed, 10 % wrong": Scenario(noisy_labeller(0.1)),
    "unreviewed, 30 % wrong": Scenario(noisy_labeller(0.3)),
    "unreviewed, 7 called 1": Scenario(lambda digit, rng: 1 if digit == 7 else digit),
}


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
    pixels, digits = prepare_all(people)
    answers = [model.classify(each).predicted_digit for each in pixels]
    return float(np.mean(answers != digits))


def prepare_all(people: list[Person]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return what the model is given, uint8 [n, 28, 28], and the digits that were drawn, [n]."""
    drawings = [drawing for person in people for drawing in person]
    images = [draw_strokes(strokes) for _, strokes in drawings]
    pixels = [prepare_with_doubt(image, is_drawing=True).pixels for image in images]
    return np.stack(pixels), np.array([digit for digit, _ in drawings])
