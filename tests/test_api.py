"""The interface under /api/, as programs see it."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from tests.pictures import encoded, seven
from webapp import admission
from webapp.app import create_app, prepare
from webapp.settings import Settings

SEVEN = encoded(seven())
OPERATOR = {"Authorization": "Bearer of-the=operator"}
PREDICTIONS = "/api/predictions"
KEYS = [
    "id",
    "created_at",
    "predicted_digit",
    "confidence",
    "probabilities",
    "uncertain",
    "true_digit",
    "model_version",
    "pixels",
]


def post(client: FlaskClient, body: bytes = SEVEN, **options: Any) -> TestResponse:
    """Post a picture."""
    return client.post(PREDICTIONS, data=body, **({"content_type": "image/png"} | options))


def stored_id(client: FlaskClient) -> str:
    """Post a 7 and return the id of its prediction."""
    return str(post(client).json["id"])


def assert_problem(response: TestResponse, status: int, detail: str = "") -> None:
    """Hold a failure to RFC 9457."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.data)
    assert problem.keys() == {"title", "status", "detail"}
    assert problem["status"] == status
    assert re.search(detail, problem["detail"])


def test_prediction_is_read_and_stored(client: FlaskClient) -> None:
    response = post(client)
    prediction = response.json
    assert response.status_code == HTTPStatus.CREATED
    assert prediction is not None
    assert list(prediction) == KEYS
    assert prediction["predicted_digit"] == 7
    assert prediction["confidence"] == max(prediction["probabilities"]) > 0.9
    assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert prediction["uncertain"] is False
    assert len(base64.b64decode(prediction["pixels"])) == 784
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", prediction["created_at"])
    assert client.get(response.location).json == prediction
    assert client.get(PREDICTIONS).json == {"predictions": [prediction], "next": None}


@pytest.mark.parametrize(
    "request_",
    [
        {"data": encoded(seven(), "JPEG"), "content_type": "image/jpeg"},
        {"data": encoded(seven(), "WEBP"), "content_type": "image/webp"},
        {"data": {"image": (io.BytesIO(SEVEN), "seven.png")}},
        {"json": {"image": "data:image/png;base64," + base64.b64encode(SEVEN).decode()}},
    ],
    ids=["jpeg", "webp", "form", "data url"],
)
def test_picture_may_come_in_several_ways(client: FlaskClient, request_: dict[str, Any]) -> None:
    assert client.post(PREDICTIONS, **request_).json["predicted_digit"] == 7


def test_store_no_stores_nothing(client: FlaskClient) -> None:
    response = post(client, query_string={"store": "no"})
    assert response.status_code == HTTPStatus.OK
    assert response.json["stored"] is False
    assert response.json["id"] is response.json["created_at"] is None
    assert "Set-Cookie" not in response.headers
    assert client.get(PREDICTIONS).json["predictions"] == []


@pytest.mark.parametrize(
    ("status", "body", "media_type", "detail"),
    [
        (400, b"seven", "image/png", "PNG"),
        (400, SEVEN[:-100], "image/png", "PNG"),
        (400, 501 * b"\xff\xda", "image/jpeg", "too many scans"),
        (400, b"{", "application/json", "not JSON"),
        (400, b"[" * 100_000, "application/json", "not JSON"),
        (400, b"[]", "application/json", "object"),
        (400, b'{"image": 7}', "application/json", "data:image"),
        (400, b'{"image": "data:image/png;base64,!"}', "application/json", "base64"),
        (400, b"", "multipart/form-data; boundary=x", "`image`"),
        (413, bytes(admission.MAX_BODY + 1), "image/png", "4 MB"),
        (415, b"seven", "text/plain", "image/png"),
        (422, encoded(Image.new("L", (280, 280))), "image/png", "blank"),
        (422, encoded(Image.new("1", (20_000, 20_000))), "image/png", "4 million"),
    ],
)
def test_bad_picture_gets_a_clear_problem(
    client: FlaskClient, status: int, body: bytes, media_type: str, detail: str
) -> None:
    assert_problem(post(client, body, content_type=media_type), status, detail)
    assert client.get(PREDICTIONS).json["predictions"] == []


def test_picture_that_ends_early_is_not_taken_as_whole(client: FlaskClient) -> None:
    cut_off = {"CONTENT_LENGTH": str(len(SEVEN) + 1), "wsgi.input_terminated": True}
    assert_problem(post(client, environ_overrides=cut_off), 400, "ends early")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=1e2",
        "limit=٣",
        "before=x",
        "before=urn:uuid:01934b2c-0000-7000-8000-000000000000",
        "digit=10",
        "labelled=maybe",
        "model_version=%00",
        "from=yesterday",
        "to=2026-13-01",
    ],
)
def test_bad_parameter_is_refused(client: FlaskClient, query: str) -> None:
    name = query.split("=")[0]
    assert_problem(client.get(f"{PREDICTIONS}?{query}"), 400, f"`{name}` should be")


def test_unknown_routes_and_methods_are_problems(client: FlaskClient) -> None:
    assert_problem(client.get("/api/nothing"), 404)
    assert_problem(client.get(f"{PREDICTIONS}/7"), 404)
    assert_problem(client.get(f"{PREDICTIONS}/01934b2c-0000-7000-8000-000000000000"), 404)
    response = client.put(PREDICTIONS)
    assert_problem(response, 405)
    assert "POST" in response.headers["Allow"]


def test_pages_follow_the_cursor(client: FlaskClient) -> None:
    ids = [stored_id(client) for _ in range(3)]
    first = client.get(f"{PREDICTIONS}?limit=2").json
    second = client.get(f"{PREDICTIONS}?limit=2&before={first['next']}").json
    listed = [prediction["id"] for prediction in first["predictions"] + second["predictions"]]
    assert listed == ids[::-1]
    assert second["next"] is None


def test_image_is_what_the_model_saw(client: FlaskClient) -> None:
    prediction = post(client).json
    response = client.get(f"{PREDICTIONS}/{prediction['id']}/image.png")
    seen = Image.open(io.BytesIO(response.data))
    assert response.content_type == "image/png"
    assert (seen.size, seen.tobytes()) == ((28, 28), base64.b64decode(prediction["pixels"]))


def test_label_is_set_changed_and_taken_back(client: FlaskClient) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    for digit in (7, 1, 1, None):
        assert client.patch(url, json={"true_digit": digit}).json["true_digit"] == digit
        assert client.get(url).json["true_digit"] == digit


def test_label_is_for_the_visitor_and_the_operator_alone(app: Flask) -> None:
    visitor, stranger = app.test_client(), app.test_client()
    url = f"{PREDICTIONS}/{stored_id(visitor)}"
    stored_id(stranger)  # has a cookie, of its own
    label = {"true_digit": 7}
    assert_problem(stranger.patch(url, json=label), 403)
    assert_problem(app.test_client().patch(url, json=label), 403)
    wrong = {"Authorization": "Bearer guess"}
    assert_problem(stranger.patch(url, json=label, headers=wrong), 403)
    assert visitor.get(url).json["true_digit"] is None
    assert stranger.patch(url, json=label, headers=OPERATOR).json["true_digit"] == 7


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {}),
        (400, {"true_digit": 7, "digit": 7}),
        (422, {"true_digit": 10}),
        (422, {"true_digit": "7"}),
        (422, {"true_digit": True}),
        (422, {"true_digit": 7.5}),
    ],
)
def test_bad_label_is_refused(client: FlaskClient, status: int, body: dict[str, Any]) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    assert_problem(client.patch(url, json=body), status)
    assert client.get(url).json["true_digit"] is None


def test_cookie_is_private_and_secure_behind_https(app: Flask) -> None:
    cookies = [
        post(app.test_client(), base_url=f"{scheme}://localhost").headers["Set-Cookie"]
        for scheme in ("http", "https")
    ]
    assert all("HttpOnly" in cookie and "SameSite=Lax" in cookie for cookie in cookies)
    assert ["Secure" in cookie for cookie in cookies] == [False, True]


def test_stats_count_what_was_labelled(client: FlaskClient) -> None:
    assert client.get("/api/stats").json["accuracy"] is None
    for digit in (7, 1, None):
        client.patch(f"{PREDICTIONS}/{stored_id(client)}", json={"true_digit": digit})
    stats = client.get("/api/stats").json
    assert (stats["predictions"], stats["labelled"], stats["right"]) == (3, 2, 1)
    assert stats["accuracy"] == 0.5
    assert stats["confusion"][7][7] == stats["confusion"][1][7] == 1
    (version,) = stats["model_versions"]
    assert version["model_version"] == client.get("/api/model").json["version"]
    assert version["accuracy"] == 0.5
    assert stats["accuracy_interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert stats["digits"][7] | {"labelled": 1, "right": 1} == stats["digits"][7]
    assert [day["predictions"] for day in stats["days"]] == [3]


def test_answer_is_given_although_the_record_is_away(app: Flask, client: FlaskClient) -> None:
    record = app.extensions["digits"].record
    for storage in (record._database, record._journal):
        with storage._engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE predictions")
    response = post(client)
    assert response.status_code == HTTPStatus.OK
    assert (response.json["predicted_digit"], response.json["stored"]) == (7, False)
    assert_problem(client.get(PREDICTIONS), 503)
    assert_problem(client.get("/api/predictions.csv", headers=OPERATOR), 503)


def test_record_is_exported_and_deleted_by_the_operator_alone(client: FlaskClient) -> None:
    kept, old = stored_id(client), stored_id(client)
    for call in (
        client.get("/api/predictions.csv"),
        client.delete(f"{PREDICTIONS}/{old}"),
        client.delete(PREDICTIONS, query_string={"to": "2999-01-01"}),
    ):
        assert_problem(call, 401)
        assert call.headers["WWW-Authenticate"] == "Bearer"
    table = client.get("/api/predictions.csv", headers=OPERATOR)
    assert [row["id"] for row in csv.DictReader(table.text.splitlines())] == [old, kept]
    assert client.delete(f"{PREDICTIONS}/{old}", headers=OPERATOR).status_code == 204
    assert_problem(client.delete(f"{PREDICTIONS}/{old}", headers=OPERATOR), 404)
    for to, deleted in (("2020-01-01", 0), ("2999-01-01T00:00:00Z", 1)):
        query = {"to": to}
        answer = client.delete(PREDICTIONS, query_string=query, headers=OPERATOR)
        assert answer.json == {"deleted": deleted}
    assert_problem(client.delete(PREDICTIONS, headers=OPERATOR), 400, "`to`")
    query = {"to": "2999-01-01", "digit": "7"}
    assert_problem(client.delete(PREDICTIONS, query_string=query, headers=OPERATOR), 400, "alone")


def test_command_line_exports_deletes_and_counts(
    client: FlaskClient, app: Flask, tmp_path: Path
) -> None:
    id_ = stored_id(client)
    client.patch(f"{PREDICTIONS}/{id_}", json={"true_digit": 1})
    run = app.test_cli_runner().invoke
    archive, table = tmp_path / "out.npz", tmp_path / "out.csv"
    assert run(args=["predictions", "export", "--labelled", str(archive)]).exit_code == 0
    with np.load(archive) as data_set:
        assert data_set["images"].shape == (1, 28, 28)
        assert data_set["labels"].tolist() == [1]
        assert (data_set["ids"].tolist(), data_set["labelled_by"].tolist()) == ([id_], ["visitor"])
    assert run(args=["predictions", "export", str(table)]).exit_code == 0
    assert id_ in table.read_text()
    assert json.loads(run(args=["predictions", "stats"]).output)["labelled"] == 1
    assert run(args=["predictions", "delete", "--id", id_]).output == "1 deleted\n"
    assert run(args=["predictions", "delete", "--before", "2999-01-01"]).output == "0 deleted\n"
    for wrong in (["delete"], ["export", "out.txt"], ["export", "out.npz"]):
        assert run(args=["predictions", *wrong]).exit_code == 2


def test_limit_is_for_each_client_and_says_when_to_come_back(settings: Settings) -> None:
    prepare(settings)
    client = create_app(replace(settings, rate_limit="2 per minute")).test_client()
    assert [client.get("/api/stats").status_code for _ in range(3)] == [200, 200, 429]
    response = client.get("/api/stats")
    assert_problem(response, 429, "more than 2 per 1 minute")
    assert int(response.headers["Retry-After"]) <= 60
    other = client.get("/api/stats", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert other.status_code == HTTPStatus.OK
    assert client.get("/healthz").status_code == HTTPStatus.OK
    looks = [post(client, query_string={"store": "no"}).status_code for _ in range(3)]
    assert looks == [200, 200, 429]  # counted apart


def test_health_and_figures(client: FlaskClient) -> None:
    stored_id(client)
    assert client.get("/healthz").status_code == HTTPStatus.OK
    assert client.get("/readyz").json["status"] == "ready"
    figures = client.get("/metrics").text
    assert 'digits_requests_total{route="/api/predictions",status="201"}' in figures
    assert 'digits_predictions_total{digit="7",stored="True",uncertain="False"}' in figures


def test_openapi_names_every_route(app: Flask, client: FlaskClient) -> None:
    with client.get("/api/openapi.json") as response:
        document = response.json
    described = {
        (path, method.upper())
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    routes = {
        (re.sub(r"<uuid:id_>", "{id}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/") or rule.rule in ("/healthz", "/readyz", "/metrics")
    }
    assert described == routes


def test_page_allows_nothing_inline(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.status_code == HTTPStatus.OK
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|onclick=|//", response.text)
