"""The service as a whole: robustness, model reloading, readiness, shutdown."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from flask.testing import FlaskClient

from tests.clients import PREVIEW, Clients
from tests.conftest import ROOT, Server, wait_until
from tests.fuzz import fuzz
from tests.graphs import another_version, flipped, misreading, publish
from tests.pictures import encoded, seven
from tests.test_database import made
from webapp.app import create_app
from webapp.background import Background
from webapp.database import Database
from webapp.errors import StartupError
from webapp.services import open_outbox, services
from webapp.settings import Settings
from webapp.startup import check_and_migrate


def test_mutated_bodies_never_cause_a_500(client: FlaskClient) -> None:
    fuzz(client, 200, seed=1)
    statuses, grown, _ = fuzz(client, 1_000, seed=2)
    assert {200, 201, 400, 415, 422} <= statuses.keys()
    assert grown < 100e6


def test_api_conforms_to_its_openapi_document(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    examples = str(pytestconfig.getoption("--max-examples"))
    options = ["--checks", "all", "--seed", "0", "--max-examples", examples]
    with Server(tmp_path, WEB_CONCURRENCY="1", OPERATOR_TOKEN="of-the-operator") as server:
        done = subprocess.run(
            [program, "run", f"{server.url}/api/openapi.json", *options],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    print(done.stdout)
    assert done.returncode == 0
    assert re.search(r"Selected: (\d+)/\1\n +Tested: \1\n", done.stdout)
    assert "Authentication failed" not in done.stdout


def test_64_concurrent_requests_are_never_rejected(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY="1") as server, Clients(server.port, 64) as clients:
        wait_until(lambda: len(clients.statuses) >= 200)
    assert set(clients.statuses) == {201}


def test_memory_of_large_pictures_is_released(tmp_path: Path) -> None:
    large = encoded(seven(1990).convert("RGB"))
    with Server(tmp_path, WEB_CONCURRENCY="1") as server:
        (worker,) = psutil.Process(server.process.pid).children()
        before = worker.memory_info().rss
        with Clients(server.port, 16, "no", body=large) as clients:
            wait_until(lambda: len(clients.statuses) >= 40)
        grown = worker.memory_info().rss - before
    assert set(clients.statuses) <= {200, 503}
    assert grown < 100e6


@pytest.mark.parametrize(
    ("make_invalid", "reason"),
    [(flipped, "version"), (lambda graph: misreading(), "vertical line")],
    ids=["damaged", "misreading"],
)
def test_new_model_is_loaded_and_an_invalid_one_is_rejected(
    models: Path, settings: Settings, make_invalid: Callable[[bytes], bytes], reason: str
) -> None:
    settings = replace(settings, model_dir=models)
    check_and_migrate(settings)
    app = create_app(settings)
    client = app.test_client()
    background = Background(services(app))
    background.start()
    version, graph = another_version(1)
    publish(graph, models)
    wait_until(lambda: client.get("/readyz").json["model_version"] == version)
    publish(make_invalid(graph), models)
    wait_until(lambda: reason in client.get("/readyz").json["model"])
    assert client.post(**PREVIEW).json["model_version"] == version
    # A worker that starts now serves the last valid model. A new service does not start.
    background.stop()
    restarted = create_app(settings).test_client()
    assert restarted.get("/readyz").json["model_version"] == version
    with pytest.raises(StartupError, match=reason):
        check_and_migrate(settings)


def test_waiting_predictions_are_written_before_a_worker_exits(tmp_path: Path) -> None:
    server = Server(tmp_path, WEB_CONCURRENCY="1")
    server.wait_until_ready()
    waits = made()
    open_outbox(tmp_path).insert(waits)
    server.stop()
    assert Database(tmp_path / "predictions.db").get(waits.id) == waits


def test_readiness_tells_whether_predictions_can_be_stored(tmp_path: Path, server: Server) -> None:
    assert json.loads(server.get("/readyz"))["database"] == "answers"
    drop_predictions(tmp_path / "predictions.db")
    wait_until(lambda: json.loads(server.get("/readyz"))["database"] != "answers")
    drop_predictions(*tmp_path.glob("*.db"))
    wait_until(lambda: server.status("/readyz") == 503)


def drop_predictions(*paths: Path) -> None:
    """Remove the table of predictions from SQLite files."""
    for path in paths:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE IF EXISTS predictions")


def test_server_trusts_no_proxy_by_default(shared_server: Server) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "Script-Name": "/elsewhere"}
    request = urllib.request.Request(shared_server.url, headers=forwarded)
    with urllib.request.urlopen(request) as response:
        assert "Strict-Transport-Security" not in response.headers
        assert b"/elsewhere" not in response.read()


def test_forwarded_headers_count_only_behind_trusted_proxies(settings: Settings) -> None:
    check_and_migrate(settings)
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
    for proxies, believed in ((0, False), (1, True)):
        client = create_app(replace(settings, trusted_proxies=proxies)).test_client()
        response = client.get("/", headers=forwarded)
        assert ("Strict-Transport-Security" in response.headers) is believed
