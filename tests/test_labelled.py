"""Training on the labels that the service collected: splits by writer, limits, fine-tuning."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.graph import run_graph
from tests.conftest import ROOT
from train.data import Digits, Splits, TrainingSet
from train.fit import MIN_DIGITS, choose_device, fit, predict_logits
from train.labelled import (
    MAX_PER_WRITER_AND_DAY,
    MAX_REPEATS,
    add_labelled,
    load_published,
    read_labelled,
)
from train.model import Network
from train.settings import Settings
from webapp.exports import save_data_set
from webapp.prediction import OUTLIER, Classification, Prediction, first_id, new_prediction

GRAPH = ROOT / "artifacts" / "digits.onnx"
ANSWER = Classification(0, 0.9, [0.1] * 10, doubt=None)


def row(writer: int, digit: int | None, id_: str | None = None) -> Prediction:
    """Return a reviewed prediction whose first pixel is its writer."""
    prediction = new_prediction(ANSWER, "", bytes([writer, *bytes(783)]), str(writer))
    review = "rejected" if digit is None else "accepted"
    return replace(prediction, id=id_ or prediction.id, true_digit=digit, review=review)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with 3 labels and an outlier by each of 20 writers."""
    rows = [row(writer, digit) for writer in range(20) for digit in (1, 2, 3, None)]
    return save(tmp_path, rows)


def save(tmp_path: Path, rows: list[Prediction]) -> Path:
    """Return a file of labels as the service exports it."""
    save_data_set(tmp_path / "labels.npz", rows, int)
    return tmp_path / "labels.npz"


def digits(count: int) -> Digits:
    """Return old training data."""
    return Digits(torch.zeros(count, 28, 28, dtype=torch.uint8), torch.arange(count) % 10)


@pytest.fixture
def splits() -> Splits:
    """Return old data."""
    return Splits(TrainingSet(digits(1000)), {"old": digits(9)}, {"old": digits(9)}, {})


def writers_of(part: Digits) -> set[int]:
    """Return the writers of labelled drawings."""
    return {int(pixel) for pixel in part.pixels[:, 0, 0]}


def test_no_writer_is_in_two_splits(file: Path) -> None:
    parts = [writers_of(part) for part in read_labelled(file)]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert set.union(*parts) == {*range(20)}


def test_writer_stays_in_its_split_when_others_are_added(tmp_path: Path, file: Path) -> None:
    before = [writers_of(part) for part in read_labelled(file)]
    more = read_labelled(save(tmp_path, [row(writer, 1) for writer in range(99)]))
    assert all(old < writers_of(new) for old, new in zip(before, more, strict=True))


def test_labels_are_added_to_the_old_data(file: Path, splits: Splits) -> None:
    added = add_labelled(splits, file)
    assert len(added.train) == 1000 + 2 * 48  # repeated to a tenth of the epoch
    assert (added.train.fixed.labels[:1000] == splits.train.fixed.labels).all()
    assert sorted(set(added.train.fixed.labels[1000:].tolist())) == [OUTLIER, 1, 2, 3]
    assert {name: len(part) for name, part in added.val.items()} == {"old": 9, "labelled": 12}
    assert {name: len(part) for name, part in added.test.items()} == {"old": 9, "labelled": 12}
    assert {name: len(part) for name, part in added.ood.items()} == {"labelled outliers": 4}


def test_few_labels_are_not_repeated_without_limit(tmp_path: Path, splits: Splits) -> None:
    added = add_labelled(splits, save(tmp_path, [row(2, 7)]))
    assert len(added.train) == 1000 + MAX_REPEATS
    assert added.test.keys() == added.val.keys() == {"old"}


def test_writer_contributes_a_limited_number_a_day(tmp_path: Path) -> None:
    rows = [row(2, 7) for _ in range(2000)] + [row(3, 7)]
    later = first_id(datetime.now(UTC) + timedelta(days=1))
    train, _, _ = read_labelled(save(tmp_path, [row(2, 7, later), *rows[::-1]]))
    assert len(train) == MAX_PER_WRITER_AND_DAY + 2


def test_file_without_labels_for_training_is_reported(tmp_path: Path, splits: Splits) -> None:
    with pytest.raises(ValueError, match="no labels for training"):
        add_labelled(splits, save(tmp_path, [row(0, 7)]))


def test_published_weights_are_those_of_the_graph() -> None:
    network, version = load_published(GRAPH)
    pixels = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
    predicted = run_graph(GRAPH.read_bytes(), pixels.numpy()).argmax(axis=1)
    network.eval()
    logits = predict_logits(network, Digits(pixels, torch.zeros(20)))
    assert (logits.argmax(dim=1).numpy() == predicted).all()
    assert version in (ROOT / "artifacts" / "model.json").read_text()


def test_graph_of_another_network_is_reported(tmp_path: Path) -> None:
    model: Any = onnx.load(GRAPH)
    del model.graph.initializer[3]
    onnx.save(model, tmp_path / "digits.onnx")
    with pytest.raises(ValueError, match="--from-scratch"):
        load_published(tmp_path / "digits.onnx")


@pytest.mark.parametrize("card", [None, b"", b"[]", b"{}", b"{"])
def test_graph_without_a_card_is_reported(tmp_path: Path, card: bytes | None) -> None:
    model: Any = onnx.load(GRAPH)
    del model.metadata_props[:]
    if card is not None:
        model.metadata_props.add(key="card", value=card.decode())
    onnx.save(model, tmp_path / "digits.onnx")
    with pytest.raises(ValueError, match="not a published model"):
        load_published(tmp_path / "digits.onnx")


def test_damaged_graph_is_loaded_or_reported(tmp_path: Path) -> None:
    rng, graph, reported = np.random.default_rng(0), tmp_path / "digits.onnx", 0
    for number in range(60):
        content = bytearray(GRAPH.read_bytes())
        for place in rng.integers(-30_000, 4_000, 20):  # not in the weights
            content[place] = rng.integers(256)
        graph.write_bytes(content[: rng.integers(len(content)) if number % 2 else None])
        try:
            load_published(graph)
        except ValueError:
            reported += 1
    assert reported > 30


def test_fine_tuning_starts_with_the_given_weights(splits: Splits) -> None:
    settings = Settings(epochs=1, learning_rate=1e-9, width=4)
    network = Network(4)
    before = network.state_dict()["layers.0.weight"].clone()
    val = {"old": digits(MIN_DIGITS)}
    model = fit(splits.train, val, settings, choose_device("cpu"), network)
    after = model.network.state_dict()["layers.0.weight"]
    assert torch.allclose(after, before, atol=1e-6)
