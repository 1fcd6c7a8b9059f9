"""Logging: one line per request, as text on a terminal and as JSON elsewhere."""

import json
import logging
import re
import select
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import uuid4

from flask import Flask, Response, g, has_request_context, request

from webapp.limits import HEALTH_PATHS

WRITE_TIMEOUT_S = 0.1  # maximum time to wait for the reader of a pipe
RETRY_INTERVAL_S = 1

log = logging.getLogger("webapp.requests")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        if has_request_context():
            line["request_id"] = g.request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class NonBlockingHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr; drops lines while nobody reads it, instead of waiting.

    Otherwise a log collector that hangs would hold up all requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_try = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, within WRITE_TIMEOUT_S."""
        if time.monotonic() < self._next_try:
            return
        if select.select((), (self.stream,), (), WRITE_TIMEOUT_S)[1]:
            super().emit(record)
        else:
            self._next_try = time.monotonic() + RETRY_INTERVAL_S


def config(level: str) -> dict[str, Any]:
    """Return the configuration for logging.config.dictConfig."""
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s", "datefmt": "%H:%M:%S"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": text if sys.stderr.isatty() else {"()": JsonFormatter}},
        "handlers": {"lines": {"class": "webapp.logs.NonBlockingHandler", "formatter": "lines"}},
        "root": {"level": level.upper(), "handlers": ["lines"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "propagate": True},
            "alembic": {"level": "WARNING"},
        },
    }


def init_app(app: Flask) -> None:
    """Give each request an id, and log its outcome."""
    # Do not collect details that no line contains (Python's logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    is_valid = given and re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII)
    g.request_id = given if is_valid else uuid4().hex
    g.started = time.perf_counter()


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    if request.path in HEALTH_PATHS:
        return response
    fields = {
        "request_id": g.request_id,
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else "none",
        "status": response.status_code,
        "milliseconds": round(1000 * (time.perf_counter() - g.started), 1),
    }
    message = "%(method)s %(route)s %(status)s in %(milliseconds)s ms"
    log.info(message, fields, extra={"fields": fields})
    return response
