"""The record of predictions, of which nothing is lost: the database, and a journal for its absence.

What the database does not take waits in a SQLite file under DATA_DIR, the same for all processes
there, and is durable too. Every process writes what waits into the database as soon as that
answers again; a row that two of them write, or that had arrived after all, is stored once.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from webapp import metrics
from webapp.errors import NotFound, Refused, StorageAway
from webapp.storage import Daily, Filters, Labelled, Prediction, Storage

JOURNAL = "journal.db"
JOURNAL_PAGES = 65_536  # of 4 KiB: more than 100,000 predictions
RETRY_S = 0.5  # from one look for the database to the next
BATCH = 500  # predictions written at once
RECENT = 1_000  # predictions a process remembers, to label while the database is away
QUICK_S = 0.02  # that counting all predictions may take each time it is asked for
FRESH_S = 60  # that the counts may be old where it takes longer

log = logging.getLogger("webapp")


class Counts(NamedTuple):
    """The figures of the record; those of the labelled are exact."""

    labelled: list[Labelled]
    daily: list[Daily]
    as_of: float  # seconds since 1970


def create_schema(url: str, folder: Path) -> None:
    """Make or bring up to date the database and the journal. Raises StartError."""
    Storage(url).create_schema()
    open_journal(folder).create_schema()


def open_journal(folder: Path) -> Storage:
    """Return the journal in a folder."""
    return Storage(f"sqlite:///{folder / JOURNAL}", max_pages=JOURNAL_PAGES)


class Record:
    """What requests read and write. To be made after the process has forked.

    Every method raises StorageAway where neither database nor journal can do it.
    """

    def __init__(self, database: Storage, journal: Storage) -> None:
        self._database, self._journal = database, journal
        self._is_away = False
        self._recent: OrderedDict[str, Prediction] = OrderedDict()
        self._refused: set[str] = set()
        self._daily: list[Daily] = []
        self._counted_at = self._count_again_at = 0.0
        self._counting = threading.Lock()
        threading.Thread(target=self._look_forever, daemon=True).start()

    def put(self, prediction: Prediction) -> None:
        """Store a prediction, or its newer label; it is durable when this returns."""
        try:
            with self._asking() as database:
                database.put(prediction)
        except StorageAway:
            self._journal.put(prediction)
        self._recent[prediction.id] = prediction
        if len(self._recent) > RECENT:
            with suppress(KeyError):  # another thread was first
                self._recent.popitem(last=False)

    def get(self, id_: str) -> Prediction:
        """Return one prediction with its newest label. Raises NotFound."""
        found: list[Prediction] = []
        with suppress(NotFound, StorageAway):
            found.append(self._journal.get(id_))
        try:
            with self._asking() as database:
                found.append(database.get(id_))
        except (NotFound, StorageAway) as error:
            if isinstance(error, StorageAway) and id_ in self._recent:
                found.append(self._recent[id_])
            if not found:
                raise
        return max(found, key=lambda row: row.labelled_at or row.created_at)

    def page(
        self, limit: int, before: str | None = None, filters: Filters | None = None
    ) -> tuple[list[Prediction], str | None]:
        """Return the newest predictions older than `before`, and where the next page begins."""
        with self._asking() as database:
            self._catch_up()  # what was answered 201 is in the very next list
            return database.page(limit, before, filters)

    def all(self, filters: Filters) -> Iterator[Prediction]:
        """Return all predictions that the filters choose, newest first, few in memory at a time."""
        page, before = self.page(BATCH, None, filters)
        yield from page
        while before is not None:
            page, before = self.page(BATCH, before, filters)
            yield from page

    def delete(self, filters: Filters) -> int:
        """Delete the predictions that the filters choose; return how many there were."""
        with self._asking() as database:
            self._catch_up()
            self._recent.clear()  # or a label could bring one back
            return database.delete(filters)

    def counts(self) -> Counts:
        """Count the labelled predictions, now, and all, at most FRESH_S ago."""
        with self._asking() as database:
            self._catch_up()
            with self._counting:
                now = time.time()
                if now >= self._count_again_at:
                    self._daily, self._counted_at = database.daily(), now
                    self._count_again_at = now + (FRESH_S if time.time() - now > QUICK_S else 0)
            return Counts(database.labelled(), self._daily, self._counted_at)

    def check(self) -> tuple[bool, int]:
        """Return whether the database answers, and how many predictions wait in the journal."""
        if self._is_away:
            self._journal.check()
            return False, self._journal.count()
        with suppress(StorageAway):
            return True, self._journal.count()
        return True, 0

    def look(self) -> None:
        """Find out whether the database answers, and write into it what waits in the journal."""
        with suppress(StorageAway):
            try:
                self._database.check()
                self._catch_up()
            except Refused:  # the database answers, but not in time
                pass
            except StorageAway as error:
                self._set_away(error)
            else:
                self._set_away(None)
            metrics.WAITING.set(self._journal.count())

    def _look_forever(self) -> None:
        while True:
            time.sleep(RETRY_S)
            try:
                self.look()
            except Exception:  # whatever it is, what waits must not wait for ever
                log.exception("the journal could not be looked through")

    def _catch_up(self) -> None:
        before = None
        while True:
            try:
                rows, before = self._journal.page(BATCH, before)
            except StorageAway:  # a broken journal is no reason to do without the database
                return
            if written := self._write(rows):
                with suppress(StorageAway):  # what stays is written again, which changes nothing
                    self._journal.remove(written)
                log.info("%d predictions written that had waited for the database", len(written))
            if before is None:
                return

    def _write(self, rows: list[Prediction]) -> list[Prediction]:
        """Write into the database what it takes; return that."""
        if not rows:
            return []
        try:
            self._database.put(*rows)
            return rows
        except Refused as error:
            if len(rows) > 1:
                return [row for each in rows for row in self._write([each])]
            if rows[0].id not in self._refused:
                self._refused.add(rows[0].id)
                log.error("prediction %s stays in the journal: %s", rows[0].id, error.__cause__)
            return []

    def _set_away(self, error: StorageAway | None) -> None:
        if (error is not None) != self._is_away:
            if error is None:
                log.warning("the database is back")
            else:
                cause = str(error.__cause__).splitlines()[0]
                log.warning("the database is away, predictions wait: %s", cause)
        self._is_away = error is not None

    @contextmanager
    def _asking(self) -> Iterator[Storage]:
        """Give the database, unless it is known to be away, and learn it when it is."""
        if self._is_away:
            raise StorageAway("The record of predictions cannot be reached. Try again in a moment.")
        try:
            yield self._database
        except Refused:
            raise
        except StorageAway as error:
            self._set_away(error)
            raise
