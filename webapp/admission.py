"""How much a worker takes on at once: past that, a prompt no rather than a queue that grows."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flask import Flask, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.errors import BadRequest, Busy

MAX_BODY = 4 * 1024 * 1024  # bytes
AT_ONCE = 64  # requests of a worker
HEALTH = ("/healthz", "/readyz", "/metrics")  # whoever watches over the service is answered
TURN_S = 5  # that a picture may wait until it is looked at

_places = threading.BoundedSemaphore(AT_ONCE)
_turns: deque[threading.Lock] = deque()  # of all who want to compute; the first one may


def init_app(app: Flask) -> None:
    """Admit each request once it is read to its end, and refuse it when all places are taken."""
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY
    app.before_request(_admit)
    app.teardown_request(_leave)


def _admit() -> None:
    body = request.get_data()  # whoever is slow to send takes nobody's place
    if len(body) < (request.content_length or 0):  # cut off, by the client or for being slow
        raise BadRequest("The body ends early.")
    # Without a length, reading ends at the limit as if the body did.
    if request.content_length is None and len(body) >= MAX_BODY:
        raise RequestEntityTooLarge
    if request.path in HEALTH:
        return
    if not _places.acquire(blocking=False):
        raise Busy("Too much is asked at once. Try again in a second.")
    g.admitted = True


def _leave(error: BaseException | None) -> None:
    if g.pop("admitted", False):
        _places.release()


@contextmanager
def turn() -> Iterator[None]:
    """Let one thread at a time compute, in the order in which they come.

    A large picture takes a hundred megabytes. A lock alone would let those who come later in first,
    and somebody would wait for all of them.
    """
    mine = threading.Lock()
    mine.acquire()
    _turns.append(mine)
    try:
        if _turns[0] is not mine and not mine.acquire(timeout=TURN_S):
            raise Busy("Too many pictures are looked at. Try again in a second.")
        yield
    finally:
        _turns.remove(mine)
        with suppress(IndexError, RuntimeError):  # nobody is there, or nobody waits
            _turns[0].release()
