"""Limits on the work that one process accepts."""

import threading
from collections import Counter

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.clients import PREVIEW
from tests.conftest import LIMIT_S, wait_until
from webapp import limits
from webapp.errors import Busy
from webapp.limits import MAX_CONCURRENT, fifo_slot


def test_requests_beyond_the_limit_are_refused_at_once(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", LIMIT_S)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(app.test_client().post(**PREVIEW)))
        for _ in range(MAX_CONCURRENT + 6)
    ]
    with fifo_slot():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) == 6)
        assert {(each.status_code, each.headers["Retry-After"]) for each in answers} == {(503, "1")}
        assert client.get("/healthz").status_code == 200
    for thread in threads:
        thread.join()
    assert Counter(each.status_code for each in answers) == {503: 6, 200: MAX_CONCURRENT}
    assert client.post(**PREVIEW).status_code == 200


def test_picture_waits_for_its_turn(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", 0.01)
    with fifo_slot():
        refused = client.post(**PREVIEW)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert client.post(**PREVIEW).status_code == 200


def test_pictures_are_processed_one_at_a_time_in_order_of_arrival() -> None:
    events = []

    def process(number: int) -> None:
        with fifo_slot():
            events.append(number)
            threading.Event().wait(0.001)  # lets another thread run, if one may
            events.append(number)

    with fifo_slot():
        threads = [threading.Thread(target=process, args=(number,)) for number in range(20)]
        for number, thread in enumerate(threads):
            thread.start()
            wait_until(lambda: len(limits.queue) == 2 + number)  # noqa: B023  called at once
        assert events == []
    for thread in threads:
        thread.join()
    assert events == [number for number in range(20) for _ in range(2)]


def test_request_that_waits_too_long_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT_S", 0.01)
    with fifo_slot(), pytest.raises(Busy), fifo_slot():
        pass
    with fifo_slot():
        pass
    assert not limits.queue
