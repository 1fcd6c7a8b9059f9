"""Prometheus metrics of several worker processes."""

import re
from pathlib import Path

import psutil
import pytest
import yaml
from flask.testing import FlaskClient

from tests.clients import SEVEN_PNG
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


def test_paths_that_do_not_exist_are_counted_together(client: FlaskClient) -> None:
    def count() -> float:
        sample = r'^digits_requests_total{route="none",status="404"} (.+)$'
        found = re.search(sample, client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0

    before = count()
    for path in ("/wp-login.php", "/api/no-such-call"):
        assert client.get(path).status_code == 404
    assert count() == before + 2
    assert "wp-login" not in client.get("/metrics").text


def test_labels_are_counted_by_version_and_correctness(client: FlaskClient) -> None:
    row = client.post("/api/predictions", data=SEVEN_PNG, content_type="image/png").json

    def labels(is_right: bool) -> float:
        sample = f'digits_labels_total{{right="{is_right}",version="{row["model_version"]}"}}'
        found = re.search(rf"^{re.escape(sample)} (\S+)", client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0

    before = labels(True), labels(False)
    for digit in (1, 1, 7, 2, None):  # the second changes nothing
        client.patch(f"/api/predictions/{row['id']}", json={"true_digit": digit})
    assert (labels(True), labels(False)) == (before[0] + 1, before[1] + 2)


@pytest.mark.parametrize("file", ["docs/grafana.json", "deploy/prometheus/alerts.yaml"])
def test_dashboard_and_alerts_use_existing_metrics(client: FlaskClient, file: str) -> None:
    row = client.post("/api/predictions", data=SEVEN_PNG, content_type="image/png").json
    client.patch(f"/api/predictions/{row['id']}", json={"true_digit": 7})
    existing = re.findall(r"^(\w+)\{?", client.get("/metrics").text, re.MULTILINE)
    used = set(re.findall(r"(?<!:)\bdigits_\w+(?!\w|:)", (ROOT / file).read_text()))
    assert used
    assert used <= {*existing}


def test_alerts_are_explained() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    alerts = [
        rule["alert"] for each in rules["groups"] for rule in each["rules"] if "alert" in rule
    ]
    text = (ROOT / "DEPLOYMENT.md").read_text()
    assert alerts == re.findall(r"^\| `([A-Z]\w+)` \|", text, re.MULTILINE)
