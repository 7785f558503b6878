"""Packets of clients that do not exist, written by hand: a NAT cannot tell, and they cost nothing
but their entry in its table of connections."""

import socket
import struct


def segment(source: bytes, port: int, destination: bytes, to: int, number: int) -> bytes:
    """A TCP connection's first one (RFC 9293): a SYN with that sequence number."""
    tcp = struct.pack("!HHIIBBHHH", port, to, number, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = source + destination + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp))
    total = sum(struct.unpack("!16H", pseudo + tcp))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~total & 0xFFFF) + tcp[18:]
    return _packet(socket.IPPROTO_TCP, source, destination, tcp)


def datagram(source: bytes, port: int, destination: bytes, to: int, content: bytes) -> bytes:
    """By UDP (RFC 768), without a checksum."""
    header = struct.pack("!HHHH", port, to, 8 + len(content), 0)
    return _packet(socket.IPPROTO_UDP, source, destination, header + content)


def _packet(protocol: int, source: bytes, destination: bytes, content: bytes) -> bytes:
    # IPv4 (RFC 791); the kernel fills in the zeros (raw(7)).
    header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, protocol, 0)
    return header + source + destination + content
