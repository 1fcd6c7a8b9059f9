"""Every failure under /api/ as application/problem+json (RFC 9457). The one place that does."""

import json
from typing import cast

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from webapp.errors import Problem

MAX_BODY = 4 * 1024 * 1024  # bytes


def init_app(app: Flask) -> None:
    """Answer our errors and the framework's alike."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_exception)


def _problem(error: Problem) -> Response:
    response = Response(status=error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return _fill(response, error.title, str(error))


def _http_exception(error: HTTPException) -> Response | HTTPException:
    if not request.path.startswith("/api/"):
        return error
    detail = error.description or error.name
    if isinstance(error, RequestEntityTooLarge):
        detail = f"The body is over {MAX_BODY // 1024**2} MB. Send a smaller picture."
    # The error's own response keeps its headers, such as Allow and Retry-After.
    response = cast(Response, Response.force_type(error.get_response()))
    return _fill(response, error.name, detail)


def _fill(response: Response, title: str, detail: str) -> Response:
    response.content_type = "application/problem+json"
    response.data = json.dumps({"title": title, "status": response.status_code, "detail": detail})
    return response
