"""NAT gateways as packets meet them (Amazon VPC user guide, "NAT gateways"): what is routed to one
goes on from its private address, which the Internet gateway maps to its public one.

It is there while the emulator's is available. Limits: no idle timeout (350 s), no limit of 55,000
connections to one destination, no private one that connects VPCs.
"""

from collections.abc import Mapping

from tests.world.machine import PRIMARY, Machine

from .picture import DescribedNatGateway
from .router import Port, Router, port_name
from .rules import DROP, RuleTable, masquerade


class NatGateways:
    def __init__(self, router: Router) -> None:
        self._router = router
        self._places: dict[str, Machine] = {}

    def follow(self, wanted: Mapping[str, DescribedNatGateway]) -> None:
        """From now on, these are there, by ID."""
        for gateway in self._places.keys() - wanted.keys():
            self._router.unplug(port_name(gateway))
            self._places.pop(gateway).close()
        for gateway in wanted.keys() - self._places.keys():
            self._places[gateway] = self._open(port_name(gateway), wanted[gateway])

    def close(self) -> None:
        self.follow({})

    def _open(self, port: str, about: DescribedNatGateway) -> Machine:
        place = Machine(about.mac, about.address, self._router, port)
        place.forward()
        for interface in ("all", PRIMARY):
            place.write_sysctl(f"net/ipv4/conf/{interface}/send_redirects", 0)
        masquerade(place)
        # Of connections, it knows those alone that come from behind it: no answer to others.
        RuleTable(place, "unasked", "input", [DROP])
        self._router.plug(Port(port, about.address, about.subnet, about.mac), place)
        return place
