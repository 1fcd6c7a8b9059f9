"""Clients that load a running service."""

import http.client
import json
import threading
import time
from typing import Self

from tests.pictures import encoded, seven

SEVEN_PNG = encoded(seven())
# For the test client of the application: a prediction that is not stored.
PREVIEW = {"path": "/api/predictions?store=no", "data": SEVEN_PNG, "content_type": "image/png"}
CUT_OFF, REFUSED = 0, -1  # in place of a status: after the connection was accepted, and before


class Clients:
    """Several clients that post a drawing again and again until they are told to stop.

    Usable in a `with` statement, at whose end they stop.
    """

    def __init__(
        self,
        port: int,
        count: int = 4,
        store: str = "yes",
        host: str = "127.0.0.1",
        body: bytes = SEVEN_PNG,
        pause_s: float = 0,
    ):
        self.statuses: list[int] = []
        self.ids: list[str] = []  # of what was stored
        self.versions: list[tuple[float, str]] = []  # when, by which model
        self.seconds: list[float] = []
        self._host, self._port, self._store, self._body = host, port, store, body
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._post_forever, daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Return when none is posting any more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _post_forever(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self.statuses.append(self._post())
            self.seconds.append(time.monotonic() - began)
            time.sleep(0.05 if self.statuses[-1] in (CUT_OFF, REFUSED) else self._pause_s)

    def _post(self) -> int:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        try:
            connection.connect()
        except OSError:
            return REFUSED
        try:
            url, headers = f"/api/predictions?store={self._store}", {"Content-Type": "image/png"}
            connection.request("POST", url, self._body, headers)
            response = connection.getresponse()
            answer = json.load(response)
        except (OSError, http.client.HTTPException, ValueError):
            return CUT_OFF
        finally:
            connection.close()
        if response.status < 300:
            self.versions.append((time.monotonic(), answer["model_version"]))
        if response.status == 201:
            self.ids.append(answer["id"])
        return response.status
