"""Hosts around a NAT instance, and what they send each other through it.

```
client    10.0.1.10 ─┐                     ┌─ outside 203.0.113.10
other     10.7.0.10 ─┤ the VPC's router ───┤
peered 192.168.7.10 ─┘         │
                               └─ the NAT instance's machine
```

All that client, other and peered send goes by the NAT, as a route table with its default route
there has it, and even what they send each other: so the NAT can show what it does to traffic that
stays in the VPC, whose second block is the one that `other` is in.
"""

import contextlib
import multiprocessing
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Iterator
from ipaddress import IPv4Interface
from typing import Any, Self

from tests.nat import Nat
from tests.world.namespace import Namespace

SECOND_BLOCK = "10.7.0.0/16"
JUMBO = 9001
_BY_THE_NAT = 100
_PATIENCE = 20.0


class Host(Namespace):
    """A host with one interface to the router."""

    def __init__(self, name: str, address: str, router: Namespace, mtu: int = JUMBO) -> None:
        super().__init__()
        interface = IPv4Interface(address)
        gateway = interface.network[1]
        self.address = str(interface.ip)
        self.add_veth("eth0", router, name, mtu=mtu)
        router.add_address(name, IPv4Interface((gateway, interface.network.prefixlen)))
        self.add_address("eth0", interface)
        self.add_route("0.0.0.0/0", gateway)

    def socket(self, *what: int) -> socket.socket:
        sock = super().socket(*what)
        sock.settimeout(_PATIENCE)
        return sock


class Surroundings:
    """The router's way to everybody, and everybody. Outside of the VPC the MTU is 1500."""

    def __init__(self, nat: Nat) -> None:
        router = nat.machine.router
        self.router = router
        self.client = Host("client", "10.0.1.10/24", router)
        self.other = Host("other", "10.7.0.10/24", router)
        self.peered = Host("peered", "192.168.7.10/24", router)
        self.outside = Host("outside", "203.0.113.10/24", router, mtu=1500)
        router.write_sysctl("net/ipv4/ip_forward", 1)
        with router.netlink() as netlink:
            subnet = netlink.link_lookup(ifname="subnet")[0]
            netlink.route(
                "add", dst="default", gateway=nat.private_address, oif=subnet, table=_BY_THE_NAT
            )
            for name in ("client", "other", "peered"):
                netlink.rule("add", iifname=name, table=_BY_THE_NAT, priority=_BY_THE_NAT)

    def close(self) -> None:
        for host in (self.client, self.other, self.peered, self.outside):
            host.close()

    def silence_router(self) -> None:
        """From now on nobody learns from the router that a packet was too big."""
        with self.router.netlink() as netlink:
            # What a router says itself counts as coming in by lo.
            netlink.rule("add", iifname="lo", action="blackhole", priority=1)

    def know_no_private_addresses(self) -> None:
        """From now on what leaves the NAT with somebody's private address goes no further than the
        router, as it is with an internet gateway (Amazon VPC user guide, "Internet gateways")."""
        with self.router.netlink() as netlink:
            for host in (self.client, self.other, self.peered):
                netlink.rule(
                    "add",
                    iifname="subnet",
                    src=f"{host.address}/32",
                    dst=f"{self.outside.address}/32",
                    action="blackhole",
                    priority=2,
                )


class Flow:
    """Datagrams that a client sends on one socket without a pause, while this is open, and the
    addresses that the server sees them come from. `to` is where they are sent, by default to the
    server itself."""

    def __init__(
        self, client: Namespace, server: Host, port: int = 5000, to: str | None = None
    ) -> None:
        self._there = server.socket(socket.SOCK_DGRAM)
        self._there.bind((server.address, port))
        self._here = client.socket(socket.SOCK_DGRAM)
        self._here.settimeout(_PATIENCE)
        self._here.connect((to or server.address, port))
        self._ended = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sender.join()
        self._here.close()
        self._there.close()

    def _send(self) -> None:
        while not self._ended.wait(0.01):
            self._here.send(b"on and on")

    def seen_as(self) -> str:
        """Where the server sees the next datagram come from that it has not looked at yet; its
        answer arrives."""
        _, source = self._there.recvfrom(100)
        return self._answered(source)

    def wait_seen_as(self, address: str) -> None:
        """Until the server sees them come from there; its answer arrives."""
        deadline = time.monotonic() + _PATIENCE
        while (source := self._there.recvfrom(100)[1])[0] != address:
            assert time.monotonic() < deadline, f"still seen as {source[0]}"
        self._answered(source)

    def _answered(self, source: tuple[str, int]) -> str:
        self._there.sendto(b"here", source)
        assert self._here.recv(100) == b"here"
        return source[0]


@contextlib.contextmanager
def tcp_server(host: Host, port: int = 80) -> Iterator[list[str]]:
    """Tells everybody who connects the address it sees, then sends back what it is sent. Yields
    those addresses."""
    seen: list[str] = []
    listener = host.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.address, port))
    listener.listen()

    def serve(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            while data := conn.recv(1 << 16):
                conn.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, (address, _) = listener.accept()
                conn.settimeout(_PATIENCE)
                seen.append(address)
                conn.sendall(f"{address}\n".encode())
                threading.Thread(target=serve, args=(conn,), daemon=True).start()

    listener.settimeout(None)
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        # shutdown, not only close, wakes a thread that is blocked in accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


class Connection:
    """A TCP connection to a `tcp_server`."""

    def __init__(self, client: Namespace, server: Host, port: int = 80) -> None:
        self._sock = client.socket()
        self._sock.settimeout(_PATIENCE)
        self._sock.connect((server.address, port))
        self._file = self._sock.makefile("rb")
        self.seen_as = self._file.readline().decode().strip()

    def echo(self, data: bytes) -> bytes:
        """Send, and read as much back."""
        sender = threading.Thread(target=self._sock.sendall, args=(data,), daemon=True)
        sender.start()
        answer = self._file.read(len(data))
        sender.join()
        return answer

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def tcp(client: Host, server: Host) -> str:
    """The address that a server sees when a client connects."""
    with tcp_server(server):
        connection = Connection(client, server)
        assert connection.echo(b"hello") == b"hello"
        connection.close()
    return connection.seen_as


def udp(client: Host, server: Host, port: int = 53) -> str:
    """The address that a server sees when a client sends a datagram; the answer came back."""
    with server.socket(socket.SOCK_DGRAM) as there, client.socket(socket.SOCK_DGRAM) as here:
        there.bind((server.address, port))
        here.sendto(b"hello", (server.address, port))
        data, source = there.recvfrom(100)
        there.sendto(data, source)
        assert here.recvfrom(100) == (b"hello", (server.address, port))
        return source[0]


def ping(client: Host, server: Host) -> str:
    """The address that a server sees when it is pinged; the answer came back."""
    with (
        server.socket(socket.SOCK_RAW, socket.IPPROTO_ICMP) as there,
        client.socket(socket.SOCK_RAW, socket.IPPROTO_ICMP) as here,
    ):
        # Type, code, checksum, identifier, number: the 16-bit words add up to 0xffff.
        identifier, number = 4711, 1
        checksum = 0xFFFF - (0x0800 + identifier + number)
        request = struct.pack("!BBHHH", 8, 0, checksum, identifier, number)
        here.sendto(request, (server.address, 0))
        packet, source = there.recvfrom(1500)
        assert packet[20] == 8, "an echo request"
        answer, answerer = here.recvfrom(1500)
        assert (answer[20], answerer[0]) == (0, server.address), "an echo reply"
        return source[0]


def many_connections(client: Host, server: Host, n: int) -> set[tuple[str, int, int]]:
    """Open so many TCP connections, and when all are open send something through each and back.
    The addresses and ports that the server sees, and its own ports."""
    # One process may not open as many files.
    share = 2500
    ports = range(8000, 8000 + n // share)
    context = multiprocessing.get_context("fork")
    all_open = context.Barrier(len(ports), timeout=_PATIENCE * 3)
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_connections, args=(client, server, port, share, all_open, results))
        for port in ports
    ]
    for process in processes:
        process.start()
    seen = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert None not in seen, "see above"
    return set().union(*seen)


def _connections(
    client: Host, server: Host, port: int, n: int, all_open: Any, results: Any
) -> None:
    """Puts what the server saw on the queue, None if anything went wrong."""
    seen: set[tuple[str, int, int]] | None = set()
    try:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(server.socket())
            listener.bind((server.address, port))
            listener.listen()
            ours, theirs = [], []
            for _ in range(n):
                sock = stack.enter_context(client.socket())
                sock.connect((server.address, port))
                ours.append(sock)
                conn, source = listener.accept()
                conn.settimeout(_PATIENCE)
                theirs.append(stack.enter_context(conn))
                seen.add((*source, port))
            all_open.wait()
            messages = [struct.pack("!I", number) for number in range(n)]
            for sock, message in zip(ours, messages, strict=True):
                sock.sendall(message)
            for conn, message in zip(theirs, messages, strict=True):
                assert conn.recv(4) == message
                conn.sendall(message)
            for sock, message in zip(ours, messages, strict=True):
                assert sock.recv(4) == message
            all_open.wait()
    except BaseException:
        traceback.print_exc()
        all_open.abort()
        seen = None
    results.put(seen)
    # Not to end what the parent has begun.
    os._exit(0)
