"""What becomes of the clients' ports: what it costs when a NAT draws others, and from how many
connections to one destination on it finds none for some.

The kernel keeps a client's port where it is free. Where not, it looks at 128 ports in a row from a
random one on, then at 64, 32, 16 and 8 from others (nf_nat_core.c, nf_nat_l4proto_unique_tuple),
and drops the packet if all are taken. Clients' own ports are close together: a search that begins
among them finds nothing once these are all in use, long before the other half of the ports is.
"""

import contextlib
import random
import re
import select
import selectors
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.nat import Nat
from tests.stages.kernel import nft
from tests.stages.packets import Host, Surroundings, tcp
from tests.world.world import World

from .outages import Target
from .raw import segment
from .stage import JobNotDone, Stage
from .text import heading

# Exchanges a second of each of two clients, and for how long.
RATE, SECONDS = 400, 25.0
# So few that a client is through with them in 3 seconds, and one that has all of its 28,232 in one
# minute: then it uses again what the server, which closes first, remembers for a minute.
PORTS = 1000
# Less than the second after which a client's kernel sends its first segment again.
PATIENCE = 0.9
# Who is awake for longer than this at a time was kept from running, and could not have heard.
_STALL = 0.05
# Connections to one destination, of so many clients, and after how many there is a line. A client's
# ports are those that Linux takes by itself (ip_local_port_range).
CROWD, LINE = 60_000, 5_000
_CLIENTS = 20
_RANGE = range(32768, 61000)


def no_rules(nat: Nat) -> None:
    nft(nat.machine, "flush ruleset")


def as_claimed(nat: Nat) -> None:
    """hanat's rules, as the NAT has them already."""


def drawn_anew(nat: Nat) -> None:
    """hanat's rules, but every connection gets a random port."""
    rules = nft(nat.machine, "list ruleset")
    flagged = re.sub(r"masquerade( fully-random)?", "masquerade fully-random", rules)
    nft(nat.machine, f"flush ruleset\n{flagged}")


Rules = Callable[[Nat], None]


@contextlib.contextmanager
def nat_with(world: World, rules: Rules) -> Iterator[Surroundings]:
    """The hosts around a new NAT."""
    nat = Stage(world, 1).nat
    around = Surroundings(nat)
    try:
        ran = nat.claim()
        if ran.code:
            raise JobNotDone(f"the kernel was not set up: {ran}")
        rules(nat)
        # It works, and everybody knows the next one's MAC.
        tcp(around.client, around.outside)
        yield around
    finally:
        around.close()


# --- Used again -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchanges:
    tried: int
    failed: int


def exchanges(
    clients: Sequence[Host], server: Host, seconds: float, patience: float = PATIENCE
) -> Exchanges:
    """A connection each: the client asks, the server answers and closes. What is not over then has
    failed."""
    for client in clients:
        client.write_sysctl("net/ipv4/ip_local_port_range", f"40000 {40000 + PORTS - 1}")
    with _closing_first(server) as port:
        return _Asking(clients, (server.address, port), patience).run(seconds)


class _Asking:
    def __init__(self, clients: Sequence[Host], server: tuple[str, int], patience: float) -> None:
        self._clients = clients
        self._patience = patience
        self._server = server
        self._selector = selectors.DefaultSelector()
        # Since when, the longest first.
        self._open: dict[socket.socket, float] = {}
        self._failed = 0
        # Seconds, without those in which this program was kept from running.
        self._clock = 0.0

    def run(self, seconds: float) -> Exchanges:
        tried, total, last = 0, int(seconds * RATE) * len(self._clients), time.monotonic()
        while tried < total or self._open:
            now = time.monotonic()
            self._clock += min(now - last, _STALL)
            last = now
            while tried < min(self._clock * RATE * len(self._clients), total):
                self._begin(self._clients[tried % len(self._clients)])
                tried += 1
            for key, events in self._selector.select(0.001):
                assert isinstance(key.fileobj, socket.socket)
                self._go_on(key.fileobj, events)
            for sock, since in list(self._open.items()):
                if since > self._clock - self._patience:
                    break
                self._end(sock, failed=True)
        self._selector.close()
        return Exchanges(tried, self._failed)

    def _begin(self, client: Host) -> None:
        sock = client.socket()
        sock.setblocking(False)
        # Whether it goes well is told when the socket is ready.
        sock.connect_ex(self._server)
        self._open[sock] = self._clock
        self._selector.register(sock, selectors.EVENT_WRITE)

    def _go_on(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                sock.send(b"?")
                self._selector.modify(sock, selectors.EVENT_READ)
            elif not sock.recv(1):
                self._end(sock, failed=False)
        except OSError:
            self._end(sock, failed=True)

    def _end(self, sock: socket.socket, failed: bool) -> None:
        self._failed += failed
        self._selector.unregister(sock)
        del self._open[sock]
        sock.close()


@contextlib.contextmanager
def _closing_first(host: Host) -> Iterator[int]:
    """A server; its port."""
    listener = host.socket()
    listener.bind((host.address, 0))
    listener.listen(4096)
    stop = threading.Event()
    thread = threading.Thread(target=_serve, args=(listener, stop), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join()
        listener.close()


def _serve(listener: socket.socket, stop: threading.Event) -> None:
    selector = selectors.DefaultSelector()
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            with contextlib.suppress(OSError):
                sock.recv(1)
                sock.send(b"!")
            selector.unregister(sock)
            sock.close()
    for key in list(selector.get_map().values()):
        if key.fileobj is not listener:
            key.fileobj.close()  # type: ignore[union-attr]
    selector.close()


# --- Crowded --------------------------------------------------------------------------------------

# As often as Linux does (tcp_syn_retries).
TRIES = 7
_SILENT = """table ip silent {
    chain output {
        type filter hook output priority filter; policy drop;
    }
}
"""


@dataclass(frozen=True)
class Line:
    """Of the connections since the last line: those whose first segment did not come through, and
    those of which none of `TRIES` did."""

    connections: int
    late: int
    never: int


def crowd(around: Surroundings, connections: int, line: int, seed: int = 0) -> list[Line]:
    """Many clients' connections to one port of one host, all open at the same time. The host hears
    the first segment and says nothing: a port of the NAT's is taken all the same."""
    nft(around.outside, _SILENT)
    flows = _flows(random.Random(seed), connections)
    lines, late, never = [], 0, 0
    with (
        around.client.socket(socket.SOCK_RAW, socket.IPPROTO_RAW) as sender,
        around.outside.socket(socket.SOCK_RAW, socket.IPPROTO_TCP) as receiver,
    ):
        for number, (client, port) in enumerate(flows, 1):
            packet = segment(client, port, socket.inet_aton(around.outside.address), 443, number)
            tries = _tries(sender, receiver, packet, number)
            late += tries > 1
            never += tries > TRIES
            if number % line == 0:
                lines.append(Line(number, late, never))
                late = never = 0
    return lines


def _flows(rng: random.Random, connections: int) -> list[tuple[bytes, int]]:
    """Clients' addresses and ports."""
    each = -(-connections // _CLIENTS)
    flows = [
        (socket.inet_aton(f"10.0.1.{100 + client}"), port)
        for client in range(_CLIENTS)
        for port in rng.sample(_RANGE, each)
    ]
    rng.shuffle(flows)
    return flows[:connections]


def _tries(sender: socket.socket, receiver: socket.socket, packet: bytes, number: int) -> int:
    """How often it was sent until it was heard; more than `TRIES` when it never was."""
    destination = (socket.inet_ntoa(packet[16:20]), 0)
    for tried in range(1, TRIES + 1):
        sender.sendto(packet, destination)
        # It is there at once, unless the kernel put its work off.
        while select.select([receiver], [], [], 0.005)[0]:
            # Another one is an earlier one, put off for longer.
            if struct.unpack_from("!I", receiver.recv(100), 24)[0] == number:
                return tried
    return TRIES + 1


# --- What is printed ------------------------------------------------------------------------------


def what_ports_cost(world: World) -> list[Target]:
    heading("Ports that are used again (a server that closes first)")
    if not shutil.which("nft"):
        print("nft is not installed: no other rules to measure it beside")
        return []
    print(f"Two clients with {PORTS} ports each, {RATE} connections a second each, {SECONDS:g} s.")
    failed = {}
    for name, rules in (
        ("no rules", no_rules),
        ("hanat", as_claimed),
        ("ports drawn anew", drawn_anew),
    ):
        with nat_with(world, rules) as around:
            done = exchanges([around.client, around.other], around.outside, SECONDS)
        failed[name] = done.failed
        print(f"  {name:<18} {done.failed:>4} of {done.tried} exchanges failed", flush=True)
    heading("Connections to one destination (first segments lost; then sent again by the client)")
    _crowds(world)
    kept, drawn = failed["hanat"], failed["ports drawn anew"]
    what = f"{kept} exchanges failed with clients' ports, {drawn} with others"
    return [(what, "a quarter", kept <= drawn / 4)]


def _crowds(world: World) -> None:
    columns = []
    for rules in (as_claimed, drawn_anew):
        with nat_with(world, rules) as around:
            most = int(around.router.read_sysctl("net/netfilter/nf_conntrack_max"))
            if most < CROWD * 1.1:
                print(f"nf_conntrack_max is {most} here: not measured")
                return
            columns.append(crowd(around, CROWD, LINE))
    print(f"{'open':>8}  {'hanat':<24}ports drawn anew")
    for lines in zip(*columns, strict=True):
        texts = [f"{line.late / LINE:.1%}, {line.never} never came" for line in lines]
        print(f"{lines[0].connections:>8,}  {texts[0]:<24}{texts[1]}", flush=True)
