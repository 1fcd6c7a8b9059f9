"""Who asks: a random name in a signed cookie, by which a browser may label what it drew."""

import secrets

from flask import Response, request
from itsdangerous import BadSignature, Signer

COOKIE = "visitor"
YEAR_S = 365 * 24 * 3600


class Visitors:
    """The names of browsers, which nobody can make up."""

    def __init__(self, secret_key: str) -> None:
        """Sign with a secret, the same in all processes."""
        self._signer = Signer(secret_key, salt=COOKIE)

    def known(self) -> str:
        """Return the name in the request's cookie, empty where there is none."""
        if "HTTP_COOKIE" not in request.environ:  # which Werkzeug finds out ten times slower
            return ""
        try:
            return self._signer.unsign(request.cookies.get(COOKIE, "")).decode()
        except BadSignature:
            return ""

    def remember(self, name: str, response: Response) -> None:
        """Give the browser its name."""
        response.set_cookie(
            COOKIE,
            self._signer.sign(name).decode(),
            max_age=YEAR_S,
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )


def new_name() -> str:
    """Return a name that nobody has."""
    return secrets.token_urlsafe(16)
