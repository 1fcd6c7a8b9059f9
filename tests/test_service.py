"""What the service has to stand on the internet, and what it tells its operator."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import onnx
import pytest
from flask import Flask
from flask.testing import FlaskClient

from bench.service import another_version
from export.card import replace_file
from tests.clients import SEVEN, Clients
from tests.conftest import ROOT, Server
from tests.fuzz import fuzz
from tests.test_storage import made
from webapp import admission
from webapp.app import create_app, prepare
from webapp.errors import Busy, StartError
from webapp.logs import JsonLines
from webapp.record import open_journal
from webapp.settings import Settings
from webapp.storage import Storage

GRAPH = ROOT / "artifacts" / "digits.onnx"
READ = {"path": "/api/predictions?store=no", "data": SEVEN, "content_type": "image/png"}


# Werkzeug leaves its file of a form that ends early to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mutated_bodies_never_fail_the_service(client: FlaskClient) -> None:
    fuzz(client, 200, seed=1)
    statuses, grown = fuzz(client, 5_000, seed=2)
    assert {200, 201, 400, 415, 422} <= statuses.keys()
    assert grown < 100e6


def test_interface_is_what_the_document_says(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="1", OPERATOR_TOKEN="of-the=operator")
    server.wait_until_ready()
    program = Path(sys.executable).with_name("schemathesis")
    document = f"{server.url}/api/openapi.json"
    examples = str(pytestconfig.getoption("--max-examples"))
    done = subprocess.run(
        [program, "run", document, "--checks", "all", "--seed", "0", "--max-examples", examples],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    server.stop()
    print(done.stdout)
    assert done.returncode == 0
    assert "Tested: 13" in done.stdout


def test_more_than_a_worker_takes_on_is_refused_at_once(client: FlaskClient) -> None:
    taken = [admission._places.acquire(blocking=False) for _ in range(admission.AT_ONCE)]
    refused = client.post(**READ)
    for _ in taken:
        admission._places.release()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert client.post(**READ).status_code == HTTPStatus.OK


def test_pictures_are_looked_at_in_the_order_in_which_they_come() -> None:
    looked_at = []

    def look(number: int) -> None:
        with admission.turn():
            looked_at.append(number)

    with admission.turn():
        threads = [threading.Thread(target=look, args=(number,)) for number in range(20)]
        for length, thread in enumerate(threads, start=2):
            thread.start()
            while len(admission._turns) < length:
                time.sleep(0.001)
        assert looked_at == []
    for thread in threads:
        thread.join()
    assert looked_at == list(range(20))


def test_who_waits_too_long_for_a_turn_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TURN_S", 0.01)
    with admission.turn(), pytest.raises(Busy), admission.turn():
        pass
    with admission.turn():
        pass


def test_64_at_once_are_never_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="1")
    server.wait_until_ready()
    clients = Clients(server.port, 64)
    time.sleep(3)
    clients.stop()
    server.stop()
    assert set(clients.statuses) == {201}


def test_slow_client_is_cut_off_and_holds_nobody_up(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(99)]
    for connection in slow:
        connection.sendall(b"POST /api/predictions HTTP/1.1\r\n")
    began = time.monotonic()
    clients = Clients(server.port, 4, "no")
    for connection in slow:
        connection.settimeout(10)
        assert connection.recv(1) == b""
        connection.close()
    assert time.monotonic() - began < 10
    clients.stop()
    assert set(clients.statuses) == {200}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with a model of its own."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(GRAPH, folder)
    return folder


def flipped(graph: bytes) -> bytes:
    """Return a graph with one bit of its weights the other way."""
    middle = len(graph) // 2
    return graph[:middle] + bytes([graph[middle] ^ 1]) + graph[middle + 1 :]


def test_another_model_is_taken_up_and_a_damaged_one_refused(
    models: Path, settings: Settings
) -> None:
    settings = replace(settings, model_dir=models)
    prepare(settings)
    app = create_app(settings)
    client = app.test_client()
    version, graph = another_version(1)
    for put, says in ((graph, "answers"), (flipped(graph), "refused")):
        replace_file(models / "digits.onnx", put)
        deadline = time.monotonic() + 5
        while says not in str((ready := client.get("/readyz").json)["model"]) or (
            ready["model_version"] != version
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.post(**READ).json["model_version"] == version
    # A worker that starts meanwhile goes on with what served; a new service does not.
    assert create_app(settings).extensions["digits"].model.classifier.version == version
    with pytest.raises(StartError, match="does not fit"):
        prepare(settings)


def test_rollback_brings_the_previous_model_back(models: Path) -> None:
    (models / "model.json").write_text("now")
    (models / "previous").mkdir()
    (models / "previous" / "digits.onnx").write_text("before")
    (models / "previous" / "model.json").write_text("before")
    for expected in ("before", "now"):
        subprocess.run(["make", "rollback", f"MODELS={models}"], cwd=ROOT, check=True)
        assert (models / "model.json").read_text() == expected
    onnx.load(models / "digits.onnx")


def test_what_waits_is_written_before_a_worker_ends(tmp_path: Path) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="1")
    server.wait_until_ready()
    waits = made()
    open_journal(tmp_path).put(waits)
    server.stop()
    assert Storage(f"sqlite:///{tmp_path / 'predictions.db'}").get(waits.id) == waits


def test_readiness_says_what_is_wrong(app: Flask, client: FlaskClient) -> None:
    record = app.extensions["digits"].record
    for storage, status in ((record._database, 200), (record._journal, 503)):
        with storage._engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE predictions")
        record.look()
        response = client.get("/readyz")
        assert response.status_code == status
    assert "cannot be reached" in response.text


def test_request_is_logged_in_a_line_without_what_is_private(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    secret = {"Authorization": "Bearer of-the=operator", "X-Request-ID": "a-1"}
    with caplog.at_level(logging.INFO):
        response = client.post(**READ, headers=secret)
        client.get("/healthz")
    assert response.headers["X-Request-ID"] == "a-1"
    (record,) = caplog.records
    line = json.loads(JsonLines().format(record))
    expected = {"method": "POST", "route": "/api/predictions", "status": 200, "request_id": "a-1"}
    assert line | expected == line
    assert line["milliseconds"] > 0
    assert "operator" not in json.dumps(line)
    forged = client.get("/", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", forged)


def test_proxies_are_believed_as_far_as_is_set(settings: Settings) -> None:
    prepare(settings)
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
    for proxies, believed in ((0, False), (1, True)):
        client = create_app(replace(settings, trusted_proxies=proxies)).test_client()
        response = client.get("/", headers=forwarded)
        assert ("Strict-Transport-Security" in response.headers) is believed


def test_dashboard_asks_for_figures_that_there_are(client: FlaskClient) -> None:
    client.post(**READ)
    there = set(re.findall(r"^(\w+)\{?", client.get("/metrics").text, re.MULTILINE))
    asked = set(re.findall(r"digits_\w+", (ROOT / "docs" / "grafana.json").read_text()))
    assert asked
    assert asked <= there
