"""Starting and stopping the service: what it loads, what it prints, what it leaves behind."""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import onnx
import psutil
import psycopg2
import pytest
from onnx import helper

from tests.clients import SEVEN_PNG
from tests.conftest import ROOT, TIMEOUT_S, Server, environment, new_database, wait_until
from tests.graphs import GRAPH, misreading, published, with_card
from webapp.errors import StartupError
from webapp.settings import Settings
from webapp.startup import check_and_migrate

METRICS_ROOT = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
SERVE_ONCE = """
import sys
from webapp.app import create_app
from webapp.startup import check_and_migrate
from webapp.settings import read_settings
settings = read_settings()
check_and_migrate(settings)
body = open(sys.argv[1], "rb").read()
client = create_app(settings).test_client()
answer = client.post("/api/predictions", data=body, content_type="image/png")
assert answer.json["predicted_digit"] == 7, answer.data
print(*{name.split(".")[0] for name in sys.modules})
"""


def start(data_dir: Path, **settings: str) -> tuple[int, str]:
    """Start a service that cannot; return its exit status and what it printed."""
    server = Server(data_dir, port=None, **settings)
    printed = server.printed()
    return server.process.returncode, printed


def test_serving_never_imports_torch(tmp_path: Path) -> None:
    picture = tmp_path / "seven.png"
    picture.write_bytes(SEVEN_PNG)
    loaded = subprocess.run(
        [sys.executable, "-c", SERVE_ONCE, str(picture)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "onnxruntime" in loaded
    assert not {"torch", "torchvision", "onnx", "matplotlib", "train", "export"} & set(loaded)


@pytest.mark.parametrize("module", ["webapp.model", "export.graph"])
def test_onnxruntime_does_not_report_home(tmp_path: Path, module: str) -> None:
    program = f"import {module}, onnxruntime; onnxruntime.InferenceSession({str(GRAPH)!r})"
    home = environment(tmp_path) | {"HOME": str(tmp_path), "CI": ""}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=home, check=True)
    assert not (tmp_path / ".cache" / "Microsoft").exists()


def test_preprocessing_imports_no_server() -> None:
    program = "import sys, webapp.preprocess; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "numpy" in loaded
    assert not {"flask", "werkzeug", "sqlalchemy", "onnxruntime"} & set(loaded)


def test_missing_model_aborts_startup_with_what_to_do(tmp_path: Path) -> None:
    status, printed = start(tmp_path, MODEL_DIR=str(tmp_path))
    assert status != 0
    assert "There is no model" in printed
    assert "make model" in printed
    assert "Traceback" not in printed


def renamed_input() -> bytes:
    """Return a graph with another input."""
    graph = published()
    for node in graph.graph.node:
        node.input[:] = ["image" if name == "pixels" else name for name in node.input]
    graph.graph.input[0].name = "image"
    return with_card(graph)


def without_card() -> bytes:
    """Return a graph without metadata."""
    graph = published()
    del graph.metadata_props[:]
    return bytes(graph.SerializeToString())


def not_running() -> bytes:
    """Return a graph that loads but fails at run time: a Reshape to rows of 11."""
    graph = published().graph
    shapes = {"rows": [-1, 11], "from": [0], "to": [10], "axis": [1]}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["ink"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Reshape", ["ink", "rows"], ["cells"]),
        helper.make_node("Slice", ["cells", "from", "to", "axis"], ["probabilities"]),
    ]
    constants = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values)
        for name, values in shapes.items()
    ]
    made = helper.make_graph(nodes, "made", graph.input, graph.output, constants)
    opset = [helper.make_opsetid("", 17)]
    return with_card(helper.make_model(made, ir_version=8, opset_imports=opset))


@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        (lambda: b"no graph", "not an ONNX graph"),
        (lambda: GRAPH.read_bytes()[:1000], "not an ONNX graph"),
        (renamed_input, "pixels.*image"),
        (without_card, "no model card"),
        (not_running, "cannot be run"),
        (misreading, "vertical line"),
    ],
    ids=["text", "truncated", "other input", "no model card", "not running", "misreading"],
)
def test_invalid_model_aborts_startup_with_the_reason(
    tmp_path: Path, settings: Settings, invalid: Callable[[], bytes], reason: str
) -> None:
    path = tmp_path / GRAPH.name
    path.write_bytes(invalid())
    with pytest.raises(StartupError, match=f"^{path} .*{reason}"):
        check_and_migrate(replace(settings, model_dir=tmp_path))


@pytest.mark.parametrize("name", ["PORT", "WEB_CONCURRENCY", "LOG_LEVEL"])
def test_invalid_setting_aborts_startup_with_one_sentence(tmp_path: Path, name: str) -> None:
    status, printed = start(tmp_path, **{name: "much"})
    assert status != 0
    assert printed.startswith(f"{name} should be")
    assert len(printed.splitlines()) == 1


def metrics_folders(server: Server) -> list[Path]:
    """Return the folders in which the workers of a service share their metrics."""
    return [*Path(METRICS_ROOT).glob(f"digits-metrics-{server.process.pid}-*")]


def test_stop_leaves_no_process_and_no_folder(server: Server) -> None:
    master = psutil.Process(server.process.pid)
    wait_until(lambda: len(master.children()) == 2)  # one may answer before the other is forked
    processes = master.children()
    assert server.post()["predicted_digit"] == 7
    assert (len(processes), len(metrics_folders(server))) == (2, 1)
    lines = [json.loads(line) for line in server.stop().splitlines()]
    assert {"time", "level", "message"} <= set.intersection(*map(set, lines))
    assert server.process.returncode == 0
    assert metrics_folders(server) == []
    assert not any(process.is_running() for process in processes)


def test_start_removes_what_a_killed_server_left(tmp_path: Path) -> None:
    with Server(tmp_path) as killed, Server(tmp_path) as running:
        workers = psutil.Process(killed.process.pid).children()
        killed.process.kill()
        psutil.wait_procs(workers, timeout=TIMEOUT_S)
        with Server(tmp_path):
            assert metrics_folders(killed) == []
            assert len(metrics_folders(running)) == 1


def test_start_on_a_used_port_fails_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Server(tmp_path, port=port)
        printed = server.printed()
    assert server.process.returncode == 1
    assert f"127.0.0.1:{port} is in use" in printed
    assert "Change PORT or HOST" in printed
    assert "Traceback" not in printed
    assert metrics_folders(server) == []
    assert [*tmp_path.iterdir()] == []  # not even a database


@pytest.mark.parametrize("request_", [b"hunter2", b"GET / HTTP/1.1\r\nAuthorization hunter2"])
def test_malformed_request_leaves_no_address_and_no_content_in_the_log(
    server: Server, request_: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request_ + b"\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"
    printed = server.stop()
    assert "a malformed HTTP request was rejected" in printed
    assert "hunter2" not in printed
    assert "ip=" not in printed


def test_stop_during_a_migration_leaves_nothing(
    tmp_path: Path, settings: Settings, postgres: Callable[[str], str]
) -> None:
    url = new_database(postgres)
    check_and_migrate(replace(settings, database=url))
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE alembic_version")
        server = Server(tmp_path, DATABASE_URL=url)

        def is_waiting() -> bool:
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
            return cursor.fetchone() is not None

        wait_until(is_waiting)
        (migration,) = psutil.Process(server.process.pid).children()
        server.stop()
    assert server.process.returncode == 0
    assert not migration.is_running()
    assert metrics_folders(server) == []


def post_raw(server: Server, body: bytes, **options: bool) -> tuple[int, dict[str, str]]:
    """Post bytes on a connection of their own; return the status and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sent = iter([body]) if options.get("encode_chunked") else body
    headers = {"Content-Type": "image/png"}
    if options:
        headers["Transfer-Encoding"] = "chunked"
    connection.request("POST", "/api/predictions", sent, headers, **options)
    response = connection.getresponse()
    answer = json.load(response)
    connection.close()
    return response.status, answer


def test_too_large_and_malformed_bodies_are_answered(shared_server: Server) -> None:
    long = SEVEN_PNG + bytes(5_000_000)
    assert post_raw(shared_server, long)[0] == 413
    assert post_raw(shared_server, long, encode_chunked=True)[0] == 413
    assert post_raw(shared_server, SEVEN_PNG, encode_chunked=True)[0] == 201
    assert post_raw(shared_server, b"zz\r\n", encode_chunked=False)[0] == 400
