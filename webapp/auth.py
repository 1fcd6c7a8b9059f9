"""Who sends a request: a visitor, by a signed cookie, or the operator, by a token."""

import hmac
import secrets
from functools import cached_property

from flask import Response, request
from itsdangerous import BadSignature, Signer

from webapp.errors import StartupError
from webapp.settings import Settings

COOKIE = "visitor"
COOKIE_LIFETIME_S = 365 * 24 * 3600


class Visitors:
    """The random ids of browsers. A signature keeps anybody from choosing an id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _signer(self) -> Signer:
        return Signer(read_secret_key(self._settings), salt=COOKIE)

    def current_id(self) -> str:
        """Return the id in the request's cookie, or an empty string without a valid one."""
        if "HTTP_COOKIE" not in request.environ:  # faster than request.cookies
            return ""
        try:
            return self._signer.unsign(request.cookies.get(COOKIE, "")).decode()
        except BadSignature:
            return ""

    def set_cookie(self, response: Response, visitor: str) -> None:
        """Give the browser its id."""
        response.set_cookie(
            COOKIE,
            self._signer.sign(visitor).decode(),
            max_age=COOKIE_LIFETIME_S,
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )


def new_id() -> str:
    """Return a new random visitor id."""
    return secrets.token_urlsafe(16)


def read_secret_key(settings: Settings) -> str:
    """Return the key that signs cookies. Raises StartupError if there is none yet."""
    path = settings.data_dir / "secret_key"
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
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_bearer = bool(token) and scheme.lower() == "bearer"
    return is_bearer and hmac.compare_digest(token.encode(), given.strip().encode("latin-1"))
