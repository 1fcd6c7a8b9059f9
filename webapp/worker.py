"""How a worker process reads requests: within a deadline, and to the last one when it stops."""

import ctypes
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from mmap import mmap
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

LIBC = ctypes.PyDLL(None)  # whose functions keep Python's lock
READ_S = 7  # from the first byte of a request to its last
TAKE_S = 20  # that a client may take nothing of its answer
LINGER_S = 0.5  # that a worker which stops still waits for an open connection's next request
OTHERS_FIRST_S = 0.002
# One more than how many connections each worker has, 0 where there is no worker; shared by all.
CONNECTIONS = mmap(-1, 256)


class _Threads(Executor):
    """A thread for each connection.

    Python's own pool keeps all the threads that it ever had, and has ever more: since 3.12 it loses
    count of the idle ones. Hundreds of them take more memory than all the rest.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread; its result comes by the future."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's worker with threads, which slow or silent clients do not hold up."""

    def init_process(self) -> None:
        """Begin to serve; returns when the worker ends."""
        self._read_by: dict[TConn, float] = {}
        super().init_process()

    def get_thread_pool(self) -> Executor:
        """Return what answers connections."""
        return _Threads()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Do what is next; called again and again."""
        super().wait_for_and_dispatch_events(timeout)
        CONNECTIONS[self.age % len(CONNECTIONS)] = 1 + min(self.nr_conns, 254)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, unless a worker with fewer of them does so in time."""
        if self.alive and self.nr_conns >= min(filter(None, CONNECTIONS[:]), default=1):
            time.sleep(OTHERS_FIRST_S)
        super().accept(listener)

    def handle(self, conn: TConn) -> bool:
        """Answer a connection's requests, one after the other. Runs in a thread."""
        # A client that takes nothing of its answer would hold the thread for ever.
        with suppress(OSError, AttributeError):  # neither a Unix socket nor macOS has this
            conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * TAKE_S)
        while self._answer(conn) and self._next_comes(conn):
            pass
        # Closing waits for the client: here, not on the loop that all connections share.
        with suppress(OSError):
            conn.close(graceful=True)
        conn.close = lambda graceful=False: None
        return False

    def _answer(self, conn: TConn) -> object:
        self._read_by[conn] = time.monotonic() + READ_S
        try:
            return super().handle(conn)
        finally:
            del self._read_by[conn]

    def _next_comes(self, conn: TConn) -> bool:
        """Wait for a connection's next request; return whether there is one."""
        if conn.parser and conn.parser.unreader.buf.getvalue():  # it came with the one before
            return True
        poller = select.poll()
        poller.register(conn.sock, select.POLLIN)
        idle_until = time.monotonic() + self.cfg.keepalive
        while time.monotonic() < idle_until:
            if poller.poll(1000 * LINGER_S):
                return True
            if not self.alive:
                break
        return False

    def murder_pending(self) -> None:
        """Cut off whoever is too slow; called once a second or more often."""
        super().murder_pending()
        now = time.monotonic()
        for conn, deadline in list(self._read_by.items()):
            if now > deadline:
                with suppress(OSError):  # it has gone already
                    conn.sock.shutdown(socket.SHUT_RD)  # what is being answered goes on

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; when stopping, those first that the kernel has accepted."""
        super().set_accept_enabled(enabled)
        if not self.alive:
            interval = sys.getswitchinterval()
            sys.setswitchinterval(1)
            for listener in self.sockets:
                self._accept_the_last(listener.sock)
            sys.setswitchinterval(interval)

    def _accept_the_last(self, listener: socket.socket) -> None:
        # Nothing may come between the last accept and the close, or a client that connects then is
        # cut off. Python's own accept lets other threads run, for milliseconds; this one does not.
        while (number := LIBC.accept(listener.fileno(), None, None)) >= 0:
            client = socket.socket(fileno=number)
            with suppress(OSError):  # it has gone already
                address = client.getpeername()
                self.nr_conns += 1
                self.enqueue_req(TConn(self.cfg, client, address, listener.getsockname()))
        LIBC.close(listener.detach())
