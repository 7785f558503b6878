"""A client that uses the internet all the time, and what it loses.

Its arguments are the address of an internet host (internet_host_program.py) and its patience in
seconds. It imports nothing of ours, because it runs beside the emulator and not in it. It prints
JSON lines: its status ten times a second, and a report at the end, which is when standard input
says "stop" or ends. All times are `time.monotonic()`.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Hashable, Iterator

# A datagram with each tick; an exchange and a message on the long-lived connection by turns.
TICK = 0.01
# Exchanges and datagrams.
KINDS = 2
STATUS_INTERVAL = 0.1
RECONNECT_INTERVAL = 0.1
# Who is awake for longer than this at a time was kept from running.
STALL = 0.05
CHUNK = 1 << 16


class Loop:
    """What is to be done when a socket is ready, and what when patience ends.

    The clock for patience hardly moves while this program is kept from running: it could not have
    read an answer then."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._clock = 0.0
        self._last = time.monotonic()
        self._epoll = select.epoll()
        self._steps: dict[int, Iterator[None]] = {}
        # In the order of their ends, because the patience is the same for each.
        self.expected: dict[Hashable, tuple[float, Callable[[], None] | None]] = {}

    def watch(self, fd: int, events: int, steps: Iterator[None]) -> None:
        """Each time that the file is ready, do the next step. Closing the file ends that."""
        self._epoll.register(fd, events)
        self._steps[fd] = steps

    def watch_for_reading(self, fd: int) -> None:
        """From now on, a file that is watched."""
        self._epoll.modify(fd, select.EPOLLIN)

    def expect(self, what: Hashable, give_up: Callable[[], None] | None = None) -> None:
        """Have patience with it, anew if it was expected already."""
        self.expected.pop(what, None)
        self.expected[what] = self._clock + self._patience, give_up

    def came(self, what: Hashable) -> bool:
        """Whether it was still expected."""
        return self.expected.pop(what, None) is not None

    def turn(self, until: float) -> None:
        """Do what there is to do, or wait for something to do until then. What can be read is read
        before patience ends: it may have been there in time."""
        ready = self._epoll.poll(max(0.0, until - time.monotonic()))
        now = time.monotonic()
        self._clock += min(now - self._last, STALL)
        self._last = now
        for fd, _ in ready:
            next(self._steps[fd], None)
        while self.expected:
            what, (end, give_up) = next(iter(self.expected.items()))
            if end > self._clock:
                return
            del self.expected[what]
            if give_up:
                give_up()


class Answers:
    """The newest answers, by when their questions were sent."""

    def __init__(self) -> None:
        self.newest: dict[Hashable, float] = {}
        self.address: str | None = None
        self.addresses: list[str] = []
        self.is_news = False

    def add(self, kind: Hashable, sent: float, address: str) -> None:
        if address not in self.addresses:
            self.addresses.append(address)
        newest = max(self.newest.values(), default=0.0)
        # An address, or a kind, that is answered for the first time.
        self.is_news |= kind not in self.newest or (sent > newest and address != self.address)
        if sent > newest:
            self.address = address
        self.newest[kind] = max(sent, self.newest.get(kind, 0.0))

    def all_since(self, kinds: int) -> float | None:
        """Everything of that many kinds has an answer to something sent then, or later."""
        return min(self.newest.values()) if len(self.newest) == kinds else None


# What becomes of what was sent. CUT: a connection was made, and then it broke.
LOST, ANSWERED, CUT = "lost", "answered", "cut"


class Sent:
    """All that was sent of one kind, in this order: when, and what became of it."""

    def __init__(self, answers: Answers) -> None:
        self.all: list[tuple[float, str]] = []
        self._answers = answers

    def add(self) -> int:
        """Its number. To be called right before sending."""
        self.all.append((time.monotonic(), LOST))
        return len(self.all) - 1

    def connect(self, number: int) -> None:
        """That its connection is made makes it no answer yet."""
        sent, _ = self.all[number]
        self.all[number] = sent, CUT

    def answer(self, number: int, address: str) -> None:
        sent, _ = self.all[number]
        self.all[number] = sent, ANSWERED
        self._answers.add(self, sent, address)


class Exchanges:
    """HTTP, with a new connection each."""

    def __init__(self, server: str, loop: Loop, answers: Answers) -> None:
        self.sent = Sent(answers)
        self._server, self._loop = server, loop

    def send(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        number = self.sent.add()
        if sock.connect_ex((self._server, 80)) == errno.EINPROGRESS:
            self._loop.watch(sock.fileno(), select.EPOLLOUT, self._exchange(sock, number))
            self._loop.expect(sock, sock.close)
        else:
            sock.close()

    def _exchange(self, sock: socket.socket, number: int) -> Iterator[None]:
        request = f"GET /{number} HTTP/1.1\r\nHost: {self._server}\r\nConnection: close\r\n\r\n"
        answer = b""
        with contextlib.suppress(OSError):
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # A connection that is made may be reset before this is read.
            if error in (0, errno.ECONNRESET, errno.EPIPE):
                self.sent.connect(number)
            if error:
                raise OSError(error, os.strerror(error))
            sock.send(request.encode(), socket.MSG_NOSIGNAL)
            self._loop.watch_for_reading(sock.fileno())
            yield
            # The server closes first, so that no port here has to wait for a minute.
            while data := sock.recv(CHUNK):
                answer += data
                yield
            head, _, body = answer.partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 200 ") and body.endswith(b"\n"):
                self.sent.answer(number, body.decode().strip())
        self._loop.came(sock)
        sock.close()


class Datagrams:
    """All of one socket. It is not connected, so ICMP errors don't trouble it."""

    def __init__(self, server: str, loop: Loop, answers: Answers) -> None:
        self.sent = Sent(answers)
        self._to, self._loop = (server, 7), loop
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        loop.watch(self._sock.fileno(), select.EPOLLIN, self._read())

    def send(self) -> None:
        number = self.sent.add()
        with contextlib.suppress(OSError):
            self._sock.sendto(b"%08d" % number, self._to)
            self._loop.expect(number)

    def _read(self) -> Iterator[None]:
        while True:
            with contextlib.suppress(OSError):
                data, source = self._sock.recvfrom(CHUNK)
                number, _, address = data.decode().partition(" ")
                # What comes late or twice is no answer.
                if source == self._to and self._loop.came(int(number)):
                    self.sent.answer(int(number), address)
            yield


class LongConnection:
    """One TCP connection that is meant to last; another one when it broke."""

    def __init__(self, server: str, loop: Loop) -> None:
        self.made = self.broken = 0
        self._to, self._loop = (server, 7), loop
        self._sock: socket.socket | None = None
        self._is_connected = False
        self._next_attempt = 0.0
        self._number = 0
        self._unanswered = b""

    def send(self) -> None:
        if self._sock is None:
            if time.monotonic() >= self._next_attempt:
                self._connect()
        elif self._is_connected:
            message = b"%08d\n" % self._number
            self._number += 1
            # In a long outage the buffer gets full. Of errors _live learns.
            with contextlib.suppress(OSError):
                self._unanswered += message[: self._sock.send(message, socket.MSG_NOSIGNAL)]
                self._loop.expect(self._sock)

    def finish(self) -> None:
        """After patience with the last message: one that was only slow has recovered by now."""
        if self._is_connected and self._unanswered:
            self.broken += 1

    def _connect(self) -> None:
        self._next_attempt = time.monotonic() + RECONNECT_INTERVAL
        self._sock = socket.socket()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._sock.connect_ex(self._to) == errno.EINPROGRESS:
            self._loop.watch(self._sock.fileno(), select.EPOLLOUT, self._live(self._sock))
            self._loop.expect(self._sock, self._close)
        else:
            self._close()

    def _live(self, sock: socket.socket) -> Iterator[None]:
        self._loop.came(sock)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self.made += 1
            self._is_connected = True
            self._loop.watch_for_reading(sock.fileno())
            yield
            with contextlib.suppress(OSError):
                while (data := sock.recv(CHUNK)) and self._unanswered.startswith(data):
                    self._unanswered = self._unanswered[len(data) :]
                    if not self._unanswered:
                        self._loop.came(sock)
                    yield
            self.broken += 1
            self._loop.came(sock)
        self._close()

    def _close(self) -> None:
        assert self._sock
        self._sock.close()
        self._sock = None
        self._is_connected = False
        self._unanswered = b""


class Prober:
    def __init__(self, server: str, patience: float) -> None:
        self._loop = Loop(patience)
        self._answers = Answers()
        self._exchanges = Exchanges(server, self._loop, self._answers)
        self._datagrams = Datagrams(server, self._loop, self._answers)
        self._connection = LongConnection(server, self._loop)
        self._stopped: float | None = None
        self._loop.watch(sys.stdin.fileno(), select.EPOLLIN, self._obey())

    def run(self) -> None:
        started = due = status_due = time.monotonic()
        ticks = 0
        while self._stopped is None or self._loop.expected:
            self._loop.turn(due)
            now = time.monotonic()
            if now >= due:
                # After a stall there is nothing to make up for.
                due = due + TICK if now < due + TICK else now + TICK
                ticks += 1
                if self._stopped is None:
                    self._datagrams.send()
                    (self._connection if ticks % 2 else self._exchanges).send()
            if self._answers.is_news or now >= status_due:
                status_due = now + STATUS_INTERVAL
                self._answers.is_news = False
                answered, address = self._answers.all_since(KINDS), self._answers.address
                _print({"kind": "status", "at": now, "answered": answered, "address": address})
        self._connection.finish()
        _print(
            {
                "kind": "report",
                "started": started,
                "stopped": self._stopped,
                "exchanges": self._exchanges.sent.all,
                "datagrams": self._datagrams.sent.all,
                "connections": self._connection.made,
                "broken": self._connection.broken,
                "addresses": self._answers.addresses,
            }
        )

    def _obey(self) -> Iterator[None]:
        """The only command is to stop, and the end of standard input says so, too."""
        self._stopped = time.monotonic()
        os.close(sys.stdin.fileno())
        yield


def _print(content: object) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    # Its parent decides when it ends, a terminal does not; without a reader it ends, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    Prober(sys.argv[1], float(sys.argv[2])).run()
