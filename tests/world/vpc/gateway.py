"""The internet gateway: one public address for each private one that has any, and back, without
state (Amazon VPC user guide, "Enable internet access for a VPC using an internet gateway")."""

from collections.abc import Mapping
from ipaddress import IPv4Interface

from tests.world.namespace import Namespace

from .rules import (
    DROP,
    EARLY,
    RuleTable,
    comes_by,
    is_from,
    is_to,
    is_unmarked,
    mark,
    set_destination,
    set_quoted_destination,
    set_quoted_source,
    set_source,
)

# Between the VPC's router and the gateway; nobody sees these.
ROUTER_SIDE, GATEWAY_SIDE = IPv4Interface("100.64.0.1/30"), IPv4Interface("100.64.0.2/30")
# Between the gateway and the Internet.
NEAR_SIDE, FAR_SIDE = IPv4Interface("100.64.0.5/30"), IPv4Interface("100.64.0.6/30")
# EC2 user guide, "Network MTU": traffic over an internet gateway is limited to this.
MTU = 1500
_VPC, _INTERNET = "vpc", "internet"


class InternetGateway(Namespace):
    def __init__(self, router: Namespace, uplink: str, internet: Namespace) -> None:
        """`uplink` is what the router's end of the cable is called."""
        super().__init__()
        self.forward()
        self.add_veth(_VPC, router, uplink, mtu=MTU)
        self.add_veth(_INTERNET, internet, "gateway", mtu=MTU)
        self.add_address(_VPC, GATEWAY_SIDE)
        router.add_address(uplink, ROUTER_SIDE)
        self.add_address(_INTERNET, NEAR_SIDE)
        internet.add_address("gateway", FAR_SIDE)
        self.add_route("0.0.0.0/0", FAR_SIDE.ip)
        internet.add_route("0.0.0.0/0", NEAR_SIDE.ip)
        self._blocks: set[str] = set()
        RuleTable(self, "unmapped", "prerouting", [[*is_unmarked(), *DROP]], EARLY + 1)
        self._mapped: dict[tuple[str, str], RuleTable] = {}

    def map(self, blocks: tuple[str, ...], public: Mapping[str, str]) -> None:
        """From now on, `public` says which private address has which public one, and `blocks`
        are the VPC's."""
        for block in set(blocks) - self._blocks:
            self.add_route(block, ROUTER_SIDE.ip)
            self._blocks.add(block)
        wanted = set(public.items())
        for pair in self._mapped.keys() - wanted:
            self._mapped.pop(pair).close()
        for pair in wanted - self._mapped.keys():
            self._mapped[pair] = self._translate(*pair)

    def _translate(self, private: str, public: str) -> RuleTable:
        out = [*comes_by(_VPC), *is_from(f"{private}/32")]
        back = [*comes_by(_INTERNET), *is_to(f"{public}/32")]
        rules = [
            *set_quoted_destination(out, public),
            [*out, *set_source(public), *mark()],
            *set_quoted_source(back, private),
            [*back, *set_destination(private), *mark()],
        ]
        return RuleTable(self, f"{private} {public}", "prerouting", rules)
