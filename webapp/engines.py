"""Connections to Postgres and SQLite: time limits, and translation of the drivers' errors."""

import re
import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from psycopg2.errors import LockNotAvailable, QueryCanceled
from sqlalchemy import exc

from webapp.errors import QueryRejected, QueryTimeout, StorageUnavailable

STATEMENT_TIMEOUT_S = 3  # also for a connection, a lock, and a place in the pool
AGGREGATE_TIMEOUT_S = 60  # counts over all rows
MIGRATION_TIMEOUT_S = 86_400
ANSWER_GRACE_S = 1  # the server's own limit is to apply first, because its error says more
CORRUPT = re.compile("malformed|not a database|no such table")
# After these errors a SQLite file is opened anew: it may have been replaced or become writable.
REOPEN = re.compile(f"readonly|I/O error|{CORRUPT.pattern}")
SQLITE_STEPS = 100_000  # virtual machine instructions between two checks of the clock

Target = str | Path  # a libpq URL, or the path of a SQLite file

# What Postgres, PgBouncer and libpq say about a mistake in DATABASE_URL; waiting does not help.
MISCONFIGURED = re.compile(
    "authentication failed|no password supplied|no pg_hba.conf entry|permission denied"
    '|(database|role|file) ".*" does not exist|no such (database|user)'
    "|not permitted to log in|does not support SSL|invalid .*(value|number|option)|could not match"
)


class NoAnswer(psycopg2.OperationalError):
    """The server did not answer in time."""


def describe(target: Target) -> str:
    """Return the name of a database for people: without user, password and options."""
    if isinstance(target, Path):
        return str(target)
    options = extensions.parse_dsn(target)
    host = options.get("host") or options.get("hostaddr", "localhost")
    name = options.get("dbname") or options.get("user") or "of this user"
    return f"{name} on {host}:{options.get('port', 5432)}"


def make_engine(
    target: Target,
    timeout_s: float,
    *,
    begin: str | None = None,
    pool_size: int = 1,
    max_pages: int | None = None,
) -> sa.Engine:
    """Return an engine whose statements take `timeout_s` at most.

    begin: how a transaction begins, "write" or "snapshot"; None commits each statement by itself.
    max_pages: size limit of a SQLite file, in pages of 4 KiB.
    """
    pool_timeout_s = min(timeout_s, STATEMENT_TIMEOUT_S)
    options = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": pool_timeout_s}
    if isinstance(target, Path):
        return _sqlite_engine(target, timeout_s, begin, options, max_pages)
    return _postgres_engine(target, timeout_s, begin, options)


# ---- Postgres --------------------------------------------------------------------------------


def _postgres_engine(
    url: str, timeout_s: float, begin: str | None, options: dict[str, Any]
) -> sa.Engine:
    # psycopg2 has one callback for the whole process.
    extensions.set_wait_callback(_wait)

    factory = type("Connection", (extensions.connection,), {"timeout_s": timeout_s})

    def connect() -> Any:
        return psycopg2.connect(
            url,
            connection_factory=factory,
            tcp_user_timeout=1000 * STATEMENT_TIMEOUT_S,
            keepalives_idle=30,
            keepalives_interval=5,
            keepalives_count=3,
        )

    level = {None: "AUTOCOMMIT", "write": "READ COMMITTED", "snapshot": "REPEATABLE READ"}[begin]
    options |= {"isolation_level": level}
    if begin is None:
        options["pool_reset_on_return"] = None
    engine = sa.create_engine("postgresql+psycopg2://", creator=connect, **options)

    sa.event.listen(engine, "checkout", _discard_if_dead)
    # The server stops a statement whose client has given up. Both are sent as one query, which is
    # one transaction. Unlike a setting of the session, it gets through PgBouncer.
    limit = f"SET LOCAL statement_timeout = {1000 * timeout_s:.0f};"
    if begin == "snapshot":  # counts may take long, but not because they wait for a lock
        limit += f"SET LOCAL lock_timeout = {1000 * STATEMENT_TIMEOUT_S:.0f};"

    @sa.event.listens_for(engine, "before_cursor_execute", retval=True)
    def _limit(
        _c: object, _cursor: object, statement: str, parameters: object, _x: object, many: bool
    ) -> tuple[str, object]:
        return (statement if many else limit + statement), parameters

    return engine


def _discard_if_dead(
    connection: extensions.connection, record: sa.PoolProxiedConnection, _: object
) -> None:
    """Replace an idle connection that can be read from: the server has closed it.

    Finding this out before a statement is sent leaves no doubt whether it was executed.
    """
    if record.info.setdefault("was_used", False):
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        if poller.poll(0):
            raise exc.DisconnectionError
    record.info["was_used"] = True


def _wait(connection: extensions.connection) -> None:
    """Wait for the server, but not forever: one that hangs does not even close its connections."""
    timeout_s = getattr(connection, "timeout_s", MIGRATION_TIMEOUT_S)
    if connection.status == extensions.STATUS_SETUP:  # it is not connected yet
        timeout_s = STATEMENT_TIMEOUT_S
    deadline = time.monotonic() + timeout_s + ANSWER_GRACE_S
    while (state := connection.poll()) != extensions.POLL_OK:
        wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        poller = select.poll()
        poller.register(connection.fileno(), wanted)  # it differs for each host that is tried
        if not poller.poll(max(0, 1000 * (deadline - time.monotonic()))):
            raise NoAnswer(f"no answer within {timeout_s} s")


# ---- SQLite ----------------------------------------------------------------------------------


def _sqlite_engine(
    path: Path, timeout_s: float, begin: str | None, options: dict[str, Any], max_pages: int | None
) -> sa.Engine:
    if begin is None:
        options |= {"isolation_level": "AUTOCOMMIT"}
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": min(timeout_s, AGGREGATE_TIMEOUT_S)},
        **options,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        # A commit survives the process. A power failure may lose those of the last seconds: to
        # prevent that, each commit would have to wait for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        if max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {max_pages}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if begin is not None:
            kind = "IMMEDIATE" if begin == "write" else "DEFERRED"
            connection.exec_driver_sql(f"BEGIN {kind}")

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _limit(connection: sa.Connection, *_: object) -> None:
        deadline = time.monotonic() + timeout_s
        raw: Any = connection.connection.dbapi_connection
        raw.set_progress_handler(lambda: time.monotonic() > deadline, SQLITE_STEPS)

    @sa.event.listens_for(engine, "handle_error")
    def _reopen(context: sa.engine.ExceptionContext) -> None:
        if REOPEN.search(str(context.original_exception)):
            context.is_disconnect = True

    return engine


def enable_wal(engine: sa.Engine) -> None:
    """Let a SQLite file be read while it is written (write-ahead log), from now on.

    Unlike everywhere else, SQLite does not wait for other processes here.
    """
    deadline = time.monotonic() + AGGREGATE_TIMEOUT_S
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except exc.OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# ---- errors ----------------------------------------------------------------------------------


def cause_of(error: BaseException) -> str:
    """Return the first line of what the driver or the system said."""
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", cause)).strip().partition("\n")[0].removesuffix(".")


def is_misconfigured(error: BaseException) -> bool:
    """Return whether the cause is a mistake in DATABASE_URL, so that waiting does not help."""
    cause = error.__cause__ or error
    return bool(MISCONFIGURED.search(str(getattr(cause, "orig", cause))))


def is_corrupt(error: BaseException) -> bool:
    """Return whether a SQLite file is damaged, is not a database, or lacks its tables."""
    return bool(CORRUPT.search(cause_of(error)))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise the driver's errors as StorageUnavailable, QueryRejected or QueryTimeout."""
    try:
        yield
    except (exc.IntegrityError, exc.DataError) as error:
        raise QueryRejected("The database does not accept this prediction.") from error
    except exc.TimeoutError as error:
        raise QueryTimeout("The database is busy. Try again in a few seconds.") from error
    except exc.DBAPIError as error:
        cause = error.orig
        if isinstance(cause, QueryCanceled | LockNotAvailable) or str(cause) == "interrupted":
            raise QueryTimeout("The query took too long. Narrow the filters.") from error
        raise StorageUnavailable from error
    except (exc.SQLAlchemyError, UnicodeDecodeError) as error:  # a message in another encoding
        raise StorageUnavailable from error
