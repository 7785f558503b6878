"""Messages between a program and netfilter (linux/netlink.h, linux/netfilter/nfnetlink.h and
nf_tables.h), altered so that this machine's kernel answers as another one would."""

import re
import struct
from collections.abc import Mapping

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_NLMSG_ERROR, _NLM_F_CAPPED = 2, 0x100
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_CONNTRACK, _NF_TABLES = 1, 10
_NEWRULE = _NF_TABLES << 8 | 6
_NFTA_LIST_ELEM, _NFTA_EXPR_NAME = 1, 1


def split(datagram: bytes) -> list[bytes]:
    """With the padding that follows each."""
    messages = []
    while datagram:
        length = max(_HEADER.size, (_HEADER.unpack_from(datagram)[0] + 3) & ~3)
        messages.append(datagram[:length])
        datagram = datagram[length:]
    return messages


def _type(message: bytes) -> int:
    return _HEADER.unpack_from(message)[1]


def sequence_number(message: bytes) -> int:
    return _HEADER.unpack_from(message)[3]


def is_transaction(messages: list[bytes]) -> bool:
    return _type(messages[0]) == _BATCH_BEGIN


def without_nf_tables(message: bytes) -> bytes:
    """Asks for a subsystem that no kernel has (net/netfilter/nfnetlink.c): in single requests one
    past the last, nfnetlink_rcv_msg(), in batches NFNL_SUBSYS_NONE, nfnetlink_rcv_batch()."""
    if _type(message) == _BATCH_BEGIN:
        return message[:18] + struct.pack(">H", 0) + message[20:]
    return _without(_NF_TABLES, message)


def without_conntrack(message: bytes) -> bytes:
    """As without_nf_tables; no batch is about connections."""
    return _without(_CONNTRACK, message)


def _without(subsystem: int, message: bytes) -> bytes:
    if _type(message) >> 8 == subsystem:
        return message[:5] + b"\xff" + message[6:]
    return message


def without_expression(name: bytes, message: bytes) -> bytes:
    """Asks for one whose name is in capitals (net/netfilter/nf_tables_api.c,
    nft_expr_type_get())."""
    if _type(message) != _NEWRULE:
        return message
    # In an element of a list, and first there. Not everybody sets the flag NLA_F_NESTED.
    element = struct.pack("=B", _NFTA_LIST_ELEM) + b"[\x00\x80]"
    attribute = struct.pack("=HH", 4 + len(name) + 1, _NFTA_EXPR_NAME)
    pattern = b"(" + element + re.escape(attribute) + b")" + name + b"\0"
    return re.sub(pattern, lambda found: found[1] + name.upper() + b"\0", message, flags=re.DOTALL)


def without_end(message: bytes) -> bytes:
    """A transaction that lacks its end is checked, acknowledged and dropped, which is what `nft
    --check` does: net/netfilter/nfnetlink.c, nfnetlink_rcv_batch()."""
    return b"" if _type(message) == _BATCH_END else message


def refusal(message: bytes, error: int) -> bytes:
    """As netlink_ack() of net/netlink/af_netlink.c answers."""
    *_, sequence, port = _HEADER.unpack_from(message)
    header = _HEADER.pack(_HEADER.size + 4 + len(message), _NLMSG_ERROR, 0, sequence, port)
    return header + struct.pack("=i", -error) + message


def as_asked(message: bytes, asked: Mapping[int, bytes]) -> bytes:
    """An answer that repeats the request does so as it was before it was altered."""
    _, kind, flags, sequence, _ = _HEADER.unpack_from(message)
    if kind != _NLMSG_ERROR or sequence not in asked:
        return message
    request = asked[sequence]
    length = _HEADER.size if flags & _NLM_F_CAPPED else _HEADER.unpack_from(request)[0]
    return message[:20] + request[:length] + message[20 + length :]
