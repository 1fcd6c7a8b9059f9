"""Starting the service: what it loads, and what it says when it cannot."""

import http.client
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.conftest import ROOT, Server, environment
from tests.pictures import encoded, seven
from webapp.classifier import _version_of

GRAPH = ROOT / "artifacts" / "digits.onnx"

SERVE_ONCE = """
import sys
from webapp.app import create_app, prepare
from webapp.settings import read_settings
settings = read_settings()
prepare(settings)
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
    picture.write_bytes(encoded(seven()))
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


@pytest.mark.parametrize("module", ["webapp.classifier", "export.graph"])
def test_onnxruntime_does_not_report_home(tmp_path: Path, module: str) -> None:
    program = f"import {module}, onnxruntime; onnxruntime.InferenceSession({str(GRAPH)!r})"
    home = environment(tmp_path) | {"HOME": str(tmp_path), "CI": ""}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=home, check=True)
    assert not (tmp_path / ".cache" / "Microsoft").exists()


def test_preparing_drawings_needs_no_server() -> None:
    program = "import sys, webapp.preprocess; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "numpy" in loaded
    assert not {"flask", "werkzeug", "sqlalchemy", "onnxruntime"} & set(loaded)


def test_absent_model_stops_the_start_with_what_to_do(tmp_path: Path) -> None:
    status, printed = start(tmp_path, MODEL_DIR=str(tmp_path))
    assert status != 0
    assert "There is no model" in printed
    assert "make model" in printed
    assert "Traceback" not in printed


def _renamed_input(graph: onnx.ModelProto) -> bytes:
    for node in graph.graph.node:
        node.input[:] = ["image" if name == "pixels" else name for name in node.input]
    graph.graph.input[0].name = "image"
    return bytes(graph.SerializeToString())


def _without_card(graph: onnx.ModelProto) -> bytes:
    del graph.metadata_props[:]
    return bytes(graph.SerializeToString())


def _not_running(graph: onnx.ModelProto) -> bytes:
    # A Reshape to rows of 11, as far as which the types and shapes are not looked through.
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
    made = helper.make_graph(nodes, "made", graph.graph.input, graph.graph.output, constants)
    model = helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    card = {"version": _version_of(model.SerializeToString()), "doubt_below": 0.5}
    helper.set_model_props(model, {"card": json.dumps(card)})
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("unfit", "says"),
    [
        (lambda graph: b"no graph", "no ONNX graph"),
        (lambda graph: graph.SerializeToString()[:1000], "no ONNX graph"),
        (_renamed_input, "pixels.*image"),
        (_without_card, "no card"),
        (_not_running, "cannot be run"),
    ],
    ids=["text", "truncated", "other input", "no card", "not running"],
)
def test_unfit_model_stops_the_start_with_what_differs(
    tmp_path: Path, unfit: object, says: str
) -> None:
    assert callable(unfit)
    (tmp_path / "digits.onnx").write_bytes(unfit(onnx.load(GRAPH)))
    status, printed = start(tmp_path, MODEL_DIR=str(tmp_path))
    assert status != 0
    sentence = printed.strip().splitlines()[-1]
    assert "does not fit" in sentence
    assert re.search(says, sentence)
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["PORT", "WEB_CONCURRENCY", "LOG_LEVEL"])
def test_bad_setting_stops_the_start_with_a_sentence(tmp_path: Path, name: str) -> None:
    status, printed = start(tmp_path, **{name: "much"})
    assert status != 0
    assert printed.startswith(f"{name} should be")
    assert len(printed.splitlines()) == 1


def test_server_answers_and_stops_when_told(server: Server) -> None:
    request = urllib.request.Request(
        f"{server.url}/api/predictions", encoded(seven()), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request) as response:
        assert (response.status, json.load(response)["predicted_digit"]) == (201, 7)
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        assert b'digits_predictions_total{digit="7"' in response.read()
    server.stop()
    assert server.process.returncode == 0


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


def test_bodies_over_the_limit_are_answered_however_they_come(server: Server) -> None:
    long = encoded(seven()) + bytes(5_000_000)
    assert post_raw(server, long)[0] == 413
    assert post_raw(server, long, encode_chunked=True)[0] == 413
    assert post_raw(server, encoded(seven()), encode_chunked=True)[0] == 201
    assert post_raw(server, b"zz\r\n", encode_chunked=False)[0] == 400
