"""Packet rules in a namespace: nf_tables over netlink, since `nft` is not installed everywhere.

But for `masquerade`, the rules here follow no connections: the namespaces that they are in keep no
state, so nothing of a packet's past decides about it.
"""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex, masq, verdict
from pyroute2.nftables.main import NFTables

from tests.world.namespace import Namespace

Expressions = list[dict[str, Any]]

_REGISTER = Regs.NFT_REG_1
# linux/netfilter.h, NF_DROP
DROP = verdict(code=0)
# Before what the kernel's own rules do (linux/netfilter_ipv4.h, NF_IP_PRI_RAW).
EARLY = -300
# linux/netfilter_ipv4.h, NF_IP_PRI_NAT_SRC
_SOURCE_NAT = 100
_IPV4, _NETWORK_HEADER, _TRANSPORT_HEADER = 2, 1, 2
# Into IP's header, and that of an ICMP error into the header of the packet that it quotes.
_SOURCE, _DESTINATION, _CHECKSUM = 12, 16, 10
_QUOTED = 8
# linux/netfilter/nf_tables.h, NFT_PAYLOAD_CSUM_INET
_INTERNET_CHECKSUM = 1
# RFC 792: destination unreachable, time exceeded, parameter problem.
_ICMP, _ICMP_ERRORS = 1, (3, 11, 12)


class RuleTable:
    """A table of rules with one chain. They take effect one after the other when it is made, and
    go together when it is closed."""

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        hook: str,
        rules: list[Expressions],
        priority: int = EARLY,
        kind: str = "filter",
    ) -> None:
        """`hook` is one of netfilter's, `kind` filter or nat."""
        self._namespace = namespace
        self._name = name
        with namespace.entered(), NFTables(nfgen_family=_IPV4) as nft:
            nft.table("add", name=name)
            nft.chain("add", table=name, name="rules", hook=hook, priority=priority, type=kind)
            for rule in rules:
                nft.rule("add", table=name, chain="rules", expressions=[rule])

    def close(self) -> None:
        with self._namespace.entered(), NFTables(nfgen_family=_IPV4) as nft:
            nft.table("del", name=self._name)


def masquerade(namespace: Namespace) -> RuleTable:
    """Whatever the namespace forwards leaves from its own address, and answers come back."""
    return RuleTable(namespace, "masquerade", "postrouting", [masq()], _SOURCE_NAT, kind="nat")


# --- Which packets --------------------------------------------------------------------------------


def comes_by(interface: str) -> Expressions:
    return [_meta(Meta.NFT_META_IIFNAME), _compare(_name(interface))]


def goes_by(interface: str) -> Expressions:
    return [_meta(Meta.NFT_META_OIFNAME), _compare(_name(interface))]


def is_from(block: str) -> Expressions:
    return _is_in(block, _SOURCE)


def is_to(block: str) -> Expressions:
    return _is_in(block, _DESTINATION)


def is_chosen(share: float) -> Expressions:
    """A share of the packets, drawn at random."""
    # A random number of 32 bits, compared byte by byte.
    bound = min(int(share * (1 << 32)), (1 << 32) - 1).to_bytes(4, "big")
    return [_meta(Meta.NFT_META_PRANDOM), _compare(bound, Cmp.NFT_CMP_LT)]


def is_unmarked() -> Expressions:
    return [_meta(Meta.NFT_META_MARK), _compare(bytes(4))]


# --- What to do with them -------------------------------------------------------------------------


def mark() -> Expressions:
    set_mark = genex("meta", {"sreg": _REGISTER, "key": Meta.NFT_META_MARK})
    return [_value(b"\1\0\0\0"), set_mark]


def set_source(address: str) -> Expressions:
    return _set_address(address, _SOURCE)


def set_destination(address: str) -> Expressions:
    return _set_address(address, _DESTINATION)


def set_quoted_source(match: Expressions, address: str) -> list[Expressions]:
    """Rules that set the source of the packet that an ICMP error quotes."""
    return _set_quoted(match, _SOURCE, address)


def set_quoted_destination(match: Expressions, address: str) -> list[Expressions]:
    return _set_quoted(match, _DESTINATION, address)


def _set_quoted(match: Expressions, offset: int, address: str) -> list[Expressions]:
    # The checksum in the quoted header changes with the address, so that their sum, and with it
    # the ICMP message's own checksum, stays as it is.
    write = genex(
        "payload",
        {
            "sreg": _REGISTER,
            "base": _TRANSPORT_HEADER,
            "offset": _QUOTED + offset,
            "len": 4,
            "csum_type": _INTERNET_CHECKSUM,
            "csum_offset": _QUOTED + _CHECKSUM,
        },
    )
    is_icmp = [_meta(Meta.NFT_META_L4PROTO), _compare(bytes([_ICMP]))]
    return [
        [
            *match,
            *is_icmp,
            _load(_TRANSPORT_HEADER, 0, 1),
            _compare(bytes([kind])),
            _value(IPv4Address(address).packed),
            write,
        ]
        for kind in _ICMP_ERRORS
    ]


def _set_address(address: str, offset: int) -> Expressions:
    write = genex(
        "payload",
        {
            "sreg": _REGISTER,
            "base": _NETWORK_HEADER,
            "offset": offset,
            "len": 4,
            "csum_type": _INTERNET_CHECKSUM,
            "csum_offset": _CHECKSUM,
            # TCP's and UDP's checksums cover the addresses.
            "csum_flags": ["NFT_PAYLOAD_L4CSUM_PSEUDOHDR"],
        },
    )
    return [_value(IPv4Address(address).packed), write]


# --- Of which rules are made ----------------------------------------------------------------------


def _is_in(block: str, offset: int) -> Expressions:
    network = IPv4Network(block)
    mask = {"attrs": [("NFTA_DATA_VALUE", network.netmask.packed)]}
    nothing = {"attrs": [("NFTA_DATA_VALUE", bytes(4))]}
    masked = {"sreg": _REGISTER, "dreg": _REGISTER, "len": 4, "mask": mask, "xor": nothing}
    return [
        _load(_NETWORK_HEADER, offset, 4),
        genex("bitwise", masked),
        _compare(network.network_address.packed),
    ]


def _meta(key: Meta) -> dict[str, Any]:
    return genex("meta", {"dreg": _REGISTER, "key": key})


def _load(base: int, offset: int, length: int) -> dict[str, Any]:
    return genex("payload", {"dreg": _REGISTER, "base": base, "offset": offset, "len": length})


def _value(data: bytes) -> dict[str, Any]:
    return genex("immediate", {"dreg": _REGISTER, "data": {"attrs": [("NFTA_DATA_VALUE", data)]}})


def _compare(data: bytes, op: Cmp = Cmp.NFT_CMP_EQ) -> dict[str, Any]:
    value = {"attrs": [("NFTA_DATA_VALUE", data)]}
    return genex("cmp", {"sreg": _REGISTER, "op": op, "data": value})


def _name(interface: str) -> bytes:
    # As long as the kernel's field (linux/if.h, IFNAMSIZ).
    return interface.encode().ljust(16, b"\0")
