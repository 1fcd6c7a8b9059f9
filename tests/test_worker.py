"""Connections: slow clients, pipelining, and what is open when the server stops."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.clients import CUT_OFF, REFUSED, SEVEN_PNG, Clients
from tests.conftest import ROOT, TIMEOUT_S, Server, environment, free_port, wait_until
from tests.test_database import made
from webapp.database import Database
from webapp.worker import LINGER_S, REQUEST_TIMEOUT_S, SEND_TIMEOUT_S

GUNICORN_CONFIG = ROOT / "webapp" / "gunicorn.conf.py"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_DOCUMENT = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /api/predictions?store=no HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
POST = HEAD + b"Content-Length: %d\r\n\r\n" % len(SEVEN_PNG) + SEVEN_PNG
LONG = HEAD + b"Content-Length: 1000000\r\n\r\n"
EXPORT = (
    b"GET /api/predictions.csv HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Authorization: Bearer token\r\n\r\n"
)
UNFINISHED = (b"", HEAD, LONG, POST[:-1], HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\nabc")


def connect(server: Server, data: bytes = b"") -> socket.socket:
    """Return a new connection on which data was sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
    connection.sendall(data)
    return connection


def received(connection: socket.socket) -> bytes:
    """Return all that is received until the server closes the connection, and close it too."""
    with connection, connection.makefile("rb") as stream:
        return stream.read()


def test_slow_clients_are_cut_off_and_delay_nobody(shared_server: Server) -> None:
    silent = [connect(shared_server, data) for data in UNFINISHED for _ in range(20)]
    with Clients(shared_server.port, 4, "no", pause_s=0.2) as clients:
        with connect(shared_server, LONG) as trickling:
            wait_until(lambda: not sends(trickling, b"a"))
        answers = {received(connection)[:12] for connection in silent}
    assert answers <= {b"", b"HTTP/1.1 400"}
    assert set(clients.statuses) == {200}


def test_client_that_reads_no_responses_is_disconnected(shared_server: Server) -> None:
    workers = psutil.Process(shared_server.process.pid).children()
    with connect(shared_server) as connection:
        address = connection.getsockname()
        connection.settimeout(1)
        while sends(connection, 1000 * GET_DOCUMENT):  # until all buffers are full
            pass
        assert any(is_connected(worker, address) for worker in workers)
        time.sleep(SEND_TIMEOUT_S)
        wait_until(lambda: not any(is_connected(worker, address) for worker in workers))


def test_response_is_sent_to_its_end_to_a_slow_reader(tmp_path: Path) -> None:
    with Server(tmp_path, OPERATOR_TOKEN="token", WEB_CONCURRENCY="1") as server:
        rows = [made(version="v" * 5_000) for _ in range(2_000)]  # more than the kernel buffers
        Database(tmp_path / "predictions.db").merge(rows)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(TIMEOUT_S)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(EXPORT)
            time.sleep(REQUEST_TIMEOUT_S + 2)
            table = received(connection)
    assert len(table) > 10_000_000
    assert table.endswith(b"0\r\n\r\n")


def sends(connection: socket.socket, data: bytes) -> bool:
    """Send data; return whether that was possible."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def is_connected(process: psutil.Process, address: tuple[str, int]) -> bool:
    """Return whether a process has a connection to an address."""
    return address in [connection.raddr for connection in process.net_connections()]


def test_pipelined_requests_are_answered_in_order(shared_server: Server) -> None:
    closing = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answers = received(connect(shared_server, GET + POST + GET + POST + closing))
    kinds = re.findall(rb'"(alive|predicted_digit)"', answers)
    assert kinds == [b"alive", b"predicted_digit", b"alive", b"predicted_digit", b"alive"]


def test_accepted_connections_are_answered_when_the_server_stops(server: Server) -> None:
    master = psutil.Process(server.process.pid)
    workers = master.children()
    for worker in workers:
        worker.suspend()
    connections = [connect(server, POST) for _ in range(50)]  # accepted by the kernel
    master.send_signal(signal.SIGTERM)
    wait_until(lambda: not master.net_connections())  # the port is closed, the workers told to stop
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", server.port), timeout=0.5)
    for worker in workers:
        worker.resume()
    answers = [received(connection)[:12] for connection in connections]
    server.stop()
    assert set(answers) == {b"HTTP/1.1 200"}


def test_reloading_the_workers_refuses_no_connection(server: Server) -> None:
    workers = psutil.Process(server.process.pid).children()
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not any(worker.is_running() for worker in workers))
    assert server.status("/healthz") == 200


def test_socket_of_systemd_stays_open_when_the_server_stops(tmp_path: Path) -> None:
    start = f"LISTEN_PID=$$ LISTEN_FDS=1 exec {sys.executable} -m webapp 3<&0"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command, inherited = ["sh", "-c", start], listener.fileno()
        with (
            subprocess.Popen(command, env=environment(tmp_path), stdin=inherited) as new,
            socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S) as connection,
        ):
            connection.sendall(GET)
            assert connection.recv(12) == b"HTTP/1.1 200"
            new.terminate()
        socket.create_connection(listener.getsockname(), timeout=0.5).close()


def test_server_that_was_upgraded_in_place_goes_on_when_the_old_one_stops(tmp_path: Path) -> None:
    port = free_port()
    command = [str(Path(sys.executable).with_name("gunicorn")), "--config", str(GUNICORN_CONFIG)]
    settings = environment(tmp_path, PORT=str(port), PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, env=settings) as process:
        old = psutil.Process(process.pid)
        wait_until(lambda: len(old.children()) == 2)
        old.send_signal(signal.SIGUSR2)
        wait_until(lambda: any(len(child.children()) == 2 for child in old.children()))
        new = next(child for child in old.children() if child.children())
        process.terminate()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        assert is_kept_alive(connection)
    finally:
        connection.close()
        new.terminate()
        new.wait(TIMEOUT_S)


def test_kept_alive_connection_is_answered_when_the_server_stops(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    assert is_kept_alive(connection)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not is_kept_alive(connection))  # until the worker has got the signal
    server.stop()


def test_connection_is_open_for_longer_than_one_request_may_take(shared_server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=TIMEOUT_S)
    end = time.monotonic() + REQUEST_TIMEOUT_S + 3  # deadlines are checked every second
    while time.monotonic() < end:
        assert is_kept_alive(connection)
        time.sleep(LINGER_S / 10)
    connection.close()


def is_kept_alive(connection: http.client.HTTPConnection) -> bool:
    """Return whether the server keeps a connection open after it has answered a request."""
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    assert response.status == 200
    response.read()
    return response.headers["Connection"] == "keep-alive"


def test_no_request_is_cut_off_when_the_server_stops_under_load(server: Server) -> None:
    with Clients(server.port, 8) as clients:
        wait_until(lambda: len(clients.statuses) > 100)
        server.stop()
    assert set(clients.statuses) <= {201, REFUSED}
    assert CUT_OFF not in clients.statuses
