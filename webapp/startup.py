"""What the server does once, before its workers start: checks, secrets and migrations."""

import fcntl
import hashlib
import logging
import os
import secrets
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from webapp.auth import SECRET_KEY_FILE
from webapp.database import BATCH, Database
from webapp.engines import Target, cause_of, describe, is_misconfigured
from webapp.errors import QueryRejected, StartupError, StorageUnavailable
from webapp.graphs import GRAPH_FILE
from webapp.model import Model
from webapp.services import OUTBOX, OUTBOX_LOCK, open_outbox
from webapp.settings import Settings

DATABASE_SEEN = "database_seen"
OLD_OUTBOX = "journal.db"  # its name in earlier releases

log = logging.getLogger("webapp")


def check_and_migrate(settings: Settings) -> None:
    """Check what the workers need and prepare what they share.

    Raises StartupError, which tells the operator what to do.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"DATA_DIR {settings.data_dir} cannot be created: {error.strerror}."
        ) from error
    create_secret_key(settings)
    Model(settings.model_dir / GRAPH_FILE)
    is_available = migrate_database(settings)
    try:
        with open(settings.data_dir / OUTBOX_LOCK, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several servers may start at the same time
            prepare_outbox(settings.data_dir)
    except (StorageUnavailable, QueryRejected, OSError) as error:
        message = f"The outbox {settings.data_dir / OUTBOX} cannot be used: {cause_of(error)}."
        if not is_available:
            raise StartupError(message) from error
        log.error("%s Without it, predictions are lost if the database fails.", message)


def create_secret_key(settings: Settings) -> None:
    """Create the key that signs cookies, unless it is set or exists. Raises StartupError."""
    path = settings.data_dir / SECRET_KEY_FILE
    if settings.secret_key or (path.is_file() and path.stat().st_size):
        return
    try:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several servers may start at the same time
            if not file.read():
                file.write(secrets.token_hex(32))
    except OSError as error:
        raise StartupError(
            f"SECRET_KEY is not set, and {path} cannot be written: {error.strerror}."
        ) from error


def migrate_database(settings: Settings) -> bool:
    """Create or upgrade the schema; return whether the database is available.

    It may be unavailable if it has been used before; the workers then migrate it when it is back.
    Raises StartupError.
    """
    seen = settings.data_dir / DATABASE_SEEN
    fingerprint = hashlib.sha256(describe(settings.database).encode()).hexdigest()
    try:
        Database(settings.database).migrate()
    except (StorageUnavailable, QueryRejected) as error:
        was_seen = seen.is_file() and fingerprint in seen.read_text()
        if not was_seen or is_misconfigured(error):
            raise database_error(settings.database, error) from error
        log.error("the database is unavailable, predictions go to the outbox: %s", cause_of(error))
        return False
    with suppress(OSError):  # a full disk must not stop the service
        if not seen.is_file() or fingerprint not in seen.read_text():
            seen.write_text(fingerprint + "\n")
    return True


def database_error(database: Target, error: Exception) -> StartupError:
    """Return the error for an operator whose database does not answer as it should."""
    cause, remedy = cause_of(error), "Start it, or correct"
    if is_misconfigured(error):
        remedy = "Correct"
    elif isinstance(database, Path):
        remedy = "Restore it from a backup, or correct"
        if not database.parent.is_dir():
            cause = f"there is no directory {database.parent}"
            remedy = "Start the service, which creates DATA_DIR, or correct"
    return StartupError(
        f"The database {describe(database)} cannot be used: {cause}. {remedy} DATABASE_URL."
    )


def prepare_outbox(data_dir: Path) -> None:
    """Create or upgrade the outbox; import the one of an earlier release; set aside a corrupt one.

    Only one process at a time may call it. Raises StorageUnavailable, QueryRejected or OSError.
    """
    old_path = data_dir / OLD_OUTBOX
    for path in (data_dir / OUTBOX, old_path):
        if path.is_file() and (fault := _corruption(path)):
            log.error("%s is corrupt: %s. Set aside as %s.", path, fault, _rename(path, "corrupt"))
    outbox = open_outbox(data_dir)
    outbox.migrate()
    if old_path.is_file():
        old = Database(old_path)
        old.migrate()
        while rows := old.oldest(BATCH):
            outbox.merge(rows)
            old.remove(rows)
        old.dispose()
        _rename(old_path, "imported")
    outbox.dispose()


def _corruption(path: Path) -> str:
    """Return what is wrong with the content of a SQLite file, or an empty string."""
    try:
        with closing(sqlite3.connect(path)) as file:
            (fault,) = file.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:  # it cannot be read now, which says nothing about its content
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if fault == "ok" else str(fault)


def _rename(path: Path, state: str) -> str:
    """Rename a SQLite file and its companion files; return the new name."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = f"{path.stem}.{state}-{time}"
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            old, new = (f"{stem}{path.suffix}{suffix}" for stem in (path.stem, name))
            path.with_name(old).rename(path.with_name(new))
    return name + path.suffix
