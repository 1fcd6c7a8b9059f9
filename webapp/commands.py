"""The operator's command line: flask --app webapp.app predictions --help, outbox --help."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import click
from flask import Flask
from flask.cli import AppGroup

from webapp.auth import pseudonym
from webapp.database import Database
from webapp.errors import Problem, QueryRejected, StartupError, StorageUnavailable
from webapp.exports import csv_chunks, is_contradicted, save_data_set
from webapp.files import atomic_write
from webapp.prediction import ACCEPTED, OPERATOR, Deletion, Filters, first_id
from webapp.services import OUTBOX, OUTBOX_PAGES, services
from webapp.startup import database_error
from webapp.stats import summarize
from webapp.store import PredictionStore

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


class _OperatorGroup(AppGroup):
    """Commands that report errors to the operator in a sentence."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except (Problem, StartupError, OSError, sqlite3.Error) as error:
            raise click.ClickException(str(error)) from error


predictions = _OperatorGroup(
    "predictions", help="Review, export, delete, count, back up or restore predictions."
)
outbox = _OperatorGroup("outbox", help="Inspect the predictions that wait for the database.")


def init_app(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(predictions)
    app.cli.add_command(outbox)


def _store() -> PredictionStore:
    store = services().store
    try:
        store.database.migrate()
    except (StorageUnavailable, QueryRejected) as error:
        raise database_error(services().settings.database, error) from error
    return store


@predictions.command()
@FILE
@click.option("--labelled", is_flag=True, help="Only labelled predictions.")
@click.option("--unreviewed", is_flag=True, help="FILE.npz: also labels that were not reviewed.")
def export(file: Path, labelled: bool, unreviewed: bool) -> None:
    """Write a table (FILE.csv), or a data set for training (--labelled FILE.npz).

    A data set has the labels that the operator has reviewed. --unreviewed adds the others, except
    those that contradict a confident model.
    """
    if unreviewed and file.suffix != ".npz":
        raise click.UsageError("--unreviewed is for data sets.")
    if file.suffix == ".npz":
        if not labelled:
            raise click.UsageError("A data set needs labels: add --labelled.")
        _write_data_set(file, unreviewed)
    elif file.suffix == ".csv":
        _write_csv(file, csv_chunks(_store().iterate(Filters(labelled=labelled or None))))
    else:
        raise click.UsageError("FILE should end in .csv or .npz.")


@predictions.command()
@click.option("--accept-agreeing", is_flag=True, help="Accept labels that match the prediction.")
def review(accept_agreeing: bool) -> None:
    """Review many labels at once."""
    if not accept_agreeing:
        raise click.UsageError("Say which labels to review: --accept-agreeing.")
    store = _store()
    agreeing = store.iterate(Filters(labelled=True, correct=True, reviewed=False))
    accepted = [store.label(row.id, row.true_digit, OPERATOR, ACCEPTED) for row in agreeing]
    click.echo(f"{len(accepted)} accepted")


@predictions.command()
@click.option("--id", "id_", type=click.UUID, help="One prediction.")
@click.option("--before", type=click.DateTime(), help="All predictions made before a time (UTC).")
def delete(id_: UUID | None, before: datetime | None) -> None:
    """Delete one prediction, or all that were made before a time."""
    if (id_ is None) == (before is None):
        raise click.UsageError("Give either --id or --before.")
    if before is None:
        deletion = Deletion(str(id_))
    else:
        time = before.replace(tzinfo=UTC)
        if time > datetime.now(UTC):
            raise click.UsageError("--before should not be in the future.")
        deletion = Deletion(before=first_id(time))
    click.echo(f"{_store().delete(deletion)} deleted")


@predictions.command()
def stats() -> None:
    """Print the statistics as JSON."""
    click.echo(json.dumps(summarize(_store().counts()), indent=2))


@predictions.command()
@FILE
def backup(file: Path) -> None:
    """Copy the SQLite database to FILE while the service runs."""
    source = _sqlite_file()
    with atomic_write(file) as draft:
        _copy(source, draft)
        with closing(sqlite3.connect(draft)) as copy:  # without a log, it may be read-only
            copy.execute("PRAGMA journal_mode = DELETE")
    click.echo(f"copied {source} to {file}")


@predictions.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(file: Path) -> None:
    """Replace the content of the SQLite database with that of a backup."""
    target = _sqlite_file()
    try:
        with closing(_open(file)) as source:
            count = source.execute("SELECT count(*) FROM predictions").fetchone()[0]
    except sqlite3.Error as error:
        raise click.ClickException(f"{file} is not a backup: {error}.") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / "draft.db"
        _copy(file, draft)
        Database(draft).migrate()  # before it replaces what is there
        _copy(draft, target)
    click.echo(f"restored {count} predictions from {file}")


@outbox.command()
def status() -> None:
    """Print how many predictions wait, since when, and how full the outbox is."""
    waiting = _outbox()
    oldest = next(iter(waiting.oldest(1)), None)
    report = {
        "waiting": waiting.count(),
        "waiting_since": oldest and oldest.created_at.isoformat(timespec="seconds"),
        "usage": round(waiting.used_pages() / OUTBOX_PAGES, 4),
    }
    click.echo(json.dumps(report, indent=2))


@outbox.command("export")
@FILE
def export_outbox(file: Path) -> None:
    """Write the predictions that wait to FILE.csv."""
    if file.suffix != ".csv":
        raise click.UsageError("FILE should end in .csv.")
    _outbox()
    _write_csv(file, csv_chunks(services().store.iterate_outbox()))


def _outbox() -> Database:
    path = services().settings.data_dir / OUTBOX
    if not path.is_file():
        raise click.ClickException(
            f"There is no outbox {path}. Start the service, or set DATA_DIR."
        )
    return services().store.outbox


def _sqlite_file() -> Path:
    database = services().settings.database
    if not isinstance(database, Path):
        raise click.UsageError("The database is Postgres: use pg_dump and pg_restore.")
    return database


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)


def _copy(source: Path, target: Path) -> None:
    with closing(_open(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _write_csv(file: Path, chunks: Iterable[str]) -> None:
    with atomic_write(file) as draft, draft.open("w", newline="") as table:
        table.writelines(chunks)
    click.echo(f"written to {file}")


def _write_data_set(file: Path, unreviewed: bool) -> None:
    store, settings = _store(), services().settings
    rows, left_out = [*store.iterate(Filters(reviewed=True))], 0
    if unreviewed:
        others = [*store.iterate(Filters(labelled=True, reviewed=False))]
        kept = [row for row in others if not is_contradicted(row)]
        rows, left_out = rows + kept, len(others) - len(kept)
    with atomic_write(file) as draft:
        save_data_set(draft, rows, partial(pseudonym, settings))
    digits = sum(row.true_digit is not None for row in rows)
    click.echo(f"{digits} digits and {len(rows) - digits} outliers in {file}")
    if unreviewed:
        click.echo(f"{left_out} labels left out, because the model was confident in another digit")
