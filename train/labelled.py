"""Learn from the labels that the service has collected: python -m train --labelled labels.npz.

`flask --app webapp.app predictions export --labelled labels.npz` writes the file. The writers are
split into training, validation and test, so that nobody's handwriting is tested on itself:

| split | writers    | use                                                                   |
|-------|------------|-----------------------------------------------------------------------|
| train | three of 5 | repeated up to a share of each epoch; all other training data is kept |
| val   | one of 5   | calibration of the confidence                                         |
| test  | one of 5   | a part of the comparison that decides whether to publish              |

The pseudonym determines the split, so that a writer is in the same split in every round.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from train.data import Digits, Splits
from train.model import Network
from train.settings import Settings
from webapp.prediction import OUTLIER

LABELLED, LABELLED_OUTLIERS = "labelled", "labelled outliers"  # names of the test sets
WRITER_GROUPS, TEST_GROUP, VAL_GROUP = 5, 0, 1
MAX_PER_WRITER_AND_DAY = 50  # so that no single writer decides what the network learns
TRAIN_SHARE = 0.1  # of an epoch
MAX_REPEATS = 20  # of a drawing in an epoch
DAY_MS = 86_400_000

# Starts from the published weights, so a few epochs at a lower learning rate are enough. The old
# training data is replayed completely, so that nothing is forgotten.
FINE_TUNING = Settings(epochs=6, learning_rate=1e-3)

Integers = NDArray[np.int64]  # [n]


def add_labelled(splits: Splits, file: Path) -> Splits:
    """Add labelled drawings to each split. Raises ValueError if there are none for training."""
    train, val, test = read_labelled(file)
    if not len(train):
        raise ValueError(f"{file} has no labels for training.")
    repeats = round(TRAIN_SHARE * len(splits.train) / len(train))
    repeats = min(max(repeats, 1), MAX_REPEATS)
    repeated = Digits(train.pixels.repeat(repeats, 1, 1), train.labels.repeat(repeats))
    is_outlier = test.labels == OUTLIER
    return replace(
        splits,
        train=replace(splits.train, fixed=splits.train.fixed + repeated),
        val=splits.val | _named(LABELLED, val[val.labels != OUTLIER]),
        test=splits.test | _named(LABELLED, test[~is_outlier]),
        ood=splits.ood | _named(LABELLED_OUTLIERS, test[is_outlier]),
    )


def read_labelled(file: Path) -> tuple[Digits, Digits, Digits]:
    """Return the drawings in a file, split by writer into training, validation and test."""
    with np.load(file) as arrays:
        days = days_of(arrays["ids"])
        kept = limit_per_writer_and_day(arrays["writer"], days, arrays["ids"])  # [kept]
        digits = Digits(*(torch.from_numpy(arrays[name][kept]) for name in ("images", "labels")))
        group = torch.from_numpy(arrays["writer"][kept] % WRITER_GROUPS)  # [kept]
        total = len(arrays["ids"])
    print(f"labels {total:,}, {total - len(digits):,} exceed the limit per writer and day")
    is_test, is_val = group == TEST_GROUP, group == VAL_GROUP
    return digits[~is_test & ~is_val], digits[is_val], digits[is_test]


def days_of(ids: NDArray[np.str_]) -> Integers:
    """Return the days since 1970 on which predictions were made, from ids of UUID version 7."""
    times_ms = [int(id_[:8] + id_[9:13], 16) for id_ in ids.tolist()]
    return np.array(times_ms, np.int64) // DAY_MS


def limit_per_writer_and_day(writers: Integers, days: Integers, ids: NDArray[np.str_]) -> Integers:
    """Return the indices of each writer's first MAX_PER_WRITER_AND_DAY drawings of each day."""
    counts, kept = Counter[tuple[int, int]](), []
    for index in np.argsort(ids):
        key = int(writers[index]), int(days[index])
        counts[key] += 1
        if counts[key] <= MAX_PER_WRITER_AND_DAY:
            kept.append(index)
    return np.array(kept, np.int64)


def load_published(graph: Path) -> tuple[Network, str]:
    """Return the network with the weights of a published graph, and its version.

    Raises ValueError if it is damaged, or is the graph of another network.
    """
    try:
        model = onnx.load(graph)
        (card,) = (json.loads(e.value) for e in model.metadata_props if e.key == "card")
        version = card["version"]
    except (DecodeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{graph} is not a published model: {error}") from error
    weights = {
        tensor.name.removeprefix("network."): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
        if tensor.name.startswith("network.")
    }
    network = Network(len(weights.get("layers.0.weight", [0])))
    try:
        # Counts of batches, which batch normalization does not use here, are not in the graph.
        counts = {k: v for k, v in network.state_dict().items() if k.endswith("batches_tracked")}
        network.load_state_dict(weights | counts)
    except RuntimeError as error:
        raise ValueError(f"{graph} has other weights. Train with --from-scratch.") from error
    return network, version


def _named(name: str, digits: Digits) -> dict[str, Digits]:
    return {name: digits} if len(digits) else {}
