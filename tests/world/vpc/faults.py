"""What goes wrong on the way of the packets: rules in the VPC's router."""

from collections.abc import Iterable

from tests.world.namespace import Namespace

from .router import UPLINK
from .rules import DROP, Expressions, RuleTable, comes_by, goes_by, is_chosen


class Faults:
    """By port of the router: all that is wrong with one is mended together."""

    def __init__(self, router: Namespace) -> None:
        self._router = router
        self._tables: dict[str, list[RuleTable]] = {}

    def cut_uplink(self, port: str) -> None:
        """No way between it and the Internet; the VPC still reaches it."""
        self._add(port, "uplink", _between(port, UPLINK))

    def cut_from(self, port: str, others: Iterable[str]) -> None:
        """No way between it and the other ports."""
        self._add(port, "peers", [rule for other in others for rule in _between(port, other)])

    def cut(self, port: str) -> None:
        """No way at all."""
        self._add(port, "all", [[*comes_by(port), *DROP], [*goes_by(port), *DROP]])

    def lose(self, port: str, share: float) -> None:
        """A share of the packets, drawn at random, both ways."""
        lost = [*is_chosen(share), *DROP]
        self._add(port, "some", [[*comes_by(port), *lost], [*goes_by(port), *lost]])

    def mend(self, port: str) -> None:
        for table in self._tables.pop(port, []):
            table.close()

    def _add(self, port: str, what: str, rules: list[Expressions]) -> None:
        known = self._tables.setdefault(port, [])
        name = f"{port} {what} {len(known)}"
        known.append(RuleTable(self._router, name, "forward", rules))


def _between(here: str, there: str) -> list[Expressions]:
    return [
        [*comes_by(here), *goes_by(there), *DROP],
        [*comes_by(there), *goes_by(here), *DROP],
    ]
