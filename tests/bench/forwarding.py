"""What a NAT's rules cost for each packet of a known connection: with none, with the one rule that
people write by hand, and with hanat's table.

Everything that a packet needs on its way is charged to the thread that sends it, or reads it, or to
the kernel's own for what these leave over (ksoftirqd): links here are veth pairs. So a figure is
that of one busy CPU, and of how much work there is; what the ends of a connection cost is the same
in all three.
"""

import contextlib
import os
import re
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.nat import Nat
from tests.stages.kernel import iptables, nft
from tests.stages.packets import Host, Surroundings, tcp
from tests.world.machine import PRIMARY
from tests.world.world import World

from .outages import Target
from .stage import JobNotDone, Stage
from .text import heading

TURNS = 5
# Seconds of CPU time, and bytes, of one turn.
SENDING, BULK = 1.0, 128 << 20
# A datagram in an Ethernet frame of the shortest length, and as many as the kernel takes at once.
PAYLOAD, BURST = 18, 64
# Linux's udp.h and in.h; Python has neither.
_UDP_SEGMENT, _IP_TRANSPARENT = 103, 19
# A client of the VPC's and a host outside (RFC 5737) that do not exist: the router, at both ends of
# the NAT's cable, sends in the one's name and drops what is for the other.
_FROM, _TO = "10.0.1.200", "198.51.100.9"
_ROUTER_SENDS, _BY_THE_NAT, _ROUTER_DROPS = 50, 100, 51


@dataclass
class Figures:
    """Of one set of rules, a figure of each turn: packets and bits a second."""

    packets: list[float] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)


class Lane:
    """A NAT, a client that sends through it, and nothing that spares it packets: what is sent in
    bulk is cut up where it leaves the client, not where the link ends."""

    def __init__(self, nat: Nat) -> None:
        self.nat = nat
        self.router = nat.machine.router
        self.around = Surroundings(nat)
        for end in (self.around.client, self.around.outside):
            end.set_link("eth0", gso_max_segs=1)
        self.router.set_link("subnet", gso_max_segs=1)
        with self.router.netlink() as netlink:
            sends = {"src": _FROM, "table": _BY_THE_NAT, "priority": _ROUTER_SENDS}
            netlink.rule("add", iifname="lo", **sends)
            drops = {"dst": _TO, "action": "blackhole", "priority": _ROUTER_DROPS}
            netlink.rule("add", iifname="subnet", **drops)

    def close(self) -> None:
        self.around.close()

    def packets(self, seconds: float) -> float:
        """Datagrams that a second of CPU time takes there and out again."""
        with self._sender() as sender, ThreadPoolExecutor(1) as thread:
            # What a first packet costs is not measured: it makes the connection known.
            sender.send(bytes(PAYLOAD))
            before, left_over = self._received_all(), _left_over()
            took = thread.submit(_send_for, sender, seconds).result()
            received = self._received_all() - before
            return received / (took + _left_over() - left_over)

    def bits(self, size: int) -> float:
        """What a second of CPU time carries of a TCP connection, both of its ends included."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(self.around.outside.socket())
            listener.bind((self.around.outside.address, 0))
            listener.listen()
            sender = stack.enter_context(self.around.client.socket())
            sender.connect(listener.getsockname())
            receiver = stack.enter_context(listener.accept()[0])
            threads = stack.enter_context(ThreadPoolExecutor(2))
            left_over = _left_over()
            ends = [threads.submit(_send, sender, size), threads.submit(_receive, receiver, size)]
            took = sum(end.result() for end in ends)
            return size * 8 / (took + _left_over() - left_over)

    @contextlib.contextmanager
    def _sender(self) -> Iterator[socket.socket]:
        with self.router.socket(socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, PAYLOAD)
            sender.bind((_FROM, 0))
            sender.connect((_TO, 9))
            yield sender

    def _received_all(self) -> int:
        """Once nothing more comes."""
        seen, now = -1, self._received()
        while now != seen:
            time.sleep(0.02)
            seen, now = now, self._received()
        return now

    def _received(self) -> int:
        with self.router.entered(), open("/proc/thread-self/net/dev") as file:
            found = re.search(r"^ *subnet: *\d+ +(\d+) ", file.read(), re.MULTILINE)
        assert found
        return int(found[1])


def _cpu() -> int:
    """The last one, which is not the one that interrupts go to."""
    return max(os.sched_getaffinity(0))


def _on_one_cpu() -> None:
    # Of this thread alone.
    os.sched_setaffinity(0, {_cpu()})


def _left_over() -> float:
    """CPU time of the kernel's thread for packets, in seconds; 0 where a container hides it."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        # Others may end meanwhile.
        with contextlib.suppress(OSError):
            if comm.read_text() == f"ksoftirqd/{_cpu()}\n":
                # Documentation/scheduler/sched-stats: on the CPU, in nanoseconds.
                return int(comm.with_name("schedstat").read_text().split()[0]) / 1e9
    return 0.0


def _send_for(sender: socket.socket, seconds: float) -> float:
    """CPU time in seconds."""
    _on_one_cpu()
    burst = bytes(PAYLOAD * BURST)
    started = time.thread_time()
    while time.thread_time() < started + seconds:
        sender.send(burst)
    return time.thread_time() - started


def _send(sender: socket.socket, size: int) -> float:
    _on_one_cpu()
    started, chunk = time.thread_time(), bytes(1 << 20)
    for _ in range(size // len(chunk)):
        sender.sendall(chunk)
    sender.shutdown(socket.SHUT_WR)
    return time.thread_time() - started


def _receive(receiver: socket.socket, size: int) -> float:
    _on_one_cpu()
    started, chunk = time.thread_time(), bytearray(1 << 20)
    got = 0
    while read := receiver.recv_into(chunk):
        got += read
    if got != size:
        raise JobNotDone(f"{got} of {size} bytes came through the NAT")
    return time.thread_time() - started


# --- The rules ------------------------------------------------------------------------------------


def no_rules(nat: Nat) -> None:
    nft(nat.machine, "flush ruleset")


def one_rule(nat: Nat) -> None:
    no_rules(nat)
    iptables(nat.machine, *f"-t nat -A POSTROUTING -o {PRIMARY} -j MASQUERADE".split())


def hanats_table(nat: Nat) -> None:
    no_rules(nat)
    ran = nat.claim()
    if ran.code:
        raise JobNotDone(f"the kernel was not set up: {ran}")


RULES: dict[str, Callable[[Nat], None]] = {
    "no rules": no_rules,
    "iptables-nft MASQUERADE": one_rule,
    "hanat": hanats_table,
}
_NONE, _ONE, _HANAT = RULES


def in_turns(nat: Nat, turns: int, seconds: float, size: int) -> dict[str, Figures]:
    # Forwarding and the rest of the kernel's settings, which no rules need, too.
    hanats_table(nat)
    lane = Lane(nat)
    figures = {name: Figures() for name in RULES}
    try:
        for _ in range(turns):
            for name, put in RULES.items():
                put(nat)
                _check(lane.around.client, lane.around.outside, nat, translated=name != _NONE)
                figures[name].packets.append(lane.packets(seconds))
                figures[name].bits.append(lane.bits(size))
    finally:
        lane.close()
    return figures


def _check(client: Host, outside: Host, nat: Nat, translated: bool) -> None:
    seen = tcp(client, outside)
    if seen != (nat.private_address if translated else client.address):
        raise JobNotDone(f"the host outside was asked by {seen}")


# --- What is printed ------------------------------------------------------------------------------


def what_forwarding_costs(world: World) -> list[Target]:
    heading(f"What forwarding costs (medians of {TURNS} turns, slowest to fastest)")
    if not all(map(shutil.which, ("nft", "iptables-nft"))):
        print("nft and iptables-nft are not both installed: nothing to measure it beside")
        return []
    print("A second of one CPU: datagrams of the shortest length there and out again, and a TCP")
    print("connection, both of its ends included, in segments of 1460 bytes that nothing joins.")
    print("'own share' is what the rules add to the time for a datagram.")
    figures = in_turns(Stage(world, 1).nat, TURNS, SENDING, BULK)
    shares = {name: share(figures, name) for name in RULES}
    print(f"{'':<25}{'datagrams a second':<33}{'own share':<11}TCP, Gbit/s")
    for name, of_one in figures.items():
        own = "" if name == _NONE else f"{shares[name] * 1e9:.0f} ns"
        packets = _range(of_one.packets, "{:,.0f}", 1)
        print(f"{name:<25}{packets:<33}{own:<11}{_range(of_one.bits, '{:.2f}', 1e9)}", flush=True)
    packets, bits = (
        statistics.median(getattr(figures[_HANAT], what))
        / statistics.median(getattr(figures[_ONE], what))
        for what in ("packets", "bits")
    )
    print(f"hanat to the one rule: {packets:.2f} times the datagrams, {bits:.2f} times the bits,")
    print(f"{shares[_HANAT] / shares[_ONE]:.2f} times its own share")
    return [
        (f"{packets:.2f} times the packets of one MASQUERADE rule", "≥ 0.95", packets >= 0.95),
        (f"{bits:.2f} times its throughput", "≥ 0.95", bits >= 0.95),
    ]


def share(figures: dict[str, Figures], name: str) -> float:
    """What the rules add to a packet's time, in seconds."""
    with_rules, without = (statistics.median(figures[n].packets) for n in (name, _NONE))
    return 1 / with_rules - 1 / without


def _range(values: Sequence[float], form: str, unit: float) -> str:
    middle, least, most = (
        form.format(value / unit) for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({least} to {most})"
