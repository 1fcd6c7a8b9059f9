"""The rate limit: all requests of one client under /api/, in a fixed window of time."""

import hashlib
import logging
import math
import threading
import time
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from flask import Flask, request

from webapp.errors import TooManyRequests
from webapp.parsing import parse_rate_limit
from webapp.settings import Settings

REQUEST_COST, PREVIEW_COST = 10, 1
STORE_TIMEOUT_S = 0.2  # to connect to memcached, and for each of its answers
STORE_RETRY_S = 30  # after memcached failed; meanwhile each worker counts by itself
MAX_CLIENTS = 100_000  # in the memory of a worker

log = logging.getLogger("webapp")


class Usage(NamedTuple):
    """What a client has used in the current window, and when that ends."""

    cost: int
    ends_in_s: float


class MemoryCounter:
    """Adds up what each client uses, in the memory of this process.

    A client's window begins with its first request.
    """

    def __init__(self, window_s: int) -> None:
        self._window_s = window_s
        self._windows: dict[str, tuple[float, int]] = {}  # end and cost; the oldest come first
        self._lock = threading.Lock()

    def add(self, client: str, cost: int) -> Usage:
        """Add the cost of a request; return the sum."""
        now = time.monotonic()
        with self._lock:
            while self._windows and self._is_over(first := next(iter(self._windows)), now):
                del self._windows[first]
            end, used = self._windows.get(client, (now + self._window_s, 0))
            self._windows[client] = end, used + cost
        return Usage(used + cost, end - now)

    def _is_over(self, client: str, now: float) -> bool:
        return self._windows[client][0] <= now or len(self._windows) > MAX_CLIENTS


class MemcachedCounter:
    """Counts in memcached, for all workers and replicas. Raises what pymemcache raises."""

    def __init__(self, window_s: int, store: str) -> None:
        from pymemcache import PooledClient  # only needed with this store

        self._window_s = window_s
        url = urlsplit(store)
        self._client = PooledClient(
            (url.hostname, url.port or 11211),
            connect_timeout=STORE_TIMEOUT_S,
            timeout=STORE_TIMEOUT_S,
            no_delay=True,
        )

    def add(self, client: str, cost: int) -> Usage:
        """Add the cost of a request; return the sum."""
        key = f"digits:{self._window_s}:{client}"  # pymemcache refuses blanks
        for _ in range(2):  # the window may end between the two commands
            if (used := self._client.incr(key, cost, noreply=False)) is not None:
                end = self._client.get(f"{key}:end") if used > cost else None
                return Usage(used, max(0, float(end) - time.time()) if end else self._window_s)
            end = str(time.time() + self._window_s)
            self._client.set(f"{key}:end", end, expire=self._window_s, noreply=False)
            if self._client.add(key, str(cost), expire=self._window_s, noreply=False):
                return Usage(cost, self._window_s)
        return Usage(cost, self._window_s)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class RateLimiter:
    """Refuses requests beyond the limit. While memcached is unavailable, counts in memory."""

    def __init__(self, limit: str, store: str) -> None:
        """Prepare to count; connects to nothing yet."""
        self._allowed, window_s, self._description = parse_rate_limit(limit)
        self._memory = MemoryCounter(window_s)
        is_shared = store.startswith("memcached:")
        self._shared = MemcachedCounter(window_s, store) if is_shared else None
        self._failed = False
        self._retry_at = 0.0

    def check(self, client: str, cost: int) -> None:
        """Count a request. Raises TooManyRequests."""
        used, ends_in_s = self._count(client, cost)
        if used > self._allowed * REQUEST_COST:
            raise TooManyRequests(
                f"The rate limit of {self._description} is exceeded. Try again later.",
                max(1, math.ceil(ends_in_s)),
            )

    def close(self) -> None:
        """Close the connections to memcached."""
        if self._shared:
            self._shared.close()

    def _count(self, client: str, cost: int) -> Usage:
        now = time.monotonic()
        if not self._shared or now < self._retry_at:
            return self._memory.add(client, cost)
        if self._failed:  # other requests do not wait for this attempt
            self._retry_at = now + STORE_RETRY_S
        try:
            usage = self._shared.add(client, cost)
        except Exception as error:  # pymemcache raises many kinds of errors
            self._retry_at = time.monotonic() + STORE_RETRY_S
            self._set_failed(True, type(error).__name__)
            return self._memory.add(client, cost)
        self._retry_at = 0
        self._set_failed(False)
        return usage

    def _set_failed(self, failed: bool, cause: str = "") -> None:
        if failed != self._failed:
            self._failed = failed
            if failed:
                log.warning(
                    "the rate-limit store is unavailable, each worker counts by itself: %s", cause
                )
            else:
                log.warning("the rate-limit store is available again")


def init_app(app: Flask, settings: Settings) -> None:
    """Count each request under /api/ before any other work."""
    if not settings.rate_limit:
        return
    limiter = RateLimiter(settings.rate_limit, settings.rate_limit_store)

    @app.before_request
    def _check() -> None:
        if request.path.startswith("/api/"):
            is_preview = request.args.getlist("store") == ["no"]
            limiter.check(
                client_key(request.remote_addr or ""),
                PREVIEW_COST if is_preview and request.method == "POST" else REQUEST_COST,
            )


def client_key(address: str) -> str:
    """Return what identifies a client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ip_address(address)
    except ValueError:  # what a proxy sent instead of an address, or none on a Unix socket
        return hashlib.sha256(address.encode()).hexdigest()
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or f"{int(ip) >> 64:x}")
    return str(ip)
