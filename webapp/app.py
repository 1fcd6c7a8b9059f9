"""The Flask application: wiring only."""

from typing import cast

from flask import Flask, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import api, commands, limits, logs, metrics, pages, problems
from webapp.classifier import GRAPH, Classifier, Served
from webapp.errors import StartError
from webapp.record import Record, create_schema, open_journal
from webapp.settings import Settings, read_settings, secret_key
from webapp.storage import Storage
from webapp.visitors import Visitors


def prepare(settings: Settings) -> None:
    """Make what the workers share and check what they need, once, before they start.

    Raises StartError, which says what to do.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(f"DATA_DIR {settings.data_dir} cannot be made: {exc.strerror}.") from exc
    secret_key(settings)
    Classifier(settings.model_dir / GRAPH)
    create_schema(settings.database_url, settings.data_dir)


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application of one worker process, after `prepare`."""
    settings = settings or read_settings()
    app = Flask(__name__)
    app.debug = settings.debug
    app.logger.setLevel(settings.log_level.upper())
    cast(DefaultJSONProvider, app.json).sort_keys = False  # answers read in the contract's order
    record = Record(Storage(settings.database_url), open_journal(settings.data_dir))
    visitors = Visitors(secret_key(settings))
    model = Served(settings.model_dir, settings.data_dir / "serving.onnx")
    app.extensions["digits"] = api.Services(settings, model, record, visitors)
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        behind = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)
        app.wsgi_app = behind  # type: ignore[method-assign]
    logs.init_app(app)
    limits.init_app(app)
    problems.init_app(app)
    metrics.init_app(app)
    pages.init_app(app)
    app.register_blueprint(api.api)
    app.register_blueprint(api.health)
    app.cli.add_command(commands.predictions)
    if settings.rate_limit:
        _limit(app, settings)
    return app


def _limit(app: Flask, settings: Settings) -> None:
    from flask_limiter import Limiter  # only who sets a limit pays for its import
    from flask_limiter.util import get_remote_address

    def whose() -> str:
        # Looks at a drawing under way may run out, but not at the cost of its prediction.
        looking = request.args.get("store") == "no"
        return get_remote_address() + (" looking" if looking else "")

    limiter = Limiter(
        whose,
        app=app,
        headers_enabled=True,
        storage_uri=settings.rate_limit_store,
        in_memory_fallback_enabled=True,
    )
    limiter.limit(settings.rate_limit)(api.api)
