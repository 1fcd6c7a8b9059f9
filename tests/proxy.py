"""A way to Postgres that tests can close, block and open again."""

import socket
import threading
from contextlib import suppress

from psycopg2.extensions import parse_dsn


def fatal(message: bytes) -> bytes:
    """Return how Postgres refuses a connection (PostgreSQL documentation, ErrorResponse)."""
    fields = b"SFATAL\0C57P03\0M" + message + b"\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


class Proxy:
    """Forwards TCP connections to the Unix socket of a Postgres."""

    def __init__(self, url: str) -> None:
        """Listen; `url` is that of a database on the Unix socket."""
        options = parse_dsn(url)
        self._path = f"{options['host']}/.s.PGSQL.{options.get('port', 5432)}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        at = f"{options['user']}@127.0.0.1:{self.port}"
        self.url = f"postgresql://{at}/{options['dbname']}?sslmode=disable"
        self._refusal: bytes | None = None
        self._forwarding = threading.Event()
        self._forwarding.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self, refusal: bytes = b"") -> None:
        """End all connections, and refuse new ones with a message."""
        self._refusal = refusal
        self.end_connections()

    def hang(self) -> None:
        """Accept connections, but forward nothing."""
        self._forwarding.clear()

    def open(self) -> None:
        """Forward again."""
        self._refusal = None
        self._forwarding.set()

    def end_connections(self) -> None:
        """End the present connections."""
        while self._sockets:
            _shut(self._sockets.pop())

    def stop(self) -> None:
        """End all connections, and listen no more."""
        self.open()
        self._listener.close()
        self.end_connections()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener has been closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            if self._refusal is not None:
                client.recv(1024)  # closing a socket with unread data would discard the refusal
                client.sendall(self._refusal)
                return
            server.connect(self._path)
            self._sockets += (client, server)
            back = threading.Thread(target=self._forward, args=(server, client))
            back.start()
            self._forward(client, server)
            back.join()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._forwarding.wait()
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it is shut already
        end.shutdown(socket.SHUT_RDWR)
