"""The record of predictions, the same on SQLite and on Postgres."""

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from webapp.classifier import Answer
from webapp.errors import NotFound, StartError, StorageAway
from webapp.storage import Filters, Prediction, Storage, new_prediction

ANSWER = Answer(7, 0.9, [0.01] * 7 + [0.9, 0.02, 0.01], uncertain=False)


def made(digit: int = 7, version: str = "v1") -> Prediction:
    """Return a new prediction."""
    return new_prediction(replace(ANSWER, predicted_digit=digit), version, bytes(784), "me")


@pytest.fixture
def storage(database_url: str) -> Storage:
    """Return an empty record."""
    storage = Storage(database_url)
    storage.create_schema()
    return storage


def test_prediction_comes_back_as_it_was_stored(storage: Storage) -> None:
    prediction = made()
    storage.add(prediction)
    assert storage.get(prediction.id) == prediction


def test_unknown_prediction_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound):
        storage.get(made().id)


def test_label_is_kept_and_taken_back(storage: Storage) -> None:
    prediction = made()
    storage.add(prediction)
    for digit in (3, 0, None):
        storage.set_true_digit(prediction.id, digit)
        assert storage.get(prediction.id).true_digit == digit


def test_pages_are_newest_first_and_miss_nothing(storage: Storage) -> None:
    stored = [made() for _ in range(5)]
    for prediction in stored:
        storage.add(prediction)
    first, after = storage.page(3)
    storage.add(made())  # shifts nothing
    second, end = storage.page(3, before=after)
    assert [*first, *second] == stored[::-1]
    assert end is None


def test_filters_choose(storage: Storage) -> None:
    right, wrong, unlabelled = made(1), made(2), made(3, "v2")
    for prediction in (right, wrong, unlabelled):
        storage.add(prediction)
    storage.set_true_digit(right.id, 1)
    storage.set_true_digit(wrong.id, 1)

    def chosen(filters: Filters) -> list[str]:
        return [prediction.id for prediction in storage.page(9, filters=filters)[0]]

    assert chosen(Filters(digit=2)) == [wrong.id]
    assert chosen(Filters(labelled=True)) == [wrong.id, right.id]
    assert chosen(Filters(labelled=False)) == [unlabelled.id]
    assert chosen(Filters(right=True)) == [right.id]
    assert chosen(Filters(right=False)) == [wrong.id]
    assert chosen(Filters(model_version="v2")) == [unlabelled.id]


@pytest.mark.parametrize(
    "broken",
    [
        {"predicted_digit": 10},
        {"true_digit": -1},
        {"confidence": 1.5},
        {"probabilities": [1.0]},
        {"pixels": b"few"},
    ],
)
def test_database_refuses_what_cannot_be(storage: Storage, broken: dict[str, object]) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        storage.add(replace(made(), **broken))  # type: ignore[arg-type]


def test_counts_add_up(storage: Storage) -> None:
    for digit in (1, 1, 2):
        storage.add(made(digit))
    assert sorted(storage.counts()) == [("v1", 1, None, 2), ("v1", 2, None, 1)]


def test_schema_is_made_once(storage: Storage) -> None:
    prediction = made()
    storage.add(prediction)
    storage.create_schema()
    assert storage.get(prediction.id) == prediction


def test_absent_database_stops_the_start_with_what_to_do(tmp_path: Path) -> None:
    url = f"postgresql+psycopg2://me:secret@/digits?host={tmp_path}"
    with pytest.raises(StartError, match="set DATABASE_URL") as error:
        Storage(url).create_schema()
    assert "secret" not in str(error.value)
    with pytest.raises(StorageAway):
        Storage(url).check()
