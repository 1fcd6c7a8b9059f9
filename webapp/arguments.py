"""How a request says what it asks: the picture or the JSON of its body, and its query."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from flask import request

from webapp.errors import BadRequest, NotAnImage, UnsupportedMedia
from webapp.settings import whole_number
from webapp.storage import Filters

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp"})
MOMENT = "a date or a time, such as 2026-11-22 or 2026-11-22T20:15:04Z"

T = TypeVar("T")


def posted_picture() -> bytes:
    """Return the encoded picture, in whichever of the three ways it came.

    Raises BadRequest, NotAnImage, UnsupportedMedia.
    """
    if request.mimetype in IMAGE_TYPES:
        return request.get_data()
    if request.mimetype == "multipart/form-data":
        if "image" not in request.files:
            raise BadRequest("The form has no file in a field named `image`.")
        return bytes(request.files["image"].read())
    if request.mimetype == "application/json":
        return _data_url(json_object().get("image"))
    raise UnsupportedMedia(
        f"Send {', '.join(sorted(IMAGE_TYPES))}, multipart/form-data or application/json."
    )


def _data_url(url: object) -> bytes:
    head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise BadRequest('The body should be {"image": "data:image/png;base64,…"}.')
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise NotAnImage("The data URL is not base64.") from exc


def json_object() -> dict[str, Any]:
    """Return the body, a JSON object. Raises BadRequest, UnsupportedMedia."""
    if request.mimetype != "application/json":
        raise UnsupportedMedia("Send application/json.")
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError) as exc:
        raise BadRequest("The body is not JSON.") from exc
    if not isinstance(body, dict):
        raise BadRequest("The body should be a JSON object.")
    return body


def argument(name: str, parse: Callable[[str], T], expected: str) -> T | None:
    """Return a parameter of the query, or None where it is not given. Raises BadRequest."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except (ValueError, KeyError) as exc:
        raise BadRequest(f"`{name}` should be {expected}.") from exc


def filters() -> Filters:
    """Return which predictions the query chooses. Raises BadRequest."""
    return Filters(
        digit=argument("digit", whole_number(0, 9), "0 to 9"),
        labelled=argument("labelled", yes_or_no, "yes or no"),
        right=argument("right", yes_or_no, "yes or no"),
        model_version=argument("model_version", _version, "a version of the model"),
        since=argument("from", moment_of, MOMENT),
        until=argument("to", moment_of, MOMENT),
    )


def moment_of(text: str) -> datetime:
    """Return a date, or a date and time, of UTC where it names no other zone. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def yes_or_no(text: str) -> bool:
    """Return what a word says. Raises KeyError."""
    return {"yes": True, "no": False}[text]


def cursor(text: str) -> str:
    """Return the id of a prediction. Raises ValueError."""
    if str(UUID(text)) != text:
        raise ValueError
    return text


def _version(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,64}", text):
        raise ValueError
    return text
