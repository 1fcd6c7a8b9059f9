"""The operator's command line: flask --app webapp.app predictions --help."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import click
from flask import current_app
from flask.cli import AppGroup

from webapp.errors import Problem, StartError
from webapp.exports import csv_chunks, save_data_set
from webapp.record import Record, create_schema
from webapp.stats import summarize
from webapp.storage import Filters


class _Sentences(AppGroup):
    """Commands whose failures are sentences for the operator."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except (Problem, StartError) as error:
            raise click.ClickException(str(error)) from error


predictions = _Sentences("predictions", help="Take predictions out of the record, or delete them.")


def _record() -> Record:
    services = current_app.extensions["digits"]
    create_schema(services.settings.database_url, services.settings.data_dir)
    return cast(Record, services.record)


@predictions.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--labelled", is_flag=True, help="Only what somebody said the true digit of.")
def export(file: Path, labelled: bool) -> None:
    """Write a table (FILE.csv), or a data set for training (--labelled FILE.npz)."""
    filters = Filters(labelled=labelled or None)
    if file.suffix == ".npz":
        if not labelled:
            raise click.UsageError("A data set is of what is labelled: add --labelled.")
        click.echo(f"{save_data_set(file, _record(), filters)} labelled digits in {file}")
    elif file.suffix == ".csv":
        with file.open("w", newline="") as table:
            table.writelines(csv_chunks(_record(), filters))
        click.echo(f"written to {file}")
    else:
        raise click.UsageError("FILE should end in .csv or .npz.")


@predictions.command()
@click.option("--id", "id_", type=click.UUID, help="One prediction.")
@click.option("--before", type=click.DateTime(), help="All that are older, by UTC.")
def delete(id_: UUID | None, before: datetime | None) -> None:
    """Delete one prediction, or all that are older than a date."""
    if (id_ is None) == (before is None):
        raise click.UsageError("Say which: either --id or --before.")
    if before is not None:
        filters = Filters(until=before.replace(tzinfo=UTC))
    else:
        filters = Filters(id=str(id_))
    click.echo(f"{_record().delete(filters)} deleted")


@predictions.command()
def stats() -> None:
    """Print the figures of the record as JSON."""
    click.echo(json.dumps(summarize(_record().counts()), indent=2))
