"""The model in artifacts/ reads as well as its card says, by the code that serves it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from train.data import Digits, load_mnist, reported_drawings
from train.drawings import read_drawings
from webapp.classifier import Classifier

ARTIFACTS = ROOT / "artifacts"
MNIST_FLOOR, DRAWINGS_FLOOR = 0.995, 0.985


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Return the model that ships."""
    return Classifier(ARTIFACTS)


def share_right(classifier: Classifier, digits: Digits) -> float:
    """Return the share of digits read right."""
    answers = [classifier.classify(pixels).predicted_digit for pixels in digits.pixels.numpy()]
    return float(np.mean(np.array(answers) == digits.labels.numpy()))


def test_mnist_is_read_as_the_card_says(classifier: Classifier, mnist: Path) -> None:
    digits = load_mnist(mnist)[2]
    right = share_right(classifier, digits)
    assert right >= MNIST_FLOOR
    assert right == pytest.approx(classifier.card["figures"]["MNIST"]["accuracy"], abs=2e-4)


def test_drawings_are_read_as_the_card_says(classifier: Classifier, drawings_file: Path) -> None:
    for look, digits in reported_drawings(read_drawings(drawings_file)).items():
        right = share_right(classifier, digits)
        assert right >= DRAWINGS_FLOOR, look
        assert right == pytest.approx(classifier.card["figures"][look]["accuracy"], abs=2e-3)


def test_card_beside_the_graph_is_the_one_inside(classifier: Classifier) -> None:
    assert json.loads((ARTIFACTS / "model.json").read_text()) == classifier.card
