"""The background threads of a worker: model reload, outbox flush, gauges and retention.

The server's hooks start and stop them. An application without them also serves requests, but does
not notice a new model or the return of the database.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from webapp import metrics
from webapp.engines import cause_of, is_corrupt
from webapp.errors import QueryRejected, StartupError, StorageUnavailable
from webapp.prediction import Deletion, first_id
from webapp.services import OUTBOX, OUTBOX_LOCK, OUTBOX_PAGES, Services
from webapp.startup import prepare_outbox
from webapp.store import TOMBSTONE_LIFETIME

RELOAD_INTERVAL_S = 1
OUTBOX_INTERVAL_S = 0.5
CLEANUP_INTERVAL_S = 24 * 3600
RETRY_CLEANUP_S = 60
STOP_TIMEOUT_S = 3  # for a thread to end, and again for the last flush
OUTBOX_ALERT = 0.8  # the share of its size limit at which the outbox is reported
EXPECTED = (StorageUnavailable, QueryRejected, StartupError, OSError)

log = logging.getLogger("webapp")


class Background:
    """The threads of one worker process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._stopping = threading.Event()
        self._has_outbox, self._inode = False, 0
        self._cleanup_at = self._usage = 0.0
        self._threads = [
            threading.Thread(target=self._repeat, args=task, daemon=True)
            for task in (
                ("reloading the model", services.model.reload_if_changed, RELOAD_INTERVAL_S),
                ("flushing the outbox", self._maintain_outbox, OUTBOX_INTERVAL_S),
                ("deleting old data", self._clean_up, OUTBOX_INTERVAL_S),
            )
        ]

    def start(self) -> None:
        """Load the model and start the threads. Raises StartupError."""
        self._services.model.load()
        store = self._services.store
        store.available = False  # until the schema has been checked
        with suppress(*EXPECTED):
            store.available = store.database.is_migrated()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads, then flush the outbox; each takes STOP_TIMEOUT_S at most."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        deadline = time.monotonic() + STOP_TIMEOUT_S
        with suppress(*EXPECTED), self._try_flush_lock() as has_lock:
            if has_lock and self._services.store.available:
                self._services.store.flush(lambda: time.monotonic() < deadline)

    def _repeat(self, name: str, task: Callable[[], None], interval_s: float) -> None:
        last_cause = ""
        while not self._stopping.wait(interval_s):
            try:
                task()
                last_cause = ""
            except Exception as error:  # whatever it is, the next attempt may succeed
                cause = cause_of(error)
                if cause != last_cause:  # log a repeated failure once
                    is_bug = not isinstance(error, EXPECTED)
                    log.error("%s failed: %s", name, cause, exc_info=is_bug)
                last_cause = cause

    def _maintain_outbox(self) -> None:
        store, data_dir = self._services.store, self._services.settings.data_dir
        if self._inode != (inode := _inode_of(data_dir / OUTBOX)):  # new, deleted or set aside
            store.outbox.dispose()
            self._inode, self._has_outbox = inode, False
            with suppress(*EXPECTED):
                self._has_outbox = store.outbox.is_migrated()
        if not store.available:
            store.probe()
        with self._try_flush_lock() as has_lock:
            if not has_lock:
                return
            try:
                if not self._has_outbox:
                    prepare_outbox(data_dir)
                    self._has_outbox = True
                if store.available:
                    store.flush(lambda: not self._stopping.is_set())
                self._report()
            except StorageUnavailable as error:
                if is_corrupt(error):
                    self._has_outbox = False
                raise

    def _clean_up(self) -> None:
        store, days = self._services.store, self._services.settings.retention_days
        if not store.available or time.monotonic() < self._cleanup_at:
            return
        self._cleanup_at = time.monotonic() + RETRY_CLEANUP_S
        store.database.expire(datetime.now(UTC) - TOMBSTONE_LIFETIME)
        if days:
            before = first_id(datetime.now(UTC) - timedelta(days=days))
            count = store.delete(Deletion(before=before))
            log.info("deleted %d predictions older than %d days", count, days)
        self._cleanup_at = time.monotonic() + CLEANUP_INTERVAL_S

    def _report(self) -> None:
        outbox = self._services.store.outbox
        usage = outbox.used_pages() / OUTBOX_PAGES
        metrics.WAITING.set(outbox.count())
        metrics.OUTBOX_USAGE.set(usage)
        if usage >= OUTBOX_ALERT > self._usage:
            log.error("the outbox is %.0f %% full", 100 * usage)
        self._usage = usage

    @contextmanager
    def _try_flush_lock(self) -> Iterator[bool]:
        """Take the lock of the one process in DATA_DIR that flushes; yield whether that worked."""
        with open(self._services.settings.data_dir / OUTBOX_LOCK, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def _inode_of(path: Path) -> int:
    """Return the inode number of a file, or 0 if there is none."""
    with suppress(OSError):
        return path.stat().st_ino
    return 0
