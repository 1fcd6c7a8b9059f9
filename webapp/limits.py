"""Limits on the work that one process accepts; requests beyond them get a 503 at once."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flask import Flask, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.errors import BadRequest, Busy

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_CONCURRENT = 64  # requests per process
QUEUE_TIMEOUT_S = 5  # maximum time a picture waits in the queue
HEALTH_PATHS = ("/healthz", "/readyz", "/metrics")  # monitoring is never refused

semaphore = threading.BoundedSemaphore(MAX_CONCURRENT)
queue: deque[threading.Lock] = deque()  # one lock per waiting thread; the first thread is running


def init_app(app: Flask) -> None:
    """Limit the size of bodies and the number of requests in progress."""
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    app.before_request(_acquire)
    app.teardown_request(_release)


def _acquire() -> None:
    body = request.get_data()  # before the semaphore, so that a slow upload occupies no place
    if len(body) < (request.content_length or 0):
        raise BadRequest("The body ends early.")
    # Werkzeug truncates a body without a length (chunked encoding) at the limit.
    if request.content_length is None and len(body) >= MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if request.path in HEALTH_PATHS:
        return
    if not semaphore.acquire(blocking=False):
        raise Busy("The server is busy. Try again in a second.")
    g.holds_semaphore = True


def _release(error: BaseException | None) -> None:
    if g.pop("holds_semaphore", False):
        semaphore.release()


@contextmanager
def fifo_slot() -> Iterator[None]:
    """Let one thread run at a time, in order of arrival.

    Decoding a large picture takes a hundred megabytes, so pictures are processed one by one. A
    plain lock is not fair: under load, some threads would wait for all the others.

    Raises Busy after QUEUE_TIMEOUT_S.
    """
    mine = threading.Lock()
    mine.acquire()
    queue.append(mine)
    try:
        if queue[0] is not mine and not mine.acquire(timeout=QUEUE_TIMEOUT_S):
            raise Busy("The server is busy. Try again in a second.")
        yield
    finally:
        queue.remove(mine)
        with suppress(IndexError, RuntimeError):  # the queue is empty, or its first thread runs
            queue[0].release()
