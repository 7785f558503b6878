"""What the world was asked: every API call and every IMDS request, as they arrive."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Requests signed with this access key ID are the test's own: they see the truth and are neither
# recorded nor touched by weather, buckets or denials.
TESTER = "AKIATESTER"


@dataclass
class Call:
    """An API call; status stays 0 until (or unless) it is answered."""

    service: str
    action: str
    params: dict[str, str]
    status: int = 0
    error: str | None = None
    source: str = ""
    # Who it says it is, by the User-Agent header.
    agent: str = ""
    at: float = field(default_factory=time.monotonic)
    took: float = 0.0


@dataclass
class ImdsCall:
    instance_id: str
    method: str
    path: str
    had_token: bool
    status: int = 0
    at: float = field(default_factory=time.monotonic)


class Recorder:
    """Append-only until reset; waiting is for receipt, not for the answer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: list[Call] = []
        self._imds: list[ImdsCall] = []

    def add(self, call: Call) -> Call:
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
        return call

    def add_imds(self, call: ImdsCall) -> ImdsCall:
        with self._changed:
            self._imds.append(call)
            self._changed.notify_all()
        return call

    def calls(self, action: str | None = None) -> list[Call]:
        with self._changed:
            return [call for call in self._calls if action in (None, call.action)]

    def imds_calls(self, instance_id: str | None = None) -> list[ImdsCall]:
        with self._changed:
            return [call for call in self._imds if instance_id in (None, call.instance_id)]

    def wait_for(self, action: str, n: int, timeout: float) -> list[Call]:
        """Wait until `n` calls of `action` were received."""
        self._wait(lambda: [c.action for c in self._calls], action, n, timeout)
        return self.calls(action)

    def wait_for_imds(self, path: str, timeout: float) -> None:
        """Wait until IMDS was asked for a path."""
        self._wait(lambda: [c.path for c in self._imds], path, 1, timeout)

    def _wait(self, names: Callable[[], list[str]], name: str, n: int, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: names().count(name) >= n, timeout):
                raise TimeoutError(f"no {n} x {name} within {timeout} s; received: {names()}")

    def reset(self) -> None:
        with self._changed:
            # New lists, so that a request still in flight writes to the old ones.
            self._calls, self._imds = [], []
