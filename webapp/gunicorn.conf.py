"""How gunicorn serves the application."""

import gc
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from multiprocessing import get_context

from flask import Flask
from gunicorn import glogging
from gunicorn.arbiter import Arbiter

from webapp import logs
from webapp.errors import StartError
from webapp.settings import read_settings
from webapp.worker import CONNECTIONS, LIBC, Worker

# Of mallopt, from malloc.h: how many heaps the threads get, each of which keeps what it once had.
M_ARENA_MAX = -8

settings = read_settings()

wsgi_app = "webapp.app:create_app()"
host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6 has colons too
bind = f"{host}:{settings.port}"
workers = settings.workers
worker_class = "webapp.worker.Worker"
# More than webapp/admission.py admits, for those who wait, are slow or are refused.
worker_connections = 500
keepalive = 5
graceful_timeout = 8
logconfig_dict = logs.config(settings.log_level)
forwarded_allow_ips = ""  # webapp/app.py knows which proxies to trust
control_socket_disable = True  # it would need a home to write to
# A heartbeat on a disk can stall behind the disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None


class logger_class(glogging.Logger):  # noqa: N801  gunicorn's name for it
    """What gunicorn logs by."""

    def access(self, *_: object) -> None:
        """Print nothing: webapp/logs.py has a line for each request."""


def on_starting(arbiter: Arbiter) -> None:
    """Prepare in a child process, since neither a session nor a pool survives a fork."""
    # Where the workers' figures meet. Has to be known before prometheus_client is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp("-digits", dir=worker_tmp_dir)
    import webapp.app  # noqa: F401  loaded once, shared by all that follow

    gc.freeze()  # what is shared would be copied where the workers' collectors look through it
    with suppress(AttributeError):  # another C library than glibc
        LIBC.mallopt(M_ARENA_MAX, 1)

    child = get_context("fork").Process(target=_prepare)
    child.start()
    child.join()
    if child.exitcode:
        on_exit(arbiter)
        sys.exit(child.exitcode)


def _prepare() -> None:
    from webapp.app import prepare

    try:
        prepare(settings)
    except StartError as error:
        sys.exit(str(error))


def worker_exit(arbiter: Arbiter, worker: Worker) -> None:
    """Write what waits in the journal, once the last request is answered."""
    if isinstance(worker.wsgi, Flask):
        worker.wsgi.extensions["digits"].record.look()


def child_exit(arbiter: Arbiter, worker: Worker) -> None:
    """Forget what a worker that ended says of the present."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
    CONNECTIONS[worker.age % len(CONNECTIONS)] = 0


def on_exit(arbiter: Arbiter) -> None:
    """Leave nothing in shared memory."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
