"""The VPC's router: every interface of the VPC ends here, and what it sends goes where the route
table of its subnet leads.

Routing is the kernel's, by policy: first every address that the VPC has, then the table of the
subnet that a packet comes from.
"""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET
from typing import Any

from pyroute2 import IPRoute

from tests.world.machine import Machine
from tests.world.namespace import Namespace

from .gateway import GATEWAY_SIDE

UPLINK = "uplink"
# What a route leads to that leads to the Internet gateway.
INTERNET = "internet"
# EC2 user guide, "Instance metadata", and Amazon VPC user guide, "Amazon DNS server".
METADATA, DNS = IPv4Address("169.254.169.254"), IPv4Address("169.254.169.253")

# Destination → INTERNET, the name of a port, or None for nowhere.
Routes = Mapping[str, str | None]

# Rules, in their order.
_OWN_SOURCE, _OTHER_SOURCES, _ADDRESSES, _SUBNET, _NOWHERE = 100, 101, 200, 300, 400
# The kernel's tables: the VPC's addresses, and from here on one for each subnet.
_VPC_TABLE, _FIRST_TABLE = 100, 1000
_ONLINK = 4  # linux/rtnetlink.h, RTNH_F_ONLINK


@dataclass(frozen=True)
class Port:
    """Where an interface of the VPC is plugged in."""

    name: str
    address: IPv4Interface
    subnet: str
    mac: str


class Router(Namespace):
    def __init__(self) -> None:
        super().__init__()
        self.forward()
        for address in (METADATA, DNS):
            self.add_address("lo", IPv4Interface(address))
        self._lock = threading.RLock()
        self._ports: dict[str, Port] = {}
        self._tables: dict[str, int] = {}
        # What is wanted, and what is so.
        self._wanted: Mapping[str, Routes] = {}
        self._routes: dict[str, dict[str, str | None]] = {}
        self._want_checked: set[str] = set()
        self._checked: dict[str, Port] = {}
        with self.netlink() as netlink:
            netlink.rule("add", table=_VPC_TABLE, priority=_ADDRESSES)
            netlink.rule("add", action="blackhole", family=AF_INET, priority=_NOWHERE)

    def own(self, block: str) -> None:
        """A block of the VPC's: what nobody has of it leads nowhere, whatever the route tables
        say."""
        with self.netlink() as netlink:
            netlink.route("replace", dst=block, type="blackhole", family=AF_INET, table=_VPC_TABLE)

    # --- Ports ----------------------------------------------------------------------------------

    def plug(self, port: Port, machine: Machine) -> None:
        """A machine has been joined to this router by a cable whose end here is called as the port
        is."""
        with self._lock, self.netlink() as netlink:
            # The router answers for every address of the VPC, at once.
            self.write_sysctl(f"net/ipv4/conf/{port.name}/proxy_arp", 1)
            # Older kernels hide it in user namespaces; then neighbours are slow to find each other.
            with contextlib.suppress(FileNotFoundError):
                self.write_sysctl(f"net/ipv4/neigh/{port.name}/proxy_delay", 0)
            index = netlink.link_lookup(ifname=port.name)[0]
            address = str(port.address.ip)
            netlink.addr("add", index=index, address=str(machine.gateway), prefixlen=32)
            netlink.neigh("add", dst=address, lladdr=port.mac, ifindex=index, state="permanent")
            netlink.route("replace", dst=f"{address}/32", oif=index, table=_VPC_TABLE)
            netlink.rule(
                "add",
                iifname=port.name,
                table=self._table(port.subnet),
                priority=_SUBNET,
            )
            self._ports[port.name] = port
            self._apply(netlink)

    def unplug(self, name: str) -> None:
        """The machine at the port is going away, and the cable with it."""
        with self._lock, self.netlink() as netlink:
            port = self._ports.pop(name)
            self._apply(netlink)
            table = self._table(port.subnet)
            netlink.rule("del", iifname=name, table=table, priority=_SUBNET)
            # Its addresses and routes go with it.
            netlink.link("del", index=netlink.link_lookup(ifname=name)[0])

    # --- Routes ---------------------------------------------------------------------------------

    def follow(self, routes: Mapping[str, Routes]) -> None:
        """From now on, what comes from a subnet goes by these routes. One to a port that is not
        there leads nowhere."""
        with self._lock, self.netlink() as netlink:
            self._wanted = routes
            self._apply(netlink)

    def check(self, ports: set[str]) -> None:
        """The ports whose source/destination check is on: nothing goes there or comes from there
        but by their own address."""
        with self._lock, self.netlink() as netlink:
            self._want_checked = ports
            self._apply(netlink)

    def _apply(self, netlink: IPRoute) -> None:
        checked = {name: self._ports[name] for name in self._want_checked & self._ports.keys()}
        for name in checked.keys() ^ self._checked.keys():
            if name in checked:
                self._set_check(netlink, "add", checked[name])
            else:
                self._set_check(netlink, "del", self._checked[name])
        self._checked = checked
        for subnet, routes in self._wanted.items():
            wanted = {to: self._reachable(target) for to, target in routes.items()}
            known = self._routes.setdefault(subnet, {})
            table = self._table(subnet)
            for to in wanted.keys() | known.keys():
                if to not in wanted:
                    netlink.route("del", dst=to, table=table, family=AF_INET)
                elif to not in known or wanted[to] != known[to]:
                    # At one stroke: a packet meets the old route or the new one.
                    how = self._next_hop(netlink, wanted[to])
                    netlink.route("replace", dst=to, table=table, **how)
            self._routes[subnet] = wanted

    def _reachable(self, target: str | None) -> str | None:
        there = target in self._ports and target not in self._checked
        return target if there or target == INTERNET else None

    def _next_hop(self, netlink: IPRoute, target: str | None) -> dict[str, Any]:
        if target is None:
            return {"type": "blackhole", "family": AF_INET}
        name = UPLINK if target == INTERNET else target
        next_hop = GATEWAY_SIDE.ip if target == INTERNET else self._ports[name].address.ip
        index = netlink.link_lookup(ifname=name)[0]
        return {"gateway": str(next_hop), "oif": index, "flags": _ONLINK}

    def _set_check(self, netlink: IPRoute, command: str, port: Port) -> None:
        own = {"src": str(port.address.ip), "src_len": 32}
        goes_on = {"action": "goto", "goto": _ADDRESSES}
        by_port = {"family": AF_INET, "iifname": port.name}
        netlink.rule(command, **by_port, **own, **goes_on, priority=_OWN_SOURCE)
        netlink.rule(command, **by_port, action="blackhole", priority=_OTHER_SOURCES)

    def _table(self, subnet: str) -> int:
        """The kernel's number for the subnet's table."""
        return self._tables.setdefault(subnet, _FIRST_TABLE + len(self._tables))


def port_name(owner: str) -> str:
    """The port of an instance or NAT gateway; an interface's name has at most 15 characters."""
    return f"{owner.partition('-')[0]}-{owner[-8:]}"
