"""The model in artifacts/ reads as well as its card says, by the code that serves it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import ROOT
from train.data import (
    REPORTED_WRITERS,
    Digits,
    by_writers,
    doubted_drawings,
    draw_digits,
    load_mnist,
    reported_drawings,
)
from train.drawings import read_drawings
from train.report import measure
from webapp.classifier import Classifier
from webapp.preprocess import prepare

ARTIFACTS = ROOT / "artifacts"
MNIST_FLOOR, DRAWINGS_FLOOR, DOUBTED_FLOOR = 0.995, 0.989, 0.9


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Return the model that ships."""
    return Classifier(ARTIFACTS / "digits.onnx")


def read(classifier: Classifier, digits: Digits) -> dict[str, Any]:
    """Return the figures of what the model answers to digits."""
    answers = [classifier.classify(pixels).probabilities for pixels in digits.pixels.numpy()]
    doubt_below = classifier.card["doubt_below"]
    return measure(np.array(answers, np.float32), digits.labels.numpy(), doubt_below)


def test_mnist_is_read_as_the_card_says(classifier: Classifier, mnist: Path) -> None:
    figures = read(classifier, load_mnist(mnist)[2])
    assert figures["accuracy"] >= MNIST_FLOOR
    assert figures["calibration_error"] < 0.005
    assert figures["uncertain"] < 0.01
    card = classifier.card["figures"]["MNIST"]
    assert figures["accuracy"] == pytest.approx(card["accuracy"], abs=2e-4)


def test_drawings_are_read_as_the_card_says(classifier: Classifier, drawings_file: Path) -> None:
    right = []
    for look, digits in reported_drawings(read_drawings(drawings_file)).items():
        figures = read(classifier, digits)
        card = classifier.card["figures"][look]
        assert figures["accuracy"] == pytest.approx(card["accuracy"], abs=2e-3), look
        assert figures["calibration_error"] < 0.011, look  # 749 exact ones would show 0.007
        assert figures["uncertain"] < 0.015, look
        right.append(figures["accuracy"])
    assert min(right) >= DRAWINGS_FLOOR
    assert max(right) - min(right) <= 0.003


@pytest.mark.parametrize("edge", [140, 560])
def test_canvas_edge_does_not_matter(
    classifier: Classifier, drawings_file: Path, edge: int
) -> None:
    reported = by_writers(read_drawings(drawings_file), REPORTED_WRITERS)
    digits = draw_digits(reported, ["white-on-black"], edge)
    card = classifier.card["figures"]["drawings, white-on-black"]
    assert read(classifier, digits)["accuracy"] == pytest.approx(card["accuracy"], abs=0.003)


def test_mnist_is_read_from_a_canvas_too(classifier: Classifier, mnist: Path) -> None:
    digits = load_mnist(mnist)[2][::5]
    rng = np.random.default_rng(0)
    drawn = np.array([prepare(on_canvas(pixels, rng)) for pixels in digits.pixels.numpy()])
    right = read(classifier, Digits(digits.pixels.new_tensor(drawn), digits.labels))["accuracy"]
    assert right == pytest.approx(read(classifier, digits)["accuracy"], abs=0.002)


def on_canvas(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return an MNIST digit enlarged, anywhere on a canvas, dark or light."""
    edge = int(rng.integers(280, 700))
    digit = Image.fromarray(pixels)
    digit = digit.crop(digit.getbbox())
    scale = edge * rng.uniform(0.25, 0.9) / max(digit.size)
    digit = digit.resize([max(1, round(side * scale)) for side in digit.size])
    canvas = Image.new("L", (edge, edge))
    left, top = (int(rng.integers(0, edge - side + 1)) for side in digit.size)
    canvas.paste(digit, (left, top))
    return ImageOps.invert(canvas) if rng.random() < 0.5 else canvas


def test_what_is_no_digit_is_doubted(classifier: Classifier) -> None:
    for kind, drawings in doubted_drawings().items():
        uncertain = read(classifier, drawings)["uncertain"]
        assert uncertain >= DOUBTED_FLOOR, kind
        assert uncertain == pytest.approx(classifier.card["doubted"][kind], abs=5e-3)


def test_model_is_small(classifier: Classifier) -> None:
    assert classifier.card["weights"] <= 400_000


def test_card_beside_the_graph_is_the_one_inside(classifier: Classifier) -> None:
    assert json.loads((ARTIFACTS / "model.json").read_text()) == classifier.card
