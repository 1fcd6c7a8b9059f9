"""The SQL, the same on SQLite and on Postgres."""

import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import ROOT
from webapp.database import Database, Summary, predictions
from webapp.engines import Target, make_engine
from webapp.errors import QueryRejected, StartupError, StorageUnavailable
from webapp.prediction import (
    OPERATOR,
    REJECTED,
    VISITOR,
    Classification,
    Deletion,
    Filters,
    Prediction,
    first_id,
    new_prediction,
)

ANSWER = Classification(7, 0.9, [0.01] * 7 + [0.9, 0.02, 0.01], doubt=None)


def made(digit: int = 7, version: str = "v1", visitor: str = "me") -> Prediction:
    """Return a new prediction."""
    answer = replace(ANSWER, predicted_digit=digit)
    return new_prediction(answer, version, bytes(784), visitor)


def insert(database: Database, *rows: Prediction) -> None:
    """Store predictions."""
    for row in rows:
        assert database.insert(row)


@pytest.fixture
def database(database_target: Target) -> Database:
    """Return an empty database."""
    database = Database(database_target)
    database.migrate()
    return database


def test_prediction_is_read_back_unchanged(database: Database) -> None:
    prediction = made()
    insert(database, prediction)
    assert database.get(prediction.id) == prediction
    assert database.get(made().id) is None


def test_same_id_or_key_is_stored_once(database: Database) -> None:
    first = replace(made(), idempotency_key="key")
    insert(database, first, made(), made())
    assert not database.insert(first)
    assert not database.insert(replace(made(), idempotency_key="key"))
    assert database.find_key("key") == first
    assert database.count() == 3


def test_label_updates_its_row_and_creates_none(database: Database) -> None:
    prediction, other = made(), made()
    insert(database, prediction, other)
    labelled = database.label(prediction.id, 3, "visitor", 0)
    assert labelled == database.get(prediction.id)
    assert labelled
    assert (labelled.true_digit, labelled.labelled_by, labelled.label_revision) == (3, "visitor", 1)
    assert database.label(made().id, 3, "visitor", 0) is None
    assert database.page(9) == [other, labelled]


def test_visitors_label_does_not_replace_the_operators(database: Database) -> None:
    prediction = made()
    insert(database, prediction)
    labelled = database.label(prediction.id, 3, OPERATOR, 0)
    assert database.label(prediction.id, 7, VISITOR, 0) is None
    assert database.get(prediction.id) == labelled
    assert database.label(prediction.id, None, OPERATOR, 0)
    assert database.label(prediction.id, 7, VISITOR, 0)


def test_visitors_label_does_not_replace_a_rejection(database: Database) -> None:
    prediction = made()
    insert(database, prediction)
    assert database.label(prediction.id, None, OPERATOR, 0, REJECTED)
    assert database.label(prediction.id, 7, VISITOR, 0) is None


def test_labels_that_agree_are_reviewed_last_in_random_order(database: Database) -> None:
    rows = [replace(made(), uncertain=False, confidence=0.9 + i / 100) for i in range(9)]
    uncertain, disagreeing = replace(made(), uncertain=True), made()
    insert(database, *rows, uncertain, disagreeing, made())
    for row in (*rows, uncertain):
        database.label(row.id, row.predicted_digit, VISITOR, 0)
    database.label(disagreeing.id, (disagreeing.predicted_digit + 1) % 10, VISITOR, 0)
    queue = [row.id for row in database.review_queue(99, Filters())]
    assert queue[:2] == [disagreeing.id, uncertain.id]
    ids = [row.id for row in rows]
    assert sorted(queue[2:]) == ids
    assert queue[2:] not in (ids, ids[::-1])


def test_label_revision_exceeds_both_that_it_replaces(database: Database) -> None:
    prediction = made()
    insert(database, prediction)
    revisions = []
    for known in (0, 5, 2):
        labelled = database.label(prediction.id, 3, "visitor", known)
        assert labelled
        revisions.append(labelled.label_revision)
    assert revisions == [1, 6, 7]


@pytest.mark.parametrize(("stored", "merged", "kept"), [(0, 0, 3), (1, 2, 5), (1, 1, 5), (2, 1, 3)])
def test_merge_keeps_the_newer_label(
    database: Database, stored: int, merged: int, kept: int
) -> None:
    prediction = made()
    insert(database, replace(prediction, true_digit=3, label_revision=stored))
    labelled_at = datetime.now(UTC) if merged else None
    waiting = replace(prediction, true_digit=5, label_revision=merged, labelled_at=labelled_at)
    database.merge([waiting, made()])
    found = database.get(prediction.id)
    assert found
    assert found.true_digit == kept
    assert database.count() == 2


def test_merge_stores_nothing_that_was_deleted(database: Database) -> None:
    mine, deleted, old, kept = made(), made(visitor="x"), made(visitor="x"), made(visitor="x")
    database.delete(Deletion(deleted.id))
    database.delete(Deletion(before=kept.id, visitor="me"))
    database.merge([mine, deleted, old, kept])
    assert database.page(9) == [kept, old]
    assert database.deleted([mine, deleted, old, kept]) == {mine.id, deleted.id}
    database.delete(Deletion(before=kept.id))
    database.merge([old])
    assert database.page(9) == [kept]


def test_old_tombstones_and_keys_expire(database: Database) -> None:
    key_of_today = replace(made(), idempotency_key="today")
    yesterday = first_id(datetime.now(UTC) - timedelta(days=1, minutes=1))
    insert(database, key_of_today, replace(made(), id=yesterday, idempotency_key="old"))
    deleted = made()
    database.delete(Deletion(deleted.id))
    database.expire(datetime.now(UTC) - timedelta(hours=1))
    assert database.deleted([deleted])
    database.expire(datetime.now(UTC) + timedelta(hours=1))
    assert not database.deleted([deleted])
    assert database.find_key("today") == key_of_today
    assert database.find_key("old") is None
    assert database.count() == 2


def test_delete_counts_what_it_deletes_in_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.database.DELETE_BATCH", 2)
    rows = [made() for _ in range(5)]
    insert(database, *rows)
    assert database.delete(Deletion(before=rows[4].id)) == 4
    assert database.page(9) == [rows[4]]
    assert database.delete(Deletion(rows[4].id)) == 1
    assert database.delete(Deletion(rows[4].id)) == 0


def test_only_rows_not_labelled_meanwhile_are_removed(database: Database) -> None:
    one, other = made(), made()
    insert(database, one, other)
    labelled = database.label(one.id, 3, "visitor", 0)
    assert labelled
    database.remove([one, other])
    assert database.page(9) == [labelled]
    database.remove([labelled])
    assert database.count() == 0


def test_pages_are_newest_first_and_miss_nothing(database: Database) -> None:
    stored = [made() for _ in range(5)]
    insert(database, *stored)
    first = database.page(3)
    insert(database, made())  # shifts nothing
    assert [*first, *database.page(3, before=first[-1].id)] == stored[::-1]
    assert database.oldest(2) == stored[:2]
    assert database.oldest(9, stored[1].id, {stored[2].id})[:2] == [stored[1], stored[3]]


def test_filters_select_rows(database: Database) -> None:
    right, wrong, unlabelled = made(1), made(2), made(3, "v2", "you")
    insert(database, right, wrong, unlabelled)
    database.label(right.id, 1, "visitor", 0)
    database.label(wrong.id, 1, "visitor", 0)

    def selected(filters: Filters) -> list[str]:
        return [prediction.id for prediction in database.page(9, filters=filters)]

    assert selected(Filters(digit=2)) == [wrong.id]
    assert selected(Filters(labelled=True)) == [wrong.id, right.id]
    assert selected(Filters(labelled=False)) == [unlabelled.id]
    assert selected(Filters(correct=True)) == [right.id]
    assert selected(Filters(correct=False)) == [wrong.id]
    assert selected(Filters(model_version="v2")) == [unlabelled.id]
    assert selected(Filters(visitor="you")) == [unlabelled.id]
    soon = unlabelled.created_at + timedelta(milliseconds=1)
    assert selected(Filters(since=soon)) == selected(Filters(until=right.created_at)) == []
    assert len(selected(Filters(since=right.created_at, until=soon))) == 3


def test_filter_without_an_index_searches_a_limited_number_of_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.database.SCAN_LIMIT", 3)
    rows = [made(visitor=visitor) for visitor in ("me", "you", "me", "me", "you", "me")]
    insert(database, *rows)
    for row in rows[:4]:
        database.label(row.id, 7, "visitor", 0)
    unindexed = [Filters(digit=1), Filters(labelled=False), Filters(model_version="v2")]
    for filters in unindexed:
        assert database.search_start(None, filters) == rows[3].id
        assert database.search_start(rows[4].id, filters) == rows[1].id
        assert database.search_start(rows[2].id, filters) is None
    assert database.search_start(None, Filters(correct=False)) == rows[1].id  # of the labelled
    assert database.search_start(None, Filters(digit=1, visitor="me")) == rows[2].id
    for filters in (Filters(), Filters(labelled=True), Filters(visitor="me")):
        assert database.search_start(None, filters) is None


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
def test_database_rejects_impossible_values(database: Database, broken: dict[str, object]) -> None:
    with pytest.raises(QueryRejected):
        database.insert(replace(made(), **broken))  # type: ignore[arg-type]


def test_counts_include_others_once(database: Database) -> None:
    one, other = made(1), made(2)
    insert(database, one, other, made(1))
    database.label(other.id, 3, "visitor", 0)
    day = one.created_at.date().isoformat()
    summaries = database.summaries()
    assert len(summaries) == 3
    assert Summary(other.id, day, "v1", 2, 3) in summaries
    waiting = [*summaries, Summary(made().id, day, "v1", 2, 3)]
    assert database.label_counts(waiting) == [("v1", 2, 3, 2)]
    assert database.daily_counts(waiting) == [(day, "v1", 1, None, 2), (day, "v1", 2, 3, 2)]


def test_days_are_those_of_utc(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")  # the time zone of a session with Postgres
    insert(database, replace(made(), created_at=datetime(2026, 1, 31, 23, 30, tzinfo=UTC)))
    assert [count.day for count in database.daily_counts()] == ["2026-01-31"]
    assert [summary.day for summary in database.summaries()] == ["2026-01-31"]


FIRST_RELEASE = """CREATE TABLE predictions (
    id {uuid} PRIMARY KEY, created_at {time} NOT NULL, predicted_digit SMALLINT NOT NULL,
    confidence {double} NOT NULL, probabilities JSON NOT NULL, uncertain BOOLEAN NOT NULL,
    true_digit SMALLINT, model_version TEXT NOT NULL, pixels {bytes} NOT NULL,
    visitor TEXT NOT NULL)"""
SQLITE = {"uuid": "TEXT", "time": "DATETIME", "double": "DOUBLE", "bytes": "BLOB"}
POSTGRES = {"uuid": "UUID", "time": "TIMESTAMPTZ", "double": "FLOAT8", "bytes": "BYTEA"}
FIRST_COLUMNS = [
    "id",
    "created_at",
    "predicted_digit",
    "confidence",
    "probabilities",
    "uncertain",
    "true_digit",
    "model_version",
    "pixels",
    "visitor",
]


def test_database_of_the_first_release_is_upgraded(database_target: Target) -> None:
    prediction = replace(made(), uncertain=True)
    types = SQLITE if isinstance(database_target, Path) else POSTGRES
    old = {name: value for name, value in asdict(prediction).items() if name in FIRST_COLUMNS}
    with make_engine(database_target, 3, begin="write").begin() as connection:
        connection.exec_driver_sql(FIRST_RELEASE.format(**types))
        connection.execute(predictions.insert().values(old))
    database = Database(database_target)
    assert not database.is_migrated()
    for _ in range(2):  # once is enough, twice does no harm
        database.migrate()
    assert database.is_migrated()
    assert database.get(prediction.id) == replace(prediction, doubt="low_confidence")
    assert database.label(prediction.id, 3, "visitor", 0)


MIGRATE_TOGETHER = """
import os
from pathlib import *
from webapp.database import Database
for _ in range(8):
    if not os.fork():
        Database({target!r}).migrate()
        os._exit(0)
assert [os.wait()[1] for _ in range(8)] == [0] * 8
"""


def test_replicas_may_start_together(database_target: Target) -> None:
    program = MIGRATE_TOGETHER.format(target=database_target)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    insert(Database(database_target), made())


def test_database_of_a_newer_release_is_left_alone(
    database: Database, database_target: Target
) -> None:
    with make_engine(database_target, 3, begin="write").begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartupError, match="newer release"):
        database.migrate()


def test_failed_write_is_noticed(database: Database, database_target: Target) -> None:
    database.check()
    assert database.count() == 0
    with make_engine(database_target, 3, begin="write").begin() as connection:
        connection.exec_driver_sql("ALTER TABLE predictions RENAME TO moved")
    with pytest.raises(StorageUnavailable):
        database.check()
