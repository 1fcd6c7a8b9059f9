"""Databases that fail on demand, in the ways in which real ones do."""

import gc
import os
import signal
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg2
import pytest

from tests.conftest import wait_until
from webapp.database import Database
from webapp.engines import Target
from webapp.errors import QueryRejected, StorageUnavailable

SHORT_S = 0.05  # timeouts while a fault lets queries wait
COLUMNS = "id, true_digit, idempotency_key"
NO_ID = "00000000-0000-7000-8000-000000000000"

Reconnect = Callable[[], None]  # gives all stores new connections


class Stored(NamedTuple):
    """What is stored about a prediction, that the tests compare."""

    id: str
    true_digit: int | None
    idempotency_key: str | None


class Faulty(Protocol):
    """A database that fails on demand."""

    faults: tuple[str, ...]
    fault: str | None  # the one that it has now

    def open(self, process: int) -> Database:
        """Return new connections for a process."""

    def fail(self, fault: str, reconnect: Reconnect) -> None:
        """Begin to fail."""

    def heal(self, reconnect: Reconnect) -> None:
        """Stop failing."""

    def end_connections(self) -> None:
        """Close the connections of all processes, as a restart does."""

    def rows(self) -> dict[str, Stored]:
        """Return what is stored, even while it fails."""

    def clear(self) -> None:
        """Delete everything."""


class FaultySqlite:
    """A SQLite file.

    down: its folder is missing. locked: another process does not finish a transaction.
    full: no page can be added.
    """

    faults: tuple[str, ...] = ("down", "locked", "full")

    def __init__(self, path: Path) -> None:
        path.parent.mkdir()
        self.fault: str | None = None
        self._path, self._aside = path, path.parent.with_suffix(".aside")
        Database(path).migrate()
        self._connection = sqlite3.connect(path, isolation_level=None)

    def open(self, process: int) -> Database:
        """Return new connections for a process."""
        return _open(process, self._path, self.fault == "locked", self.fault == "full")

    def fail(self, fault: str, reconnect: Reconnect) -> None:
        """Begin to fail."""
        self.fault = fault
        if fault == "down":
            self._path.parent.rename(self._aside)
        elif fault == "locked":
            self._connection.execute("BEGIN IMMEDIATE")
        reconnect()

    def heal(self, reconnect: Reconnect) -> None:
        """Stop failing."""
        if self.fault == "down":
            self._aside.rename(self._path.parent)
        elif self.fault == "locked":
            self._connection.execute("COMMIT")
        self.fault = None
        reconnect()

    def end_connections(self) -> None:
        """Do nothing: no server could close them."""

    def rows(self) -> dict[str, Stored]:
        """Return what is stored, even while it fails."""
        return _by_id(self._connection.execute(f"SELECT {COLUMNS} FROM predictions"))

    def clear(self) -> None:
        """Delete everything."""
        self._connection.execute("DELETE FROM predictions")
        self._connection.execute("DELETE FROM tombstones")

    def close(self) -> None:
        """Close the test's own connection."""
        self._connection.close()


class FaultyPostgres:
    """A database in Postgres.

    down: it accepts no connections. hanging: its processes are stopped; they go on with what they
    received when it is healed. busy: another process has locked the tables. read-only: like a
    standby.
    """

    faults: tuple[str, ...] = ("down", "hanging", "busy", "read-only")

    def __init__(self, url: str, maintenance_url: str) -> None:
        self.fault: str | None = None
        self._url = url
        Database(url).migrate()
        self._connection = psycopg2.connect(url)
        self._maintenance = psycopg2.connect(maintenance_url)  # to another database
        self._connection.autocommit = self._maintenance.autocommit = True
        self._name, self._pid, folder = self._query(
            self._connection,
            "SELECT current_database(), pg_backend_pid(), current_setting('data_directory')",
        )[0]
        self._postmaster = int((Path(folder) / "postmaster.pid").read_text().split()[0])
        self._stopped: list[int] = []
        self._patch = pytest.MonkeyPatch()
        gc.freeze()  # so that heal() collects only what the test made

    def open(self, process: int) -> Database:
        """Return new connections for a process."""
        database = _open(process, self._url, self.fault in ("hanging", "busy"))
        if self.fault == "hanging" and not self._stopped:
            with suppress(StorageUnavailable, QueryRejected):
                database.label(NO_ID, None, "", 0)  # connects, so that the next query is received
        return database

    def fail(self, fault: str, reconnect: Reconnect) -> None:
        """Begin to fail."""
        self.fault = fault
        if fault == "down":
            self._alter("ALLOW_CONNECTIONS false")
            self.end_connections()
        elif fault == "hanging":
            reconnect()
            self._stopped = [self._postmaster, *self._others()]
            self._signal(signal.SIGSTOP)
            self._patch.setattr("webapp.engines.STATEMENT_TIMEOUT_S", SHORT_S)  # to connect
        elif fault == "busy":
            reconnect()
            self._query(self._connection, "BEGIN")
            self._query(self._connection, "LOCK TABLE predictions, tombstones")
        else:
            self._alter("SET default_transaction_read_only = on")
            self.end_connections()

    def heal(self, reconnect: Reconnect) -> None:
        """Stop failing."""
        fault, self.fault = self.fault, None
        if fault == "down":
            self._alter("ALLOW_CONNECTIONS true")
        elif fault == "hanging":
            self._patch.undo()
            reconnect()
            self._signal(signal.SIGCONT)
            stopped, self._stopped = set(self._stopped), []
            gc.collect()  # closes connections that were not established in time
            wait_until(lambda: stopped.isdisjoint(self._others()))  # they did what they received
        elif fault == "busy":
            reconnect()
            self._query(self._connection, "COMMIT")
        else:
            self._alter("RESET default_transaction_read_only")
            self.end_connections()

    def end_connections(self) -> None:
        """Close the connections of all processes, as a restart does."""
        self._query(
            self._maintenance,
            "SELECT pg_terminate_backend(pid, 10000) FROM unnest(%s::int[]) AS pid",
            self._others(),
        )

    def rows(self) -> dict[str, Stored]:
        """Return what is stored, even while it fails."""
        return _by_id(self._query(self._connection, f"SELECT {COLUMNS} FROM predictions"))

    def clear(self) -> None:
        """Delete everything."""
        self._query(self._connection, "DELETE FROM predictions; DELETE FROM tombstones")

    def close(self) -> None:
        """Close the test's own connections."""
        self._connection.close()
        self._maintenance.close()

    def _others(self) -> list[int]:
        query = """SELECT pid FROM pg_stat_activity
            WHERE datname = %s AND pid <> %s AND backend_type = 'client backend'"""
        return [pid for (pid,) in self._query(self._maintenance, query, self._name, self._pid)]

    def _alter(self, change: str) -> None:
        self._query(self._maintenance, f"ALTER DATABASE {self._name} {change}")

    def _signal(self, number: int) -> None:
        for pid in self._stopped:
            with suppress(ProcessLookupError):  # its connection was closed just before
                os.kill(pid, number)

    @staticmethod
    def _query(connection: Any, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(connection.cursor()) as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


@cache  # opening takes long; a disposed one connects again
def _create(process: int, target: Target, has_short_timeout: bool, is_full: bool) -> Database:
    with pytest.MonkeyPatch.context() as patch:
        if has_short_timeout:
            patch.setattr("webapp.database.STATEMENT_TIMEOUT_S", SHORT_S)
            patch.setattr("webapp.database.AGGREGATE_TIMEOUT_S", SHORT_S)
        return Database(target, max_pages=1 if is_full else None)


_opened: dict[tuple[int, Target], Database] = {}


def _open(process: int, target: Target, has_short_timeout: bool, is_full: bool = False) -> Database:
    if (process, target) in _opened:
        _opened[process, target].dispose()
    database = _opened[process, target] = _create(process, target, has_short_timeout, is_full)
    return database


def _by_id(rows: Iterable[tuple[Any, ...]]) -> dict[str, Stored]:
    return {row[0]: Stored(*row) for row in rows}
