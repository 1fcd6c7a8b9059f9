"""The sender of a request: a visitor with a signed cookie, or the operator with a token."""

import hashlib
import hmac
import secrets
from contextlib import suppress
from functools import cached_property

from flask import Flask, Response, request
from itsdangerous import BadSignature, Signer

from webapp.errors import Forbidden, StartupError
from webapp.settings import Settings

COOKIE = "visitor"  # A suffix follows. Earlier releases used this as the whole name.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
SECRET_KEY_FILE = "secret_key"  # in DATA_DIR
COOKIE_LIFETIME_S = 365 * 24 * 3600


class Visitors:
    """The random ids of browsers. They are signed, so that nobody can choose an id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _signer(self) -> Signer:
        return Signer(read_secret_key(self._settings), salt=COOKIE)

    @cached_property
    def _cookie(self) -> str:
        # Browsers send a cookie to all ports of a host, so each service has its own cookie name.
        key = read_secret_key(self._settings).encode()
        return f"{COOKIE}-{hmac.new(key, b'cookie name', hashlib.sha256).hexdigest()[:8]}"

    def current_id(self) -> str:
        """Return the id in the request's cookies, or an empty string without a valid one."""
        if "HTTP_COOKIE" not in request.environ:  # faster than request.cookies
            return ""
        for name in (self._cookie, COOKIE):
            for value in request.cookies.getlist(name):  # a parent domain may have set another
                with suppress(BadSignature):
                    return self._signer.unsign(value).decode()
        return ""

    def set_cookie(self, response: Response, visitor: str) -> None:
        """Give the browser its id."""
        response.set_cookie(
            self._cookie,
            self._signer.sign(visitor).decode(),
            max_age=COOKIE_LIFETIME_S,
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )


def pseudonym(settings: Settings, visitor: str) -> int:
    """Return a number for a visitor, which cannot be traced to the id without SECRET_KEY."""
    key = read_secret_key(settings).encode()
    digest = hmac.new(key, f"writer {visitor}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # to fit an int64


def new_id() -> str:
    """Return a new random visitor id."""
    return secrets.token_urlsafe(16)


def read_secret_key(settings: Settings) -> str:
    """Return the key that signs cookies. Raises StartupError if there is none yet."""
    path = settings.data_dir / SECRET_KEY_FILE
    try:
        return settings.secret_key or path.read_text()
    except OSError as error:
        raise StartupError(
            f"SECRET_KEY is not set, and {path} cannot be read: {error.strerror}. "
            "The server creates it when it starts."
        ) from error


def is_operator(token: str) -> bool:
    """Return whether the request has the operator's token; an empty one admits nobody."""
    # Werkzeug parses a token that contains "=" as parameters.
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if not token or scheme.lower() != "bearer":
        return False
    # WSGI decodes headers as Latin-1. Most clients send UTF-8, some Latin-1.
    given = text.strip(" \t")
    forms = (given.encode("latin-1"), given.encode())
    return any(hmac.compare_digest(token.encode(), form) for form in forms)


def init_app(app: Flask) -> None:
    """Reject requests that other sites send through a visitor's browser."""
    app.before_request(_check_site)


def _check_site() -> None:
    """Raise Forbidden if another site sent a request that could change something.

    Browsers say where a request comes from (Fetch Metadata, RFC 6454). Other clients send neither
    header.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_trusted = site in ("same-origin", "none")
    is_foreign = origin == "null" or (origin and not is_trusted and not _is_own_origin(origin))
    if site == "cross-site" or is_foreign:
        raise Forbidden("Cross-site requests are not allowed.")


def _is_own_origin(origin: str) -> bool:
    """Return whether an origin has the host that the client addressed."""
    scheme, _, host = origin.lower().partition("://")
    return bool(host) and host == request.host.lower().removesuffix(DEFAULT_PORTS.get(scheme, ""))
