"""The interface for the page and for programs, under /api/, and the health checks beside it."""

import base64
import hmac
import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flask import (
    Blueprint,
    Response,
    current_app,
    jsonify,
    request,
    send_from_directory,
)
from PIL import Image

from webapp import metrics, preprocess
from webapp.arguments import (
    MOMENT,
    argument,
    cursor,
    filters,
    json_object,
    moment_of,
    posted_picture,
    yes_or_no,
)
from webapp.classifier import Served
from webapp.errors import (
    BadRequest,
    NoSuchDigit,
    NotFound,
    NotOperator,
    NotYours,
    StorageAway,
)
from webapp.exports import csv_chunks
from webapp.limits import fifo_slot
from webapp.record import Record
from webapp.settings import Settings, whole_number
from webapp.stats import summarize
from webapp.storage import Filters, Prediction, new_prediction
from webapp.visitors import Visitors, new_name

PAGE, MAX_PAGE = 100, 500  # predictions in a list

api = Blueprint("api", __name__, url_prefix="/api")
health = Blueprint("health", __name__)


@dataclass(frozen=True)
class Services:
    """What requests are answered with, made once a process."""

    settings: Settings
    model: Served
    record: Record
    visitors: Visitors


def _services() -> Services:
    return cast(Services, current_app.extensions["digits"])


# ---- predictions -----------------------------------------------------------------------------


@api.post("/predictions")
def create_prediction() -> Response:
    """Read the posted picture, and store the prediction unless store=no."""
    services = _services()
    store = argument("store", yes_or_no, "yes or no") is not False
    body = posted_picture()
    classifier = services.model.classifier
    with fifo_slot():
        with metrics.stage("decode"):
            picture = preprocess.decode(body)
        with metrics.stage("prepare"):
            pixels = preprocess.prepare(picture)
        with metrics.stage("infer"):
            answer = classifier.classify(pixels)
    known = services.visitors.known()
    prediction = new_prediction(answer, classifier.version, pixels.tobytes(), known or new_name())
    stored = store and _stored(prediction)
    metrics.count_prediction(answer, stored)
    if not stored:
        unstored = {"id": None, "created_at": None, "stored": False}
        return jsonify(_as_json(prediction) | unstored)
    response = jsonify(_as_json(prediction))
    response.status_code = HTTPStatus.CREATED
    response.location = f"{request.script_root}{request.path}/{prediction.id}"
    if not known:
        services.visitors.remember(prediction.visitor, response)
    return response


def _stored(prediction: Prediction) -> bool:
    try:
        with metrics.stage("store"):
            _services().record.put(prediction)
    except StorageAway:  # nor can the journal: the person still gets the answer, and is told
        current_app.logger.exception("prediction not stored")
        return False
    return True


@api.get("/predictions")
def list_predictions() -> Response:
    """List predictions, newest first."""
    page, after = _services().record.page(
        limit=argument("limit", whole_number(1, MAX_PAGE), f"1 to {MAX_PAGE}") or PAGE,
        before=argument("before", cursor, "the `next` of another list"),
        filters=filters(),
    )
    return jsonify(predictions=[_as_json(prediction) for prediction in page], next=after)


@api.get("/predictions.csv")
def export_predictions() -> Response:
    """Return all that the filters choose, newest first, for the operator."""
    _require_operator()
    chunks = csv_chunks(_services().record, filters())
    first = next(chunks)  # while there still can be another answer
    return Response(chain([first], chunks), mimetype="text/csv")


@api.delete("/predictions")
def delete_predictions() -> Response:
    """Delete all predictions older than `to`, for the operator."""
    _require_operator()
    until = argument("to", moment_of, MOMENT)
    if until is None or len(request.args) > 1:
        raise BadRequest(f"`to`, alone, should be {MOMENT}: what is older is deleted.")
    return jsonify(deleted=_services().record.delete(Filters(until=until)))


@api.delete("/predictions/<uuid:id_>")
def delete_prediction(id_: UUID) -> Response:
    """Delete one prediction, for the operator."""
    _require_operator()
    if not _services().record.delete(Filters(id=str(id_))):
        raise NotFound("There is no such prediction.")
    return Response(status=HTTPStatus.NO_CONTENT)


@api.get("/predictions/<uuid:id_>")
def get_prediction(id_: UUID) -> Response:
    """Return one prediction."""
    return jsonify(_as_json(_services().record.get(str(id_))))


@api.get("/predictions/<uuid:id_>/image.png")
def get_image(id_: UUID) -> Response:
    """Return the 28 × 28 that the model saw."""
    pixels = _services().record.get(str(id_)).pixels
    size = (preprocess.FIELD, preprocess.FIELD)
    image = io.BytesIO()
    Image.frombytes("L", size, pixels).save(image, "PNG")
    return Response(image.getvalue(), mimetype="image/png")


@api.patch("/predictions/<uuid:id_>")
def label_prediction(id_: UUID) -> Response:
    """Keep what the digit really was, or null for nobody knows."""
    record = _services().record
    body = json_object()
    if body.keys() != {"true_digit"}:
        raise BadRequest('The body should be {"true_digit": 0 to 9 or null}.')
    digit = body["true_digit"]
    if digit is not None and (isinstance(digit, bool) or digit not in range(10)):
        raise NoSuchDigit("true_digit should be a digit from 0 to 9, or null.")
    digit = digit if digit is None else int(digit)  # 7.0 is a whole number to JSON Schema
    prediction = record.get(str(id_))
    by_operator = _is_operator()
    if not (by_operator or _is_own(prediction)):
        raise NotYours("Only the browser that made a prediction may say what it really was.")
    if digit != prediction.true_digit:
        who = "operator" if by_operator else "visitor"
        now = datetime.now(UTC)
        if prediction.labelled_at:  # by a clock that may be ahead of ours
            now = max(now, prediction.labelled_at + timedelta(microseconds=1))
        prediction = replace(prediction, true_digit=digit, labelled_by=who, labelled_at=now)
        record.put(prediction)
    return jsonify(_as_json(prediction))


def _as_json(prediction: Prediction) -> dict[str, Any]:
    created_at = prediction.created_at.isoformat(timespec="milliseconds")
    return {
        "id": prediction.id,
        "created_at": created_at.replace("+00:00", "Z"),
        "predicted_digit": prediction.predicted_digit,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "uncertain": prediction.uncertain,
        "true_digit": prediction.true_digit,
        "model_version": prediction.model_version,
        "pixels": base64.b64encode(prediction.pixels).decode(),
    }


# ---- who asks --------------------------------------------------------------------------------


def _is_own(prediction: Prediction) -> bool:
    visitor = _services().visitors.known()
    return bool(visitor) and hmac.compare_digest(prediction.visitor, visitor)


def _require_operator() -> None:
    if not _is_operator():
        raise NotOperator("This is the operator's: send `Authorization: Bearer TOKEN`.")


def _is_operator() -> bool:
    token = _services().settings.operator_token
    # Werkzeug takes a token with "=" in it for parameters, and finds none.
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_bearer = bool(token) and scheme.lower() == "bearer"
    return is_bearer and hmac.compare_digest(token.encode(), given.strip().encode("latin-1"))


# ---- the model, the record as a whole, health ------------------------------------------------


@api.get("/stats")
def get_stats() -> Response:
    """Return counts, accuracy where labelled, and the confusion, overall and by model."""
    return jsonify(summarize(_services().record.counts()))


@api.get("/model")
def get_model() -> Response:
    """Return the card of the model now serving."""
    return jsonify(_services().model.classifier.card)


@api.get("/openapi.json")
def get_openapi() -> Response:
    """Return this interface for programs."""
    return send_from_directory(Path(__file__).parent, "openapi.json")


@health.get("/healthz")
def healthz() -> Response:
    """Answer as long as the process does."""
    return jsonify(status="alive")


@health.get("/readyz")
def readyz() -> Response:
    """Answer 200 when a drawing could be read and stored right now, 503 when not."""
    model, record = _services().model, _services().record
    database_answers, waiting = record.check()
    return jsonify(
        status="ready",
        model_version=model.classifier.version,
        model=model.check(),
        database="answers" if database_answers else "away: predictions wait in the journal",
        waiting=waiting,
    )
