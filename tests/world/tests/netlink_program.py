"""A program that opens a netlink socket of netfilter, and what one asks nf_tables over it: messages
of linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h."""

import contextlib
import itertools
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

from tests.world.other_kernel import OtherKernel

NETLINK_NETFILTER, SOL_NETLINK, NETLINK_EXT_ACK = 12, 270, 11
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NF_TABLES = 10 << 8
NEWTABLE, GETTABLE, NEWCHAIN = NF_TABLES | 0, NF_TABLES | 1, NF_TABLES | 3
NEWRULE, NEWGEN, GETGEN = NF_TABLES | 6, NF_TABLES | 15, NF_TABLES | 16
# A sequence number that nothing else has.
LAST = 0xFFFF

# What it runs; its argument is the socket to hand the new one over by.
OPEN = f"""
import socket, sys
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {NETLINK_NETFILTER})
netlink.setsockopt({SOL_NETLINK}, {NETLINK_EXT_ACK}, 1)
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"netlink"], [netlink.fileno()])
"""


def attribute(kind: int, content: bytes) -> bytes:
    padding = bytes(-len(content) % 4)
    return struct.pack("=HH", 4 + len(content), kind) + content + padding


def message(kind: int, *attributes: bytes, flags: int = 0, sequence: int = 0) -> bytes:
    # Family `ip`, version, and a number that is of use in batches: the subsystem.
    subsystem = NF_TABLES >> 8 if kind in (BATCH_BEGIN, BATCH_END) else 0
    content = struct.pack(">BBH", socket.AF_INET, 0, subsystem) + b"".join(attributes)
    flags |= NLM_F_REQUEST
    return struct.pack("=IHHII", 16 + len(content), kind, flags, sequence, 0) + content


def batch(*messages: bytes) -> bytes:
    """Sequence numbers count from 0, the beginning's."""
    every = [message(BATCH_BEGIN), *messages, message(BATCH_END)]
    return b"".join(m[:8] + struct.pack("=I", n) + m[12:] for n, m in enumerate(every))


def new(kind: int, *attributes: bytes) -> bytes:
    return message(kind, *attributes, flags=NLM_F_CREATE | NLM_F_ACK)


def rule(expression: bytes, nested: int = 0) -> bytes:
    listed = attribute(1 | nested, attribute(1, expression + b"\0"))
    return new(NEWRULE, NAME, attribute(2, b"chain\0"), attribute(4 | nested, listed))


# The table's, and to be told from the expression's.
NAME = attribute(1, b"masq\0")
TABLE = new(NEWTABLE, NAME)
# Postrouting, srcnat.
HOOK = attribute(4, attribute(1, struct.pack(">I", 4)) + attribute(2, struct.pack(">i", 100)))
CHAIN = new(NEWCHAIN, NAME, attribute(3, b"chain\0"), HOOK, attribute(7, b"nat\0"))


@contextlib.contextmanager
def opened(kernel: OtherKernel) -> Iterator[socket.socket]:
    """The socket of a program in a namespace of its own."""
    here, there = socket.socketpair()
    with here, there:
        subprocess.run(
            ["unshare", "--net", sys.executable, "-c", OPEN, str(there.fileno())],
            pass_fds=[there.fileno()],
            preexec_fn=kernel.install,
            timeout=30,
            check=True,
        )
        _, [fd], _, _ = socket.recv_fds(here, 16, 1)
    with socket.socket(fileno=fd) as handed_over:
        handed_over.settimeout(10)
        yield handed_over


def received(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and content of each message."""
    while datagram := sock.recv(8192):
        while datagram:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", datagram)
            yield kind, sequence, datagram[16:length]
            datagram = datagram[(length + 3) & ~3 :]


def answers(sock: socket.socket, request: bytes) -> list[tuple[int, int, bytes]]:
    """All, which is what comes before the answer to one more question."""
    sock.send(request)
    sock.send(message(GETGEN, sequence=LAST))
    return list(itertools.takewhile(lambda found: found[1] != LAST, received(sock)))


def errors(sock: socket.socket, request: bytes) -> list[tuple[int, int]]:
    """Sequence number and error, which is 0 for an acknowledgement."""
    found = answers(sock, request)
    assert {kind for kind, _, _ in found} <= {NLMSG_ERROR}
    return [(sequence, -struct.unpack_from("=i", content)[0]) for _, sequence, content in found]


def tables(sock: socket.socket) -> int:
    """How many there are."""
    sock.send(message(GETTABLE, flags=NLM_F_DUMP, sequence=1))
    found = list(itertools.takewhile(lambda found: found[0] != NLMSG_DONE, received(sock)))
    assert {kind for kind, _, _ in found} <= {NEWTABLE}
    return len(found)
