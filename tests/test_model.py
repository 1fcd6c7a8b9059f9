"""The shipped model performs as its model card says, when run by the code that serves it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image, ImageOps

from tests.conftest import ROOT
from train.data import (
    Digits,
    draw_digits,
    draw_test_digits,
    draw_test_outliers,
    load_mnist,
    readable_test_drawings,
)
from train.metrics import Probabilities, evaluate, rejection_rate
from train.pictures import READABLE, SEVERAL, TEST_KINDS, UNREADABLE, make_picture
from train.sources import Drawing
from webapp.model import Model
from webapp.preprocess import prepare, prepare_with_doubt

ARTIFACTS = ROOT / "artifacts"
MIN_MNIST_ACCURACY, MIN_DRAWINGS_ACCURACY, MIN_OOD_REJECTION_RATE = 0.995, 0.988, 0.8


@pytest.fixture(scope="module")
def model() -> Model:
    """Return the shipped model."""
    return Model(ARTIFACTS / "digits.onnx")


def predict(model: Model, digits: Digits) -> Probabilities:
    """Return the model's probabilities."""
    answers = [model.classify(pixels).probabilities for pixels in digits.pixels.numpy()]
    return np.array(answers, np.float32)


def measure(model: Model, digits: Digits) -> dict[str, Any]:
    """Return the model's metrics."""
    probabilities = predict(model, digits)
    return evaluate(probabilities, digits.labels.numpy(), model.card["doubt_below"])


def test_mnist_metrics_match_the_card(model: Model, mnist: Path) -> None:
    metrics = measure(model, load_mnist(mnist)[2])
    assert metrics["accuracy"] >= MIN_MNIST_ACCURACY
    assert metrics["ece"] < 0.005
    assert metrics["rejection_rate"] < 0.015
    card = model.card["figures"]["MNIST"]
    assert metrics["accuracy"] == pytest.approx(card["accuracy"], abs=2e-4)


def test_drawings_metrics_match_the_card(model: Model, drawings: list[Drawing]) -> None:
    metrics = measure(model, draw_digits(readable_test_drawings(drawings), ["white-on-black"]))
    card = model.card["figures"]["drawings, white-on-black"]
    assert metrics["accuracy"] == pytest.approx(card["accuracy"], abs=1e-3)
    assert metrics["accuracy"] >= MIN_DRAWINGS_ACCURACY
    assert metrics["ece"] < 0.011
    assert metrics["rejection_rate"] < 0.02


def test_styles_do_not_matter(model: Model, drawings: list[Drawing]) -> None:
    styles = draw_test_digits(drawings[::36]).items()
    accuracies = [measure(model, digits)["accuracy"] for _, digits in styles]
    assert max(accuracies) - min(accuracies) <= 0.02
    card = [part["accuracy"] for name, part in model.card["figures"].items() if "," in name]
    assert max(card) - min(card) <= 0.003


@pytest.mark.parametrize("canvas_px", [140, 560])
def test_canvas_size_does_not_matter(model: Model, drawings: list[Drawing], canvas_px: int) -> None:
    some = readable_test_drawings(drawings[::8])
    accuracy = measure(model, draw_digits(some, ["white-on-black"]))["accuracy"]
    scaled = draw_digits(some, ["white-on-black"], canvas_px)
    assert measure(model, scaled)["accuracy"] == pytest.approx(accuracy, abs=0.005)


def test_mnist_digits_on_a_canvas_are_classified_as_well(model: Model, mnist: Path) -> None:
    digits = load_mnist(mnist)[2][::20]
    rng = np.random.default_rng(0)
    drawn = np.array([prepare(on_canvas(pixels, rng)) for pixels in digits.pixels.numpy()])
    on_canvases = Digits(digits.pixels.new_tensor(drawn), digits.labels)
    accuracy = measure(model, digits)["accuracy"]
    assert measure(model, on_canvases)["accuracy"] == pytest.approx(accuracy, abs=0.003)


def on_canvas(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return an MNIST digit enlarged and placed at random on a dark or light canvas."""
    edge = int(rng.integers(280, 700))
    digit = Image.fromarray(pixels)
    digit = digit.crop(digit.getbbox())
    scale = edge * rng.uniform(0.25, 0.9) / max(digit.size)
    digit = digit.resize([max(1, round(side * scale)) for side in digit.size])
    canvas = Image.new("L", (edge, edge))
    left, top = (int(rng.integers(0, edge - side + 1)) for side in digit.size)
    canvas.paste(digit, (left, top))
    return ImageOps.invert(canvas) if rng.random() < 0.5 else canvas


def test_outliers_are_called_uncertain(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.TEST_SYNTHETIC", 300)
    for kind, outliers in draw_test_outliers().items():
        rate = rejection_rate(predict(model, outliers), model.card["doubt_below"])
        assert rate >= MIN_OOD_REJECTION_RATE, kind
        assert rate == pytest.approx(model.card["ood_rejection_rate"][kind], abs=0.03)


def test_pictures_of_paper_are_read_if_they_show_one_digit_and_else_uncertain(
    model: Model, drawings: list[Drawing]
) -> None:
    digits = readable_test_drawings(drawings)
    outcomes: dict[str, list[bool]] = {READABLE: [], SEVERAL: [], UNREADABLE: []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        digit, *others = (digits[i] for i in rng.integers(len(digits), size=3))
        strokes = [other.strokes for other in others]
        image, outcome = make_picture(digit.strokes, strokes, TEST_KINDS, 0.5, rng)
        pixels, doubt = prepare_with_doubt(image)
        answer = model.classify(pixels)
        is_uncertain = bool(doubt or answer.doubt)
        is_read = answer.predicted_digit == digit.digit and not is_uncertain
        outcomes[outcome].append(is_read if outcome == READABLE else is_uncertain)
    assert {outcome for outcome, good in outcomes.items() if np.mean(good) < 0.8} == set()


def test_model_is_small(model: Model) -> None:
    assert model.card["weights"] <= 200_000


def test_card_beside_the_graph_is_the_one_inside(model: Model) -> None:
    assert json.loads((ARTIFACTS / "model.json").read_text()) == model.card


def test_card_with_the_key_names_of_an_older_release_is_read(tmp_path: Path) -> None:
    graph = onnx.load(ARTIFACTS / "digits.onnx")
    card = json.loads(graph.metadata_props.pop().value)
    older = {"version": card["version"], "doubt_below": 1.0, "doubted": {}, "seeds": {}, "how": ""}
    older["figures"] = {"MNIST": {"accuracy": 0.99, "calibration_noise": 0.001}}
    graph.metadata_props.add(key="card", value=json.dumps(older))
    onnx.save(graph, tmp_path / "digits.onnx")
    model = Model(tmp_path / "digits.onnx")
    assert (model.card, model.version) == (older, card["version"])
    assert model.classify(np.zeros((28, 28), np.uint8)).uncertain
