"""The record of predictions: one table, in Postgres or in a SQLite file."""

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Dialect

from webapp.classifier import Answer
from webapp.errors import NotFound, StartError, StorageAway

WAIT_S = 5  # for a connection, a statement or a lock
SCHEMA_LOCK = 2_802_801  # any number, the same for all replicas
POOL = 4  # connections a worker keeps at most: one for each of its threads
POSTGRES_CONNECTION = {
    "connect_timeout": WAIT_S,
    "options": f"-c statement_timeout={WAIT_S * 1000} -c lock_timeout={WAIT_S * 1000}",
    "tcp_user_timeout": WAIT_S * 1000,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
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
    sa.CheckConstraint("predicted_digit BETWEEN 0 AND 9", name="predicted_digit_is_digit"),
    sa.CheckConstraint("true_digit BETWEEN 0 AND 9", name="true_digit_is_digit"),
    sa.CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence_is_probability"),
    sa.CheckConstraint("json_array_length(probabilities) = 10", name="ten_probabilities"),
    sa.CheckConstraint("length(pixels) = 784", name="pixels_28_by_28"),
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


@dataclass(frozen=True)
class Filters:
    """Which predictions to list; None leaves a question open."""

    digit: int | None = None
    labelled: bool | None = None
    right: bool | None = None
    model_version: str | None = None

    def conditions(self) -> Iterator[sa.ColumnElement[bool]]:
        """Return the SQL of each filter that is set."""
        row = predictions.c
        if self.digit is not None:
            yield row.predicted_digit == self.digit
        if self.labelled is not None:
            yield row.true_digit.is_not(None) if self.labelled else row.true_digit.is_(None)
        if self.right is not None:
            agree = row.true_digit == row.predicted_digit
            yield agree if self.right else ~agree
        if self.model_version is not None:
            yield row.model_version == self.model_version


class Count(NamedTuple):
    """How many predictions share a model, an answer and a label."""

    model_version: str
    predicted_digit: int
    true_digit: int | None
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
    fraction = rest_ns * 4096 // 1_000_000
    bits = now_ms << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)
    return str(UUID(int=bits))


class Storage:
    """The table, through a bounded pool of connections. To be made after the process has forked.

    Every method but `create_schema` raises StorageAway where the database does not answer.
    """

    def __init__(self, url: str) -> None:
        sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(
            url,
            pool_size=POOL,
            max_overflow=0,
            pool_timeout=WAIT_S,
            pool_pre_ping=not sqlite,  # a connection may have died with its server
            connect_args={"timeout": WAIT_S} if sqlite else POSTGRES_CONNECTION,
        )
        if sqlite:
            sa.event.listen(self._engine, "connect", _tune_sqlite)

    def create_schema(self) -> None:
        """Make the table where it is missing. Raises StartError."""
        try:
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":  # replicas may start together
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
                metadata.create_all(connection)
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
        """Raise StorageAway unless the database answers."""
        with self._transaction() as connection:
            connection.execute(sa.select(1))

    def add(self, prediction: Prediction) -> None:
        """Store a new prediction; it is durable when this returns."""
        with self._transaction() as connection:
            connection.execute(predictions.insert(), asdict(prediction))

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

    def set_true_digit(self, id_: str, digit: int | None) -> None:
        """Keep what a digit really was, or take that back."""
        with self._transaction() as connection:
            connection.execute(
                predictions.update().where(predictions.c.id == id_).values(true_digit=digit)
            )

    def counts(self) -> list[Count]:
        """Count the predictions by model, answer and label."""
        row = predictions.c
        columns = (row.model_version, row.predicted_digit, row.true_digit)
        query = sa.select(*columns, sa.func.count()).group_by(*columns)
        with self._transaction() as connection:
            return [Count(*row) for row in connection.execute(query)]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except exc.IntegrityError:
            raise
        except exc.SQLAlchemyError as error:
            raise StorageAway(
                "The record of predictions cannot be reached. Try again in a moment."
            ) from error


def _tune_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Readers and the writer do not wait for each other; what was committed outlives a power cut.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
