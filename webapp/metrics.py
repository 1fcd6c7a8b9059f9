"""Figures for Prometheus, summed over the worker processes.

With several workers, PROMETHEUS_MULTIPROC_DIR has to be set before this is imported.
"""

import os

from flask import Flask, Response, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = Counter("digits_requests_total", "Requests answered", ["route", "status"])
WAITING = Gauge(
    "digits_waiting_rows",
    "Predictions in the journal, which wait for the database",
    multiprocess_mode="mostrecent",
)
PREDICTIONS = Counter("digits_predictions_total", "Digits read", ["digit", "uncertain", "stored"])


def init_app(app: Flask) -> None:
    """Count every request, and answer GET /metrics."""
    app.after_request(_count)
    app.add_url_rule("/metrics", view_func=metrics)


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule else "none"
    REQUESTS.labels(route, response.status_code).inc()
    return response


def metrics() -> Response:
    """Return all figures as Prometheus reads them."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
