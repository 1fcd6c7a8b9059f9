"""How gunicorn serves the application."""

import os
import shutil
import sys
import tempfile
from multiprocessing import get_context

from gunicorn.arbiter import Arbiter

from webapp.errors import StartError
from webapp.settings import read_settings

settings = read_settings()

wsgi_app = "webapp.app:create_app()"
host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6 has colons too
bind = f"{host}:{settings.port}"
workers = settings.workers
worker_class = "gthread"  # a slow client, or a wait for the database, holds up one thread only
threads = 4
keepalive = 5
loglevel = settings.log_level
accesslog = "-" if settings.log_level in ("debug", "info") else None
control_socket_disable = True  # it would need a home to write to
# A heartbeat on a disk can stall behind the disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None

# Each worker computes on one core; NumPy's own threads would only get in each other's way.
os.environ["OPENBLAS_NUM_THREADS"] = "1"


def on_starting(arbiter: Arbiter) -> None:
    """Prepare in a child process, since neither a session nor a pool survives a fork."""
    child = get_context("fork").Process(target=_prepare)
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)
    # Where the workers' figures meet. Has to be known before prometheus_client is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp("-digits", dir=worker_tmp_dir)
    import webapp.app  # noqa: F401  loaded once, shared by all workers


def _prepare() -> None:
    from webapp.app import prepare

    try:
        prepare(settings)
    except StartError as error:
        sys.exit(str(error))


def on_exit(arbiter: Arbiter) -> None:
    """Leave nothing in shared memory."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
