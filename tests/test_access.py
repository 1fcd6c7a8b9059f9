"""Who may do what: the visitor's signed cookie and the operator's token."""

import http.client
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import Signer
from werkzeug.http import parse_cookie
from werkzeug.test import TestResponse

from tests.clients import SEVEN_PNG
from tests.conftest import TIMEOUT_S, Server
from tests.test_api import (
    ABSENT,
    OPERATOR,
    PREDICTIONS,
    assert_problem,
    csv_rows,
    post,
    stored_id,
)
from webapp.app import create_app
from webapp.services import open_outbox, services
from webapp.settings import Settings
from webapp.startup import check_and_migrate

YEAR_S = 365 * 24 * 3600
LABEL = {"true_digit": 1}


@pytest.fixture
def visitor(client: FlaskClient) -> tuple[str, str, str]:
    """Return the id of a visitor's prediction, and the visitor's cookie: name and value."""
    response = post(client)
    ((name, value),) = parse_cookie(response.headers["Set-Cookie"].split(";")[0]).items()
    return str(response.json["id"]), name, value


def forged(value: str, secret_key: str) -> Iterator[str]:
    """Return values that claim a visitor's identity without the signature that belongs to it."""
    identity, _, signature = value.rpartition(".")
    yield identity
    yield f"{identity}."
    yield f"{identity}.{signature[:-1]}"
    yield f"{identity}.{signature[::-1]}"
    yield f"{identity}x.{signature}"
    for key, salt in (("", "visitor"), ("another key", "visitor"), (secret_key, "cookie-session")):
        yield Signer(key, salt=salt).sign(identity).decode()
    yield Signer(secret_key).sign(identity).decode()


def test_forged_cookie_is_rejected(
    app: Flask, visitor: tuple[str, str, str], settings: Settings
) -> None:
    id_, name, value = visitor
    url = f"{PREDICTIONS}/{id_}"
    secret_key = (settings.data_dir / "secret_key").read_text()
    for forgery in forged(value, secret_key):
        forger = app.test_client()
        forger.set_cookie(name, forgery)
        assert_problem(forger.patch(url, json=LABEL), 403)
        assert forger.delete(url).status_code in (401, 403)
        own = stored_id(forger)  # with a new identity, in a cookie of its own
        assert forger.patch(f"{PREDICTIONS}/{own}", json=LABEL).json["true_digit"] == 1
        assert_problem(forger.patch(url, json=LABEL), 403)
    assert app.test_client().get(url).json["true_digit"] is None


def test_cookie_alone_identifies_the_visitor(app: Flask, visitor: tuple[str, str, str]) -> None:
    id_, name, value = visitor
    restarted = app.test_client()
    restarted.set_cookie(name, value)
    again = post(restarted)
    assert "Set-Cookie" not in again.headers
    for each in (id_, again.json["id"]):
        assert restarted.patch(f"{PREDICTIONS}/{each}", json=LABEL).json["true_digit"] == 1


def test_every_visitor_gets_an_identity_of_its_own(app: Flask) -> None:
    cookies = {post(app.test_client()).headers["Set-Cookie"].split(";")[0] for _ in range(9)}
    assert len(cookies) == 9


def test_visitor_labels_only_its_own_predictions(app: Flask) -> None:
    visitor, stranger = app.test_client(), app.test_client()
    url, other = (f"{PREDICTIONS}/{stored_id(each)}" for each in (visitor, stranger))
    assert_problem(stranger.patch(url, json=LABEL), 403)
    assert_problem(visitor.patch(other, json=LABEL), 403)
    assert stranger.delete(url).status_code in (401, 403)
    assert visitor.get(url).json["true_digit"] is None
    assert visitor.patch(url, json=LABEL).json["true_digit"] == 1


def test_program_without_cookie_cannot_label(app: Flask) -> None:
    program = app.test_client(use_cookies=False)
    url = f"{PREDICTIONS}/{stored_id(program)}"
    assert_problem(program.patch(url, json=LABEL), 403)
    assert program.get(url).json["true_digit"] is None


@pytest.mark.parametrize(
    ("scheme", "proxies", "forwarded", "secure"),
    [
        ("http", 0, "", False),
        ("https", 0, "", True),
        ("http", 1, "https", True),
        ("https", 1, "http", False),
        ("http", 0, "https", False),
    ],
)
def test_cookie_is_private_and_secure_exactly_over_https(
    settings: Settings, scheme: str, proxies: int, forwarded: str, secure: bool
) -> None:
    check_and_migrate(settings)
    client = create_app(replace(settings, trusted_proxies=proxies)).test_client()
    headers = {"X-Forwarded-Proto": forwarded} if forwarded else {}
    response = post(client, headers=headers, base_url=f"{scheme}://localhost")
    _, *flags = response.headers["Set-Cookie"].split("; ")
    flags = [flag for flag in flags if not flag.startswith("Expires=")]
    expected = {f"Max-Age={YEAR_S}", "HttpOnly", "SameSite=Lax", "Path=/"}
    assert {*flags} == expected | ({"Secure"} if secure else set())


def operator_calls(client: FlaskClient, id_: str, credentials: str | None) -> list[TestResponse]:
    """Return the answers to all that an operator may do; `id_` is somebody else's prediction."""
    headers = {} if credentials is None else {"Authorization": credentials}
    return [
        client.get(f"{PREDICTIONS}.csv", headers=headers),
        client.delete(f"{PREDICTIONS}?to=2026-01-01", headers=headers),
        client.patch(f"{PREDICTIONS}/{id_}", json=LABEL, headers=headers),
        client.delete(f"{PREDICTIONS}/{id_}", headers=headers),
    ]


@pytest.mark.parametrize("credentials", [OPERATOR["Authorization"], "bearer  of-the=operator "])
def test_operator_token_gives_access_to_operator_routes(
    app: Flask, client: FlaskClient, credentials: str
) -> None:
    calls = operator_calls(app.test_client(), stored_id(client), credentials)
    assert [call.status_code for call in calls] == [200, 200, 200, 204]


@pytest.mark.parametrize(
    ("token", "credentials"),
    [
        *[
            ("", credentials)
            for credentials in (
                None,
                "",
                " ",
                "Bearer",
                "Bearer ",
                "bearer  ",
                "Basic",
                "Basic Og==",
            )
        ],
        *[
            ("of-the=operator", credentials)
            for credentials in (
                None,
                "",
                "Bearer",
                "Bearer ",
                "of-the=operator",
                "Bearer guess",
                "Bearer of-the",
                "Bearer of-the=operato",
                "Bearer of-the=operators",
                "Bearer OF-THE=OPERATOR",
                "Bearer of-the=operator of-the=operator",
                "Bearer of-the=operator\u00e9",
                "Bearer: of-the=operator",
                "Token of-the=operator",
                "Basic of-the=operator",
                "Basic Om9mLXRoZT1vcGVyYXRvcg==",
            )
        ],
    ],
)
def test_operator_routes_reject_other_credentials(
    settings: Settings, token: str, credentials: str | None
) -> None:
    check_and_migrate(settings)
    app = create_app(replace(settings, operator_token=token))
    id_ = stored_id(app.test_client())
    stranger = app.test_client()
    stored_id(stranger)
    calls = operator_calls(stranger, id_, credentials)
    for call, status in zip(calls, (401, 401, 403, 403), strict=True):
        assert_problem(call, status)
        assert (call.headers.get("WWW-Authenticate") == "Bearer") is (status == 401)
    assert stranger.get(f"{PREDICTIONS}/{id_}").json["true_digit"] is None


@pytest.mark.parametrize("token", ["schlüssel", "voilà", "Å", "ключ", "à"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_token_may_have_any_characters(settings: Settings, token: str, encoding: str) -> None:
    check_and_migrate(settings)
    client = create_app(replace(settings, operator_token=token)).test_client()
    for wrong in (token[:-1], token + "x", token + "\u00a0"):
        assert not is_accepted(client, wrong.encode(encoding, "replace"))
    if token != "ключ" or encoding == "utf-8":
        assert is_accepted(client, token.encode(encoding))


def is_accepted(client: FlaskClient, token: bytes) -> bool:
    """Return whether the bytes of a token open what is the operator's."""
    credentials = f"Bearer {token.decode('latin-1')}"  # as WSGI hands headers over
    response = client.get(f"{PREDICTIONS}.csv", headers={"Authorization": credentials})
    return response.status_code == 200


def test_server_accepts_a_token_with_accents(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY="1", OPERATOR_TOKEN="voilà") as server:
        for encoding in ("utf-8", "latin-1"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
            headers = {"Authorization": b"Bearer " + "voilà".encode(encoding)}
            connection.request("GET", f"{PREDICTIONS}.csv", headers=headers)
            assert connection.getresponse().status == 200
            connection.close()


# ---- what visitors see and delete -----------------------------------------------------------


@pytest.fixture
def parties(settings: Settings, request: pytest.FixtureRequest) -> tuple[Flask, FlaskClient, str]:
    """Return an application with a HISTORY, a visitor, and the id of a stranger's prediction."""
    check_and_migrate(settings)
    app = create_app(replace(settings, history=request.param))
    visitor = app.test_client()
    stored_id(visitor)
    return app, visitor, stored_id(app.test_client())


@pytest.mark.parametrize(
    ("parties", "counts", "other", "own"),
    [
        ("everyone", (2, 2, 2), 200, 200),
        ("own", (1, 0, 2), 404, 200),
        ("nobody", (403, 403, 2), 403, 403),
    ],
    indirect=["parties"],
)
def test_history_says_who_sees_predictions(
    parties: tuple[Flask, FlaskClient, str], counts: tuple[int, ...], other: int, own: int
) -> None:
    app, visitor, id_ = parties
    newcomer, operator = app.test_client(), app.test_client(use_cookies=False)
    answers: list[Any] = [
        client.get(PREDICTIONS, headers=OPERATOR if client is operator else {}).json
        for client in (visitor, newcomer, operator)
    ]
    assert counts == tuple(
        len(answer["predictions"]) if "predictions" in answer else answer["status"]
        for answer in answers
    )
    own_id = next(row["id"] for row in answers[2]["predictions"] if row["id"] != id_)
    operator.patch(f"{PREDICTIONS}/{id_}", json=LABEL, headers=OPERATOR)  # hidden all the same
    for path in ("", "/image.png"):
        assert visitor.get(f"{PREDICTIONS}/{id_}{path}").status_code == other
        assert visitor.get(f"{PREDICTIONS}/{own_id}{path}").status_code == own
        assert newcomer.get(f"{PREDICTIONS}/{own_id}{path}").status_code == other
        assert operator.get(f"{PREDICTIONS}/{id_}{path}", headers=OPERATOR).status_code == 200
    assert newcomer.get("/api/stats").json["predictions"] == 2
    assert visitor.patch(f"{PREDICTIONS}/{own_id}", json=LABEL).status_code == 200


@pytest.mark.parametrize("parties", ["own"], indirect=True)
def test_own_history_may_be_filtered(parties: tuple[Flask, FlaskClient, str]) -> None:
    _, visitor, _ = parties
    assert len(visitor.get(f"{PREDICTIONS}?digit=7&limit=1").json["predictions"]) == 1
    assert visitor.get(f"{PREDICTIONS}?digit=8").json["predictions"] == []


def test_visitor_deletes_only_its_own_prediction(app: Flask) -> None:
    visitor, stranger = app.test_client(), app.test_client()
    own, other = stored_id(visitor), stored_id(stranger)
    assert_problem(visitor.delete(f"{PREDICTIONS}/{other}"), 403, "Only the browser that made")
    program = app.test_client(use_cookies=False)
    assert_problem(program.delete(f"{PREDICTIONS}/{other}"), 403, "Cookies are needed to delete")
    assert_problem(program.delete(f"{PREDICTIONS}/{ABSENT}"), 403)
    wrong = {"Authorization": "Bearer guess"}
    assert_problem(program.delete(f"{PREDICTIONS}/{other}", headers=wrong), 401)
    answer = visitor.delete(f"{PREDICTIONS}/{own}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert_problem(visitor.delete(f"{PREDICTIONS}/{own}"), 404)
    assert [row["id"] for row in visitor.get(PREDICTIONS).json["predictions"]] == [other]


def test_visitor_deletes_everything_it_drew(app: Flask) -> None:
    visitor, stranger = app.test_client(), app.test_client()
    other = stored_id(stranger)
    for _ in range(3):
        stored_id(visitor)
    assert visitor.delete(f"{PREDICTIONS}?mine=yes").json == {"deleted": 3}
    assert visitor.delete(f"{PREDICTIONS}?mine=yes").json == {"deleted": 0}
    program = app.test_client(use_cookies=False)
    assert program.delete(f"{PREDICTIONS}?mine=yes").json == {"deleted": 0}
    assert [row["id"] for row in visitor.get(PREDICTIONS).json["predictions"]] == [other]


@pytest.mark.parametrize("query", ["mine=no", "mine=", "mine=YES", "mine=yes&to=2026-01-01"])
def test_malformed_deletion_deletes_nothing(client: FlaskClient, query: str) -> None:
    id_ = stored_id(client)
    assert_problem(client.delete(f"{PREDICTIONS}?{query}"), 400, "should be")
    assert client.get(f"{PREDICTIONS}/{id_}").status_code == 200


def test_deleted_drawings_do_not_come_back_from_an_outbox(app: Flask, settings: Settings) -> None:
    visitor = app.test_client()
    id_ = stored_id(visitor)
    row = services(app).store.get(id_)
    assert visitor.delete(f"{PREDICTIONS}?mine=yes").json == {"deleted": 1}
    open_outbox(settings.data_dir).insert(row)  # another replica's
    assert_problem(visitor.get(f"{PREDICTIONS}/{id_}"), 404)
    services(app).store.flush()
    assert visitor.get(PREDICTIONS).json["predictions"] == []


# ---- other sites ----------------------------------------------------------------------------


HERE = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:8001"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://evil.example/localhost"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    ],
)
def test_other_site_changes_nothing(client: FlaskClient, headers: dict[str, str]) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    form = {"image": (io.BytesIO(SEVEN_PNG), "7.png")}
    answers = [
        client.post(PREDICTIONS, data=form, headers=headers),
        client.post(f"{PREDICTIONS}?store=no", data=SEVEN_PNG, headers=headers),
        client.patch(url, json=LABEL, headers=headers),
        client.delete(url, headers=headers | OPERATOR),
    ]
    for answer in answers:
        assert_problem(answer, 403, "Cross-site requests")
        assert "Set-Cookie" not in answer.headers
    assert [row["true_digit"] for row in client.get(PREDICTIONS).json["predictions"]] == [None]


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        (HERE, "http://localhost"),
        ({"Sec-Fetch-Site": "none"}, "http://localhost"),
        # A proxy may send another host than the browser addressed.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://digits.example"}, "http://web:8000"),
        ({"Origin": "http://localhost"}, "http://localhost"),
        ({"Origin": "http://localhost:8000"}, "http://localhost:8000"),
        ({"Origin": "https://digits.example"}, "http://Digits.example"),
        ({"Origin": "https://digits.example"}, "http://digits.example:443"),
        ({"Origin": "http://[::1]:8000"}, "http://[::1]:8000"),
        ({}, "http://localhost"),
    ],
)
def test_own_page_and_programs_may_post(
    client: FlaskClient, headers: dict[str, str], base: str
) -> None:
    assert post(client, headers=headers, base_url=base).status_code == 201


@pytest.mark.parametrize(("proxies", "status"), [(0, 403), (1, 201)])
def test_origin_matches_the_host_that_the_client_addressed(
    settings: Settings, proxies: int, status: int
) -> None:
    check_and_migrate(settings)
    client = create_app(replace(settings, trusted_proxies=proxies)).test_client()
    headers = {"Origin": "https://digits.example", "X-Forwarded-Host": "digits.example"}
    assert post(client, headers=headers).status_code == status


def test_other_site_may_read_what_is_public(client: FlaskClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}
    assert client.get(PREDICTIONS, headers=headers).status_code == 200


# ---- cookies --------------------------------------------------------------------------------


def test_cookie_is_named_after_the_secret_key(settings: Settings) -> None:
    check_and_migrate(settings)
    names = set()
    for key in ("one", "two", "two"):
        client = create_app(replace(settings, secret_key=key)).test_client()
        names.add(post(client).headers["Set-Cookie"].partition("=")[0])
    assert len(names) == 2
    assert all(re.fullmatch("visitor-[0-9a-f]{8}", name) for name in names)


@pytest.mark.parametrize("order", ["{0}=x.y; {0}={1}", "{0}={1}; {0}=x.y", "a=b; visitor={1}"])
def test_every_cookie_of_the_name_is_tried(
    app: Flask, visitor: tuple[str, str, str], order: str
) -> None:
    id_, name, value = visitor
    browser = app.test_client(use_cookies=False)
    headers = {"Cookie": order.format(name, value)}
    assert browser.patch(f"{PREDICTIONS}/{id_}", json=LABEL, headers=headers).status_code == 200
    assert "Set-Cookie" not in post(browser, headers=headers).headers


def test_browser_that_blocks_cookies_is_told_so(client: FlaskClient, app: Flask) -> None:
    browser = app.test_client(use_cookies=False)
    url = f"{PREDICTIONS}/{stored_id(browser)}"
    assert_problem(browser.patch(url, json=LABEL), 403, "Cookies are needed to label")
    stored_id(client)
    assert_problem(client.patch(url, json=LABEL), 403, "Only the browser that made")


def test_visitor_cannot_change_the_operators_label(client: FlaskClient, app: Flask) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    operator = app.test_client(use_cookies=False)
    client.patch(url, json={"true_digit": 5})
    assert operator.patch(url, json={"true_digit": 3}, headers=OPERATOR).status_code == 200
    for digit in (3, 7, None):
        assert_problem(client.patch(url, json={"true_digit": digit}), 403, "operator has set")
    assert client.get(url).json["true_digit"] == 3
    assert operator.patch(url, json={"true_digit": None}, headers=OPERATOR).status_code == 200
    assert client.patch(url, json={"true_digit": 7}).json["true_digit"] == 7


def test_label_with_a_wrong_token_is_unauthorized(client: FlaskClient, app: Flask) -> None:
    url = f"{PREDICTIONS}/{stored_id(client)}"
    headers = {"Authorization": "Bearer mistaken"}
    stranger = app.test_client(use_cookies=False)
    assert_problem(stranger.patch(url, json=LABEL, headers=headers), 401, "token is wrong")


def test_operator_learns_why_the_request_is_unauthorized(settings: Settings) -> None:
    url, headers = f"{PREDICTIONS}?order=review", {"Authorization": "Bearer mistaken"}
    client = create_app(settings).test_client()
    assert_problem(client.get(url), 401, "send `Authorization: Bearer TOKEN`")
    assert_problem(client.get(url, headers=headers), 401, "token is wrong")
    without = create_app(replace(settings, operator_token="")).test_client()
    assert_problem(
        without.get(url, headers=headers),
        401,
        "OPERATOR_TOKEN is not set",
    )


def test_export_says_who_labelled_and_when(app: Flask, client: FlaskClient) -> None:
    started = datetime.now(UTC)
    ids = [stored_id(client) for _ in range(3)]
    client.patch(f"{PREDICTIONS}/{ids[0]}", json=LABEL)
    app.test_client().patch(f"{PREDICTIONS}/{ids[1]}", json=LABEL, headers=OPERATOR)
    rows = {row["id"]: row for row in csv_rows(client)}
    assert [rows[id_]["labelled_by"] for id_ in ids] == ["visitor", "operator", ""]
    assert [rows[id_]["true_digit"] for id_ in ids] == ["1", "1", ""]
    for id_ in ids[:2]:
        assert started <= datetime.fromisoformat(rows[id_]["labelled_at"]) <= datetime.now(UTC)
    client.patch(f"{PREDICTIONS}/{ids[0]}", json=LABEL, headers=OPERATOR)
    again = {row["id"]: row for row in csv_rows(client)}
    assert again == rows  # the same label changes nothing
