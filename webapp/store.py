"""The prediction store: a database, and an outbox for the time in which that is unavailable.

Predictions go to the database. If it is unavailable, they go to the outbox, a SQLite file in
DATA_DIR that all processes there share, and one process at a time flushes it in the background.
A row can be in both for a moment, because two databases do not commit together. Then the label
that was set more often is the newer one.

Nothing is remembered in a process but whether the database is available.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from webapp.database import BATCH, Database, Summary
from webapp.engines import STATEMENT_TIMEOUT_S, QueryTimeout, cause_of
from webapp.errors import NotFound, QueryRejected, StorageUnavailable
from webapp.prediction import DailyCount, Deletion, Filters, LabelCount, Prediction, first_id

TOMBSTONE_LIFETIME = timedelta(days=30)  # an outbox row that is older is not flushed
CACHE_THRESHOLD_S = 0.02  # a count that takes longer is cached
CACHE_TTL_S = 60

FAILURES = (StorageUnavailable, QueryRejected)

log = logging.getLogger("webapp")


class Page(NamedTuple):
    """Part of a list of predictions."""

    predictions: list[Prediction]
    next: str | None  # `before` for the next page
    partial: bool  # the database is unavailable: these are only those that wait


class Counts(NamedTuple):
    """Counts of all predictions; those of labelled ones are never cached."""

    labels: list[LabelCount]
    daily: list[DailyCount]
    as_of: float  # seconds since 1970


class Status(NamedTuple):
    """What /readyz says about the store."""

    database: str  # "answers", or why it does not
    outbox: str
    can_store: bool
    waiting: int | None
    waiting_since: datetime | None


class PredictionStore:
    """Predictions, labels and deletions. Create it after the process has forked.

    Every method raises StorageUnavailable if neither database nor outbox can do what it promises,
    and QueryRejected if the database takes too long.
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
        if key and (earlier := self._find_key(key)):
            return earlier
        try:
            database = self._database()
            return prediction if database.insert(prediction) else self._stored(database, prediction)
        except FAILURES as error:
            self._note(error)
        inserted = self.outbox.insert(prediction)
        return prediction if inserted else self._stored(self.outbox, prediction)

    def get(self, id_: str) -> Prediction:
        """Return a prediction with its newest label. Raises NotFound."""
        waiting = self._waiting(id_)
        try:
            database = self._database()
            stored = database.get(id_)
            if waiting and not stored and database.deleted([waiting]):
                waiting = None
        except StorageUnavailable as error:
            self._note(error)
            if not waiting:
                raise
            stored = None
        found = _newest([row for row in (waiting, stored) if row])
        if not found:
            raise NotFound("There is no such prediction.")
        return found[0]

    def label(self, id_: str, digit: int | None, labelled_by: str) -> Prediction:
        """Set or remove a label; return the row. Raises NotFound: a label never creates a row."""
        waiting = self._waiting(id_)
        revision = waiting.label_revision if waiting else 0
        try:
            database = self._database()
            if waiting and database.deleted([waiting]):
                raise NotFound("There is no such prediction.")
            if found := database.label(id_, digit, labelled_by, revision):
                if waiting:
                    with suppress(StorageUnavailable):  # its revision is lower: it changes nothing
                        self.outbox.delete(Deletion(id_), tombstone=False)
                return found
        except StorageUnavailable as error:
            self._note(error)
        if found := self.outbox.label(id_, digit, labelled_by, revision):
            return found
        # It may have been flushed between the two.
        if found := self._database().label(id_, digit, labelled_by, revision):
            return found
        raise NotFound("There is no such prediction.")

    # ---- many predictions --------------------------------------------------------------------

    def page(self, limit: int, before: str | None = None, filters: Filters | None = None) -> Page:
        """Return the newest predictions whose id is smaller than `before`."""
        # The outbox first: a row that is flushed meanwhile is found twice rather than not at all.
        rows = self._outbox_page(limit + 1, before, filters)
        partial = False
        try:
            database = self._database()
            deleted = database.deleted(rows) if rows else ()
            rows = [row for row in rows if row.id not in deleted]
            rows += database.page(limit + 1, before, filters)
        except StorageUnavailable as error:
            self._note(error)
            partial = True
        rows = _newest(rows)
        return Page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None, partial)

    def iterate(self, filters: Filters) -> Iterator[Prediction]:
        """Return all predictions that match, newest first, without loading them all."""
        before: str | None = None
        while True:
            rows, before, partial = self.page(BATCH, before, filters)
            if partial:  # an export that lacks most of its rows is none
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
        try:
            deleted = self._database().delete(deletion)
        except StorageUnavailable as error:
            self._note(error)
            raise
        with suppress(StorageUnavailable):  # the tombstone keeps them from coming back
            deleted += self.outbox.delete(deletion, tombstone=False)
        return deleted

    def counts(self) -> Counts:
        """Count the labelled predictions, now, and all of them, at most CACHE_TTL_S ago."""
        database = self._database()
        waiting = []
        with suppress(StorageUnavailable):
            waiting = self.outbox.summaries()
        try:
            daily = self._daily_counts(database, waiting)
            return Counts(database.label_counts(waiting), daily, self._counted_at)
        except StorageUnavailable as error:
            self._note(error)
            raise

    def _daily_counts(self, database: Database, waiting: list[Summary]) -> list[DailyCount]:
        """Return the cached counts unless they are old; one thread counts anew."""
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
        """Find out by a real write whether the database is available; migrate it if necessary."""
        try:
            if not self.database.is_migrated():
                self.database.migrate()
            self.database.check()
        except FAILURES as error:
            self._set_available(False, error)
        else:
            self._set_available(True)

    def status(self) -> Status:
        """Find out by real writes what can be stored right now."""
        database = outbox = "answers"
        waiting, since = None, None
        try:
            self._database().check()
        except FAILURES as error:
            self._note(error)
            database = "unavailable: predictions go to the outbox"
        try:
            self.outbox.check()
            waiting = self.outbox.count()
            since = next((row.created_at for row in self.outbox.oldest(1)), None)
        except FAILURES as error:
            outbox = f"unavailable: {cause_of(error)}"
        can_store = "answers" in (database, outbox)
        return Status(database, outbox, can_store, waiting, since)

    def flush(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Store the rows that wait in the database. For one process at a time."""
        since = first_id(datetime.now(UTC) - TOMBSTONE_LIFETIME)
        with suppress(StorageUnavailable, QueryTimeout):
            while go_on() and (rows := self.outbox.oldest(BATCH, since, self._rejected)):
                self._flush_rows(rows)

    def _flush_rows(self, rows: list[Prediction]) -> None:
        try:
            self.database.merge(rows)
        except StorageUnavailable as error:
            self._note(error)
            raise
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

    def _database(self) -> Database:
        """Return the database. Raises StorageUnavailable if it is known to be unavailable."""
        if not self.available:
            raise StorageUnavailable
        return self.database

    def _note(self, error: Exception) -> None:
        """Remember that the database is unavailable; a query that was too slow says nothing."""
        if isinstance(error, StorageUnavailable) and error.__cause__:
            self._set_available(False, error)

    def _set_available(self, available: bool, error: Exception | None = None) -> None:
        if available != self.available:
            if available:
                log.warning("the database is available again")
            else:
                cause = cause_of(error) if error else ""
                log.warning("the database is unavailable, predictions go to the outbox: %s", cause)
        self.available = available

    def _waiting(self, id_: str) -> Prediction | None:
        with suppress(StorageUnavailable):
            return self.outbox.get(id_)
        return None

    def _outbox_page(
        self, limit: int, before: str | None, filters: Filters | None
    ) -> list[Prediction]:
        try:
            return self.outbox.page(limit, before, filters)
        except StorageUnavailable:
            if not self.available:
                raise
            return []  # a broken outbox is no reason to do without the database

    def _find_key(self, key: str) -> Prediction | None:
        with suppress(StorageUnavailable):
            return self.outbox.find_key(key)
        return None

    def _stored(self, database: Database, prediction: Prediction) -> Prediction:
        """Return what an earlier attempt stored, whose answer was lost."""
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
