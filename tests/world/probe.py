"""What an egress probe reaches: a tiny HTTP endpoint that is up, sick, silent or gone."""

import threading
from urllib.parse import urlsplit

from .wire import HttpServer, Reply, Request


class Probe:
    def __init__(self) -> None:
        self.hits = 0
        self._mode = "ok"
        self._released = threading.Event()
        self.http = HttpServer(self._handle)
        self.url = ""

    def start(self) -> None:
        self.url = self.http.listen() + "/"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        """ "ok" (200), "503", "hang" (no answer) or "closed" (connection refused)."""
        if mode not in ("ok", "503", "hang", "closed"):
            raise ValueError(f"unknown probe mode: {mode}")
        before, self._mode = self._mode, mode
        self._release()
        if mode == "closed":
            self.http.close()
        elif before == "closed":
            self.http.listen(port=urlsplit(self.url).port or 0)

    def reset(self) -> None:
        self.mode = "ok"
        self.hits = 0

    def close(self) -> None:
        self._release()
        self.http.close()

    def _release(self) -> None:
        self._released.set()
        self._released = threading.Event()

    def _handle(self, _request: Request) -> Reply:
        self.hits += 1
        released = self._released
        if self._mode == "hang":
            released.wait()
            return Reply(reset=True)
        if self._mode == "503":
            return Reply(503, b"Service Unavailable")
        return Reply(200, b"ok")
