"""Limits on the work that one process accepts: beyond them, requests get 413 or 503."""

import io
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flask import Flask, g, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from webapp.errors import BadRequest, Busy

MAX_BODY_BYTES = 4 * 1024 * 1024
# Maximum total size of the bodies that a process holds. The first FREE_BODY_BYTES of each do not
# count, so that drawings are accepted while large bodies use up the budget.
BODY_BUDGET_BYTES = 64 * 1024 * 1024
FREE_BODY_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
MAX_FORM_PARTS = 20  # only one is used; Werkzeug takes a millisecond to parse each one's headers
MAX_CONCURRENT = 64  # requests per process
QUEUE_TIMEOUT_S = 5  # maximum time an image waits in the queue
HEALTH_PATHS = ("/healthz", "/readyz", "/metrics")  # monitoring is never refused

semaphore = threading.BoundedSemaphore(MAX_CONCURRENT)


class ByteBudget:
    """The number of bytes that the requests of a process may hold at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def acquire(self, size: int) -> None:
        """Charge bytes that have arrived. Raises Busy beyond the limit."""
        with self._lock:
            if self._used + size > self._limit:
                raise Busy("The server is receiving too many large bodies. Try again in a second.")
            self._used += size

    def release(self, size: int) -> None:
        """Return bytes to the budget."""
        with self._lock:
            self._used -= size


class Queue:
    """Lets one thread run at a time, in order of arrival.

    A plain lock is not fair: under load, some threads would wait for all the others.
    """

    def __init__(self) -> None:
        self.waiting: deque[threading.Lock] = deque()  # one for each thread; the first one runs

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until all earlier threads are done. Raises Busy after QUEUE_TIMEOUT_S."""
        mine = threading.Lock()
        mine.acquire()
        self.waiting.append(mine)
        try:
            if self.waiting[0] is not mine and not mine.acquire(timeout=QUEUE_TIMEOUT_S):
                raise Busy
            yield
        finally:
            self.waiting.remove(mine)
            with suppress(IndexError, RuntimeError):  # nobody waits, or the first one runs
                self.waiting[0].release()


budget = ByteBudget(BODY_BUDGET_BYTES)
# Processing a large image takes about 150 MB, so these are processed one by one.
# Small ones have a queue of their own, so that they do not wait behind large ones.
small_images, large_images = Queue(), Queue()


def init_app(app: Flask) -> None:
    """Limit the size of bodies and the number of requests in progress."""
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    app.config["MAX_FORM_PARTS"] = MAX_FORM_PARTS
    app.before_request(_acquire)
    app.teardown_request(_release)


def _acquire() -> None:
    _receive_body()  # before the semaphore, so that a slow upload holds no slot
    if request.path in HEALTH_PATHS:
        return
    if not semaphore.acquire(blocking=False):
        raise Busy
    g.holds_semaphore = True


def _receive_body() -> None:
    """Read the body into memory, and charge what arrives beyond FREE_BODY_BYTES to the budget."""
    stream = get_input_stream(request.environ, max_content_length=MAX_BODY_BYTES)
    length = request.content_length
    expected = MAX_BODY_BYTES if length is None else length
    body = io.BytesIO()
    try:
        while body.tell() < expected and (chunk := stream.read(CHUNK_BYTES)):
            excess = body.tell() + len(chunk) - FREE_BODY_BYTES
            if excess > 0:
                _charge(excess)
            body.write(chunk)
        if length is not None and body.tell() < expected:
            raise BadRequest("The body ends early.")
        # Werkzeug truncates a body without a length (chunked encoding) at the limit.
        if length is None and body.tell() >= MAX_BODY_BYTES:
            raise RequestEntityTooLarge
    except Exception:
        body.close()  # the rest of it is read and discarded before the response
        _release_body()
        raise
    body.seek(0)
    request.environ |= {"wsgi.input": body, "wsgi.input_terminated": True}
    request.max_content_length = MAX_BODY_BYTES + 1  # Werkzeug reads one byte more


def _charge(total: int) -> None:
    budget.acquire(total - g.get("charged_bytes", 0))
    g.charged_bytes = total


def has_large_body() -> bool:
    """Return whether the body of the current request counts towards the budget."""
    return "charged_bytes" in g


def _release(error: BaseException | None) -> None:
    if g.pop("holds_semaphore", False):
        semaphore.release()
    _release_body()


def _release_body() -> None:
    if size := g.pop("charged_bytes", 0):
        budget.release(size)
