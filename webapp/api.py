"""The routes under /api/, and the health checks."""

import base64
import io
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, current_app, jsonify, request, send_from_directory
from PIL import Image

from webapp import __version__, metrics
from webapp.auth import is_operator, new_id
from webapp.decode import decode
from webapp.engines import cause_of
from webapp.errors import (
    BadRequest,
    Forbidden,
    InvalidLabel,
    NotFound,
    NotReady,
    QueryRejected,
    StorageUnavailable,
    Unauthorized,
)
from webapp.exports import csv_chunks
from webapp.limits import has_large_body, large_images, small_images
from webapp.model import Model
from webapp.parsing import parse_bool, parse_choice, parse_datetime, parse_integer
from webapp.prediction import (
    ACCEPTED,
    OPERATOR,
    REJECTED,
    VISITOR,
    Classification,
    Deletion,
    Prediction,
    first_id,
    last_id,
    new_prediction,
)
from webapp.preprocess import IMAGE_PX, prepare_with_doubt
from webapp.requests import (
    EXPECTED_DATETIME,
    FILTERS,
    check_query,
    idempotency_key,
    is_small_image,
    json_object,
    parse_cursor,
    parse_filters,
    posted_input,
    query_param,
)
from webapp.services import services
from webapp.stats import summarize
from webapp.store import Page
from webapp.strokes import Stroke, draw_strokes

DEFAULT_LIMIT, MAX_LIMIT = 100, 500  # predictions in a list
# The query parameters of each call; the others have none.
PARAMETERS = {
    "api.create_prediction": ("store",),
    "api.list_predictions": ("limit", "before", "order", *FILTERS),
    "api.export_predictions": FILTERS,
    "api.delete_predictions": ("to", "mine"),
}

api = Blueprint("api", __name__, url_prefix="/api")
health = Blueprint("health", __name__)


@api.before_request
def _check_query() -> None:
    check_query(PARAMETERS.get(request.endpoint or "", ()))


# ---- predictions -----------------------------------------------------------------------------


@api.post("/predictions")
def create_prediction() -> Response:
    """Classify the posted image, and store the prediction unless store=no."""
    store = query_param("store", parse_bool, "yes or no") is not False
    key = idempotency_key()
    model = services().model.current
    classification, pixels = _classify_posted(model)
    visitors = services().visitors
    visitor = visitors.current_id()
    prediction = new_prediction(classification, model.version, pixels, visitor or new_id(), key)
    stored = _store_if_possible(prediction) if store else None
    metrics.count_prediction(classification, stored is not None)
    if stored is None:
        return jsonify(_as_json(prediction) | {"id": None, "created_at": None, "stored": False})
    response = jsonify(_as_json(stored))
    if stored.id == prediction.id:  # otherwise it was stored by an earlier attempt
        response.status_code = HTTPStatus.CREATED
        response.location = f"{request.script_root}{request.path}/{stored.id}"
    if not visitor:
        visitors.set_cookie(response, stored.visitor)
    return response


def _classify_posted(model: Model) -> tuple[Classification, bytes]:
    """Classify the posted image or strokes; return the result and the pixels that the model saw."""
    if has_large_body():
        with large_images.slot():  # a parser copies the body
            return _classify(model, posted_input())
    posted = posted_input()
    is_small = isinstance(posted, list) or is_small_image(posted)
    with (small_images if is_small else large_images).slot():
        return _classify(model, posted)


def _classify(model: Model, posted: bytes | list[Stroke]) -> tuple[Classification, bytes]:
    with metrics.stage("decode"):
        image = decode(posted) if isinstance(posted, bytes) else draw_strokes(posted)
    with metrics.stage("prepare"):
        prepared = prepare_with_doubt(image, is_drawing=not isinstance(posted, bytes))
    with metrics.stage("infer"):
        classification = model.classify(prepared.pixels)
    doubt = prepared.doubt or classification.doubt
    return replace(classification, doubt=doubt), prepared.pixels.tobytes()


def _store_if_possible(prediction: Prediction) -> Prediction | None:
    try:
        with metrics.stage("store"):
            return services().store.insert(prediction)
    except (StorageUnavailable, QueryRejected) as error:
        # The client still gets the prediction, with `"stored": false`.
        current_app.logger.error("a prediction was not stored: %s", cause_of(error))
        return None


@api.get("/predictions")
def list_predictions() -> Response:
    """List predictions, newest first: those that HISTORY lets the client see."""
    filters = parse_filters()
    limit = query_param("limit", parse_integer(1, MAX_LIMIT), f"1 to {MAX_LIMIT}") or DEFAULT_LIMIT
    before = query_param("before", parse_cursor, "the `next` of another list")
    order = query_param("order", parse_choice({"review": "review"}), "review")
    if order or filters.reviewed is not None:
        _require_operator()
    if order:
        if before:
            raise BadRequest("`order` cannot be combined with `before`.")
        page = Page(services().store.review_queue(limit, filters), next=None, partial=False)
    else:
        if not _sees_all():
            filters = replace(filters, visitor=services().visitors.current_id() or new_id())
        page = services().store.page(limit, before, filters)
    body = {"predictions": [_as_json(row) for row in page.predictions], "next": page.next}
    return jsonify(body | {"partial": True} if page.partial else body)


@api.get("/predictions.csv")
def export_predictions() -> Response:
    """Return all predictions that match the filters as CSV, newest first, for the operator."""
    _require_operator()
    chunks = csv_chunks(services().store.iterate(parse_filters()))
    first = next(chunks)  # while the status can still be changed
    return Response(chain([first], chunks), mimetype="text/csv")


@api.delete("/predictions")
def delete_predictions() -> Response:
    """Delete what a visitor drew (`mine=yes`), or what is older than `to`, for the operator."""
    if "mine" not in request.args:
        _require_operator()
    mine = query_param("mine", parse_bool, "yes")
    time = query_param("to", parse_datetime, EXPECTED_DATETIME)
    if mine and time is None:
        visitor = _current_visitor()
        deletion = Deletion(before=last_id(), visitor=visitor)
        return jsonify(deleted=services().store.delete(deletion) if visitor else 0)
    if time is None or mine is not None:
        raise BadRequest(
            f"Send either `mine=yes` or `to`. `to` should be {EXPECTED_DATETIME}; predictions made "
            "before it are deleted."
        )
    if time > datetime.now(UTC):
        raise BadRequest("`to` should not be in the future.")
    return jsonify(deleted=services().store.delete(Deletion(before=first_id(time))))


@api.delete("/predictions/<uuid:id_>")
def delete_prediction(id_: UUID) -> Response:
    """Delete one prediction, for the visitor who made it and for the operator."""
    if not _is_operator():
        # A client without a cookie has no predictions, and does not learn which ids exist.
        prediction = services().store.get(str(id_)) if services().visitors.current_id() else None
        _require_own(prediction, "delete")
    if not services().store.delete(Deletion(str(id_))):
        raise NotFound
    return Response(status=HTTPStatus.NO_CONTENT)


@api.get("/predictions/<uuid:id_>")
def get_prediction(id_: UUID) -> Response:
    """Return one prediction."""
    return jsonify(_as_json(_find_visible(id_)))


@api.get("/predictions/<uuid:id_>/image.png")
def get_image(id_: UUID) -> Response:
    """Return the 28 × 28 pixels that the model saw as a PNG."""
    pixels = _find_visible(id_).pixels
    size = (IMAGE_PX, IMAGE_PX)
    image = io.BytesIO()
    Image.frombytes("L", size, pixels).save(image, "PNG")
    return Response(image.getvalue(), mimetype="image/png")


@api.patch("/predictions/<uuid:id_>")
def label_prediction(id_: UUID) -> Response:
    """Set the true digit of a prediction, or remove it with null; the operator may review it."""
    body = _posted_label()
    by_operator = _is_operator()
    if "review" in body:
        _require_operator()
    store = services().store
    prediction = store.get(str(id_))
    if not by_operator:
        _require_own(prediction, "label")
    if prediction.has_operators_label and not by_operator:
        raise Forbidden("The operator has set this label, and only the operator can change it.")
    old = prediction.true_digit, prediction.review
    digit = None if body.get("review") == REJECTED else body.get("true_digit", old[0])
    # A review applies to one label, not to the next.
    review = body.get("review", old[1] if digit == old[0] else None)
    if review == ACCEPTED and digit is None:
        raise InvalidLabel("There is no label to accept: send true_digit as well.")
    if (digit, review) != old:
        labelled_by = OPERATOR if by_operator else VISITOR
        prediction = store.label(str(id_), digit, labelled_by, review)
        if digit != old[0]:
            metrics.count_label(prediction)
    return jsonify(_as_json(prediction))


def _posted_label() -> dict[str, Any]:
    """Return `true_digit`, `review` or both. Raises BadRequest, InvalidLabel."""
    # Large bodies are not parsed: Python objects take many times the memory of JSON.
    body = {} if request.is_json and has_large_body() else json_object()
    if not body or not body.keys() <= {"true_digit", "review"}:
        raise BadRequest(
            'The body should be {"true_digit": 0 to 9 or null}. The operator may add "review".'
        )
    digit = body.get("true_digit")
    if digit is not None:
        if isinstance(digit, bool) or digit not in range(10):
            raise InvalidLabel("true_digit should be a digit from 0 to 9, or null.")
        body["true_digit"] = int(digit)  # 7.0 is an integer to JSON Schema
    if body.get("review") not in (ACCEPTED, REJECTED, None):
        raise InvalidLabel(f'review should be "{ACCEPTED}", "{REJECTED}" or null.')
    return body


def _as_json(prediction: Prediction) -> dict[str, Any]:
    body = {
        "id": prediction.id,
        "created_at": _as_text(prediction.created_at),
        "predicted_digit": prediction.predicted_digit,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "uncertain": prediction.uncertain,
        "doubt": prediction.doubt,
        "true_digit": prediction.true_digit,
        "model_version": prediction.model_version,
        "pixels": base64.b64encode(prediction.pixels).decode(),
    }
    return body | {"review": prediction.review} if _is_operator() else body


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---- access ----------------------------------------------------------------------------------


def _sees_all() -> bool:
    """Return whether the client sees everybody's predictions, or only its own.

    Raises Forbidden if it sees none.
    """
    history = services().settings.history
    if history == "everyone" or _is_operator():
        return True
    if history == "nobody":
        raise Forbidden("Only the operator sees predictions.")
    return False


def _find_visible(id_: UUID) -> Prediction:
    """Return a prediction that the client may see. Raises Forbidden, NotFound."""
    sees_all = _sees_all()
    prediction = services().store.get(str(id_))
    if not (sees_all or _is_own(prediction)):
        raise NotFound
    return prediction


def _is_own(prediction: Prediction) -> bool:
    visitor = services().visitors.current_id()
    return bool(visitor) and prediction.visitor == visitor


def _current_visitor() -> str | None:
    """Return the visitor's id. Raises Unauthorized if there is only a wrong token."""
    visitor = services().visitors.current_id()
    if not visitor and "Authorization" in request.headers:
        _require_operator()
    return visitor


def _require_own(prediction: Prediction | None, verb: str) -> None:
    """Raise Forbidden if another visitor made it, or Unauthorized for a wrong token alone."""
    if prediction and _is_own(prediction):
        return
    if _current_visitor():
        raise Forbidden(f"Only the browser that made a prediction, or the operator, may {verb} it.")
    raise Forbidden(
        f"Cookies are needed to {verb} a prediction, and this browser sent none. "
        "Allow cookies for this page, then predict again."
    )


def _is_operator() -> bool:
    return is_operator(services().settings.operator_token)


def _require_operator() -> None:
    if _is_operator():
        return
    if not services().settings.operator_token:
        raise Unauthorized("OPERATOR_TOKEN is not set, so nobody can sign in as the operator.")
    if "Authorization" in request.headers:
        raise Unauthorized("The operator token is wrong.")
    raise Unauthorized("Only the operator may do this: send `Authorization: Bearer TOKEN`.")


# ---- statistics, model, health ---------------------------------------------------------------


@api.get("/stats")
def get_stats() -> Response:
    """Return counts, and the accuracy of labelled predictions, overall and by model version."""
    return jsonify(summarize(services().store.counts()))


@api.get("/model")
def get_model() -> Response:
    """Return the card of the model in use."""
    return jsonify(services().model.current.card)


@api.get("/openapi.json")
def get_openapi() -> Response:
    """Return the OpenAPI document."""
    return send_from_directory(Path(__file__).parent, "openapi.json")


@health.get("/healthz")
def healthz() -> Response:
    """Return 200 while the process answers."""
    return jsonify(status="alive")


@health.get("/readyz")
def readyz() -> Response:
    """Return 200 if a prediction can be made and stored right now, otherwise 503."""
    model, storage = services().model, services().store.status()
    if not storage.can_store:
        raise NotReady(f"Database {storage.database}; outbox {storage.outbox}.")
    since = storage.waiting_since
    return jsonify(
        status="ready",
        version=__version__,
        model_version=model.current.version,
        model=model.status(),
        database=storage.database,
        outbox=storage.outbox,
        waiting=storage.waiting,
        waiting_since=since and _as_text(since),
    )
