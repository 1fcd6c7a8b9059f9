"""Try what a service on the internet has to stand: python -m bench.service [NAME ...].

Prints what came of slow clients, on the bare port and behind nginx, of pictures that grow when they
are decoded, of models replaced under load, and of stops under load.
"""

import io
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import psutil
from PIL import Image

from export.card import replace_file
from export.graph import version_of
from tests.clients import CUT_OFF, SEVEN, Clients
from tests.conftest import ROOT, Server, free_port

GRAPH = ROOT / "artifacts" / "digits.onnx"
SLOW, ORDINARY = 200, 8
SWAPS, STOPS = 50, 20


def main() -> None:
    """Try those that are named, or all."""
    tries = {"slow": _slow, "proxied": _proxied, "bombs": _bombs, "swaps": _swaps, "stops": _stops}
    for name in sys.argv[1:] or tries:
        with tempfile.TemporaryDirectory() as folder:
            tries[name](Path(folder))


NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1000; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
    client_header_timeout 8s; client_body_timeout 8s;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{behind}; }} }}
}}
"""


def _proxied(folder: Path) -> None:
    server, port = _start(folder), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, behind=server.port))
    nginx = subprocess.Popen(["nginx", "-c", config])
    time.sleep(1)
    _beside_slow_ones(port, "behind nginx")
    nginx.terminate()
    nginx.wait()
    server.stop()


def _slow(folder: Path) -> None:
    server = _start(folder)
    _beside_slow_ones(server.port, "on the bare port")
    server.stop()


def _beside_slow_ones(port: int, where: str) -> None:
    alone = _p99_ms(Clients(port, ORDINARY, "no"), lambda: time.sleep(10))
    gone: list[float] = []
    threads = [threading.Thread(target=_trickle, args=(port, gone)) for _ in range(SLOW)]

    def trickle() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    clients = Clients(port, ORDINARY, "no")
    beside = _p99_ms(clients, trickle)
    print(
        f"{where}: {len(gone)} clients at a byte a second, the last gone after {max(gone):.1f} s; "
        f"{ORDINARY} ordinary ones beside them: {dict(Counter(clients.statuses))}, "
        f"p99 {beside:.0f} ms, alone {alone:.0f} ms"
    )


def _trickle(port: int, gone: list[float]) -> None:
    head = f"POST /api/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SEVEN)}\r\n\r\n"
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(1)
        for byte in head.encode() + SEVEN:
            try:
                connection.send(bytes([byte]))
                if not connection.recv(4096):
                    break
            except TimeoutError:  # a second without an answer
                continue
            except OSError:
                break
    gone.append(time.monotonic() - began)


def _p99_ms(clients: Clients, meanwhile: Callable[[], None]) -> float:
    meanwhile()
    clients.stop()
    return 1000 * statistics.quantiles(clients.seconds, n=100)[-1]


def _bombs(folder: Path) -> None:
    server = _start(folder)
    workers = psutil.Process(server.process.pid).children()
    for _ in range(20):
        _post(server, SEVEN)
    bodies = {
        "PNG of 60,000 × 60,000": _png(60_000, 60_000),
        "PNG of 20,000 × 20,000 zeros": _zeros(20_000),
        "body of 30 MB": SEVEN + bytes(30_000_000),
    }
    for name, body in bodies.items():
        before = [worker.memory_info().rss for worker in workers]
        statuses = {_post(server, body) for _ in range(10)}
        grown = max(w.memory_info().rss - b for w, b in zip(workers, before, strict=True))
        print(f"bombs: {name}, {len(body) / 1e6:.1f} MB: {statuses}, growth {grown / 1e6:.1f} MB")
    server.stop()


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4)
        return len(data).to_bytes(4) + kind + data + checksum

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(width))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _zeros(edge: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (edge, edge)).save(file, "PNG")
    return file.getvalue()


def _post(server: Server, body: bytes) -> int:
    request = urllib.request.Request(f"{server.url}/api/predictions", body)
    request.add_header("Content-Type", "image/png")
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _swaps(folder: Path) -> None:
    models = folder / "models"
    models.mkdir()
    shutil.copy(GRAPH, models)
    server = _start(folder, MODEL_DIR=str(models))
    clients = Clients(server.port, 4, "no")
    served = {version_of(onnx.load(GRAPH))}
    for number in range(1, SWAPS + 1):
        version, graph = another_version(number)
        if number % 5:
            served.add(version)
        else:
            graph = graph[: len(graph) // 2] if number % 2 else _flipped(graph)
        replace_file(models / "digits.onnx", graph)
        time.sleep(1.5)
    clients.stop()
    server.stop()
    named = {version for _, version in clients.versions}
    print(
        f"swaps: {SWAPS} models put in place, every fifth of them damaged: "
        f"{dict(Counter(clients.statuses))}; {len(named & served)} of {len(served)} fit versions "
        f"answered, {len(named - served)} others"
    )


def another_version(number: int) -> tuple[str, bytes]:
    """Return a graph that differs in its version alone."""
    graph = onnx.load(GRAPH)
    graph.producer_version = str(number)
    version = version_of(graph)
    (card,) = graph.metadata_props
    card.value = card.value.replace(version_of(onnx.load(GRAPH)), version)
    return version, graph.SerializeToString()


def _flipped(graph: bytes) -> bytes:
    middle = len(graph) // 2
    return graph[:middle] + bytes([graph[middle] ^ 1]) + graph[middle + 1 :]


def _stops(folder: Path) -> None:
    statuses: Counter[int] = Counter()
    slowest = 0.0
    for _ in range(STOPS):
        server = _start(folder)
        clients = Clients(server.port, ORDINARY)
        time.sleep(1)
        began = time.monotonic()
        server.stop()
        slowest = max(slowest, time.monotonic() - began)
        clients.stop()
        statuses.update(clients.statuses)
    print(
        f"stops: {STOPS} under load, the longest {slowest:.1f} s: {statuses[201]} requests "
        f"answered, {statuses[CUT_OFF]} accepted and not answered; {dict(statuses)}"
    )


def _start(folder: Path, **settings: str) -> Server:
    server = Server(folder, None, **{"WEB_CONCURRENCY": "2", "LOG_LEVEL": "error"} | settings)
    server.wait_until_ready()
    return server


if __name__ == "__main__":
    main()
