"""A client that watches what it loses of the internet: the handle of its program, its report."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from tests.world.namespace import Namespace

_PROGRAM = Path(__file__).with_name("prober_program.py")


@dataclass(frozen=True)
class Status:
    """All times are `time.monotonic()`."""

    at: float
    # Since when everything is answered: an exchange that was sent then or later, and a datagram.
    answered: float | None
    # The newest address that the internet saw.
    address: str | None


@dataclass(frozen=True)
class Outage:
    """From the sending of the first that was lost to the sending of the next that was not, or to
    when the probe was stopped."""

    # "exchange" or "datagram"
    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Report:
    client: str
    # From the start to the stop.
    seconds: float
    # The longest time in which it sent nothing, kept from running: an outage may hide in it.
    pause: float
    exchanges: int
    # Of the exchanges: no connection was made; one was made, and broke before its answer came.
    failed: int
    cut: int
    datagrams: int
    lost: int
    # Long-lived TCP connections: how many were made, and how many of them broke.
    connections: int
    broken: int
    # As the internet saw them, in the order of first sight.
    addresses: tuple[str, ...]
    outages: tuple[Outage, ...]

    @classmethod
    def of_all(cls, reports: Iterable[Self]) -> Self:
        every = list(reports)
        addresses = dict.fromkeys(address for one in every for address in one.addresses)
        return cls(
            client="all",
            seconds=max((one.seconds for one in every), default=0.0),
            pause=max((one.pause for one in every), default=0.0),
            exchanges=sum(one.exchanges for one in every),
            failed=sum(one.failed for one in every),
            cut=sum(one.cut for one in every),
            datagrams=sum(one.datagrams for one in every),
            lost=sum(one.lost for one in every),
            connections=sum(one.connections for one in every),
            broken=sum(one.broken for one in every),
            addresses=tuple(addresses),
            outages=tuple(outage for one in every for outage in one.outages),
        )

    @property
    def outage(self) -> float:
        """The longest, in seconds. Datagrams are 10 ms apart, and so exact it is."""
        return round(max((outage.seconds for outage in self.outages), default=0.0), 2)

    def __str__(self) -> str:
        return (
            f"{self.client}: longest outage {self.outage:.2f} s, "
            f"{self.failed} of {self.exchanges} exchanges failed, {self.cut} cut short, "
            f"{self.lost} of {self.datagrams} datagrams lost, "
            f"{self.broken} connection{'' if self.broken == 1 else 's'} broken, "
            f"{'seen as ' + ', '.join(self.addresses) if self.addresses else 'never answered'}"
        )


class Probe:
    """An outage that it begins with counts like any other. For none, wait until one probe is
    connected, stop it, and start another."""

    def __init__(self, name: str, namespace: Namespace, server: str, patience: float = 0.9) -> None:
        """The server is an `InternetHost`'s address. The patience, in seconds, is less than the
        second after which Linux sends a lost SYN again: one lost SYN is one failed exchange."""
        self.name = name
        self.status: Status | None = None
        self.process: subprocess.Popen[str] | None = None
        self._namespace, self._server, self._patience = namespace, server, patience
        self._report: Report | None = None
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._news = threading.Condition()

    def start(self) -> Self:
        with self._namespace.entered():
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", _PROGRAM, self._server, str(self._patience)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._reader.start()
        # What happens next is meant to be seen.
        with self._news:
            self._news.wait_for(lambda: self.status is not None or self._has_ended, 30.0)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_connected(self, timeout: float = 30.0) -> None:
        """Until an exchange and a datagram are answered that were sent after this call."""
        called = time.monotonic()
        with self._news:
            self._news.wait_for(lambda: self._was_answered(called) or self._has_ended, timeout)
            if self._was_answered(called):
                return
            if self._has_ended:
                raise RuntimeError(f"{self.name}: the prober ended before it was answered")
        last = "they never were"
        if self.status and self.status.answered is not None:
            ago = called - self.status.answered
            last = f"the last that were, as {self.status.address}, {ago:.2f} s before"
        raise TimeoutError(
            f"{self.name}: not both an exchange with {self._server} and a datagram were answered "
            f"in the last {timeout:g} s; {last}"
        )

    def wait_seen_as(self, address: str, timeout: float = 30.0) -> None:
        """Until the internet sees this address."""
        with self._news:
            if not self._news.wait_for(lambda: self._is_seen_as(address), timeout):
                raise TimeoutError(
                    f"{self.name}: not seen as {address} within {timeout:g} s; {self.status}"
                )

    def stop(self) -> Report:
        """Returns once everything is answered or out of patience."""
        assert self.process
        assert self.process.stdin
        # It also stops when this end is closed.
        self.process.stdin.close()
        self._reader.join(self._patience + 30.0)
        if self._report is None:
            raise RuntimeError(f"{self.name}: the prober made no report")
        return self._report

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self._reader.join()
            # Leaving `with` closes the pipes and waits.
            with self.process:
                pass

    def _is_seen_as(self, address: str) -> bool:
        return self.status is not None and self.status.address == address

    def _was_answered(self, since: float) -> bool:
        answered = self.status and self.status.answered
        return answered is not None and answered > since

    def _read(self) -> None:
        assert self.process
        assert self.process.stdout
        for line in self.process.stdout:
            message = json.loads(line)
            if message.pop("kind") == "status":
                self.status = Status(**message)
            else:
                self._report = self._report_of(message)
            with self._news:
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    def _report_of(self, message: dict) -> Report:
        exchanges, datagrams = message["exchanges"], message["datagrams"]
        stopped = message["stopped"]
        return Report(
            client=self.name,
            seconds=stopped - message["started"],
            pause=_pause(datagrams),
            exchanges=len(exchanges),
            failed=_count(exchanges, "lost"),
            cut=_count(exchanges, "cut"),
            datagrams=len(datagrams),
            lost=_count(datagrams, "lost"),
            connections=message["connections"],
            broken=message["broken"],
            addresses=tuple(message["addresses"]),
            outages=(
                *_outages("exchange", exchanges, stopped),
                *_outages("datagram", datagrams, stopped),
            ),
        )


def _pause(every: list[tuple[float, str]]) -> float:
    return max((after - before for (before, _), (after, _) in pairwise(every)), default=0.0)


def _count(every: list[tuple[float, str]], fate: str) -> int:
    return sum(known == fate for _, known in every)


def _outages(kind: str, every: list[tuple[float, str]], stopped: float) -> Iterator[Outage]:
    """Of all that was sent: when, and what became of it. An exchange that is cut short neither
    begins an outage nor ends one."""
    start = None
    for sent, fate in (*every, (stopped, "answered")):
        if fate == "lost" and start is None:
            start = sent
        elif fate == "answered" and start is not None:
            yield Outage(kind, start, sent)
            start = None
