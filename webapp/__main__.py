"""Start the service: python -m webapp [OPTIONS OF GUNICORN]."""

import os
import sys
from pathlib import Path

from webapp.errors import StartupError
from webapp.settings import read_settings

# glibc reads these when a process starts. By default each of dozens of threads may keep the memory
# of the largest image that it has decoded.
MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024)}


def main() -> None:
    """Check the settings and replace this process with gunicorn."""
    try:
        settings = read_settings()
    except StartupError as error:
        sys.exit(str(error))
    # gunicorn reads WEB_CONCURRENCY too, and fails with a traceback if it is empty.
    environment = MEMORY | os.environ | {"WEB_CONCURRENCY": str(settings.workers)}
    config = str(Path(__file__).with_name("gunicorn.conf.py"))
    command = [sys.executable, "-m", "gunicorn", "--config", config, *sys.argv[1:]]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main()
