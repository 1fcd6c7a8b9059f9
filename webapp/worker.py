"""gunicorn's threaded worker, with timeouts for slow clients; a stop loses no connection."""

import ctypes
import select
import socket
import struct
import time
from contextlib import suppress

from gunicorn.sock import BaseSocket
from gunicorn.workers.gthread import TConn, ThreadWorker

REQUEST_TIMEOUT_S = 7  # maximum time to receive a request, including the wait for its first byte
BUSY_THREADS = 100  # with more busy threads, a worker lets the others accept first
ACCEPT_DELAY_S = 0.005
LINGER_S = 0.1  # maximum time a thread waits for the next request before it is free again
LINGER_THREADS = 50  # with more busy threads, none waits
SEND_TIMEOUT_S = 20  # maximum time that a client may read nothing of its response
HANDSHAKE_S = 0.2  # time in which connections that clients have begun to open are still accepted

SO_ATTACH_FILTER = 26  # Linux; missing in the socket module
# A BPF program, see bpf(4): load the flags of the TCP segment; if it is a SYN, drop it.
DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker process with a thread for each request that is received, answered or expected."""

    def init_process(self) -> None:
        """Run the worker; returns when it has stopped."""
        self._deadlines: dict[TConn, float] = {}
        for listener in self.sockets:  # each accepted connection inherits the option
            with suppress(AttributeError, OSError):  # macOS and Unix sockets do not have it
                listener.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SEND_TIMEOUT_S
                )
        super().init_process()

    def accept(self, listener: BaseSocket) -> None:
        """Accept a connection if there is a thread for it, unless another worker is faster."""
        if len(self._deadlines) > BUSY_THREADS:
            time.sleep(ACCEPT_DELAY_S)
        if len(self._deadlines) < self.cfg.threads:
            super().accept(listener)

    def handle(self, conn: TConn) -> object:
        """Answer a request, and others that follow within LINGER_S. Runs in a thread."""
        try:
            while True:
                self._deadlines[conn] = time.monotonic() + REQUEST_TIMEOUT_S
                result = super().handle(conn)
                if result is not True or not self._has_next(conn):
                    return result
        finally:
            del self._deadlines[conn]

    def _has_next(self, conn: TConn) -> bool:
        """Return whether the next request, or the end of the connection, has arrived."""
        if conn.parser.unreader.buf.getvalue():  # received together with the last request
            return True
        poller = select.poll()
        poller.register(conn.sock, select.POLLIN)
        return bool(poller.poll(1000 * LINGER_S if len(self._deadlines) < LINGER_THREADS else 0))

    def notify(self) -> None:
        """Stop reading from clients that are too slow. Called at least once a second."""
        super().notify()
        now = time.monotonic()
        for conn, deadline in list(self._deadlines.items()):
            if now > deadline:
                with suppress(OSError):  # the client has disconnected
                    conn.sock.shutdown(socket.SHUT_RD)  # a response is still sent completely

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting connections."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            while self.sockets:
                self._close_listener(self.sockets.pop())

    def _close_listener(self, listener: BaseSocket) -> None:
        # Closing resets the connections that the kernel has accepted, so take them over first.
        end = time.monotonic() + HANDSHAKE_S
        while select.select([listener], [], [], max(0, end - time.monotonic()))[0]:
            super().accept(listener)
        listener.close()


def refuse_connections(listener: BaseSocket) -> None:
    """Let the kernel open no further connections for any process that shares the socket.

    Those that clients have begun to open are still accepted. A client's system tries to connect
    again after a second, and reaches whatever listens then. On systems other than Linux, this does
    nothing.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *op) for op in DROP_SYN))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            SO_ATTACH_FILTER,
            struct.pack("HP", len(DROP_SYN), ctypes.addressof(program)),
        )
