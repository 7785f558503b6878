"""Where a run's wall time went, from what the world recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.world.record import Call, ImdsCall

from .launch import Measured


def end(call: Call) -> float:
    return call.at + call.took


def critical_path(calls: Sequence[Call]) -> list[Call]:
    """Back from the last answer: each call's predecessor is the one that was answered last before
    it arrived, so that the gaps are what was not spent waiting for a call."""
    path = [max(calls, key=end)]
    while before := [call for call in calls if end(call) <= path[0].at]:
        path.insert(0, max(before, key=end))
    return path


def made_in_order(calls: Sequence[Call], actions: Sequence[str]) -> bool:
    """Whether these were called one after the other's answer."""
    now = 0.0
    for action in actions:
        answered = [end(call) for call in calls if call.action == action and call.at >= now]
        if not answered:
            return False
        now = min(answered)
    return True


@dataclass(frozen=True)
class Phases:
    """Seconds; together the wall time."""

    start: float
    imds: float
    added: float
    world: float
    between: float
    exit: float

    @classmethod
    def of(
        cls, ran: Measured, imds: Sequence[ImdsCall], path: Sequence[Call], latency: float
    ) -> Self:
        first = min(call.at for call in imds)
        inside = sum(call.took for call in path)
        added = latency * len(path)
        return cls(
            start=first - ran.started,
            imds=path[0].at - first,
            added=added,
            world=inside - added,
            between=end(path[-1]) - path[0].at - inside,
            exit=ran.ended - end(path[-1]),
        )
