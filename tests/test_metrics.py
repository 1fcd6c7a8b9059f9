"""Prometheus metrics of several worker processes."""

import re
from pathlib import Path

import psutil

from tests.conftest import ROOT, Server, wait_until
from tests.graphs import another_version, publish


def workers_by_version(server: Server) -> dict[str, float]:
    """Return how many workers serve each version of the model."""
    found = re.findall(
        r'^digits_model_workers{version="(\w+)"} (\S+)', server.get("/metrics"), re.M
    )
    return {version: float(count) for version, count in found if float(count)}


def predictions(server: Server) -> float:
    """Return how many predictions were counted."""
    found = re.findall(r"^digits_predictions_total{.*} (\S+)", server.get("/metrics"), re.M)
    return sum(map(float, found))


def test_metrics_are_summed_over_workers(shared_server: Server) -> None:
    before = predictions(shared_server)
    for _ in range(20):
        shared_server.post()
    assert {predictions(shared_server) for _ in range(20)} == {before + 20}
    assert list(workers_by_version(shared_server).values()) == [2]


def test_replaced_models_and_dead_workers_are_no_longer_counted(
    tmp_path: Path, models: Path
) -> None:
    with Server(tmp_path, MODEL_DIR=str(models), WEB_CONCURRENCY="1") as server:
        server.post()
        version, graph = another_version(1)
        publish(graph, models)
        wait_until(lambda: version in workers_by_version(server))
        assert workers_by_version(server) == {version: 1}
        (worker,) = psutil.Process(server.process.pid).children()
        worker.kill()
        worker.wait()
        assert workers_by_version(server) == {version: 1}
        assert predictions(server) == 1


def test_dashboard_uses_existing_metrics(shared_server: Server) -> None:
    shared_server.post()
    existing = set(re.findall(r"^(\w+)\{?", shared_server.get("/metrics"), re.MULTILINE))
    used = set(re.findall(r"digits_\w+", (ROOT / "docs" / "grafana.json").read_text()))
    assert used
    assert used <= existing
