"""Check the images and the compose file with Docker: python -m bench.containers [NAME ...].

Works on a clone of the last commit. Prints the image's size and the startup time, then checks
memory, an outage of the database, backup and restore, four replicas behind the proxy, and training.
TRAIN_BUILD and TRAIN_RUN may hold options for `docker build` and `docker compose run`.
"""

import argparse
import json
import os
import secrets
import shlex
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from tests.clients import SEVEN_PNG, Clients
from tests.conftest import ROOT, free_port

PREDICTIONS = 10_000
OUTAGE_S = 10


class Stack:
    """A compose project with a name and a port of its own."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.port = free_port()
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": "digits-check",
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "HOST_USER": f"{os.getuid()}:{os.getgid()}",
            "PORT": str(self.port),
            "RATE_LIMIT": "1000000 per minute",
            "LOG_LEVEL": "warning",
        }

    def compose(self, *words: str, **environment: str) -> str:
        """Run docker compose; return its output. Raises CalledProcessError."""
        return self.run("docker", "compose", "--ansi", "never", *words, **environment)

    def run(self, *words: str, **environment: str) -> str:
        """Run a command in the clone; return its output. Raises CalledProcessError."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()
        return done.stdout

    def up(self, *words: str, **environment: str) -> float:
        """Start services; return the seconds until all of them are healthy."""
        started = time.monotonic()
        self.compose("--profile", "https", "up", "--detach", "--wait", *words, **environment)
        return time.monotonic() - started

    def request(self, path: str, body: bytes | None = None, url: str = "") -> Any:
        """Send a request; return the JSON of the response."""
        request = urllib.request.Request((url or f"http://127.0.0.1:{self.port}") + path, body)
        if body:
            request.add_header("Content-Type", "image/png")
        self_signed = ssl._create_unverified_context()
        with urllib.request.urlopen(request, timeout=10, context=self_signed) as response:
            return json.load(response)

    def sql(self, query: str) -> str:
        """Run a query in the database; return its output."""
        psql = ("psql", "--username=digits", "--tuples-only", "--command", query)
        return self.compose("exec", "-T", "db", *psql)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "20")


def main() -> None:
    """Run the named checks, or all of them."""
    checks = {
        "memory": _memory,
        "outage": _outage,
        "backup": _backup,
        "replicas": _replicas,
        "train": _train,
    }
    parser = argparse.ArgumentParser(prog="python -m bench.containers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    names = parser.parse_args().names
    if not checks.keys() >= {*names}:
        parser.error(f"NAME is one of {', '.join(checks)}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        stack = Stack(folder)
        stack.compose("build", "web")
        size = stack.run("docker", "image", "inspect", "digits-web", "--format", "{{.Size}}")
        print(f"image: {int(size) / 1e6:.0f} MB")
        try:
            print(f"start: all healthy after {stack.up('db', 'web'):.1f} s")
            for name in names or checks:
                checks[name](stack)
        finally:
            stack.down()


def _memory(stack: Stack) -> None:
    clients = Clients(stack.port, 8)
    while len(clients.ids) < PREDICTIONS:
        time.sleep(0.1)
    clients.stop()
    used = stack.compose("stats", "--no-stream", "--format", "{{.MemUsage}}", "web").split("/")[0]
    print(f"memory: {used.strip()} after {len(clients.ids)} predictions")


def _outage(stack: Stack) -> None:
    count = "SELECT count(*) FROM predictions"
    before = int(stack.sql(count))
    clients = Clients(stack.port, 4)
    time.sleep(2)
    stack.compose("stop", "db")
    time.sleep(OUTAGE_S)
    stack.compose("start", "db")
    time.sleep(2)
    clients.stop()
    while stack.request("/readyz")["waiting"]:
        time.sleep(0.5)
    stored = int(stack.sql(count)) - before
    print(f"outage: {dict(Counter(clients.statuses))}; {stored} of {len(clients.ids)} stored")


def _backup(stack: Stack) -> None:
    everything = "SELECT md5(string_agg(p::text, '' ORDER BY id)), count(*) FROM predictions p"
    stack.request("/api/predictions", SEVEN_PNG)
    before = stack.sql(everything)
    stack.compose("run", "--rm", "backup")
    newest = max((stack.folder / "backups").glob("digits-*.dump"))
    stack.down()
    stack.up("db", "web")
    restore = "pg_restore --username=digits --dbname=digits --clean --if-exists"
    stack.run("sh", "-c", f"docker compose exec -T db {restore} < backups/{newest.name}")
    print(f"backup: the restored database is equal: {stack.sql(everything) == before}")


def _replicas(stack: Stack) -> None:
    stack.compose("stop", "web")
    seconds = stack.up("--scale", "web=4", PORT="")
    url = "https://localhost"
    ids = {stack.request("/api/predictions", SEVEN_PNG, url)["id"] for _ in range(40)}
    listed = stack.request("/api/predictions?limit=40", url=url)["predictions"]
    complete = {prediction["id"] for prediction in listed} == ids
    print(f"replicas: four healthy after {seconds:.1f} s, their list is complete: {complete}")
    stack.compose("stop", "proxy")
    stack.up("--scale", "web=1", "db", "web")


def _train(stack: Stack) -> None:
    build, run = (shlex.split(os.environ.get(name, "")) for name in ("TRAIN_BUILD", "TRAIN_RUN"))
    stack.run("docker", "build", *build, "--file=Dockerfile.train", "--tag=digits-train", ".")
    before = stack.request("/readyz")["model_version"]
    stack.compose("run", "--rm", *run, "train", "--epochs", "1")
    started = time.monotonic()
    while (version := stack.request("/readyz")["model_version"]) == before:
        time.sleep(0.1)
    print(f"train: version {version} serves {time.monotonic() - started:.1f} s after training")


if __name__ == "__main__":
    main()
