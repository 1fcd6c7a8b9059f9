"""The application factory: wiring only."""

import sys
from typing import cast

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import api, auth, commands, limits, logs, metrics, pages, problems, ratelimit, services
from webapp.errors import StartupError
from webapp.settings import Settings, read_settings


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application of one worker process. It starts no thread and writes no file.

    Exits with a message if a setting is invalid.
    """
    try:
        settings = settings or read_settings()
    except StartupError as error:
        sys.exit(str(error))
    app = Flask(__name__)
    app.debug = settings.debug
    app.logger.setLevel(settings.log_level.upper())
    cast(DefaultJSONProvider, app.json).sort_keys = False  # keys appear in the documented order
    services.init_app(app, settings)
    if hops := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_prefix=hops
        )
    logs.init_app(app)
    ratelimit.init_app(app, settings)
    auth.init_app(app)
    limits.init_app(app)
    problems.init_app(app)
    metrics.init_app(app)
    pages.init_app(app)
    app.register_blueprint(api.api)
    app.register_blueprint(api.health)
    commands.init_app(app)
    return app
