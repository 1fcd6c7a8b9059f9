"""What a request contains: the image or the JSON in its body, and its query parameters."""

import base64
import binascii
import hashlib
import json
import re
import string
import struct
from collections.abc import Callable, Collection
from typing import Any, TypeVar
from uuid import UUID

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.containers import PNG_SIGNATURE, reject_other_formats
from webapp.errors import BadRequest, NotAnImage, UnsupportedMedia
from webapp.limits import FREE_BODY_BYTES
from webapp.parsing import parse_bool, parse_datetime, parse_integer
from webapp.prediction import Filters
from webapp.strokes import MAX_POINTS, Stroke, parse_strokes

FILTERS = ("digit", "labelled", "right", "reviewed", "model_version", "from", "to")
PNG_START = PNG_SIGNATURE + b"\0\0\0\rIHDR"
SMALL_IMAGE_PIXELS = 500 * 500
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp"})
OTHER_IMAGE_NAMES = frozenset({"image/jpg", "image/pjpeg", "image/x-png", "image/apng"})
EXPECTED_DATETIME = "a date or a time, such as 2026-11-22 or 2026-11-22T20:15:04Z"

# urllib's unquote takes a second and 800 MB for 4 MB of percent signs.
BASE64_ESCAPES = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="}
WHITESPACE = string.whitespace.encode()  # lines are optional in a data URL, and so is padding
MAX_URL_HEAD = 200  # characters before the comma
MAX_PART_HEADERS = 8192  # bytes; Werkzeug takes a second to parse 4 MB, in which nothing else runs
BLANK_LINE = re.compile(rb"\r\n\r\n|\r\r|\n\n")
MAX_BRACKETS = 2 * MAX_POINTS + 100  # in a JSON body: each point and each stroke has one

T = TypeVar("T")


def posted_input() -> bytes | list[Stroke]:
    """Return the encoded image, from a raw body, a form or a data URL, or a drawing's strokes.

    Raises BadRequest, BlankImage, NotAnImage, UnsupportedMedia.
    """
    if request.mimetype in IMAGE_TYPES | OTHER_IMAGE_NAMES:
        return request.get_data()
    if request.mimetype == "multipart/form-data":
        return _form_file()
    if request.mimetype == "application/json":
        body = json_object()
        if "strokes" not in body:
            return _data_url(body.get("image"))
        if "image" in body:
            raise BadRequest("The body should have `image` or `strokes`, not both.")
        return parse_strokes(body["strokes"])
    reject_other_formats(request.get_data())
    raise UnsupportedMedia(
        f"Set Content-Type to {', '.join(sorted(IMAGE_TYPES))}, multipart/form-data or "
        "application/json."
    )


def is_small_image(body: bytes) -> bool:
    """Return whether an image is decoded as quickly as those that the page sends."""
    is_animation = b"acTL" in body  # many of its frames may be decoded
    if len(body) > FREE_BODY_BYTES or not body.startswith(PNG_START) or is_animation:
        return False
    width, height = struct.unpack_from(">II", body.ljust(24), 16)
    return bool(width * height <= SMALL_IMAGE_PIXELS)


def _form_file() -> bytes:
    boundary = request.mimetype_params.get("boundary", "").encode()
    if not boundary:
        raise BadRequest("Content-Type has no boundary. Let your HTTP library set it.")
    body = request.get_data()
    if not body.lstrip(b"\r\n").startswith(b"--" + boundary):  # Werkzeug would find it in the text
        raise BadRequest("The form does not begin with its boundary.")
    *parts, end = re.split(rb"(?:\A|\r\n|\r|\n)--" + re.escape(boundary), body)
    if not end.startswith(b"--"):
        raise BadRequest("The form ends early.")
    long_parts = (part for part in parts if len(part) > MAX_PART_HEADERS)
    if not all(BLANK_LINE.search(part, 0, MAX_PART_HEADERS) for part in long_parts):
        raise BadRequest("The headers of a part of the form are too long.")
    try:
        files = request.files
    except RequestEntityTooLarge as error:
        raise BadRequest("The form has too many parts. Send the field `image` only.") from error
    if "image" not in files:
        raise BadRequest("The form has no file in a field named `image`.")
    return bytes(files["image"].read())


def _data_url(url: object) -> bytes:
    head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    head = "".join(head[:MAX_URL_HEAD].split()).lower()
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise BadRequest(
            'The body should be {"image": "data:image/png;base64,…"} or {"strokes": […]}.'
        )
    for escaped, character in BASE64_ESCAPES.items():
        data = data.replace(escaped, character)
    try:
        code = data.encode("ascii").translate(None, WHITESPACE).rstrip(b"=")
        return base64.b64decode(code + b"=" * (-len(code) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAnImage("The data URL is not base64.") from error


def json_object() -> dict[str, Any]:
    """Return the JSON object in the body. Raises BadRequest, UnsupportedMedia."""
    if request.mimetype != "application/json":
        raise UnsupportedMedia("Send application/json.")
    data = request.get_data()
    # To parse 4 MB of brackets takes a second, in which no other thread runs, and 200 MB.
    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise BadRequest(f"`strokes` should have at most {MAX_POINTS:,} points.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body can't be read as JSON.") from error
    if not isinstance(body, dict):
        raise BadRequest("The body should be a JSON object.")
    return body


def check_query(allowed: Collection[str]) -> None:
    """Raise BadRequest for a query parameter that is unknown or repeated."""
    for name, values in request.args.lists():
        if name not in allowed:
            known = f"Allowed: {', '.join(f'`{each}`' for each in allowed)}." if allowed else ""
            raise BadRequest(f"Unknown query parameter. {known}".strip())
        if len(values) > 1:
            raise BadRequest(f"`{name}` should be given once.")


def query_param(name: str, parse: Callable[[str], T], expected: str) -> T | None:
    """Return a query parameter, or None if it is absent. Raises BadRequest."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise BadRequest(f"`{name}` should be {expected}.") from error


def parse_filters() -> Filters:
    """Return the filters in the query. Raises BadRequest."""
    return Filters(
        digit=query_param("digit", parse_integer(0, 9), "0 to 9"),
        labelled=query_param("labelled", parse_bool, "yes or no"),
        correct=query_param("right", parse_bool, "yes or no"),
        reviewed=query_param("reviewed", parse_bool, "yes or no"),
        model_version=query_param("model_version", _model_version, "a model version"),
        since=query_param("from", parse_datetime, EXPECTED_DATETIME),
        until=query_param("to", parse_datetime, EXPECTED_DATETIME),
    )


def parse_cursor(text: str) -> str:
    """Return the id of a prediction. Raises ValueError."""
    if str(UUID(text)) != text:
        raise ValueError
    return text


def idempotency_key() -> str | None:
    """Return the hash of the request's Idempotency-Key, which is the client's secret.

    Raises BadRequest.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,64}", key):
        raise BadRequest("`Idempotency-Key` should have 16 to 64 letters, digits, - or _.")
    return hashlib.sha256(key.encode()).hexdigest()


def _model_version(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,64}", text):
        raise ValueError
    return text
