"""Metrics for Prometheus, summed over the worker processes.

With several workers, PROMETHEUS_MULTIPROC_DIR has to be set before this module is imported.
"""

import os
from contextlib import AbstractContextManager
from typing import cast

from flask import Flask, Response, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from webapp.prediction import Classification, Prediction

REQUESTS = Counter("digits_requests_total", "Responses sent", ["route", "status"])
STAGES = Histogram(
    "digits_stage_seconds",
    "Duration of the stages of a prediction: decode, prepare, infer, store",
    ["stage"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
PREDICTIONS = Counter(
    "digits_predictions_total", "Predictions made", ["digit", "uncertain", "stored"]
)
CONFIDENCE = Histogram(
    "digits_confidence",
    "Confidence of the predictions",
    buckets=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1),
)
LABELS = Counter(
    "digits_labels_total",
    "Labels set or changed, by model version and whether the prediction is correct",
    ["version", "right"],
)
WAITING = Gauge(
    "digits_waiting_rows",
    "Predictions in the outbox, which wait for the database",
    multiprocess_mode="mostrecent",
)
OUTBOX_USAGE = Gauge(
    "digits_outbox_usage_ratio",
    "Used share of the outbox's size limit",
    multiprocess_mode="mostrecent",
)
MODELS = Gauge(
    "digits_model_workers",
    "Workers that serve a model version",
    ["version"],
    multiprocess_mode="livesum",
)


def init_app(app: Flask) -> None:
    """Count every request, and answer GET /metrics."""
    app.after_request(_count)
    app.add_url_rule("/metrics", view_func=metrics)


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule else "none"
    REQUESTS.labels(route, response.status_code).inc()
    return response


def stage(name: str) -> AbstractContextManager[object]:
    """Measure the duration of a stage."""
    return cast(AbstractContextManager[object], STAGES.labels(name).time())


def count_prediction(classification: Classification, stored: bool) -> None:
    """Count a prediction."""
    PREDICTIONS.labels(classification.predicted_digit, classification.uncertain, stored).inc()
    CONFIDENCE.observe(classification.confidence)


def count_label(prediction: Prediction) -> None:
    """Count the label of a prediction, unless it was removed."""
    digit = prediction.true_digit
    if digit is not None:
        LABELS.labels(prediction.model_version, digit == prediction.predicted_digit).inc()


def metrics() -> Response:
    """Return all metrics in the text format of Prometheus."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
