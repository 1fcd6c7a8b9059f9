"""Limits on the work that one process accepts."""

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.clients import PREVIEW, SEVEN_PNG, Clients
from tests.conftest import TIMEOUT_S, Server, wait_until
from tests.pictures import encoded, seven
from tests.test_api import assert_problem, stored_id
from webapp import limits
from webapp.errors import Busy
from webapp.limits import MAX_BODY_BYTES, MAX_CONCURRENT, Queue, large_images, small_images


def test_requests_beyond_the_limit_are_rejected_at_once(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", TIMEOUT_S)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(app.test_client().post(**PREVIEW)))
        for _ in range(MAX_CONCURRENT + 6)
    ]
    with small_images.slot():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) == 6)
        assert {(each.status_code, each.headers["Retry-After"]) for each in answers} == {(503, "1")}
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200
    for thread in threads:
        thread.join()
    assert Counter(each.status_code for each in answers) == {503: 6, 200: MAX_CONCURRENT}
    assert client.post(**PREVIEW).status_code == 200


def test_picture_waits_for_its_turn(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", 0.01)
    with small_images.slot():
        refused = client.post(**PREVIEW)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert client.post(**PREVIEW).status_code == 200


def test_pictures_are_processed_one_at_a_time_in_order_of_arrival() -> None:
    events = []
    queue = Queue()

    def process(number: int) -> None:
        with queue.slot():
            events.append(number)
            threading.Event().wait(0.001)  # lets another thread run, if one may
            events.append(number)

    with queue.slot():
        threads = [threading.Thread(target=process, args=(number,)) for number in range(20)]
        for number, thread in enumerate(threads):
            thread.start()
            wait_until(lambda: len(queue.waiting) == 2 + number)  # noqa: B023  called at once
        assert events == []
    for thread in threads:
        thread.join()
    assert events == [number for number in range(20) for _ in range(2)]


def test_request_that_waits_too_long_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", 0.01)
    queue = Queue()
    with queue.slot(), pytest.raises(Busy), queue.slot():
        pass
    with queue.slot():
        pass
    assert not queue.waiting


PATH = "/api/predictions?store=no"
LARGE = {
    "pixels": encoded(seven(600)),
    "bytes": SEVEN_PNG + bytes(100_000),
    "a form of many bytes": b"--x\r\n" + bytes(100_000),
    "another format": encoded(seven(), "JPEG"),
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_small_pictures_do_not_wait_behind_large_ones(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", 0.01)
    large = {"data": body, "content_type": "image/png"}
    with large_images.slot():
        assert client.post(**PREVIEW).status_code == 200
        assert client.post(PATH, **large).status_code == 503
    with small_images.slot():
        assert client.post(PATH, **large).status_code in (200, 400)


def test_form_of_many_parts_is_rejected_with_its_reason(client: FlaskClient) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    form = {"data": 60_000 * part + b"--x--", "content_type": "multipart/form-data; boundary=x"}
    assert_problem(client.post(PATH, **form), 400, "too many parts")


def test_form_with_long_headers_is_rejected_without_parsing_it(client: FlaskClient) -> None:
    head = b"--x\r\nContent-Disposition: form-data; name=image; filename*=utf-8''"
    body = head + 10_000 * b"%" + b"\r\n\r\n" + SEVEN_PNG + b"\r\n--x--\r\n"
    form = {"data": body, "content_type": "multipart/form-data; boundary=x"}
    assert_problem(client.post(PATH, **form), 400, "headers")


def test_form_may_have_four_megabytes(shared_server: Server) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="7"\r\n\r\n'
    end = b"\r\n--x--\r\n"
    for excess, status in ((0, 200), (1, 413)):
        padding = bytes(MAX_BODY_BYTES - len(head + SEVEN_PNG + end) + excess)
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        body = head + SEVEN_PNG + padding + end
        assert answer(shared_server, PATH, body, headers).status == status


def test_large_label_is_rejected_without_parsing_it(client: FlaskClient) -> None:
    url = f"/api/predictions/{stored_id(client)}"
    body = b'{"true_digit": 7' + b" " * 100_000 + b"}"
    assert_problem(client.patch(url, data=body, content_type="application/json"), 400, "true_digit")


@pytest.mark.parametrize("path", ["/", "/nothing", "/static/page.js", "/healthz", "/api/nothing"])
def test_oversized_body_is_answered_on_any_path(shared_server: Server, path: str) -> None:
    assert answer(shared_server, path, bytes(3 * MAX_BODY_BYTES)).status == 413


def answer(
    server: Server, path: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})
) -> http.client.HTTPResponse:
    """Return the response to a POST on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request("POST", path, body, {"Content-Type": "image/png", **headers})
        return connection.getresponse()


def test_unfinished_bodies_are_limited_in_memory(tmp_path: Path) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    unfinished = f"{head}{MAX_BODY_BYTES}\r\n\r\n".encode() + bytes(MAX_BODY_BYTES - 1)
    with Server(tmp_path, WEB_CONCURRENCY="1") as server, ExitStack() as stack:
        (worker,) = psutil.Process(server.process.pid).children()
        before = worker.memory_info().rss
        for _ in range(60):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
            stack.enter_context(connection).sendall(unfinished)
        refused = answer(server, PATH, bytes(3_000_000))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert answer(server, PATH, SEVEN_PNG).status == 200
        grown = worker.memory_info().rss - before
        stack.close()
        wait_until(lambda: answer(server, PATH, bytes(3_000_000)).status == 400)
    assert grown < 150e6


def test_64_bodies_of_a_megabyte_are_never_rejected(tmp_path: Path) -> None:
    megabyte = bytes(1024 * 1024)
    with (
        Server(tmp_path, WEB_CONCURRENCY="1") as server,
        Clients(server.port, 64, "no", body=megabyte) as clients,
    ):
        wait_until(lambda: len(clients.statuses) >= 200)
    assert set(clients.statuses) == {400}
