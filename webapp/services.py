"""The long-lived objects that request handlers and commands use, one set per process."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flask import Flask, current_app

from webapp.auth import Visitors
from webapp.database import Database
from webapp.model import HotReloadingModel
from webapp.settings import Settings
from webapp.store import PredictionStore

EXTENSION = "digits"
OUTBOX = "outbox.db"
OUTBOX_LOCK = "outbox.lock"  # held by the process that flushes or prepares it
OUTBOX_PAGES = 65_536  # of 4 KiB: more than 100,000 predictions


@dataclass(frozen=True)
class Services:
    """What request handlers use. Creating it starts no thread and writes no file."""

    settings: Settings
    model: HotReloadingModel
    store: PredictionStore
    visitors: Visitors


def init_app(app: Flask, settings: Settings) -> None:
    """Create the services of an application."""
    app.extensions[EXTENSION] = Services(
        settings,
        HotReloadingModel(settings.model_dir, settings.data_dir / "fallback.onnx"),
        PredictionStore(Database(settings.database), open_outbox(settings.data_dir)),
        Visitors(settings),
    )


def open_outbox(data_dir: Path) -> Database:
    """Return the outbox of a data directory."""
    return Database(data_dir.absolute() / OUTBOX, max_pages=OUTBOX_PAGES)


def services(app: Flask | None = None) -> Services:
    """Return the services of an application, by default the current one."""
    return cast(Services, (app or current_app).extensions[EXTENSION])
