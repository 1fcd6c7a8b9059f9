"""Errors as application/problem+json (RFC 9457): our own everywhere, Flask's under /api/."""

import json
from contextlib import suppress
from typing import cast

from flask import Flask, Response, request
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from webapp.errors import BadRequest, Problem
from webapp.limits import MAX_BODY_BYTES

MALFORMED = (NoMoreData, ParseException)  # raised by gunicorn while the body is read
CHUNK_BYTES = 64 * 1024
MAX_DRAINED_BYTES = 32 * 1024 * 1024  # bytes


def init_app(app: Flask) -> None:
    """Register handlers for the service's errors and for Flask's."""
    app.register_error_handler(Problem, _problem)
    for error in MALFORMED:
        app.register_error_handler(error, _malformed)
    app.register_error_handler(HTTPException, _http_exception)


def _problem(error: Problem) -> Response:
    return _fill(Response(status=error.status, headers=[*error.headers]), error.title, str(error))


def _malformed(error: Exception) -> Response:
    return _problem(BadRequest("The body is incomplete or malformed."))


def _http_exception(error: HTTPException) -> Response | HTTPException:
    if not request.path.startswith("/api/"):
        _drain()
        return error
    detail = error.description or error.name
    if isinstance(error, RequestEntityTooLarge):
        detail = f"The body is over {MAX_BODY_BYTES // 1024**2} MB. Send a smaller image."
    if isinstance(error, NotFound):
        detail = "The URL was not found. GET /api/openapi.json describes the API."
    # The error's own response keeps its headers, such as Allow.
    response = cast(Response, Response.force_type(error.get_response()))
    return _fill(response, error.name, detail)


def _fill(response: Response, title: str, detail: str) -> Response:
    _drain()
    response.content_type = "application/problem+json"
    response.data = json.dumps({"title": title, "status": response.status_code, "detail": detail})
    return response


def _drain() -> None:
    """Read the rest of the body: a client that is still sending would not see the response."""
    with suppress(*MALFORMED):
        for _ in range(0, MAX_DRAINED_BYTES, CHUNK_BYTES):
            if not request.environ["wsgi.input"].read(CHUNK_BYTES):
                return
