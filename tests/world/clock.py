"""Time as the world sees it: real monotonic time plus what a test adds to it."""

import math
import time


class Clock:
    """Buckets, hook timeouts, IMDS tokens and stale reads all read this clock."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._frozen: float | None = None

    def now(self) -> float:
        real = time.monotonic() if self._frozen is None else self._frozen
        return real + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def freeze(self) -> None:
        """Only `advance` moves this clock from now on.

        It stops at a binary fraction of a second, so that sums with whole seconds are exact: what
        began now and lasts a day ends after a day of `advance`, not a rounding error later.
        """
        self._frozen = math.ceil(time.monotonic() * 1024) / 1024

    def reset(self) -> None:
        self._ahead = 0.0
        self._frozen = None


# moto keeps its state in module globals, so a process holds one world; its clock is one too.
CLOCK = Clock()
