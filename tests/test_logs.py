"""Log lines and request ids, and what an unexpected error leaves in them."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, current_app
from flask.testing import FlaskClient

from tests.clients import PREVIEW
from webapp.logs import JsonFormatter


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return a function that returns the lines logged so far, as objects."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


Lines = Callable[[], list[dict[str, Any]]]


def test_request_is_logged_without_credentials(client: FlaskClient, lines: Lines) -> None:
    client.post(**PREVIEW, headers={"Authorization": "Bearer of-the=operator"})
    client.get("/healthz")
    (line,) = lines()
    assert line | {"method": "POST", "route": "/api/predictions", "status": 200} == line
    assert line["milliseconds"] > 0
    assert "operator" not in json.dumps(line)


def test_unexpected_error_is_a_problem_without_details(app: Flask, lines: Lines) -> None:
    @app.get("/api/broken")
    def broken() -> Response:
        current_app.logger.warning("about to fail")
        raise RuntimeError("hunter2")

    response = app.test_client().get("/api/broken", headers={"X-Request-ID": "a-1"})
    assert (response.status_code, response.mimetype) == (500, "application/problem+json")
    assert not re.search("hunter2|RuntimeError|Traceback", response.text)
    warning, error, request = lines()
    assert "RuntimeError: hunter2" in error["traceback"]
    assert {line["request_id"] for line in (warning, error, request)} == {"a-1"}
    assert request["status"] == 500


@pytest.mark.parametrize("given", ["", "a b", 65 * "a", "é", '{"a":1}'])
def test_unsafe_request_id_is_replaced(client: FlaskClient, lines: Lines, given: str) -> None:
    response = client.get("/", headers={"X-Request-ID": given})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])
    assert lines()[-1]["request_id"] == response.headers["X-Request-ID"]


def test_safe_request_id_is_kept(client: FlaskClient) -> None:
    response = client.get("/", headers={"X-Request-ID": "a-1.B_2"})
    assert response.headers["X-Request-ID"] == "a-1.B_2"
