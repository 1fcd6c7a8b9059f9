"""The rate limit, alone and with memcached: well, dead and hanging."""

import http.client
import logging
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pymemcache import Client

from tests.clients import PREVIEW
from tests.conftest import TIMEOUT_S, Server, free_port, wait_until
from tests.test_api import ABSENT, OPERATOR, PREDICTIONS, assert_problem, post
from webapp.app import create_app
from webapp.errors import TooManyRequests
from webapp.limits import MAX_BODY_BYTES
from webapp.ratelimit import PREVIEW_COST, REQUEST_COST, MemoryCounter, RateLimiter, client_key
from webapp.settings import Settings
from webapp.startup import check_and_migrate


class Memcached:
    """A memcached of the test's own."""

    def __init__(self) -> None:
        program = shutil.which("memcached")
        if program is None:
            pytest.skip("no memcached on the PATH")
        self.port = free_port()
        self.url = f"memcached://127.0.0.1:{self.port}"
        command = [program, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-u", "nobody"]
        self.process = subprocess.Popen(command)
        wait_until(self._answers)

    def stat(self, name: bytes) -> Any:
        """Return one of memcached's statistics."""
        with closing(Client(("127.0.0.1", self.port), timeout=TIMEOUT_S)) as client:
            return client.stats()[name]

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.stat(b"pid"))
        except OSError:
            return False


@pytest.fixture
def memcached() -> Iterator[Memcached]:
    """Return a running memcached."""
    memcached = Memcached()
    yield memcached
    memcached.stop()


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    """Return a client of an application with a limit of ten requests a day."""
    return limited(settings, "10 per day")


def limited(settings: Settings, limit: str, **more: Any) -> FlaskClient:
    """Return a client of an application with a limit."""
    check_and_migrate(settings)
    return create_app(replace(settings, rate_limit=limit, **more)).test_client()


def shared_limit(data_dir: Path, memcached: Memcached) -> Server:
    """Return a service with two workers and a limit of ten requests per minute."""
    limit, store = "10 per minute", memcached.url
    return Server(data_dir, WEB_CONCURRENCY="2", RATE_LIMIT=limit, RATE_LIMIT_STORE=store)


def statuses(server: Server, count: int, path: str = "/api/model") -> Counter[int]:
    """Return the statuses of requests, each on a connection of its own."""
    return Counter(server.status(path) for _ in range(count))


def test_all_requests_of_a_client_count_together(client: FlaskClient) -> None:
    paths = ("/api/model", "/api/stats", PREDICTIONS, f"{PREDICTIONS}/{ABSENT}", "/api/nothing")
    assert {client.get(path).status_code for path in 2 * paths} == {200, 404}
    for path in paths:
        assert_problem(client.get(path), 429, "10 requests per day")
    assert_problem(post(client), 429)
    other = client.get("/api/model", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert other.status_code == 200


def test_preview_costs_a_tenth(client: FlaskClient) -> None:
    assert {client.post(**PREVIEW).status_code for _ in range(90)} == {200}
    assert post(client).status_code == 201
    assert client.post(**PREVIEW).status_code == 429


@pytest.mark.parametrize("query", ["store=no&store=yes", "store=yes&store=no", "store=no&store=no"])
def test_only_a_preview_costs_a_tenth(client: FlaskClient, query: str) -> None:
    assert {post(client, query_string=query).status_code for _ in range(5)} <= {200, 201, 400}
    assert {client.get("/api/model?store=no").status_code for _ in range(5)} == {400}
    assert client.get("/api/model").status_code == 429


def test_health_checks_metrics_and_static_files_are_free(client: FlaskClient) -> None:
    paths = ("/healthz", "/readyz", "/metrics", "/", "/static/style.css")
    for path in paths:
        assert {client.get(path, buffered=True).status_code for _ in range(11)} == {200}
    assert client.get("/api/model").status_code == 200


def test_only_429_responses_have_retry_after(client: FlaskClient) -> None:
    answers = [client.get("/api/model") for _ in range(11)]
    assert ["Retry-After" in answer.headers for answer in answers] == 10 * [False] + [True]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 24 * 3600


def test_requests_are_rejected_before_their_body_is_read(client: FlaskClient) -> None:
    answers = [post(client, bytes(MAX_BODY_BYTES + 1)).status_code for _ in range(11)]
    assert answers == 10 * [413] + [429]


def test_memory_forgets_the_clients_that_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.ratelimit.MAX_CLIENTS", 3)
    counter = MemoryCounter(window_s=3600)
    for client in "abcdef":
        counter.add(client, 1)
    assert counter.add("f", 1).cost == 2
    assert counter.add("a", 1).cost == 1


def test_window_ends(settings: Settings) -> None:
    client = limited(settings, "1 per second")
    assert client.get("/api/model").status_code == 200
    wait_until(lambda: client.get("/api/model").status_code == 429)
    wait_until(lambda: client.get("/api/model").status_code == 200)


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unix: a b", "unix: a c", False),
    ],
)
def test_ipv6_clients_are_networks(address: str, other: str, same: bool) -> None:
    assert (client_key(address) == client_key(other)) is same
    assert " " not in client_key(address) + client_key(other)


def test_workers_share_the_limit(tmp_path: Path, memcached: Memcached) -> None:
    with shared_limit(tmp_path, memcached) as server:
        answers = statuses(server, 40)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        connection.request("GET", "/api/model")
        refused = connection.getresponse()
        connection.close()
    assert answers == {200: 10, 429: 30}
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_workers_share_the_limit_of_previews(memcached: Memcached) -> None:
    one, other = (RateLimiter("3 per hour", memcached.url) for _ in range(2))
    with closing(one), closing(other):
        for _ in range(15):
            one.check("a", PREVIEW_COST)
            other.check("a", PREVIEW_COST)
        for limiter in (one, other):
            with pytest.raises(TooManyRequests):
                limiter.check("a", PREVIEW_COST)
            limiter.check("b", PREVIEW_COST)


@pytest.mark.parametrize("state", ["dead", "hanging"])
def test_service_answers_while_memcached_fails(
    tmp_path: Path, memcached: Memcached, state: str
) -> None:
    with shared_limit(tmp_path, memcached) as server:
        memcached.process.send_signal(signal.SIGSTOP)
        if state == "dead":
            memcached.stop()
        answers = statuses(server, 60)
        assert server.status("/readyz") == 200
        printed = server.stop()
    assert set(answers) == {200, 429}
    assert 10 <= answers[200] <= 20
    assert 1 <= printed.count("the rate-limit store is unavailable") <= 2  # once per worker
    assert "Traceback" not in printed


@pytest.fixture
def limiter(memcached: Memcached) -> Iterator[RateLimiter]:
    """Return a limiter of 999 requests per hour that uses memcached."""
    with closing(RateLimiter("999 per hour", memcached.url)) as limiter:
        yield limiter


def test_counts_stay_in_memory_for_a_while_after_memcached_failed(
    limiter: RateLimiter, memcached: Memcached, caplog: pytest.LogCaptureFixture
) -> None:
    memcached.process.send_signal(signal.SIGSTOP)
    limiter.check("a", REQUEST_COST)
    memcached.process.send_signal(signal.SIGCONT)
    for _ in range(998):
        limiter.check("a", REQUEST_COST)
    with pytest.raises(TooManyRequests):
        limiter.check("a", REQUEST_COST)
    assert memcached.stat(b"total_items") == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_memcached_is_used_again(
    limiter: RateLimiter,
    memcached: Memcached,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("webapp.ratelimit.STORE_RETRY_S", 0)
    memcached.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        limiter.check("a", REQUEST_COST)
    memcached.process.send_signal(signal.SIGCONT)

    def is_used() -> bool:
        limiter.check("b", REQUEST_COST)
        return bool(memcached.stat(b"total_items"))

    wait_until(is_used)
    items = memcached.stat(b"total_items")
    limiter.check("c", REQUEST_COST)
    assert memcached.stat(b"total_items") > items
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the rate-limit store is unavailable, each worker counts by itself",
        "the rate-limit store is available again",
    ]


def test_hanging_memcached_costs_one_short_wait(limiter: RateLimiter, memcached: Memcached) -> None:
    memcached.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(200):
        limiter.check("a", PREVIEW_COST)
    assert time.monotonic() - began < 10  # a time-out for each would take 40 s


def test_no_address_is_logged(tmp_path: Path) -> None:
    store = f"memcached://127.0.0.1:{free_port()}"  # where nobody listens
    options = {"WEB_CONCURRENCY": "1", "TRUSTED_PROXIES": "1"}
    with Server(
        tmp_path, None, **options, RATE_LIMIT="1 per day", RATE_LIMIT_STORE=store
    ) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        for _ in range(3):
            headers = {"X-Forwarded-For": "192.0.2.77"} | OPERATOR
            connection.request("GET", "/api/model", headers=headers)
            status = connection.getresponse()
            status.read()
        connection.close()
        printed = server.stop()
    assert status.status == 429
    assert "192.0.2.77" not in printed
