"""`python -m tests.bench.queries`: what DNS does to a NAT's table of connections, and what it costs
that an answered query is remembered for 120 seconds instead of 30. It takes four minutes.

Each query comes from another port, as resolvers ask, and is answered at once. There is no hanat
here: the two times are what is compared, under one masquerade rule.
"""

import contextlib
import random
import select
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from tests.isolate import isolate_or_exit
from tests.stages.kernel import nft
from tests.world.namespace import Namespace

from .raw import datagram
from .text import heading

# Queries a second, for how many seconds each one is remembered, and to how many name servers: the
# NAT has 64,512 ports for each of these.
LANES = [
    *((rate, seconds, 4) for seconds in (30, 120) for rate in (200, 500, 900)),
    *((900, 30, 1), (500, 120, 1), (900, 120, 1)),
]
# Long enough for the first ones to have been forgotten, which the kernel puts off by up to a minute
# (nf_conntrack_core.c, GC_SCAN_INTERVAL_MAX). It is looked at in the last seconds.
SECONDS, LOOKED = 180.0, 20.0
# What hanat gives a t4g.nano, of whose 512 MiB the kernel has 448.
NANO = 114_688
# Asked of a full table.
MORE = 20_000
_RULES = """table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "out" masquerade
    }
}
"""
_SERVERS = [f"203.0.113.{number}" for number in range(10, 20)]


class Lane:
    """Clients, a NAT that remembers queries for so long, and name servers."""

    def __init__(self, rate: int, timeout: int, servers: int) -> None:
        self.rate, self.timeout = rate, timeout
        self.asked = self.answered = 0
        client, self.nat, server = Namespace(), Namespace(), Namespace()
        self._open = contextlib.ExitStack()
        for namespace in (client, self.nat, server):
            self._open.callback(namespace.close)
        client.add_veth("eth0", self.nat, "in")
        server.add_veth("eth0", self.nat, "out")
        self.nat.forward()
        for namespace, name, address in (
            (client, "eth0", "10.0.0.10/24"),
            (self.nat, "in", "10.0.0.1/24"),
            (self.nat, "out", "203.0.113.1/24"),
            *((server, "eth0", f"{address}/24") for address in _SERVERS),
        ):
            namespace.add_address(name, IPv4Interface(address))
        client.add_route("0.0.0.0/0", IPv4Address("10.0.0.1"))
        # Nobody asks for the MACs of clients that there are none of.
        self.nat.add_route("10.1.0.0/16", IPv4Address("10.0.0.10"))
        nft(self.nat, _RULES)
        self.nat.write_sysctl("net/netfilter/nf_conntrack_udp_timeout", timeout)
        self._sender = client.socket(socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._open.enter_context(self._sender)
        self._servers = [
            self._open.enter_context(server.bound_socket(address, 53, socket.SOCK_DGRAM))
            for address in _SERVERS[:servers]
        ]
        self._random = random.Random(rate * timeout)

    def close(self) -> None:
        self._open.close()

    @property
    def servers(self) -> int:
        return len(self._servers)

    @property
    def entries(self) -> int:
        return int(self.nat.read_sysctl("net/netfilter/nf_conntrack_count"))

    def ask(self) -> None:
        client = socket.inet_aton(f"10.1.{self._random.randrange(50)}.{self.asked % 200 + 1}")
        port = self._random.randrange(32768, 61000)
        server = _SERVERS[self.asked % self.servers]
        packet = datagram(client, port, socket.inet_aton(server), 53, bytes(30))
        self._sender.sendto(packet, (server, 0))
        self.asked += 1
        self.answer()

    def answer(self, patience: float = 0.0) -> None:
        """All queries that are there, or come in so many seconds. One is there as soon as it is
        sent, unless the kernel put its work off."""
        while asked := select.select(self._servers, [], [], patience)[0]:
            for server in asked:
                query, source = server.recvfrom(100)
                server.sendto(query, source)
                self.answered += 1


def entries(lanes: Sequence[Lane], seconds: float, looked: float) -> list[float]:
    """Of each NAT's table, the median of the last seconds."""
    begun, seen = time.monotonic(), [[] for _ in lanes]
    passed = 0.0
    while passed < seconds:
        passed = time.monotonic() - begun
        for lane, counts in zip(lanes, seen, strict=True):
            while lane.asked < min(passed, seconds) * lane.rate:
                lane.ask()
            if passed > seconds - looked:
                counts.append(lane.entries)
        time.sleep(0.005)
    if passed > seconds + 1:
        print("This machine is too busy: queries were late, and there were fewer a second")
    for lane in lanes:
        lane.answer(patience=0.5)
    return [statistics.median(counts) for counts in seen]


def slab() -> int:
    """What connections take of the kernel's memory, in bytes, with what else is of such sizes."""
    with open("/proc/slabinfo") as file:
        # slabinfo(5): name, objects in use and at all, and the size of one.
        caches = [line.split() for line in file if line.startswith(("nf_conntrack ", "kmalloc-"))]
    return sum(int(objects) * int(size) for _, _, objects, size, *_ in caches)


def fill(lane: Lane, most: int) -> None:
    while lane.entries < most:
        for _ in range(1000):
            lane.ask()


def full() -> None:
    heading("A table that is full of DNS queries, each from another port")
    # So long that none is forgotten meanwhile.
    with contextlib.closing(Lane(0, 3600, len(_SERVERS))) as lane:
        most = int(lane.nat.read_sysctl("net/netfilter/nf_conntrack_max"))
        if most > len(_SERVERS) * 50_000:
            print(f"nf_conntrack_max is {most:,} here, more than there are ports: not measured")
            return
        before = slab()
        fill(lane, most - 2000)
        print(f"{(slab() - before) / lane.entries:.0f} bytes for each entry")
        lane.answer(patience=0.5)
        asked, answered = lane.asked, lane.answered
        for _ in range(MORE):
            lane.ask()
        lane.answer(patience=0.5)
        print(
            f"{lane.entries:,} of {most:,} entries: of {lane.asked - asked:,} more queries "
            f"{lane.answered - answered:,} were answered"
        )


def filling() -> None:
    heading("Entries of a table under so many queries")
    lanes = [Lane(*lane) for lane in LANES]
    for lane, count in zip(lanes, entries(lanes, SECONDS, LOOKED), strict=True):
        rate, seconds, servers = lane.rate, lane.timeout, lane.servers
        print(
            f"{rate} a second to {servers}, remembered for {seconds:>3} s: {count:>7,.0f} entries "
            f"({count / rate / seconds:.2f} times rate and time), "
            f"{1 - lane.answered / lane.asked:.1%} lost"
        )
        lane.close()
    for seconds in (30, 120):
        print(f"A table of {NANO:,} is full at {NANO / seconds:,.0f} a second for {seconds} s each")


def main() -> int:
    isolate_or_exit()
    full()
    filling()
    return 0


if __name__ == "__main__":
    sys.exit(main())
