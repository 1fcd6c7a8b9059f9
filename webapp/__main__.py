"""Start the service: python -m webapp, gunicorn's own options welcome."""

import sys
from pathlib import Path

from webapp.errors import StartError
from webapp.settings import read_settings


def main() -> None:
    """Check the settings, which gunicorn reads on import and less kindly, and run it."""
    try:
        read_settings()
    except StartError as error:
        sys.exit(str(error))
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["--config", str(Path(__file__).with_name("gunicorn.conf.py"))]
    run(prog="python -m webapp")


if __name__ == "__main__":
    main()
