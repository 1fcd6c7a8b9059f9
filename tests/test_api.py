"""The interface under /api/, as programs see it."""

import base64
import csv
import io
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from tests.clients import SEVEN_PNG
from tests.conftest import ROOT
from tests.pictures import SEVEN_POINTS, encoded, seven
from webapp import __version__
from webapp.app import create_app
from webapp.engines import Target
from webapp.settings import Settings
from webapp.startup import check_and_migrate

FORM = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n7\r\n--x--\r\n'
FORM_TYPE = "multipart/form-data; boundary=x"
WITHOUT_PADDING = base64.b64encode(SEVEN_PNG + b"\0").decode().rstrip("=")
DATA_URL = "data:image/png;base64," + base64.b64encode(SEVEN_PNG).decode()
OPERATOR = {"Authorization": "Bearer of-the=operator"}
PREDICTIONS = "/api/predictions"
START = datetime(2026, 1, 31, 23, 58, tzinfo=UTC)
LEAKS = r"Traceback|RuntimeError|\.py\b|webapp|sqlite|of-the=operator"
ABSENT = "01934b2c-0000-7000-8000-00000000000a"  # the id of no prediction
COLUMNS = [
    "id",
    "created_at",
    "predicted_digit",
    "confidence",
    "uncertain",
    "doubt",
    "true_digit",
    "labelled_by",
    "labelled_at",
    "model_version",
]
KEYS = [
    "id",
    "created_at",
    "predicted_digit",
    "confidence",
    "probabilities",
    "uncertain",
    "doubt",
    "true_digit",
    "model_version",
    "pixels",
]


def post(client: FlaskClient, body: bytes = SEVEN_PNG, **options: Any) -> TestResponse:
    """Post a picture."""
    return client.post(PREDICTIONS, data=body, **({"content_type": "image/png"} | options))


def stored_id(client: FlaskClient) -> str:
    """Post a 7 and return the id of its prediction."""
    return str(post(client).json["id"])


def assert_problem(response: TestResponse, status: int, detail: str = "") -> None:
    """Assert that a response is a problem as defined in RFC 9457."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.data)
    assert problem.keys() == {"title", "status", "detail"}
    assert problem["status"] == status
    assert problem["title"]
    assert re.search(detail, problem["detail"])
    assert problem["detail"].endswith(".")
    assert not re.search(LEAKS, response.text)


def fill(
    client: FlaskClient,
    settings: Settings,
    rows: Sequence[Mapping[str, object]],
    step: timedelta = timedelta(minutes=1),
) -> list[str]:
    """Replace what is stored by a row for each of `rows`, which say what differs from a real one.

    step: from one to the next; the first was made at START. Returns their ids, oldest first.
    """
    stored_id(client)
    ids = []
    with closing(sqlite3.connect(settings.data_dir / "predictions.db")) as database, database:
        database.row_factory = sqlite3.Row
        original = dict(database.execute("SELECT * FROM predictions").fetchone())
        database.execute("DELETE FROM predictions")
        for number, row in enumerate(rows):
            made_at = START + number * step
            ids.append(str(UUID(int=int(made_at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)))
            row = original | {"id": ids[-1], "created_at": f"{made_at:%F %T.000000}"} | {**row}
            query = f"INSERT INTO predictions ({','.join(row)}) VALUES (:{',:'.join(row)})"
            database.execute(query, row)
    return ids


def listed(client: FlaskClient, **query: object) -> list[str]:
    """Return the ids of all that a query chooses, newest first, page by page."""
    ids = []
    while True:
        page = client.get(PREDICTIONS, query_string=query).json
        ids += [prediction["id"] for prediction in page["predictions"]]
        if page["next"] is None:
            return ids
        query["before"] = page["next"]


def csv_rows(client: FlaskClient, **query: object) -> list[dict[str, str]]:
    """Return the rows of an export."""
    table = client.get(f"{PREDICTIONS}.csv", query_string=query, headers=OPERATOR)
    assert (table.status_code, table.mimetype) == (HTTPStatus.OK, "text/csv")
    return [*csv.DictReader(io.StringIO(table.text))]


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine's clock show another time than UTC."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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
    assert prediction["model_version"] == client.get("/api/model").json["version"]
    assert len(base64.b64decode(prediction["pixels"])) == 784
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", prediction["created_at"])
    assert client.get(response.location).json == prediction
    assert client.get(PREDICTIONS).json == {"predictions": [prediction], "next": None}


@pytest.mark.parametrize(
    "request_",
    [
        {"data": encoded(seven(), "JPEG"), "content_type": "image/jpeg"},
        {"data": encoded(seven(), "WEBP"), "content_type": "image/webp"},
        {"data": {"image": (io.BytesIO(SEVEN_PNG), "seven.png")}},
        {"json": {"image": DATA_URL}},
        {"data": SEVEN_PNG, "content_type": "IMAGE/PNG; charset=binary"},
        {"json": {"image": DATA_URL}, "content_type": "application/json; charset=utf-8"},
        {"data": encoded(seven(), "JPEG"), "content_type": "image/jpg"},
        {"data": encoded(seven(), "JPEG"), "content_type": "image/pjpeg"},
        {"data": SEVEN_PNG, "content_type": "image/x-png"},
        {"data": SEVEN_PNG, "content_type": "image/apng"},
        {"json": {"image": "\r\n".join(re.findall(".{1,76}", DATA_URL))}},
        {"json": {"image": f"data:;base64,{WITHOUT_PADDING}"}},
        {"json": {"image": " DATA:; Base64," + quote(DATA_URL.partition(",")[2], safe="")}},
    ],
    ids=[
        "jpeg",
        "webp",
        "form",
        "data url",
        "png with parameter",
        "json with parameter",
        "jpg",
        "pjpeg",
        "x-png",
        "apng",
        "data url of several lines",
        "data url without padding",
        "percent-encoded data url",
    ],
)
def test_picture_may_come_in_several_ways(client: FlaskClient, request_: dict[str, Any]) -> None:
    assert client.post(PREDICTIONS, **request_).json["predicted_digit"] == 7


def test_strokes_are_drawn_and_read(client: FlaskClient) -> None:
    body = {"strokes": [[[x, y, 0.07] for x, y in SEVEN_POINTS]]}
    assert client.post(PREDICTIONS, json=body).json["predicted_digit"] == 7


def test_smallest_strokes_are_no_failure(client: FlaskClient) -> None:
    statuses = []
    for point in ([0.5, 0.5, 1e-17], [0.5, 0.5, 1e-20], [0, 0, 5e-324], [1, 1, 1]):
        statuses.append(client.post(PREDICTIONS, json={"strokes": [[point]]}).status_code)
    assert {*statuses} <= {201, 422}


@pytest.mark.parametrize(
    ("status", "strokes", "detail"),
    [
        (422, "[]", "blank"),
        (400, "7", "list of strokes"),
        (400, '["7"]', "list of strokes"),
        (400, "[[]]", "one or more points"),
        (400, "[[7]]", "list of one or more points"),
        (400, "[[[0.5, 0.5]]]", "list of one or more points"),
        (400, '[[[0.5, 0.5, "0.1"]]]', "list of one or more points"),
        (400, "[[[0.5, 0.5, true]]]", "list of one or more points"),
        (400, "[[[0.5, 0.5, NaN]]]", "between 0 and 1"),
        (400, "[[[0.5, 1.1, 0.1]]]", "between 0 and 1"),
        (400, "[[[-0.1, 0.5, 0.1]]]", "between 0 and 1"),
        (400, "[[[0.5, 0.5, 0]]]", "width greater than 0"),
        (400, f"[[[0.5, 0.5, 1{'0' * 400}]]]", "between 0 and 1"),
        (400, f"[[{'[0.5, 0.5, 0.1], ' * 10_000} [0.5, 0.5, 0.1]]]", "10,000 points"),
        (400, f"[{30_000 * '[],'} []]", "10,000 points"),
        (400, '[[[0.5, 0.5, 0.1]]], "image": "data:,"', "not both"),
    ],
)
def test_bad_strokes_get_a_clear_problem(
    client: FlaskClient, status: int, strokes: str, detail: str
) -> None:
    body = f'{{"strokes": {strokes}}}'.encode()
    assert_problem(post(client, body, content_type="application/json"), status, detail)


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
        (400, SEVEN_PNG[:-100], "image/png", "PNG"),
        (400, b"{", "application/json", "as JSON"),
        (400, b"[" * 20_000, "application/json", "as JSON"),
        (400, b"[]", "application/json", "object"),
        (400, b'{"image": 7}', "application/json", "data:image"),
        (400, b'{"picture": 7}', "application/json", "data:image"),
        (400, b"\xff", "application/json", "as JSON"),
        (400, b'"%s"' % DATA_URL.encode(), "application/json", "object"),
        (400, b'{"image": "%s"}' % DATA_URL[5:].encode(), "application/json", "data:image"),
        (400, b'{"image": "data:image/png,seven"}', "application/json", "data:image"),
        (400, b'{"image": "%s!"}' % DATA_URL.encode(), "application/json", "base64"),
        (400, b'{"image": "data:image/png;base64,AAAAA"}', "application/json", "base64"),
        (400, FORM % (b"picture", b"; filename=7.png"), FORM_TYPE, "`image`"),
        (400, FORM % (b"image", b""), FORM_TYPE, "`image`"),
        (400, b'{"image": "data:image/png;base64,!"}', "application/json", "base64"),
        (400, b'{"image": "data:image/png;base64,%41%41%41%41"}', "application/json", "base64"),
        (400, b'{"image": %s}' % (b"7" * 5000), "application/json", "as JSON"),
        (400, b"--x--", FORM_TYPE, "`image`"),
        (400, b"x" + FORM % (b"image", b"; filename=7.png"), FORM_TYPE, "does not begin with"),
        (400, (FORM % (b"image", b"; filename=7.png"))[:-5], FORM_TYPE, "ends early"),
        (400, FORM % (b"image", b"; filename=7.png"), "multipart/form-data", "no boundary"),
        (413, bytes(4 * 1024**2 + 1), "image/png", "over 4 MB"),
        (413, bytes(4 * 1024**2 + 1), "application/json", "over 4 MB"),
        (413, bytes(4 * 1024**2 + 1), FORM_TYPE, "over 4 MB"),
        (415, b"seven", "text/plain", "image/png"),
        (415, SEVEN_PNG, "image/gif", "image/png"),
        (415, SEVEN_PNG, "", "image/png"),
        (415, b"%PDF-1.7", "application/pdf", "PDF files are not supported. Save"),
        (415, b"%PDF-1.7", "image/png", "PDF files are not supported. Save"),
        (422, encoded(Image.new("L", (280, 280))), "image/png", "blank"),
        (422, encoded(Image.new("1", (20_000, 20_000))), "image/png", "16 million"),
    ],
)
def test_bad_picture_gets_a_clear_problem(
    client: FlaskClient, status: int, body: bytes, media_type: str, detail: str
) -> None:
    assert_problem(post(client, body, content_type=media_type), status, detail)
    assert client.get(PREDICTIONS).json["predictions"] == []


def test_picture_that_ends_early_is_not_taken_as_whole(client: FlaskClient) -> None:
    cut_off = {"CONTENT_LENGTH": str(len(SEVEN_PNG) + 1), "wsgi.input_terminated": True}
    assert_problem(post(client, environ_overrides=cut_off), 400, "ends early")


@pytest.mark.parametrize(("excess", "status"), [(0, 400), (1, 413)])
def test_body_may_have_four_megabytes(client: FlaskClient, excess: int, status: int) -> None:
    body = b"7" * (4 * 1024**2 + excess)
    assert_problem(post(client, body), status)
    assert_problem(client.patch(f"{PREDICTIONS}/{ABSENT}", data=body), 413 if excess else 415)


def test_location_leads_to_the_prediction_below_a_prefix(client: FlaskClient) -> None:
    response = post(client, environ_overrides={"SCRIPT_NAME": "/digits"})
    assert response.location == f"/digits{PREDICTIONS}/{response.json['id']}"


def test_label_that_is_not_json_is_rejected(client: FlaskClient) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    body = b'{"true_digit": 7}'
    assert_problem(client.patch(url, data=body, content_type="text/plain"), 415, "json")
    assert_problem(client.patch(url, data=body[:-1], content_type="application/json"), 400, "JSON")
    assert client.get(url).json["true_digit"] is None


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=1e2",
        "limit=٣",
        "limit=-1",
        "limit=",
        "before=x",
        f"before={ABSENT.upper()}",
        "before=urn:uuid:01934b2c-0000-7000-8000-000000000000",
        "digit=10",
        "digit=-1",
        "digit=7.0",
        "labelled=maybe",
        "labelled=Yes",
        "right=1",
        "reviewed=accepted",
        "order=newest",
        "model_version=%00",
        "model_version=",
        f"model_version={65 * 'a'}",
        "from=yesterday",
        "from=1769904000",
        "to=2026-13-01",
        "to=",
    ],
)
def test_bad_parameter_is_rejected(client: FlaskClient, query: str) -> None:
    name = query.split("=")[0]
    assert_problem(client.get(f"{PREDICTIONS}?{query}"), 400, f"^`{name}` should be ")
    if name not in ("limit", "before", "order"):
        export = client.get(f"{PREDICTIONS}.csv?{query}", headers=OPERATOR)
        assert_problem(export, 400, f"^`{name}` should be ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PREDICTIONS),
        ("POST", PREDICTIONS),
        ("DELETE", PREDICTIONS),
        ("GET", f"{PREDICTIONS}.csv"),
        ("GET", f"{PREDICTIONS}/{ABSENT}"),
        ("PATCH", f"{PREDICTIONS}/{ABSENT}"),
        ("DELETE", f"{PREDICTIONS}/{ABSENT}"),
        ("GET", f"{PREDICTIONS}/{ABSENT}/image.png"),
        ("GET", "/api/stats"),
        ("GET", "/api/model"),
        ("GET", "/api/openapi.json"),
    ],
)
def test_unknown_parameter_is_rejected(client: FlaskClient, method: str, path: str) -> None:
    for query in ("digits=7", "=", "%ff=1", "Digit=7"):
        answer = client.open(f"{path}?{query}", method=method, headers=OPERATOR)
        assert_problem(answer, 400, "Unknown query parameter")


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("POST", "store=no&store=yes"),
        ("POST", "store=no&store=no"),
        ("GET", "digit=1&digit=2"),
        ("GET", "limit=1&limit=1"),
        ("GET", "labelled=yes&labelled="),
        ("DELETE", "to=2026-01-01&to=2026-01-01"),
    ],
)
def test_repeated_parameter_is_rejected(client: FlaskClient, method: str, query: str) -> None:
    id_ = stored_id(client)
    answer = client.open(f"{PREDICTIONS}?{query}", method=method, headers=OPERATOR)
    assert_problem(answer, 400, f"^`{query.split('=')[0]}` should be given once")
    assert listed(client) == [id_]


@pytest.mark.parametrize("key", ["", "k" * 15, "k" * 65, "key of one picture", "k" * 16 + "é"])
def test_bad_idempotency_key_is_rejected(client: FlaskClient, key: str) -> None:
    headers = {"Idempotency-Key": key}
    assert_problem(post(client, headers=headers), 400, "16 to 64 letters")
    assert listed(client) == []


@pytest.mark.parametrize("key", ["k" * 16, "k" * 64, "The_key-of-1-picture"])
def test_idempotency_key_has_16_to_64_letters(client: FlaskClient, key: str) -> None:
    answers = [post(client, headers={"Idempotency-Key": key}) for _ in range(2)]
    assert [each.status_code for each in answers] == [201, 200]


@pytest.mark.parametrize("store", ["maybe", "", "NO"])
def test_invalid_value_of_store_is_rejected(client: FlaskClient, store: str) -> None:
    assert post(client, query_string={"store": "yes"}).status_code == HTTPStatus.CREATED
    assert_problem(post(client, query_string={"store": store}), 400, "^`store` should be yes or no")
    assert len(client.get(PREDICTIONS).json["predictions"]) == 1


@pytest.mark.parametrize(
    "path", ["/api/nothing", "/api/", f"{PREDICTIONS}/7", f"{PREDICTIONS}/{ABSENT}"]
)
def test_unknown_path_is_a_problem(client: FlaskClient, path: str) -> None:
    assert_problem(client.get(path), 404, "not found|no such prediction")


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "GET"])
def test_unknown_prediction_is_a_problem(client: FlaskClient, method: str) -> None:
    url, body = f"{PREDICTIONS}/{ABSENT}", None if method == "GET" else {"true_digit": 7}
    answer = client.open(url, method=method, json=body, headers=OPERATOR)
    assert_problem(answer, 404, "no such prediction")
    assert_problem(client.get(f"{url}/image.png"), 404, "no such prediction")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", PREDICTIONS, {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}),
        ("POST", f"{PREDICTIONS}/{ABSENT}", {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"}),
        ("POST", "/api/stats", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_other_method_is_a_problem_that_names_the_allowed(
    client: FlaskClient, method: str, path: str, allowed: set[str]
) -> None:
    response = client.open(path, method=method)
    assert_problem(response, 405, "method is not allowed")
    assert {*response.headers["Allow"].split(", ")} == allowed


def broken() -> str:
    """Fail as a route with a defect does."""
    raise RuntimeError("webapp/secret.py")


def test_internal_error_reveals_no_details(app: Flask) -> None:
    app.add_url_rule("/api/broken", view_func=broken)
    assert_problem(app.test_client().get("/api/broken"), 500)


def test_failure_outside_the_api_is_a_page(client: FlaskClient) -> None:
    assert client.get("/nothing").mimetype == "text/html"


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        ({}, [3, 2, 1, 0]),
        ({"digit": 0}, []),
        ({"digit": 3}, [3]),
        ({"digit": 9}, []),
        ({"labelled": "yes"}, [3, 2, 1]),
        ({"labelled": "no"}, [0]),
        ({"right": "yes"}, [3, 1]),
        ({"right": "no"}, [2]),
        ({"model_version": "bb"}, [3, 0]),
        ({"model_version": "b"}, []),
        ({"from": "2026-02-01"}, [3, 2]),
        ({"to": "2026-02-01"}, [1, 0]),
        ({"from": "2026-02-01T00:00:00.001Z"}, [3]),
        ({"to": "2026-02-01T00:00:00.001Z"}, [2, 1, 0]),
        ({"from": "2026-01-31T23:59:00"}, [3, 2, 1]),
        ({"from": "2026-02-01T00:59:00+01:00"}, [3, 2, 1]),
        ({"to": "2026-01-31T18:59:00-05:00"}, [0]),
        ({"from": "2026-01-31T23:59", "to": "2026-02-01T00:01"}, [2, 1]),
        ({"from": "0001-01-01", "to": "9999-12-31T23:59:59-12:00"}, [3, 2, 1, 0]),
        ({"digit": 7, "labelled": "yes", "right": "no"}, [2]),
        ({"digit": 7, "model_version": "bb", "to": "2026-02-01"}, [0]),
    ],
)
@pytest.mark.usefixtures("new_york")
def test_filters_choose(
    client: FlaskClient, settings: Settings, query: dict[str, object], chosen: list[int]
) -> None:
    rows: list[Mapping[str, object]] = [
        {"model_version": "bb"},
        {"true_digit": 7},
        {"true_digit": 1},
        {"model_version": "bb", "predicted_digit": 3, "true_digit": 3},
    ]
    ids = fill(client, settings, rows)
    expected = [ids[number] for number in chosen]
    assert listed(client, **query) == expected
    assert listed(client, **query, limit=1) == expected
    assert [row["id"] for row in csv_rows(client, **query)] == expected


def test_pages_follow_the_cursor(client: FlaskClient, settings: Settings) -> None:
    ids = fill(client, settings, 501 * [{}])[::-1]
    for limit, query in ((100, ""), (500, "?limit=500"), (2, "?limit=2")):
        first = client.get(f"{PREDICTIONS}{query}").json
        assert [prediction["id"] for prediction in first["predictions"]] == ids[:limit]
        assert first["next"] == ids[limit - 1]
    last = client.get(f"{PREDICTIONS}?before={ids[499]}").json
    assert [prediction["id"] for prediction in last["predictions"]] == ids[500:]
    assert last["next"] is None
    assert client.get(f"{PREDICTIONS}?limit=501").status_code == HTTPStatus.BAD_REQUEST


def test_large_export_repeats_and_misses_nothing(client: FlaskClient, settings: Settings) -> None:
    ids = fill(client, settings, 600 * [{"true_digit": 1}, {}])[::-1]
    pieces = [*client.get(f"{PREDICTIONS}.csv", headers=OPERATOR).iter_encoded()]
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 65 * 1024
    lines = b"".join(pieces).decode().splitlines()
    assert lines[0] == ",".join([*COLUMNS, *(f"probability_{digit}" for digit in range(10))])
    assert [line.split(",")[0] for line in lines[1:]] == ids
    assert [row["id"] for row in csv_rows(client, labelled="yes")] == ids[1::2]
    assert listed(client, labelled="yes", limit=500) == ids[1::2]


def test_export_contains_the_fields_of_the_api(client: FlaskClient) -> None:
    prediction = post(client).json
    (row,) = csv_rows(client)
    for name in ("id", "predicted_digit", "confidence", "uncertain", "model_version"):
        assert row[name] == str(prediction[name])
    assert [float(row[f"probability_{digit}"]) for digit in range(10)] == prediction[
        "probabilities"
    ]
    made_at = datetime.fromisoformat(row["created_at"])
    assert made_at == datetime.fromisoformat(prediction["created_at"])
    assert (row["true_digit"], row["labelled_by"], row["labelled_at"]) == ("", "", "")


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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, "{}"),
        (400, "[]"),
        (400, "7"),
        (400, '{"true_digit": 7, "digit": 7}'),
        (400, '{"digit": 7}'),
        (422, '{"true_digit": 10}'),
        (422, '{"true_digit": -1}'),
        (422, '{"true_digit": "7"}'),
        (422, '{"true_digit": ""}'),
        (422, '{"true_digit": true}'),
        (422, '{"true_digit": false}'),
        (422, '{"true_digit": 7.5}'),
        (422, '{"true_digit": [7]}'),
        (422, '{"true_digit": {}}'),
        (422, '{"true_digit": NaN}'),
        (422, '{"true_digit": 1e400}'),
        (422, '{"true_digit": 7, "true_digit": 10}'),
    ],
)
def test_bad_label_is_rejected(client: FlaskClient, status: int, body: str) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    assert_problem(
        client.patch(url, data=body, content_type="application/json"), status, "true_digit|object"
    )
    assert client.get(url).json["true_digit"] is None


@pytest.mark.parametrize(("sent", "kept"), [("0", "0"), ("9", "9"), ("7.0", "7"), ("70e-1", "7")])
def test_whole_number_is_a_label_however_it_is_written(
    client: FlaskClient, sent: str, kept: str
) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    body = f'{{"true_digit": {sent}}}'
    response = client.patch(url, data=body, content_type="application/json")
    for answer in (response, client.get(url)):
        assert f'"true_digit":{kept},' in answer.text


def test_newest_label_wins_though_the_clock_went_back(
    client: FlaskClient, settings: Settings
) -> None:
    ahead: dict[str, object] = {
        "labelled_by": "visitor",
        "labelled_at": "2999-01-01 00:00:00.000000",
    }
    (id_,) = fill(client, settings, [ahead | {"true_digit": 7}])
    for digit in (1, None, 2):
        label = {"true_digit": digit}
        assert client.patch(f"{PREDICTIONS}/{id_}", json=label).json["true_digit"] == digit
        assert client.get(f"{PREDICTIONS}/{id_}").json["true_digit"] == digit


def test_stats_of_nothing_have_no_accuracy(client: FlaskClient) -> None:
    stats = client.get("/api/stats").json
    assert (stats["predictions"], stats["labelled"], stats["right"]) == (0, 0, 0)
    assert stats["accuracy"] is stats["accuracy_interval"] is None
    assert (stats["model_versions"], stats["days"]) == ([], [])


def test_stats_count_labels_at_once(client: FlaskClient) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    for digit, accuracy in ((7, 1), (1, 0), (None, None)):
        client.patch(url, json={"true_digit": digit})
        assert client.get("/api/stats").json["accuracy"] == accuracy


def test_stats_count_by_digit_model_and_day(client: FlaskClient, settings: Settings) -> None:
    rows: list[Mapping[str, object]] = [
        {"model_version": "cc"},
        {"model_version": "bb", "true_digit": 7},
        {"model_version": "aa", "true_digit": 1},
        {"model_version": "aa", "predicted_digit": 3, "true_digit": 7},
        {"model_version": "aa", "predicted_digit": 3, "true_digit": 3},
        {"model_version": "aa", "predicted_digit": 3, "true_digit": 3},
    ]
    fill(client, settings, rows)
    started = datetime.now(UTC).replace(microsecond=0)
    stats = client.get("/api/stats").json
    assert started <= datetime.fromisoformat(stats["as_of"]) <= datetime.now(UTC)
    assert stats["days"] == [
        {"day": "2026-01-31", "predictions": 2},
        {"day": "2026-02-01", "predictions": 4},
    ]
    versions = stats["model_versions"]
    assert [(each["model_version"], each["since"]) for each in versions] == [
        ("bb", "2026-01-31"),
        ("cc", "2026-01-31"),
        ("aa", "2026-02-01"),
    ]
    assert [counted(each) for each in versions] == [(1, 1, 1), (1, 0, 0), (4, 4, 2)]
    days = [(each["days"][0]["day"], counted(each["days"][0])) for each in versions]
    assert days == [
        ("2026-01-31", (1, 1, 1)),
        ("2026-01-31", (1, 0, 0)),
        ("2026-02-01", (4, 4, 2)),
    ]
    assert [each["digit"] for each in stats["digits"]] == [*range(10)]
    expected = {1: (0, 1, 0), 3: (3, 2, 2), 7: (3, 2, 1)}
    assert [counted(each) for each in stats["digits"]] == [
        expected.get(digit, (0, 0, 0)) for digit in range(10)
    ]
    assert counted(stats) == (6, 5, 3)
    confusion = {(7, 7): 1, (1, 7): 1, (7, 3): 1, (3, 3): 2}  # the true digit first
    assert stats["confusion"] == [
        [confusion.get((true, predicted), 0) for predicted in range(10)] for true in range(10)
    ]


def test_version_is_dated_from_its_first_day(client: FlaskClient, settings: Settings) -> None:
    fill(client, settings, [{"model_version": "aa"}] * 3, step=timedelta(days=1))
    (version,) = client.get("/api/stats").json["model_versions"]
    assert [day["day"] for day in version["days"]] == ["2026-01-31", "2026-02-01", "2026-02-02"]
    assert version["since"] == "2026-01-31"


def counted(figures: Any) -> tuple[int, int, int]:
    """Return how many predictions there are, how many are labelled, and how many are right."""
    return figures["predictions"], figures["labelled"], figures["right"]


@pytest.mark.parametrize(
    ("right", "labelled", "interval"),
    [
        (1, 2, (0.0945, 0.9055)),
        (0, 8, (0, 0.3244)),
        (19, 19, (0.8318, 1)),
        (8, 10, (0.4902, 0.9433)),
    ],
)
def test_accuracy_has_the_interval_of_wilson(
    client: FlaskClient, settings: Settings, right: int, labelled: int, interval: list[float]
) -> None:
    fill(client, settings, right * [{"true_digit": 7}] + (labelled - right) * [{"true_digit": 1}])
    stats = client.get("/api/stats").json
    for figures in (stats, stats["model_versions"][0]):
        assert figures["accuracy"] == right / labelled
        assert figures["accuracy_interval"] == pytest.approx(interval, abs=1e-4)
        assert 0 <= figures["accuracy_interval"][0] <= figures["accuracy_interval"][1] <= 1


def test_answer_is_given_although_nothing_can_be_stored(
    client: FlaskClient, settings: Settings
) -> None:
    for name in ("predictions.db", "outbox.db"):
        with closing(sqlite3.connect(settings.data_dir / name)) as connection:
            connection.execute("DROP TABLE predictions")
    response = post(client)
    assert response.status_code == HTTPStatus.OK
    assert (response.json["predicted_digit"], response.json["stored"]) == (7, False)
    assert_problem(client.get(PREDICTIONS), 503)
    assert_problem(client.get("/api/predictions.csv", headers=OPERATOR), 503)


def test_operator_deletes_one_prediction(client: FlaskClient) -> None:
    kept, old = stored_id(client), stored_id(client)
    response = client.delete(f"{PREDICTIONS}/{old}", headers=OPERATOR)
    assert (response.status_code, response.data) == (HTTPStatus.NO_CONTENT, b"")
    assert_problem(client.delete(f"{PREDICTIONS}/{old}", headers=OPERATOR), 404)
    assert_problem(client.get(f"{PREDICTIONS}/{old}"), 404)
    assert listed(client) == [kept]


@pytest.mark.parametrize(
    ("to", "deleted"),
    [
        ("2026-01-01", 0),
        ("2026-01-31T23:59:00Z", 1),
        ("2026-02-01", 2),
        ("2026-02-01T01:00:00.001+01:00", 3),
    ],
)
@pytest.mark.usefixtures("new_york")
def test_operator_deletes_what_is_older(
    client: FlaskClient, settings: Settings, to: str, deleted: int
) -> None:
    ids = fill(client, settings, 4 * [{}])
    response = client.delete(PREDICTIONS, query_string={"to": to}, headers=OPERATOR)
    assert response.json == {"deleted": deleted}
    assert listed(client) == ids[deleted:][::-1]


@pytest.mark.parametrize("query", ["", "to=", "to=all", "to=2999-01-01", "to=2026-01-01&mine=yes"])
def test_operator_has_to_say_what_to_delete(client: FlaskClient, query: str) -> None:
    id_ = stored_id(client)
    assert_problem(client.delete(f"{PREDICTIONS}?{query}", headers=OPERATOR), 400, "`to`.* should")
    assert listed(client) == [id_]


def test_command_line_exports_deletes_and_counts(
    client: FlaskClient, app: Flask, tmp_path: Path
) -> None:
    unlabelled, id_ = stored_id(client), stored_id(client)
    client.patch(f"{PREDICTIONS}/{id_}", json={"true_digit": 1})
    run = app.test_cli_runner().invoke
    table = tmp_path / "out.csv"
    for options, ids in (([], [id_, unlabelled]), (["--labelled"], [id_])):
        assert run(args=["predictions", "export", *options, str(table)]).exit_code == 0
        assert [row["id"] for row in csv.DictReader(table.read_text().splitlines())] == ids
    assert json.loads(run(args=["predictions", "stats"]).output)["labelled"] == 1
    assert run(args=["predictions", "delete", "--id", id_]).output == "1 deleted\n"
    assert listed(client) == [unlabelled]
    refused = run(args=["predictions", "delete", "--before", "2999-01-01"])
    assert "should not be in the future" in refused.output
    assert listed(client) == [unlabelled]


@pytest.mark.usefixtures("new_york")
def test_command_line_deletes_what_is_older_by_utc(
    client: FlaskClient, app: Flask, settings: Settings
) -> None:
    ids = fill(client, settings, 4 * [{}])
    run = app.test_cli_runner().invoke
    assert run(args=["predictions", "delete", "--before", "2026-02-01"]).output == "2 deleted\n"
    assert listed(client) == ids[:1:-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["delete"],
        ["delete", "--id", ABSENT, "--before", "2026-01-01"],
        ["delete", "--id", "7"],
        ["delete", "--before", "yesterday"],
        ["export"],
        ["export", "out.txt"],
        ["export", "out.npz"],
        ["export", "--unreviewed", "out.csv"],
        ["review"],
    ],
)
def test_command_line_rejects_what_it_does_not_understand(
    client: FlaskClient, app: Flask, arguments: list[str]
) -> None:
    id_ = stored_id(client)
    result = app.test_cli_runner().invoke(args=["predictions", *arguments])
    assert (result.exit_code, "Usage: " in result.output) == (2, True)
    assert listed(client) == [id_]


def test_creating_the_application_starts_no_thread_and_writes_no_file(settings: Settings) -> None:
    threads = threading.enumerate()
    create_app(settings)
    assert threading.enumerate() == threads
    assert not [*settings.data_dir.iterdir()]


def test_command_line_makes_the_database_it_needs_without_a_model(
    settings: Settings, database_target: Target
) -> None:
    settings = replace(settings, database=database_target, model_dir=settings.data_dir)
    result = create_app(settings).test_cli_runner().invoke(args=["predictions", "stats"])
    assert json.loads(result.output)["predictions"] == 0


def test_command_line_fails_with_a_sentence(settings: Settings) -> None:
    absent = settings.data_dir / "absent" / "digits.db"
    run = create_app(replace(settings, database=absent)).test_cli_runner().invoke
    result = run(args=["predictions", "stats"])
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: The database .+ cannot be used: .+\n", result.output)


@pytest.mark.parametrize(("proxies", "third"), [(0, 429), (1, 200)])
def test_limit_is_for_the_client_behind_a_trusted_proxy(
    settings: Settings, proxies: int, third: int
) -> None:
    check_and_migrate(settings)
    settings = replace(settings, rate_limit="2 per day", trusted_proxies=proxies)
    client = create_app(settings).test_client()
    for address, status in (("192.0.2.1", 200), ("192.0.2.1", 200), ("192.0.2.2", third)):
        response = client.get("/api/stats", headers={"X-Forwarded-For": address})
        assert response.status_code == status


def test_health_checks_and_metrics(client: FlaskClient) -> None:
    stored_id(client)
    assert client.get("/healthz").json == {"status": "alive"}
    ready = client.get("/readyz").json
    assert (ready["status"], ready["waiting"]) == ("ready", 0)
    assert ready["model_version"] == client.get("/api/model").json["version"]
    figures = client.get("/metrics").text
    assert 'digits_requests_total{route="/api/predictions",status="201"}' in figures
    assert 'digits_predictions_total{digit="7",stored="True",uncertain="False"}' in figures


def test_every_place_names_the_same_version(client: FlaskClient) -> None:
    assert client.get("/readyz").json["version"] == __version__
    with client.get("/api/openapi.json") as response:
        assert response.json["info"]["version"] == __version__
    assert f">Version {__version__}<" in client.get("/").text
    assert f'image.version="{__version__}"' in (ROOT / "Dockerfile.serve").read_text()
    assert f"## {__version__} (" in (ROOT / "CHANGELOG.md").read_text()


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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/static/style.css", 200),
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/api/stats", 200),
        ("OPTIONS", PREDICTIONS, 200),
        ("GET", "/nothing", 404),
        ("GET", "/api/nothing", 404),
        ("PUT", PREDICTIONS, 405),
        ("POST", PREDICTIONS, 415),
        ("GET", f"{PREDICTIONS}.csv", 401),
        ("GET", "/api/broken", 500),
        ("GET", "/broken", 500),
    ],
)
def test_every_answer_has_the_security_headers(
    app: Flask, method: str, path: str, status: int
) -> None:
    app.add_url_rule("/broken", view_func=broken)
    app.add_url_rule("/api/broken", view_func=broken)
    response = app.test_client().open(path, method=method, buffered=True)
    headers = response.headers
    assert response.status_code == status
    policy = headers["Content-Security-Policy"].split("; ")
    expected = {"default-src 'self'", "img-src 'self' data:", "frame-ancestors 'none'"}
    assert expected <= {*policy}
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert {"camera=()", "geolocation=()"} <= {*headers["Permissions-Policy"].split(", ")}
    assert "Strict-Transport-Security" not in headers


def test_browser_keeps_to_https_for_a_year(client: FlaskClient) -> None:
    headers = client.get("/", base_url="https://localhost").headers
    assert headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.parametrize("path", ["/static/style.css", "/static/page.js"])
def test_static_files_are_revalidated(client: FlaskClient, path: str) -> None:
    response = client.get(path, buffered=True)
    assert response.headers["Cache-Control"] == "no-cache"
    etag = {"If-None-Match": response.headers["ETag"]}
    assert client.get(path, headers=etag, buffered=True).status_code == HTTPStatus.NOT_MODIFIED


def test_api_responses_are_not_cached(client: FlaskClient) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    paths = (PREDICTIONS, url, f"{url}/image.png", f"{PREDICTIONS}.csv", "/api/stats", "/api/model")
    others = ("/api/openapi.json", "/api/nothing", f"{PREDICTIONS}?digit=x")
    answers = [client.get(path, headers=OPERATOR, buffered=True) for path in (*paths, *others)]
    answers += [post(client), client.patch(url, json={"true_digit": 7}), post(client, b"")]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


def test_pages_are_not_kept_for_later(client: FlaskClient) -> None:
    for path in ("/", "/readyz"):
        headers = client.get(path).headers
        assert "max-age" not in headers.get("Cache-Control", "")
        assert "Expires" not in headers


def test_page_allows_nothing_inline(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.status_code == HTTPStatus.OK
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|onclick=|//", response.text)
