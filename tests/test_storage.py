"""The table of predictions, the same on SQLite and on Postgres."""

import subprocess
import sys
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import ROOT
from webapp.classifier import Answer
from webapp.errors import NotFound, Refused, StartError, StorageAway
from webapp.storage import Filters, Prediction, Storage, new_prediction, predictions

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
    storage.put(prediction)
    assert storage.get(prediction.id) == prediction


def test_unknown_prediction_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound):
        storage.get(made().id)


def labelled(prediction: Prediction, digit: int | None, seconds: int = 1) -> Prediction:
    """Return the prediction, labelled some seconds after it was made."""
    at = prediction.created_at + timedelta(seconds=seconds)
    return replace(prediction, true_digit=digit, labelled_by="visitor", labelled_at=at)


def test_newest_label_is_kept_and_nothing_else_changes(storage: Storage) -> None:
    prediction = made()
    storage.put(labelled(prediction, 3, seconds=2))
    for older in (prediction, labelled(prediction, 5, seconds=1)):  # written late, or twice
        storage.put(older)
        assert storage.get(prediction.id) == labelled(prediction, 3, seconds=2)
    storage.put(replace(labelled(prediction, None, seconds=3), confidence=0.1))
    assert storage.get(prediction.id) == labelled(prediction, None, seconds=3)


def test_first_label_counts_even_by_a_clock_that_is_behind(storage: Storage) -> None:
    prediction = made()
    storage.put(prediction)
    storage.put(labelled(prediction, 3, seconds=-1))
    assert storage.get(prediction.id).true_digit == 3


def test_only_what_was_not_labelled_meanwhile_is_removed(storage: Storage) -> None:
    one, other = made(), made()
    storage.put(one, other)
    storage.put(labelled(one, 3))
    storage.remove([one, other])
    assert storage.page(9)[0] == [labelled(one, 3)]
    storage.remove([labelled(one, 3)])
    assert storage.count() == 0


def test_pages_are_newest_first_and_miss_nothing(storage: Storage) -> None:
    stored = [made() for _ in range(5)]
    for prediction in stored:
        storage.put(prediction)
    first, after = storage.page(3)
    storage.put(made())  # shifts nothing
    second, end = storage.page(3, before=after)
    assert [*first, *second] == stored[::-1]
    assert end is None


def test_filters_choose(storage: Storage) -> None:
    right, wrong, unlabelled = made(1), made(2), made(3, "v2")
    for prediction in (right, wrong, unlabelled):
        storage.put(prediction)
    storage.put(labelled(right, 1), labelled(wrong, 1))

    def chosen(filters: Filters) -> list[str]:
        return [prediction.id for prediction in storage.page(9, filters=filters)[0]]

    assert chosen(Filters(digit=2)) == [wrong.id]
    assert chosen(Filters(labelled=True)) == [wrong.id, right.id]
    assert chosen(Filters(labelled=False)) == [unlabelled.id]
    assert chosen(Filters(right=True)) == [right.id]
    assert chosen(Filters(right=False)) == [wrong.id]
    assert chosen(Filters(model_version="v2")) == [unlabelled.id]
    soon = unlabelled.created_at + timedelta(milliseconds=1)
    assert chosen(Filters(since=soon)) == chosen(Filters(until=right.created_at)) == []
    assert len(chosen(Filters(since=right.created_at, until=soon))) == 3
    assert storage.delete(Filters(id=wrong.id)) == 1
    assert storage.delete(Filters(until=soon)) == 2


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
    with pytest.raises(Refused):
        storage.put(replace(made(), **broken))  # type: ignore[arg-type]


def test_counts_add_up(storage: Storage) -> None:
    one, other = made(1), made(2)
    storage.put(one, labelled(other, 3), made(1))
    assert storage.labelled() == [("v1", 2, 3, 1)]
    day = one.created_at.date().isoformat()
    assert sorted(storage.daily()) == [(day, "v1", 1, 2), (day, "v1", 2, 1)]


FIRST_VERSION = """CREATE TABLE predictions (
    id {uuid} PRIMARY KEY, created_at {time} NOT NULL, predicted_digit SMALLINT NOT NULL,
    confidence {double} NOT NULL, probabilities JSON NOT NULL, uncertain BOOLEAN NOT NULL,
    true_digit SMALLINT, model_version TEXT NOT NULL, pixels {bytes} NOT NULL,
    visitor TEXT NOT NULL)"""
SQLITE = {"uuid": "TEXT", "time": "DATETIME", "double": "DOUBLE", "bytes": "BLOB"}
POSTGRES = {"uuid": "UUID", "time": "TIMESTAMPTZ", "double": "FLOAT8", "bytes": "BYTEA"}


def test_database_of_the_first_version_is_brought_up_to_date(database_url: str) -> None:
    prediction = made()
    kind = SQLITE if database_url.startswith("sqlite") else POSTGRES
    old = {name: value for name, value in asdict(prediction).items() if "labelled" not in name}
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(FIRST_VERSION.format(**kind))
        connection.execute(predictions.insert().values(old))
    engine.dispose()
    storage = Storage(database_url)
    for _ in range(2):  # once is enough, twice does no harm
        storage.create_schema()
    assert storage.get(prediction.id) == prediction
    storage.put(labelled(prediction, 3))
    assert storage.page(9, filters=Filters(right=False))[0] == [labelled(prediction, 3)]


def test_replicas_may_start_together(database_url: str) -> None:
    start = f"from webapp.storage import Storage; Storage({database_url!r}).create_schema()"
    replicas = [subprocess.Popen([sys.executable, "-c", start], cwd=ROOT) for _ in range(8)]
    assert [replica.wait() for replica in replicas] == [0] * 8
    Storage(database_url).put(made())


def test_database_of_a_later_version_is_left_alone(storage: Storage, database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(StartError, match="another version"):
        storage.create_schema()


def test_absent_database_stops_the_start_with_what_to_do(tmp_path: Path) -> None:
    url = f"postgresql+psycopg2://me:secret@/digits?host={tmp_path}"
    with pytest.raises(StartError, match="set DATABASE_URL") as error:
        Storage(url).create_schema()
    assert "secret" not in str(error.value)
    with pytest.raises(StorageAway):
        Storage(url).check()
