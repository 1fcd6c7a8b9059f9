"""Start the service: python -m webapp, gunicorn's own options welcome."""

import os
import sys
from pathlib import Path

from webapp.errors import StartupError
from webapp.settings import read_settings


def main() -> None:
    """Check the settings and run gunicorn."""
    try:
        settings = read_settings()
    except StartupError as error:
        sys.exit(str(error))
    # gunicorn reads this one itself, on import, and an empty one is a traceback.
    os.environ["WEB_CONCURRENCY"] = str(settings.workers)
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["--config", str(Path(__file__).with_name("gunicorn.conf.py"))]
    run(prog="python -m webapp")


if __name__ == "__main__":
    main()
