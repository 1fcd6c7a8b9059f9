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
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from webapp import metrics
from webapp.errors import NotFound, StorageAway
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
        self._daily: list[Daily] = []
        self._counted_at = self._count_again_at = 0.0
        threading.Thread(target=self._catch_up_forever, daemon=True).start()

    def put(self, prediction: Prediction) -> None:
        """Store a prediction, or its newer label; it is durable when this returns."""
        if not self._is_away:
            try:
                self._database.put(prediction)
            except StorageAway:
                self._set_away(True)
        if self._is_away:
            self._journal.put(prediction)
        self._recent[prediction.id] = prediction
        if len(self._recent) > RECENT:
            with suppress(KeyError):  # another thread was first
                self._recent.popitem(last=False)

    def get(self, id_: str) -> Prediction:
        """Return one prediction. Raises NotFound."""
        with suppress(NotFound, StorageAway):
            return self._journal.get(id_)
        try:
            return self._answering().get(id_)
        except StorageAway:
            if id_ in self._recent:
                return self._recent[id_]
            raise

    def page(
        self, limit: int, before: str | None = None, filters: Filters | None = None
    ) -> tuple[list[Prediction], str | None]:
        """Return the newest predictions older than `before`, and where the next page begins."""
        self.catch_up()  # what was answered 201 is in the very next list
        return self._answering().page(limit, before, filters)

    def all(self, filters: Filters) -> Iterator[Prediction]:
        """Return all predictions that the filters choose, newest first, few in memory at a time."""
        page, before = self.page(BATCH, None, filters)
        yield from page
        while before is not None:
            page, before = self.page(BATCH, before, filters)
            yield from page

    def delete(self, filters: Filters) -> int:
        """Delete the predictions that the filters choose; return how many there were."""
        self.catch_up()
        return self._answering().delete(filters)

    def counts(self) -> Counts:
        """Count the labelled predictions, now, and all, at most FRESH_S ago."""
        self.catch_up()
        now = time.time()
        if now >= self._count_again_at:
            self._daily, self._counted_at = self._answering().daily(), now
            self._count_again_at = now + (FRESH_S if time.time() - now > QUICK_S else 0)
        return Counts(self._answering().labelled(), self._daily, self._counted_at)

    def check(self) -> tuple[bool, int]:
        """Return whether the database answers, and how many predictions wait in the journal."""
        try:
            self._database.check()
        except StorageAway:
            return False, self._journal.count()
        with suppress(StorageAway):
            return True, self._journal.count()
        return True, 0

    def catch_up(self) -> None:
        """Write into the database what waits in the journal."""
        while rows := self._waiting():
            self._database.put(*rows)
            self._journal.remove(rows)
            log.info("%d predictions written that had waited for the database", len(rows))

    def _waiting(self) -> list[Prediction]:
        try:
            return self._journal.page(BATCH)[0]
        except StorageAway:  # a broken journal is no reason to do without the database
            return []

    def _catch_up_forever(self) -> None:
        while True:
            time.sleep(RETRY_S)
            with suppress(StorageAway):
                if self._is_away:
                    self._database.check()
                    self._set_away(False)
                self.catch_up()
            with suppress(StorageAway):
                metrics.WAITING.set(self._journal.count())

    def _set_away(self, is_away: bool) -> None:
        if is_away != self._is_away:
            log.warning("the database is %s", "away: predictions wait" if is_away else "back")
        self._is_away = is_away

    def _answering(self) -> Storage:
        if self._is_away:
            raise StorageAway("The record of predictions cannot be reached. Try again in a moment.")
        return self._database
