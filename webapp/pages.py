"""The page, and the security headers of every response."""

from flask import Blueprint, Flask, Response, render_template, request

from webapp import __version__
from webapp.services import services

pages = Blueprint("pages", __name__)

HEADERS = {
    # No inline scripts or styles, and nothing from another host.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
HSTS = "max-age=31536000"  # seconds: a year


def init_app(app: Flask) -> None:
    """Serve the page, and add the headers to every response."""
    app.register_blueprint(pages)
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    response.headers.extend(HEADERS)
    if request.path.startswith("/api/"):
        response.headers["Cache-Control"] = "no-store"
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = HSTS
    return response


@pages.get("/")
def index() -> str:
    """Return the page."""
    settings = services().settings
    return render_template(
        "index.html",
        history=settings.history,
        retention_days=settings.retention_days,
        version=__version__,
    )


@pages.get("/review")
def review() -> str:
    """Return the operator's page. The API asks for the token."""
    return render_template("review.html")
