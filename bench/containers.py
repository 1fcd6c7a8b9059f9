"""Try the images and the compose file on a container engine: python -m bench.containers [NAME ...].

Works on a clone of what is committed. Prints how large the image is, how soon a container answers,
what memory it takes, and what became of a database that was stopped, of a backup that was restored,
of four replicas behind the proxy, and of a model that was trained in its container. TRAIN_BUILD may
have options for `docker build`, TRAIN_RUN for `docker compose run`, such as where the data lies.
"""

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

from tests.clients import SEVEN, Clients
from tests.conftest import ROOT, free_port

PROJECT = "digits-check"
PREDICTIONS = 10_000
AWAY_S = 10


class Stack:
    """A compose project of its own, on a port of its own."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.port = free_port()
        owner = f"{os.getuid()}:{os.getgid()}"
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "HOST_USER": owner,
            "PORT": str(self.port),
            "RATE_LIMIT": "1000000 per minute",
            "LOG_LEVEL": "warning",
        }

    def compose(self, *words: str, **environment: str) -> str:
        """Run docker compose; return what it printed. Raises CalledProcessError."""
        return self.run("docker", "compose", "--ansi", "never", *words, **environment)

    def run(self, *words: str, **environment: str) -> str:
        """Run a command in the stack's environment; return what it printed."""
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
        """Start it; return the seconds until all is healthy."""
        began = time.monotonic()
        self.compose("--profile", "https", "up", "--detach", "--wait", *words, **environment)
        return time.monotonic() - began

    def ask(self, path: str, body: bytes | None = None, url: str = "") -> Any:
        """Return the answer to a request, as JSON."""
        request = urllib.request.Request((url or f"http://127.0.0.1:{self.port}") + path, body)
        if body:
            request.add_header("Content-Type", "image/png")
        unsigned = ssl._create_unverified_context()
        with urllib.request.urlopen(request, timeout=10, context=unsigned) as response:
            return json.load(response)

    def rows(self) -> int:
        """Return how many predictions the database has."""
        return int(self.sql("SELECT count(*) FROM predictions"))

    def sql(self, query: str) -> str:
        """Return what the database answers."""
        psql = ("psql", "--username=digits", "--tuples-only", "--command", query)
        return self.compose("exec", "-T", "db", *psql)

    def down(self) -> None:
        """Remove everything but the images."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "20")


def main() -> None:
    """Try those that are named, or all."""
    tries = {
        "start": _start,
        "memory": _memory,
        "away": _away,
        "backup": _backup,
        "replicas": _replicas,
        "train": _train,
    }
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        stack = Stack(folder)
        stack.compose("build", "web")
        size = stack.run("docker", "image", "inspect", "digits-web", "--format", "{{.Size}}")
        print(f"image: {int(size) / 1e6:.0f} MB")
        try:
            print(f"up: all healthy after {stack.up('db', 'web'):.1f} s")
            for name in sys.argv[1:] or tries:
                tries[name](stack)
        finally:
            stack.down()


def _start(stack: Stack) -> None:
    stack.compose("stop", "web")
    began = time.monotonic()
    stack.compose("start", "web")
    while True:
        try:
            answer = stack.ask("/api/predictions", SEVEN)
            break
        except OSError:
            time.sleep(0.02)
    print(f"start: a {answer['predicted_digit']} read right {time.monotonic() - began:.1f} s later")


def _memory(stack: Stack) -> None:
    clients = Clients(stack.port, 8)
    while len(clients.ids) < PREDICTIONS:
        time.sleep(0.1)
    clients.stop()
    used = stack.compose("stats", "--no-stream", "--format", "{{.MemUsage}}", "web").split("/")[0]
    print(f"memory: {used.strip()} after {len(clients.ids)} predictions")


def _away(stack: Stack) -> None:
    before = stack.rows()
    clients = Clients(stack.port, 4)
    time.sleep(2)
    stack.compose("stop", "db")
    time.sleep(AWAY_S)
    stack.compose("start", "db")
    time.sleep(2)
    clients.stop()
    while stack.ask("/readyz")["waiting"]:
        time.sleep(0.5)
    print(
        f"away: database stopped for {AWAY_S} s: {dict(Counter(clients.statuses))}, "
        f"{stack.rows() - before} rows of {len(clients.ids)}"
    )


def _backup(stack: Stack) -> None:
    everything = "SELECT md5(string_agg(p::text, '' ORDER BY id)), count(*) FROM predictions p"
    for _ in range(9):
        stack.ask("/api/predictions", SEVEN)
    before = stack.sql(everything)
    stack.compose("run", "--rm", "backup")
    newest = max((stack.folder / "backups").glob("digits-*.dump"))
    stack.down()
    stack.up("db", "web")
    restore = "pg_restore --username=digits --dbname=digits --clean --if-exists"
    stack.run("sh", "-c", f"docker compose exec -T db {restore} < backups/{newest.name}")
    print(f"backup: restored into a new database alike: {stack.sql(everything) == before}")


def _replicas(stack: Stack) -> None:
    stack.compose("stop", "web")
    seconds = stack.up("--scale", "web=4", PORT="")
    ids = [stack.ask("/api/predictions", SEVEN, "https://localhost")["id"] for _ in range(40)]
    listed = stack.ask("/api/predictions?limit=40", url="https://localhost")["predictions"]
    same = {prediction["id"] for prediction in listed} == set(ids)
    print(f"replicas: four after {seconds:.1f} s, {len(ids)} answers listed alike: {same}")
    stack.compose("stop", "proxy")
    stack.up("--scale", "web=1", "db", "web")


def _train(stack: Stack) -> None:
    build, run = (shlex.split(os.environ.get(name, "")) for name in ("TRAIN_BUILD", "TRAIN_RUN"))
    stack.run("docker", "build", *build, "--file=Dockerfile.train", "--tag=digits-train", ".")
    before = stack.ask("/readyz")["model_version"]
    stack.compose("run", "--rm", *run, "train", "--epochs", "1")
    began = time.monotonic()
    while (version := stack.ask("/readyz")["model_version"]) == before:
        time.sleep(0.1)
    print(f"train: {before} became {version}, {time.monotonic() - began:.1f} s after the training")


if __name__ == "__main__":
    main()
