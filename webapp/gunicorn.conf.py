"""How gunicorn serves the application."""

import atexit
import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gunicorn import glogging
from gunicorn.arbiter import Arbiter

from webapp import logs
from webapp.errors import StartupError
from webapp.settings import read_settings
from webapp.worker import Worker, refuse_connections

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

MIN_FREE_BYTES = 16 * 1024 * 1024
METRICS_PREFIX = "digits-metrics-"

settings = read_settings()


def _has_room(folder: str) -> bool:
    """Return whether files can be written: a full /dev/shm ends processes with SIGBUS."""
    if not os.access(folder, os.W_OK):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= MIN_FREE_BYTES


wsgi_app = "webapp.app:create_app()"
host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6 has colons too
bind = f"{host}:{settings.port}"
workers = settings.workers
worker_class = "webapp.worker.Worker"
# Per worker. Slow clients and refused requests need threads too, so there are more than
# MAX_CONCURRENT in webapp/limits.py. The other connections are idle.
threads = 400
worker_connections = 500
keepalive = 5
graceful_timeout = 8
logconfig_dict = logs.config(settings.log_level)
forwarded_allow_ips = ""  # webapp/app.py knows which proxies to trust
control_socket_disable = True  # it would need a writable home directory
# Writing the heartbeat to a disk can block.
worker_tmp_dir = "/dev/shm" if _has_room("/dev/shm") else None


class logger_class(glogging.Logger):  # noqa: N801  gunicorn's name for it
    """gunicorn's logger with clearer messages, and without its access log."""

    def access(self, *_: object) -> None:
        """Print nothing: webapp/logs.py has a line for each request."""

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a warning, but neither the address nor the content of a malformed request."""
        if msg.startswith("Invalid request from ip="):
            msg, args = "a malformed HTTP request was rejected", ()
        super().warning(msg, *args, **kwargs)

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log an error; name the settings if the service cannot listen."""
        if msg.startswith("Can't connect to"):
            msg = "%s is in use, or is not an address of this machine. Change PORT or HOST."
            args = (bind,)
        super().error(msg, *args, **kwargs)


def when_ready(arbiter: Arbiter) -> None:
    """Prepare what the workers share, once the port is bound and before they are forked."""
    _remove_abandoned_folders()
    # The workers' metrics are collected here. prometheus_client reads this when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _make_folder(worker_tmp_dir)
    import webapp.app  # noqa: F401  imported once, shared by all workers

    arbiter.stop = partial(_stop, arbiter, arbiter.stop)

    gc.freeze()  # otherwise each worker's garbage collector would copy shared memory

    # In a child process, because neither sessions nor connection pools survive a fork. gunicorn
    # would handle a signal only after a long migration; exiting stops the child at once.
    child = get_context("fork").Process(target=_prepare, daemon=True)
    handlers = {number: signal.signal(number, lambda *_: sys.exit()) for number in STOP_SIGNALS}
    child.start()
    child.join()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if child.exitcode and child.exitcode < 0:
        name = signal.Signals(-child.exitcode).name
        cause = " The machine or container may be out of memory." if name == "SIGKILL" else ""
        sys.exit(f"Startup was terminated by {name}.{cause}")
    if child.exitcode:
        sys.exit(child.exitcode)


def _stop(arbiter: Arbiter, stop: Callable[[bool], None], graceful: bool = True) -> None:
    """Stop the workers, but first let no more clients connect, unless others use the socket."""
    if not arbiter.systemd and arbiter.reexec_pid == arbiter.master_pid == 0:
        for listener in arbiter.LISTENERS:
            refuse_connections(listener)
    stop(graceful)


def _prepare() -> None:
    from webapp.startup import check_and_migrate

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        check_and_migrate(settings)
    except StartupError as error:
        sys.exit(str(error))


def _make_folder(parent: str | None) -> str:
    """Create a folder for metrics, which this process and its children lock until they end."""
    folder = ""
    while not os.path.isdir(folder):  # a server that starts now may remove it before it is locked
        folder = tempfile.mkdtemp(prefix=f"{METRICS_PREFIX}{os.getpid()}-", dir=parent)
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    atexit.register(_remove_folder, folder, os.getpid())
    return folder


def _remove_abandoned_folders() -> None:
    """Remove the metrics of servers that were killed: nobody holds a lock on them."""
    for parent in {worker_tmp_dir or tempfile.gettempdir(), tempfile.gettempdir()}:
        for folder in Path(parent).glob(f"{METRICS_PREFIX}*"):
            with suppress(OSError):  # it is locked, or another user's
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(descriptor)


def _remove_folder(folder: str, owner_pid: int) -> None:
    if os.getpid() == owner_pid:  # not in a worker, which inherits the exit handler
        shutil.rmtree(folder, ignore_errors=True)


def post_fork(arbiter: Arbiter, worker: Worker) -> None:
    """Give a worker a metrics folder of its own if there is no room in the shared one."""
    if not _has_room(os.environ["PROMETHEUS_MULTIPROC_DIR"]):
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = _make_folder(None)
        worker.log.error(
            "no space for metrics files: the totals in /metrics do not include this worker"
        )


def post_worker_init(worker: Worker) -> None:
    """Load the model and start the background threads."""
    from webapp.background import Background
    from webapp.services import services

    worker.background = Background(services(worker.wsgi))
    worker.background.start()


def worker_exit(arbiter: Arbiter, worker: Worker) -> None:
    """Stop the background threads, once the last request is answered."""
    if background := getattr(worker, "background", None):
        background.stop()


def child_exit(arbiter: Arbiter, worker: Worker) -> None:
    """Remove the live gauges of a worker that has exited."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
