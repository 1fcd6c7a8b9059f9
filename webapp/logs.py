"""What the service prints: a line for each request, text on a terminal and JSON elsewhere."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from flask import Flask, Response, g, has_request_context, request

from webapp.limits import HEALTH_PATHS

log = logging.getLogger("webapp.requests")


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, message, of a request its id and more."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        if has_request_context():
            line["request_id"] = g.request_id
        line |= getattr(record, "figures", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def config(level: str) -> dict[str, Any]:
    """Return how to log, as logging.config.dictConfig takes it."""
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s", "datefmt": "%H:%M:%S"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": text if sys.stderr.isatty() else {"()": JsonLines}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"level": level.upper(), "handlers": ["lines"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "propagate": True},
            "alembic": {"level": "WARNING"},
        },
    }


def init_app(app: Flask) -> None:
    """Give each request an id, and print what became of it."""
    # Of a line, nobody asks from where it was printed (Python's logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    is_fit = given and re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII)
    g.request_id = given if is_fit else uuid4().hex
    g.began = time.perf_counter()


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    if request.path in HEALTH_PATHS:
        return response
    figures = {
        "request_id": g.request_id,
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else "none",
        "status": response.status_code,
        "milliseconds": round(1000 * (time.perf_counter() - g.began), 1),
    }
    sentence = "%(method)s %(route)s %(status)s in %(milliseconds)s ms"
    log.info(sentence, figures, extra={"figures": figures})
    return response
