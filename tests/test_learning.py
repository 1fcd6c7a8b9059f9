"""One round of learning from labels, from the API to the error of the network, on few digits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.population import ARTIFACTS, SCENARIOS, collect, population, prepare_all
from train.data import Digits, Splits, TrainingSet, load_mnist
from train.fit import choose_device, evaluate_accuracy, fit
from train.labelled import FINE_TUNING, add_labelled, load_published
from train.model import Network
from train.sources import Drawing


@pytest.fixture
def splits(mnist: Path, drawings: list[Drawing], tmp_path: Path) -> Splits:
    """Return a few old digits, with the reviewed labels of people who write with a slant.

    The last test set, "others", has the digits of other people with the same slant.
    """
    train, val, test = load_mnist(mnist)
    labels, people = tmp_path / "labels.npz", population(drawings, seed=0)
    assert collect(tmp_path, SCENARIOS["reviewed"], people, labels) == "800 digits and 0 outliers"
    old = Splits(TrainingSet(train[:4000]), {"MNIST": val[:500]}, {"MNIST": test[:1000]}, {})
    splits = add_labelled(old, labels)
    others = Digits(*map(torch.from_numpy, prepare_all(population(drawings, seed=1))))
    return replace(splits, test=old.test | {"others": others})


def test_round_halves_the_error_of_a_population_and_forgets_nothing(splits: Splits) -> None:
    network, _ = load_published(ARTIFACTS / "digits.onnx")
    before = errors(network.eval(), splits)
    settings = replace(FINE_TUNING, epochs=2, width=network.width)
    model = fit(splits.train, splits.val, settings, choose_device("cpu"), network)
    after = errors(model.network, splits)
    assert before["others"] > 0.1
    assert after["others"] < before["others"] / 2
    assert after["MNIST"] < before["MNIST"] + 0.01


def errors(network: Network, splits: Splits) -> dict[str, float]:
    """Return the share of wrong answers on each test set."""
    return {name: 1 - evaluate_accuracy(network, part) for name, part in splits.test.items()}
