"""The tables of predictions and deletions, and queries on them, in Postgres or in a SQLite file."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from webapp.engines import (
    AGGREGATE_TIMEOUT_S,
    MIGRATION_TIMEOUT_S,
    STATEMENT_TIMEOUT_S,
    Target,
    enable_wal,
    make_engine,
    translate_errors,
)
from webapp.errors import StartupError
from webapp.prediction import (
    OPERATOR,
    Classification,
    DailyCount,
    Deletion,
    Filters,
    LabelCount,
    Prediction,
    first_id,
    new_prediction,
)

ADVISORY_LOCK = 2_802_801  # any number: serializes migrations, deletions and flushes on Postgres
MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = max(path.stem.partition("_")[0] for path in MIGRATIONS.glob("versions/*.py"))
BATCH = 500  # rows in one statement
DELETE_BATCH = 5_000
SCAN_LIMIT = 2_000  # rows that are examined for one page of a filter without an index
PROBE = Classification(0, 1.0, [0.1] * 10, doubt=None)


class _UtcTime(sa.TypeDecorator[datetime]):
    """A time with its time zone, which SQLite does not store."""

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
    sa.Column("doubt", sa.Text),
    sa.Column("true_digit", sa.SmallInteger),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("pixels", sa.LargeBinary, nullable=False),
    sa.Column("visitor", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("labelled_by", sa.Text),
    sa.Column("labelled_at", _UtcTime),
    sa.Column("label_revision", sa.Integer, nullable=False),
    sa.Column("review", sa.Text),
)
# What an outbox must not bring back: one prediction, or all before an id, or a visitor's before it.
tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("prediction_id", _ID),
    sa.Column("before", _ID),
    sa.Column("visitor", sa.Text),
)
LABEL_COLUMNS = ("true_digit", "labelled_by", "labelled_at", "label_revision", "review")


class Summary(NamedTuple):
    """What the counts need to know about a prediction."""

    id: str
    day: str
    model_version: str
    predicted_digit: int
    true_digit: int | None


DAILY_KEY = attrgetter("day", "model_version", "predicted_digit", "true_digit")
LABEL_KEY = attrgetter("model_version", "predicted_digit", "true_digit")


class Database:
    """Predictions and tombstones in one database. Create it after the process has forked.

    Every method raises StorageUnavailable if the database cannot be reached or written to, and
    QueryRejected if it refuses the statement or takes too long.
    """

    def __init__(self, target: Target, max_pages: int | None = None) -> None:
        """Prepare to connect; the first query connects.

        max_pages: size limit of a SQLite file, in pages of 4 KiB.
        """
        self._target = target

        def engine(timeout_s: float, begin: str | None = None, pool_size: int = 1) -> sa.Engine:
            return make_engine(
                target, timeout_s, begin=begin, pool_size=pool_size, max_pages=max_pages
            )

        # Single statements commit themselves: one round trip instead of three. Lists have their own
        # connections, so that slow ones do not hold up inserts.
        self._single = engine(STATEMENT_TIMEOUT_S, pool_size=2)
        self._reader = engine(STATEMENT_TIMEOUT_S, pool_size=2)
        self._writer = engine(STATEMENT_TIMEOUT_S, begin="write")
        self._aggregator = engine(AGGREGATE_TIMEOUT_S, begin="snapshot", pool_size=2)
        self._migrator = engine(MIGRATION_TIMEOUT_S, begin="write")
        self._is_sqlite = isinstance(target, Path)
        insert: Any = (sqlite if self._is_sqlite else postgresql).insert(predictions)
        self._insert_statement = insert.on_conflict_do_nothing()
        new = insert.excluded
        # RETURNING, and no literal, let SQLAlchemy send all rows in one statement.
        self._merge_statement = insert.on_conflict_do_update(
            index_elements=["id"],
            set_={name: new[name] for name in LABEL_COLUMNS},
            where=(new.label_revision >= predictions.c.label_revision)
            & new.labelled_at.is_not(None),
        ).returning(predictions.c.id)

    # ---- schema ------------------------------------------------------------------------------

    @translate_errors()
    def migrate(self) -> None:
        """Create or upgrade the schema. Raises StartupError if a newer release made it."""
        try:
            if isinstance(self._target, Path):
                enable_wal(self._single)
            with self._migrator.begin() as connection:
                self._lock(connection)  # replicas may start at the same time
                _upgrade(connection)
        finally:
            self.dispose()  # the process that migrates may fork afterwards

    def dispose(self) -> None:
        """Close all connections."""
        for engine in (self._single, self._reader, self._writer, self._aggregator, self._migrator):
            engine.dispose()

    @translate_errors()
    def is_migrated(self) -> bool:
        """Return whether the schema is that of this release."""
        with self._reader.connect() as connection:
            has_version = sa.inspect(connection).has_table("alembic_version")
            query = "SELECT version_num FROM alembic_version"
            return has_version and connection.exec_driver_sql(query).scalar() == HEAD

    @translate_errors()
    def check(self) -> None:
        """Insert a row and delete it again in one transaction, which commits: a real write."""
        row = new_prediction(PROBE, "", bytes(784), "")
        with self._writer.begin() as connection:
            connection.execute(predictions.insert(), vars(row))
            connection.execute(predictions.delete().where(predictions.c.id == row.id))

    # ---- one row -----------------------------------------------------------------------------

    @translate_errors()
    def insert(self, prediction: Prediction) -> bool:
        """Store a prediction; return False if its id or idempotency key is stored already."""
        with self._single.connect() as connection:
            return connection.execute(self._insert_statement, vars(prediction)).rowcount == 1

    @translate_errors()
    def get(self, id_: str) -> Prediction | None:
        """Return one prediction."""
        return self._first(predictions.c.id == id_)

    @translate_errors()
    def find_key(self, idempotency_key: str) -> Prediction | None:
        """Return the prediction that was stored with this idempotency key."""
        return self._first(predictions.c.idempotency_key == idempotency_key)

    @translate_errors()
    def label(
        self,
        id_: str,
        digit: int | None,
        labelled_by: str,
        revision: int,
        review: str | None = None,
    ) -> Prediction | None:
        """Set the label of a row and its review; return the row, or None if there is none.

        The operator's label is only changed by the operator.

        revision: of the label that this one replaces, if it is known from another database.
        """
        row = predictions.c
        newer = sa.case((row.label_revision > revision, row.label_revision), else_=revision) + 1
        conditions = []
        if labelled_by != OPERATOR:
            is_released = row.true_digit.is_(None) & row.review.is_(None)
            conditions = [row.labelled_by.is_distinct_from(OPERATOR) | is_released]
        query = (
            predictions.update()
            .where(row.id == id_, *conditions)
            .values(
                true_digit=digit,
                labelled_by=labelled_by,
                labelled_at=datetime.now(UTC),
                label_revision=newer,
                review=review,
            )
            .returning(predictions)
        )
        with self._single.connect() as connection:
            found = connection.execute(query).first()
        return Prediction(**found._mapping) if found else None

    # ---- many rows ---------------------------------------------------------------------------

    @translate_errors()
    def page(
        self,
        limit: int,
        before: str | None = None,
        filters: Filters | None = None,
        since: str | None = None,
    ) -> list[Prediction]:
        """Return the newest predictions with ids from `since` to `before`, `limit` at most.

        since: is included; `before` is not.
        """
        row = predictions.c
        query = _matching(filters or Filters()).order_by(row.id.desc()).limit(limit)
        if before is not None:
            query = query.where(row.id < before)
        if since is not None:
            query = query.where(row.id >= since)
        return self._all(query)

    @translate_errors()
    def review_queue(self, limit: int, filters: Filters) -> list[Prediction]:
        """Return labels that were not reviewed, in the order that is worth the operator's time.

        Disagreements with the model come first, then uncertain predictions, then a random sample:
        the end of an id is random.
        """
        row = predictions.c
        random = sa.func.substr(sa.cast(row.id, sa.Text), 20)
        query = (
            _matching(replace(filters, labelled=True, reviewed=False))
            .order_by(
                row.true_digit == row.predicted_digit,
                sa.case((row.uncertain, row.confidence), else_=1),
                random,
            )
            .limit(limit)
        )
        return self._all(query)

    @translate_errors()
    def search_start(self, before: str | None, filters: Filters) -> str | None:
        """Return the id from which on one page may search, or None if it may search all rows.

        No index finds the rows that match some filters. A page examines SCAN_LIMIT rows for these.
        """
        if not list(_other_conditions(filters)):
            return None
        row = predictions.c
        query = sa.select(row.id).where(*_indexed_conditions(filters)).order_by(row.id.desc())
        if before is not None:
            query = query.where(row.id < before)
        with self._reader.connect() as connection:
            return connection.execute(query.offset(SCAN_LIMIT - 1).limit(1)).scalar()

    @translate_errors()
    def oldest(
        self, limit: int, since: str | None = None, without: Collection[str] = ()
    ) -> list[Prediction]:
        """Return the oldest predictions from the id `since` on, except those with some ids."""
        row = predictions.c
        query = predictions.select().where(row.id.not_in(without))
        if since is not None:
            query = query.where(row.id >= since)
        return self._all(query.order_by(row.id).limit(limit))

    @translate_errors()
    def merge(self, rows: Sequence[Prediction]) -> None:
        """Store rows of an outbox, except deleted ones; a newer label replaces an older one."""
        with self._writer.begin() as connection:
            self._lock(connection)  # a deletion is either seen here or deletes what is stored here
            deleted = self._deleted(connection, rows)
            if kept := [vars(row) for row in rows if row.id not in deleted]:
                connection.execute(self._merge_statement, kept)

    @translate_errors()
    def deleted(self, rows: Sequence[Prediction]) -> set[str]:
        """Return the ids of those predictions that a tombstone covers."""
        with self._reader.connect() as connection:
            return self._deleted(connection, rows)

    @translate_errors()
    def remove(self, rows: Sequence[Prediction]) -> None:
        """Delete rows that were stored elsewhere, except those labelled in the meantime."""
        row = predictions.c
        query = predictions.delete().where(
            row.id == sa.bindparam("of"), row.label_revision == sa.bindparam("revision")
        )
        with self._writer.begin() as connection:
            connection.execute(query, [{"of": r.id, "revision": r.label_revision} for r in rows])

    @translate_errors()
    def delete(self, deletion: Deletion, *, tombstone: bool = True) -> int:
        """Delete predictions and write a tombstone; return how many there were.

        Many are deleted in steps, so that inserts need not wait for all of them.
        """
        chosen = sa.select(predictions.c.id).where(_covered(deletion)).limit(DELETE_BATCH)
        query = predictions.delete().where(predictions.c.id.in_(chosen))
        total, count = 0, DELETE_BATCH
        while count == DELETE_BATCH:
            with self._writer.begin() as connection:
                self._lock(connection)
                if tombstone:
                    values = vars(deletion) | {"created_at": datetime.now(UTC)}
                    connection.execute(tombstones.insert(), values)
                    tombstone = False
                count = connection.execute(query).rowcount
            total += count
        return total

    @translate_errors()
    def expire(self, before: datetime) -> None:
        """Delete tombstones older than `before`, and clear idempotency keys older than a day."""
        row, day_ago = predictions.c, first_id(datetime.now(UTC) - timedelta(days=1))
        old_key = row.idempotency_key.is_not(None) & (row.id < day_ago)
        with self._writer.begin() as connection:
            connection.execute(tombstones.delete().where(tombstones.c.created_at < before))
            connection.execute(predictions.update().where(old_key).values(idempotency_key=None))

    # ---- counts ------------------------------------------------------------------------------

    @translate_errors()
    def count(self) -> int:
        """Return how many predictions there are."""
        query = sa.select(sa.func.count()).select_from(predictions)
        with self._reader.connect() as connection:
            return connection.execute(query).scalar_one()

    @translate_errors()
    def used_pages(self) -> int:
        """Return how many pages of a SQLite file are in use."""
        with self._reader.connect() as connection:
            total, free = (
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("page_count", "freelist_count")
            )
        return int(total) - int(free)

    @translate_errors()
    def summaries(self) -> list[Summary]:
        """Return what the counts need to know about every prediction, for a small database."""
        row = predictions.c
        query = sa.select(
            row.id, self._day(), row.model_version, row.predicted_digit, row.true_digit
        )
        with self._reader.connect() as connection:
            return [Summary(*found) for found in connection.execute(query)]

    @translate_errors()
    def label_counts(self, others: Iterable[Summary] = ()) -> list[LabelCount]:
        """Count labelled predictions by version, digit and label, and others not stored here."""
        row = predictions.c
        columns = (row.model_version, row.predicted_digit, row.true_digit)
        labelled = [other for other in others if other.true_digit is not None]
        counts = self._counts(columns, row.true_digit.is_not(None), labelled, LABEL_KEY)
        return [LabelCount(key[0], key[1], key[2], number) for key, number in counts]

    @translate_errors()
    def daily_counts(self, others: Iterable[Summary] = ()) -> list[DailyCount]:
        """Count predictions by day, version, digit and label, and others not stored here."""
        row = predictions.c
        columns = (self._day(), row.model_version, row.predicted_digit, row.true_digit)
        counts = self._counts(columns, sa.true(), others, DAILY_KEY)
        return [DailyCount(key[0], key[1], key[2], key[3], number) for key, number in counts]

    def _counts(
        self,
        columns: Sequence[sa.ColumnElement[Any]],
        condition: sa.ColumnElement[bool],
        others: Iterable[Summary],
        key: Callable[[Summary], tuple[Any, ...]],
    ) -> list[tuple[tuple[Any, ...], int]]:
        counts = Counter[tuple[Any, ...]]()
        query = sa.select(*columns, sa.func.count()).where(condition).group_by(*columns)
        with self._aggregator.begin() as connection:
            for *found, number in connection.execute(query):
                counts[tuple(found)] = number
            stored = self._stored(connection, [other.id for other in others])
        counts.update(key(other) for other in others if other.id not in stored)
        return sorted(counts.items(), key=str)

    # ---- parts of queries --------------------------------------------------------------------

    def _day(self) -> sa.ColumnElement[str]:
        created_at: Any = predictions.c.created_at
        if not self._is_sqlite:
            created_at = sa.func.timezone("UTC", created_at)
        return sa.cast(sa.func.date(created_at), sa.Text)

    def _all(self, query: sa.Select[Any]) -> list[Prediction]:
        with self._reader.connect() as connection:
            rows = connection.execute(query).all()  # then others may use the connection
        return [Prediction(**row._mapping) for row in rows]

    def _first(self, condition: sa.ColumnElement[bool]) -> Prediction | None:
        with self._reader.connect() as connection:
            row = connection.execute(predictions.select().where(condition)).first()
        return Prediction(**row._mapping) if row else None

    def _stored(self, connection: sa.Connection, ids: Sequence[str]) -> set[str]:
        stored: set[str] = set()
        for start in range(0, len(ids), BATCH):
            among = predictions.c.id.in_(ids[start : start + BATCH])
            stored.update(connection.scalars(sa.select(predictions.c.id).where(among)))
        return stored

    def _deleted(self, connection: sa.Connection, rows: Sequence[Prediction]) -> set[str]:
        tombstone = tombstones.c
        columns = (tombstone.prediction_id, tombstone.before, tombstone.visitor)
        relevant = tombstone.before.is_not(None) | tombstone.prediction_id.in_(r.id for r in rows)
        found = connection.execute(sa.select(*columns).where(relevant))
        deletions = [Deletion(*values) for values in found]
        return {row.id for row in rows if any(each.covers(row) for each in deletions)}

    def _lock(self, connection: sa.Connection) -> None:
        if not self._is_sqlite:  # its transactions lock the file when they begin
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))


def _covered(deletion: Deletion) -> sa.ColumnElement[bool]:
    row = predictions.c
    if deletion.before is None:
        return row.id == deletion.prediction_id
    older = row.id < deletion.before
    return older if deletion.visitor is None else older & (row.visitor == deletion.visitor)


def _matching(filters: Filters) -> sa.Select[Any]:
    conditions = *_indexed_conditions(filters), *_other_conditions(filters)
    return predictions.select().where(*conditions)


def _other_conditions(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    """Return the conditions that no index serves."""
    row = predictions.c
    if filters.digit is not None:
        yield row.predicted_digit == filters.digit
    if filters.labelled is False:
        yield row.true_digit.is_(None)
    if filters.correct is not None:
        agree = row.true_digit == row.predicted_digit
        yield agree if filters.correct else ~agree
    if filters.reviewed is not None:
        yield row.review.is_not(None) if filters.reviewed else row.review.is_(None)
    if filters.model_version is not None:
        yield row.model_version == filters.model_version


def _indexed_conditions(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    row = predictions.c
    if filters.labelled or filters.correct is not None:
        yield row.true_digit.is_not(None)
    if filters.visitor is not None:
        yield row.visitor == filters.visitor
    if filters.since is not None:
        yield row.id >= first_id(filters.since)
    if filters.until is not None:
        yield row.id < first_id(filters.until)


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command, config, util  # only the process that migrates needs it

    settings = config.Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    settings.attributes["connection"] = connection
    try:
        command.upgrade(settings, "head")
    except util.CommandError as error:
        raise StartupError(
            f"A newer release has migrated the database ({error}). Run that release, or restore a "
            "backup from before the upgrade."
        ) from error
