"""The table of predictions, in Postgres or in a SQLite file: all the SQL there is."""

import secrets
import select
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import UUID

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from psycopg2.errors import QueryCanceled
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from webapp.classifier import Answer
from webapp.errors import NotFound, Refused, StartError, StorageAway

WAIT_S = 3  # for a connection, a statement or a lock
COUNTING_S = 60  # for many rows to be counted or deleted
PATIENT_S = 86_400  # for the schema to be brought up to date
SCHEMA_LOCK = 2_802_801  # any number, the same for all replicas
POOL = 2  # connections of a worker at most that write a row, and as many for all else


class _Connection(extensions.connection):
    wait_s: float = WAIT_S


def _wait_for_postgres(connection: extensions.connection) -> None:
    """Wait for an answer, with an end to it: a server that hangs says nothing at all."""
    poller = select.poll()
    wait_s = getattr(connection, "wait_s", PATIENT_S)
    deadline = time.monotonic() + wait_s
    while (state := connection.poll()) != extensions.POLL_OK:
        wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        poller.register(connection.fileno(), wanted)
        if not poller.poll(max(0, 1000 * (deadline - time.monotonic()))):
            raise psycopg2.OperationalError(f"no answer within {wait_s} s")


extensions.set_wait_callback(_wait_for_postgres)

SQLITE: dict[str, Any] = {"connect_args": {"timeout": WAIT_S}}
POSTGRES: dict[str, Any] = {
    "pool_pre_ping": True,  # a connection may have died with its server
    "connect_args": {
        "connection_factory": _Connection,
        "options": f"-c statement_timeout={WAIT_S * 1000} -c lock_timeout={WAIT_S * 1000}"
        " -c timezone=UTC",
        "tcp_user_timeout": WAIT_S * 1000,
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    },
}


class _UtcTime(sa.TypeDecorator[datetime]):
    """A moment with its time zone, which SQLite forgets."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


_ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
metadata = sa.MetaData()
predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("predicted_digit", sa.SmallInteger, nullable=False),
    sa.Column("confidence", sa.Double, nullable=False),
    sa.Column("probabilities", sa.JSON, nullable=False),
    sa.Column("uncertain", sa.Boolean, nullable=False),
    sa.Column("true_digit", sa.SmallInteger),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("pixels", sa.LargeBinary, nullable=False),
    sa.Column("visitor", sa.Text, nullable=False),
    sa.Column("labelled_by", sa.Text),
    sa.Column("labelled_at", _UtcTime),
)


@dataclass(frozen=True)
class Prediction:
    """One row: what was read, by which model, for whom, and what it really was."""

    id: str
    created_at: datetime
    predicted_digit: int
    confidence: float
    probabilities: list[float]
    uncertain: bool
    true_digit: int | None
    model_version: str
    pixels: bytes  # 28 × 28, ink 255 on 0, row by row
    visitor: str  # a random name of the browser that asked
    labelled_by: str | None = None  # visitor or operator, also of a label taken back
    labelled_at: datetime | None = None


@dataclass(frozen=True)
class Filters:
    """Which predictions to list; None leaves a question open."""

    id: str | None = None
    digit: int | None = None
    labelled: bool | None = None
    right: bool | None = None
    model_version: str | None = None
    since: datetime | None = None
    until: datetime | None = None  # not included

    def conditions(self) -> Iterator[sa.ColumnElement[bool]]:
        """Return the SQL of each filter that is set."""
        row = predictions.c
        if self.id is not None:
            yield row.id == self.id
        if self.digit is not None:
            yield row.predicted_digit == self.digit
        if self.labelled is not None:
            yield row.true_digit.is_not(None) if self.labelled else row.true_digit.is_(None)
        if self.right is not None:
            yield row.true_digit.is_not(None)  # or the index of the labelled would not be used
            agree = row.true_digit == row.predicted_digit
            yield agree if self.right else ~agree
        if self.model_version is not None:
            yield row.model_version == self.model_version
        if self.since is not None:
            yield row.id >= _first_id(self.since)
        if self.until is not None:
            yield row.id < _first_id(self.until)


class Labelled(NamedTuple):
    """How many labelled predictions share a model, an answer and a label."""

    model_version: str
    predicted_digit: int
    true_digit: int
    predictions: int


class Daily(NamedTuple):
    """How many predictions share a day (of UTC), a model and an answer."""

    day: str
    model_version: str
    predicted_digit: int
    predictions: int


def new_prediction(answer: Answer, model_version: str, pixels: bytes, visitor: str) -> Prediction:
    """Return a prediction made now, not stored yet."""
    now_ns = time.time_ns()
    return Prediction(
        id=_time_ordered_id(now_ns),
        created_at=datetime.fromtimestamp(now_ns // 1_000_000 / 1000, UTC),
        predicted_digit=answer.predicted_digit,
        confidence=answer.confidence,
        probabilities=answer.probabilities,
        uncertain=answer.uncertain,
        true_digit=None,
        model_version=model_version,
        pixels=pixels,
        visitor=visitor,
    )


def _time_ordered_id(now_ns: int) -> str:
    """Return a UUID of version 7 (RFC 9562): newest first is largest first, without an index.

    48 bits of milliseconds, 12 bits of their fraction (section 6.2, method 3), 62 random bits.
    """
    now_ms, rest_ns = divmod(now_ns, 1_000_000)
    return _uuid7(now_ms, rest_ns * 4096 // 1_000_000, secrets.randbits(62))


def _first_id(moment: datetime) -> str:
    """Return the smallest id of a prediction made at that moment."""
    return _uuid7(max(0, int(moment.timestamp() * 1000)), 0, 0)


def _uuid7(now_ms: int, fraction: int, rest: int) -> str:
    return str(UUID(int=now_ms << 80 | 7 << 76 | fraction << 64 | 2 << 62 | rest))


class Storage:
    """The table, through a bounded pool of connections. To be made after the process has forked.

    Every method but `create_schema` raises StorageAway where the database does not answer.
    """

    def __init__(self, url: str, max_pages: int | None = None) -> None:
        """Connect when first needed. max_pages: of a SQLite file; past it, storing fails."""
        self._engine = _make_engine(url, max_pages)
        # One row needs no transaction, nor to know beforehand whether its connection is alive: the
        # server is asked once instead of four times.
        alone = {"isolation_level": "AUTOCOMMIT", "pool_pre_ping": False}
        self._single = _make_engine(url, max_pages, pool_reset_on_return=None, **alone)
        insert: Any = postgresql.insert(predictions)
        if url.startswith("sqlite"):
            insert = sqlite.insert(predictions)
        new, old = insert.excluded, predictions.c
        self._put = insert.on_conflict_do_update(
            index_elements=["id"],
            set_={name: new[name] for name in ("true_digit", "labelled_by", "labelled_at")},
            where=new.labelled_at.is_not(None)
            & (old.labelled_at.is_(None) | (new.labelled_at > old.labelled_at)),
        )

    def create_schema(self) -> None:
        """Bring the schema up to date, whatever version made it. Raises StartError."""
        try:
            with self._engine.begin() as connection, _patience(connection, PATIENT_S):
                # Several may start together.
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
                else:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                _migrate(connection)
        except exc.SQLAlchemyError as error:
            where = self._engine.url.render_as_string(hide_password=True)
            cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise StartError(
                f"The database {where} cannot be used: {cause}. "
                "Start it, or set DATABASE_URL to one that answers."
            ) from error
        finally:
            self._engine.dispose()

    def check(self) -> None:
        """Raise StorageAway unless the database could be written to."""
        with self._transaction() as connection:
            connection.execute(predictions.delete().where(sa.false()))

    def put(self, *rows: Prediction) -> None:
        """Store predictions, or the newer labels of such as are stored; durable on return."""
        if len(rows) == 1:
            with _told(), self._single.connect() as connection:
                connection.execute(self._put, vars(rows[0]))
        else:
            with self._transaction() as connection:
                connection.execute(self._put, [vars(prediction) for prediction in rows])

    def get(self, id_: str) -> Prediction:
        """Return one prediction. Raises NotFound."""
        with self._transaction() as connection:
            row = connection.execute(predictions.select().where(predictions.c.id == id_)).first()
        if row is None:
            raise NotFound("There is no such prediction.")
        return Prediction(**row._mapping)

    def page(
        self, limit: int, before: str | None = None, filters: Filters | None = None
    ) -> tuple[list[Prediction], str | None]:
        """Return the newest predictions older than `before`, and where the next page begins.

        Pages hang on ids, not on counts: new rows shift nothing, and the last page costs what
        the first does.
        """
        query = predictions.select().order_by(predictions.c.id.desc()).limit(limit + 1)
        query = query.where(*(filters or Filters()).conditions())
        if before is not None:
            query = query.where(predictions.c.id < before)
        with self._transaction() as connection:
            rows = [Prediction(**row._mapping) for row in connection.execute(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    def remove(self, rows: Sequence[Prediction]) -> None:
        """Delete predictions, but for such as were labelled anew meanwhile."""
        row = predictions.c
        unchanged = row.labelled_at.is_not_distinct_from(sa.bindparam("at", type_=_UtcTime))
        query = predictions.delete().where(row.id == sa.bindparam("of"), unchanged)
        with self._transaction() as connection:
            connection.execute(query, [{"of": each.id, "at": each.labelled_at} for each in rows])

    def delete(self, filters: Filters) -> int:
        """Delete the predictions that the filters choose; return how many there were."""
        query = predictions.delete().where(*filters.conditions())
        with self._transaction() as connection, _patience(connection, COUNTING_S):
            return connection.execute(query).rowcount

    def count(self) -> int:
        """Return how many predictions there are."""
        with self._transaction() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(predictions)
            ).scalar_one()

    def labelled(self) -> list[Labelled]:
        """Count the labelled predictions by model, answer and label."""
        row = predictions.c
        columns = (row.model_version, row.predicted_digit, row.true_digit)
        query = sa.select(*columns, sa.func.count()).where(row.true_digit.is_not(None))
        with self._transaction() as connection:
            return [Labelled(*row) for row in connection.execute(query.group_by(*columns))]

    def daily(self) -> list[Daily]:
        """Count all predictions by day, model and answer."""
        row = predictions.c
        columns = (sa.func.date(row.created_at), row.model_version, row.predicted_digit)
        query = sa.select(*columns, sa.func.count()).group_by(*columns).order_by(columns[0])
        with self._transaction() as connection, _patience(connection, COUNTING_S):
            return [Daily(str(day), *rest) for day, *rest in connection.execute(query)]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with _told(), self._engine.begin() as connection:
            yield connection


def _make_engine(url: str, max_pages: int | None, **options: Any) -> sa.Engine:
    is_sqlite = url.startswith("sqlite")
    kind = SQLITE if is_sqlite else POSTGRES
    engine = sa.create_engine(
        url, pool_size=POOL, max_overflow=0, pool_timeout=WAIT_S, **(kind | options)
    )
    if is_sqlite:
        sa.event.listen(engine, "connect", _tune_sqlite(max_pages))
    return engine


@contextmanager
def _told() -> Iterator[None]:
    """Tell of the database's errors in our own words."""
    try:
        yield
    except (exc.IntegrityError, exc.DataError) as error:
        raise Refused("The record of predictions does not take this.") from error
    except exc.SQLAlchemyError as error:
        if isinstance(getattr(error, "orig", None), QueryCanceled):
            raise Refused("This takes too long. Ask for less.") from error
        raise StorageAway(
            "The record of predictions cannot be reached. Try again in a moment."
        ) from error


@contextmanager
def _patience(connection: sa.Connection, wait_s: float) -> Iterator[None]:
    """Let the statements of a transaction take longer than a request may wait."""
    if connection.dialect.name != "postgresql":
        yield
        return
    timeouts = ("statement_timeout", "lock_timeout")
    connection.exec_driver_sql("; ".join(f"SET LOCAL {each} = '{wait_s}s'" for each in timeouts))
    raw = cast(_Connection, connection.connection.dbapi_connection)
    raw.wait_s = wait_s
    try:
        yield
    finally:
        raw.wait_s = WAIT_S


def _migrate(connection: sa.Connection) -> None:
    from alembic import command, config, util  # the workers do without

    settings = config.Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.attributes["connection"] = connection
    try:
        command.upgrade(settings, "head")
    except util.CommandError as error:
        raise StartError(f"The database is of another version of this service: {error}.") from error


def _tune_sqlite(max_pages: int | None) -> Callable[[sqlite3.Connection, object], None]:
    def tune(connection: sqlite3.Connection, _: object) -> None:
        # Readers and the writer do not wait for each other. What is committed outlives the process;
        # a power cut may take the last of it: to prevent that, each commit would await the disk.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {max_pages}")

    return tune
