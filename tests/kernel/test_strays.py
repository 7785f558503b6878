"""Packets that belong to no connection that the kernel knows, or that it would not have expected:
the NAT's own stack keeps out of what is between a client and a server."""

import socket
import struct

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from tests.nat import Nat
from tests.stages.kernel import nft
from tests.stages.packets import Connection, Host, Surroundings, tcp_server, udp
from tests.stages.segments import (
    ACK,
    ESP,
    FIN,
    GRE,
    ICMP,
    PSH,
    RST,
    SCTP,
    SYN,
    TCP,
    URG,
    Capture,
    Packet,
    datagram,
    send,
    tcp_segment,
)
from tests.world.namespace import Namespace

# RFC 792: destination unreachable, and of what.
UNREACHABLE, PROTOCOL, PORT = 3, 2, 3
# linux/tcp.h: a socket that is closed so tells nobody.
TCP_REPAIR = 19
# As a server's port and one that the NAT gave to a client.
PORTS = (443, 40_000)
SEGMENTS = {
    "data": ACK | PSH,
    "ACK": ACK,
    "FIN": FIN | ACK,
    "SYN-ACK": SYN | ACK,
    "RST": RST,
    "RST-ACK": RST | ACK,
    "nothing": 0,
    "FIN alone": FIN,
    "without ACK": PSH | URG,
}


@pytest.fixture
def around(nat):
    surroundings = Surroundings(nat)
    yield surroundings
    surroundings.close()


def forget_connections(nat: Nat) -> None:
    """As at a reboot."""
    with nat.machine.entered(), NFCTSocket() as connections:
        connections.flush()


def strays(source: Host, destination: str) -> dict[str, Packet]:
    segments = {
        name: tcp_segment(source, destination, PORTS, flags, data=b"x" if flags & PSH else b"")
        for name, flags in SEGMENTS.items()
    }
    others = {
        f"protocol {number}": Packet(source.address, destination, number, bytes(16))
        for number in (GRE, ESP, SCTP)
    }
    return {
        **segments,
        "a datagram": datagram(source, destination, PORTS, b"x"),
        **others,
    }


def answers(host: Host, stray: Packet) -> list[Packet]:
    with Capture(host) as capture:
        send(host, stray)
        return capture.until_ping(stray.destination)


def test_what_belongs_to_no_connection_is_not_answered_outside(nat, around):
    """A server speaks on a connection that the NAT has forgotten: its client may take it up."""
    assert nat.claim().code == 0
    for name, stray in strays(around.outside, nat.private_address).items():
        for again in range(2):
            found = answers(around.outside, stray)
            assert not found, f"{name} ({again}): {', '.join(map(str, found))}"


def test_hosts_of_the_vpc_are_answered_as_ever(nat, around):
    assert nat.claim().code == 0
    every = strays(around.client, nat.private_address)
    answered = {name: answers(around.client, stray) for name, stray in every.items()}
    for name in ("data", "ACK", "FIN", "SYN-ACK"):
        [answer] = answered[name]
        assert (answer.protocol, answer.flags) == (TCP, RST), name
    [answer] = answered["nothing"]
    assert (answer.protocol, answer.flags) == (TCP, RST | ACK)
    for name, code in (("a datagram", PORT), (f"protocol {ESP}", PROTOCOL)):
        [answer] = answered[name]
        assert (answer.protocol, *answer.payload[:2]) == (ICMP, UNREACHABLE, code), name


def test_a_port_of_the_nats_own_that_is_closed(nat, around):
    """A server sends no SYN to a client, so this one is for the NAT."""
    assert nat.claim().code == 0
    with pytest.raises(ConnectionRefusedError):
        _connect(around.outside, nat.private_address, 81)


def _connect(host: Namespace, address: str, port: int) -> socket.socket:
    sock = host.socket()
    try:
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def test_a_connection_that_was_forgotten_goes_on_although_the_server_speaks_first(nat, around):
    assert nat.claim().code == 0
    with around.outside.socket() as listener:
        listener.bind((around.outside.address, 80))
        listener.listen()
        with _connect(around.client, around.outside.address, 80) as client:
            server, source = listener.accept()
            with server:
                server.settimeout(20)
                forget_connections(nat)
                server.sendall(b"from the server")
                client.sendall(b"from the client")
                assert server.recv(100) == b"from the client"
                assert client.recv(100) == b"from the server"
                assert server.getpeername() == source


@pytest.mark.parametrize("forgotten", [False, True], ids=["known", "forgotten"])
def test_a_segment_outside_of_the_window_ends_no_connection(nat, around, forgotten):
    """The ends judge it; the NAT used to answer the server with RST."""
    assert nat.claim().code == 0
    with tcp_server(around.outside), Capture(around.outside) as capture:
        connection = Connection(around.client, around.outside)
        assert connection.echo(b"before") == b"before"
        last = [
            packet for packet in capture.until_ping(nat.private_address) if packet.protocol == TCP
        ][-1]
        expected, sent = last.next_numbers
        if forgotten:
            forget_connections(nat)
        stray = tcp_segment(
            around.outside,
            nat.private_address,
            (80, last.ports[0]),
            ACK | PSH,
            ((sent + (1 << 30)) % (1 << 32), expected),
            b"x",
        )
        send(around.outside, stray)
        assert connection.echo(b"after") == b"after"
        since = capture.until_ping(nat.private_address)
        assert not [str(p) for p in since if p.protocol == TCP and p.flags & RST]
        connection.close()


def test_the_nats_own_connections_are_its_own_to_end(nat, around):
    """Opened before the rules, and after."""
    with tcp_server(around.outside), nat.machine.socket() as listener:
        before = Connection(nat.machine, around.outside)
        assert nat.claim().code == 0
        after = Connection(nat.machine, around.outside)
        for connection in (before, after):
            assert connection.echo(b"hello") == b"hello"
            connection.close()
        listener.bind((nat.private_address, 22))
        listener.listen()
        with _connect(around.outside, nat.private_address, 22) as sock:
            accepted, _ = listener.accept()
            with accepted:
                sock.sendall(b"hello")
                assert accepted.recv(100) == b"hello"
                # So that closing it resets the connection.
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with pytest.raises(ConnectionResetError):
                sock.recv(100)


def test_a_connection_of_the_nats_own_whose_socket_is_gone(nat, around):
    """As when its program was restored elsewhere: the server learns it from a RST without ACK."""
    assert nat.claim().code == 0
    with around.outside.socket() as listener:
        listener.bind((around.outside.address, 80))
        listener.listen()
        own = _connect(nat.machine, around.outside.address, 80)
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            for one, other in ((own, server), (server, own)):
                one.sendall(b"hello")
                assert other.recv(100) == b"hello"
            own.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            own.close()
            server.sendall(b"is there anybody?")
            with pytest.raises(ConnectionResetError):
                server.recv(100)


def test_a_server_that_speaks_first_on_a_connection_of_the_nats_from_before(nat, around):
    with around.outside.socket() as listener:
        listener.bind((around.outside.address, 80))
        listener.listen()
        with nat.machine.socket() as own:
            own.settimeout(20)
            own.connect((around.outside.address, 80))
            server, _ = listener.accept()
            with server:
                assert nat.claim().code == 0
                server.sendall(b"hello")
                assert own.recv(100) == b"hello"


def test_a_firewall_on_the_nat_may_refuse(nat, around):
    """Also what comes from networks outside of the VPC."""
    assert nat.claim().code == 0
    nft(
        nat.machine,
        "table ip mine { chain c { type filter hook forward priority 0; udp dport 99 reject; }; }",
    )
    for host in (around.client, around.peered):
        assert udp(host, around.outside) == nat.private_address
        with host.socket(socket.SOCK_DGRAM) as sock:
            sock.connect((around.outside.address, 99))
            sock.send(b"hello")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
