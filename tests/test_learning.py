"""One round of learning from labels, from the API to the error of the network, on few digits."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.population import ARTIFACTS, SCENARIOS, collect, error_rate, population
from train.data import Splits, TrainingSet, load_mnist
from train.fit import choose_device, evaluate_accuracy, fit
from train.labelled import FINE_TUNING, PART, add_labelled, load_published
from train.model import Network
from train.sources import Drawing


@pytest.fixture
def splits(mnist: Path, drawings: list[Drawing], tmp_path: Path) -> Splits:
    """Return a few old digits, with the reviewed labels of people who write with a slant."""
    train, val, test = load_mnist(mnist)
    people = population(drawings, seed=0)
    labels = tmp_path / "labels.npz"
    assert collect(tmp_path, SCENARIOS["reviewed"], people, labels) == "800 digits and 0 outliers"
    assert error_rate(ARTIFACTS, people) > 0.1
    return add_labelled(
        Splits(TrainingSet(train[:2500]), {"MNIST": val[:500]}, {"MNIST": test[:1000]}, {}), labels
    )


def test_round_halves_the_error_of_a_population_and_forgets_nothing(splits: Splits) -> None:
    network, _ = load_published(ARTIFACTS / "digits.onnx")
    before = errors(network.eval(), splits)
    settings = replace(FINE_TUNING, epochs=2, width=network.width)
    model = fit(splits.train, splits.val, settings, choose_device("cpu"), network)
    after = errors(model.network, splits)
    assert after[PART] < before[PART] / 2
    assert after["MNIST"] < before["MNIST"] + 0.01


def errors(network: Network, splits: Splits) -> dict[str, float]:
    """Return the share of wrong answers on each test set."""
    return {name: 1 - evaluate_accuracy(network, part) for name, part in splits.test.items()}
