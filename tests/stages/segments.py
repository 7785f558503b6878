"""Packets that no program sends by itself: made byte by byte, put on the wire as they are, and what
comes back."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.stages.packets import Host

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
# IANA's numbers of protocols.
ICMP, TCP, UDP, GRE, ESP, SCTP = 1, 6, 17, 47, 50, 132
_ETHERTYPE_IPV4 = 0x0800
_PACKET_OUTGOING = 4  # linux/if_packet.h
_ECHO_REPLY, _ECHO_REQUEST = 0, 8


@dataclass(frozen=True)
class Packet:
    """IPv4, as far as it matters here."""

    source: str
    destination: str
    protocol: int
    payload: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Packet":
        length = (data[0] & 15) * 4
        total = struct.unpack_from("!H", data, 2)[0]
        source, destination = (str(IPv4Address(data[at : at + 4])) for at in (12, 16))
        return cls(source, destination, data[9], data[length:total])

    @property
    def ports(self) -> tuple[int, int]:
        return struct.unpack_from("!HH", self.payload)

    @property
    def flags(self) -> int:
        """Of TCP."""
        return self.payload[13]

    @property
    def next_numbers(self) -> tuple[int, int]:
        """Of TCP: the sequence number after this segment's, and what it acknowledges."""
        number, acknowledged = struct.unpack_from("!II", self.payload, 4)
        data = len(self.payload) - (self.payload[12] >> 4) * 4
        return (number + data) % (1 << 32), acknowledged

    def __str__(self) -> str:
        what = self.payload[:2].hex() if self.protocol == ICMP else ""
        what = f"flags {self.flags:#x}" if self.protocol == TCP else what
        return f"protocol {self.protocol} {what} from {self.source}"


def tcp_segment(
    source: Host,
    destination: str,
    ports: tuple[int, int],
    flags: int,
    numbers: tuple[int, int] = (1_000_000, 2_000_000),
    data: bytes = b"",
) -> Packet:
    header = struct.pack("!HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 64_000, 0, 0)
    addresses = socket.inet_aton(source.address) + socket.inet_aton(destination)
    pseudo = addresses + struct.pack("!HH", TCP, len(header + data))
    checksum = _checksum(pseudo + header + data)
    segment = header[:16] + struct.pack("!H", checksum) + header[18:] + data
    return Packet(source.address, destination, TCP, segment)


def datagram(source: Host, destination: str, ports: tuple[int, int], data: bytes) -> Packet:
    # A checksum of 0 is none (RFC 768).
    header = struct.pack("!HHHH", *ports, 8 + len(data), 0)
    return Packet(source.address, destination, UDP, header + data)


def send(host: Host, packet: Packet) -> None:
    with host.socket(socket.SOCK_RAW, packet.protocol) as sock:
        sock.sendto(packet.payload, (packet.destination, 0))


class Capture:
    """What comes in by a host's interface, from now on."""

    def __init__(self, host: Host) -> None:
        self._host = host
        protocol = socket.htons(_ETHERTYPE_IPV4)
        self._sock = host.socket(socket.SOCK_DGRAM, protocol, socket.AF_PACKET)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def __iter__(self) -> Iterator[Packet]:
        while True:
            data, (_, _, kind, *_) = self._sock.recvfrom(1 << 16)
            if kind != _PACKET_OUTGOING:
                yield Packet.parse(data)

    def until_ping(self, address: str) -> list[Packet]:
        """What has come from there until the answer to a ping: what is sent first arrives first."""
        body = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, 4712, 1)
        checksum = struct.pack("!H", _checksum(body))
        ping = Packet(self._host.address, address, ICMP, body[:2] + checksum + body[4:])
        send(self._host, ping)
        found = []
        for packet in self:
            if packet.source != address:
                continue
            if packet.protocol == ICMP and packet.payload[0] == _ECHO_REPLY:
                return found
            found.append(packet)
        raise AssertionError("unreachable")


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
