"""The prediction store: a database, and an outbox for when the database is unavailable.

Predictions go to the database. If it is unavailable, they go to the outbox, a SQLite file in
DATA_DIR that all processes there share, and one process at a time flushes it in the background.
A row can be in both for a moment, because two databases do not commit together. Then the label
that was set more often is the newer one.

In memory, each process keeps only whether the database is available, the ids of rows that the
database rejected, and cached counts.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, ParamSpec, TypeVar

from webapp.database import BATCH, Database, Summary
from webapp.engines import STATEMENT_TIMEOUT_S, cause_of
from webapp.errors import NotFound, QueryRejected, QueryTimeout, StorageUnavailable
from webapp.prediction import DailyCount, Deletion, Filters, LabelCount, Prediction, first_id

TOMBSTONE_LIFETIME = timedelta(days=30)  # an outbox row that is older is not flushed
CACHE_THRESHOLD_S = 0.02  # a count that takes longer is cached
CACHE_TTL_S = 60

FAILURES = (StorageUnavailable, QueryRejected)

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("webapp")


class Page(NamedTuple):
    """Part of a list of predictions."""

    predictions: list[Prediction]
    next: str | None  # `before` for the next page
    partial: bool  # the database is unavailable: only those in the outbox are listed


class Counts(NamedTuple):
    """Counts of labelled predictions, which are never cached, and of all predictions."""

    labels: list[LabelCount]
    daily: list[DailyCount]
    as_of: float  # seconds since 1970


class Status(NamedTuple):
    """What /readyz says about the store."""

    database: str  # "answers" or "unavailable"
    outbox: str
    can_store: bool
    waiting: int | None
    waiting_since: datetime | None


class PredictionStore:
    """Predictions, labels and deletions. Create it after the process has forked.

    `insert`, `get`, `label` and `page` need the database or the outbox; `review_queue`, `iterate`,
    `delete` and `counts` need the database. Without it they raise StorageUnavailable, and
    QueryRejected if it takes too long.
    """

    def __init__(self, database: Database, outbox: Database) -> None:
        self.database, self.outbox = database, outbox
        self.available = True
        self._rejected: set[str] = set()  # rows of the outbox that the database does not accept
        self._daily: list[DailyCount] = []
        self._counted_at = self._recount_at = 0.0
        self._counting = threading.Lock()

    # ---- one prediction ----------------------------------------------------------------------

    def insert(self, prediction: Prediction) -> Prediction:
        """Store a prediction durably; return it, or the earlier one with its idempotency key."""
        key = prediction.idempotency_key
        if key and (earlier := self._ask_outbox(self.outbox.find_key, key)):
            return earlier
        with suppress(*FAILURES), self._database() as database:
            return _insert_or_find(database, prediction)
        return _insert_or_find(self.outbox, prediction)

    def get(self, id_: str) -> Prediction:
        """Return a prediction with its newest label. Raises NotFound."""
        stored, waiting = None, self._ask_outbox(self.outbox.get, id_)
        try:
            with self._database() as database:
                stored = database.get(id_)
                if waiting and not stored and database.deleted([waiting]):
                    waiting = None
        except StorageUnavailable:
            if not waiting:
                raise
        found = _newest([row for row in (waiting, stored) if row])
        if not found:
            raise NotFound
        return found[0]

    def label(
        self, id_: str, digit: int | None, labelled_by: str, review: str | None = None
    ) -> Prediction:
        """Set or remove a label; return the row. Raises NotFound: a label never creates a row."""
        waiting = self._ask_outbox(self.outbox.get, id_)
        revision = waiting.label_revision if waiting else 0
        with suppress(StorageUnavailable), self._database() as database:
            if waiting and database.deleted([waiting]):
                raise NotFound
            if found := database.label(id_, digit, labelled_by, revision, review):
                if waiting:  # Postgres executed the insert after this process gave up on it
                    with suppress(*FAILURES):
                        self.outbox.label(id_, digit, labelled_by, revision, review)
                return found
        if found := self.outbox.label(id_, digit, labelled_by, revision, review):
            return found
        with self._database() as database:  # it may have been flushed between the two
            if found := database.label(id_, digit, labelled_by, revision, review):
                return found
        raise NotFound

    # ---- many predictions --------------------------------------------------------------------

    def page(self, limit: int, before: str | None = None, filters: Filters | None = None) -> Page:
        """Return the newest predictions whose id is smaller than `before`.

        There may be fewer than `limit` although there is a next page: see Database.search_start.
        """
        filters = filters or Filters()
        # The outbox first: a row that is flushed meanwhile is found twice rather than not at all.
        start = self._ask_outbox(self.outbox.search_start, before, filters)
        rows = self._ask_outbox(self.outbox.page, limit + 1, before, filters, start)
        partial = False
        try:
            with self._database() as database:
                deleted = database.deleted(rows) if rows else ()
                rows = [row for row in rows or () if row.id not in deleted]
                database_start = database.search_start(before, filters)
                rows += database.page(limit + 1, before, filters, database_start)
                start = max(filter(None, (start, database_start)), default=None)
        except StorageUnavailable:
            if rows is None:
                raise
            partial = True
        rows = [row for row in _newest(rows) if not start or row.id >= start]
        if len(rows) > limit:
            return Page(rows[:limit], rows[limit - 1].id, partial)
        return Page(rows, start, partial)

    def review_queue(self, limit: int, filters: Filters) -> list[Prediction]:
        """Return labels that were not reviewed, except those in the outbox: see Database."""
        with self._database() as database:
            return database.review_queue(limit, filters)

    def iterate(self, filters: Filters) -> Iterator[Prediction]:
        """Return all predictions that match, newest first, without loading them all."""
        before: str | None = None
        while True:
            rows, before, partial = self.page(BATCH, before, filters)
            if partial:  # fail instead of exporting an incomplete list
                raise StorageUnavailable
            yield from rows
            if before is None:
                return

    def iterate_outbox(self) -> Iterator[Prediction]:
        """Return the predictions that wait, oldest first."""
        since: str | None = None
        while rows := self.outbox.oldest(BATCH, since, () if since is None else [since]):
            yield from rows
            since = rows[-1].id

    def delete(self, deletion: Deletion) -> int:
        """Delete predictions for good; return how many there were."""
        with self._database() as database:
            deleted = database.delete(deletion)
        # If an outbox keeps its copy, the tombstone prevents it from being flushed.
        return deleted + (self._ask_outbox(self.outbox.delete, deletion, tombstone=False) or 0)

    def counts(self) -> Counts:
        """Return current counts of labelled predictions; those of all may be CACHE_TTL_S old."""
        waiting = self._ask_outbox(self.outbox.summaries) or []
        with self._database() as database:
            daily = self._daily_counts(database, waiting)
            return Counts(database.label_counts(waiting), daily, self._counted_at)

    def _daily_counts(self, database: Database, waiting: list[Summary]) -> list[DailyCount]:
        """Return the cached counts unless they are old; one thread at a time recounts."""
        if not self._counting.acquire(timeout=0 if self._counted_at else STATEMENT_TIMEOUT_S):
            if not self._counted_at:
                raise QueryTimeout("The predictions are being counted. Try again in a few seconds.")
            return self._daily
        try:
            now = time.time()
            if now >= self._recount_at:
                self._daily, self._counted_at = database.daily_counts(waiting), now
                is_slow = time.time() - now > CACHE_THRESHOLD_S
                self._recount_at = now + (CACHE_TTL_S if is_slow else 0)
            return self._daily
        finally:
            self._counting.release()

    # ---- availability and the outbox ---------------------------------------------------------

    def probe(self) -> None:
        """Check with a real write whether the database is available; migrate it if necessary."""
        try:
            if not self.database.is_migrated():
                self.database.migrate()
            self.database.check()
        except FAILURES as error:
            self._set_available(False, error)
        else:
            self._set_available(True)

    def status(self) -> Status:
        """Check with real writes what can be stored right now."""
        database = outbox = "answers"
        waiting, since = None, None
        try:
            with self._database() as available:
                available.check()
        except FAILURES:
            database = "unavailable"
        try:
            self.outbox.check()
            waiting = self.outbox.count()
            since = next((row.created_at for row in self.outbox.oldest(1)), None)
        except FAILURES as error:
            outbox = f"unavailable: {cause_of(error)}"
        can_store = "answers" in (database, outbox)
        return Status(database, outbox, can_store, waiting, since)

    def flush(self, should_continue: Callable[[], bool] = lambda: True) -> None:
        """Store the rows that wait in the database. For one process at a time."""
        since = first_id(datetime.now(UTC) - TOMBSTONE_LIFETIME)
        with suppress(StorageUnavailable, QueryTimeout):
            while should_continue() and (rows := self.outbox.oldest(BATCH, since, self._rejected)):
                self._flush_rows(rows)

    def _flush_rows(self, rows: list[Prediction]) -> None:
        try:
            with self._database() as database:
                database.merge(rows)
        except QueryTimeout:  # for example because an operator has locked the table
            raise
        except QueryRejected as error:
            if len(rows) > 1:
                for row in rows:
                    self._flush_rows([row])
            elif rows[0].idempotency_key:  # stored twice: the first attempt seemed to fail
                self._flush_rows([replace(rows[0], idempotency_key=None)])
            else:
                self._rejected.add(rows[0].id)
                log.error("prediction %s stays in the outbox: %s", rows[0].id, cause_of(error))
            return
        self.outbox.remove(rows)
        log.info("flushed %d predictions from the outbox", len(rows))

    @contextmanager
    def _database(self) -> Iterator[Database]:
        """Return the database, and note when it turns out to be unavailable."""
        if not self.available:
            raise StorageUnavailable
        try:
            yield self.database
        except StorageUnavailable as error:
            self._set_available(False, error)
            raise

    def _set_available(self, available: bool, error: Exception | None = None) -> None:
        if available != self.available:
            if available:
                log.warning("the database is available again")
            else:
                cause = cause_of(error) if error else ""
                log.warning("the database is unavailable, predictions go to the outbox: %s", cause)
        self.available = available

    @staticmethod
    def _ask_outbox(method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call a method of the outbox; None if that is broken: the database may suffice."""
        with suppress(StorageUnavailable):
            return method(*args, **kwargs)
        return None


def _insert_or_find(database: Database, prediction: Prediction) -> Prediction:
    """Insert a prediction; return it, or the one that an earlier attempt of the client stored."""
    if database.insert(prediction):
        return prediction
    key = prediction.idempotency_key
    return (database.find_key(key) if key else None) or prediction


def _newest(rows: list[Prediction]) -> list[Prediction]:
    """Return each row once, with its newest label, newest row first.

    Of two with labels of the same revision, the first is returned.
    """
    newest: dict[str, Prediction] = {}
    for row in rows:
        known = newest.get(row.id)
        if not known or row.label_revision > known.label_revision:
            newest[row.id] = row
    return sorted(newest.values(), key=lambda row: row.id, reverse=True)
