"""A host on the Internet that instances download from, by HTTPS, and what can go wrong with it."""

import socket
from collections.abc import Callable
from typing import Any

from tests.world.weather import Effect, Rule, Subject, Weather
from tests.world.wire import HttpServer, Reply, Request


class Downloads:
    """Its rules are those of weather.py, but apart from the world's: an error is
    `weather("/hanat", ErrorReply(503, "Busy"), times=2)`, and `Hang`, `Reset`, `ShortBody`,
    `Truncate` and `Trickle` do what they say."""

    def __init__(self, bind: Callable[[], socket.socket], tls: tuple[str, str]) -> None:
        """Up from the beginning; `bind` makes a socket at its address."""
        # What is there, by path.
        self.files: dict[str, bytes] = {}
        # The paths that it was asked for.
        self.requests: list[str] = []
        self._bind = bind
        self._tls = tls
        self._weather = Weather()
        self._http = HttpServer(self._handle)
        self.up()

    def up(self) -> None:
        self._http.listen(sock=self._bind(), tls=self._tls)

    def down(self) -> None:
        """The host is there and refuses connections."""
        self._http.close()

    def weather(self, path: str, effect: Effect, **how: Any) -> None:
        """`path` is a pattern, as in Rule."""
        self._weather.add(Rule(None, effect, path=path, **how))

    def calm(self) -> None:
        """Drop all rules and let go of whatever hangs."""
        self._weather.reset()

    def close(self) -> None:
        self.calm()
        self._http.close()

    def _handle(self, request: Request) -> Reply:
        self.requests.append(request.path)
        subject = Subject("downloads", path=request.path, method=request.method)
        return self._weather.run(subject, lambda: self._answer(request.path))

    def _answer(self, path: str) -> Reply:
        if path not in self.files:
            return Reply(404, b"Not Found", {"Content-Type": "text/plain"})
        return Reply(200, self.files[path], {"Content-Type": "application/octet-stream"})
