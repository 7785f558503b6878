"""A DNS server that knows a few names."""

from collections.abc import Mapping
from typing import Any, Self

from dnslib import QTYPE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from .namespace import Namespace

_QUIET = DNSLogger("-request,-reply,-truncated")


class Names(BaseResolver):
    """Answers for `addresses` over UDP and TCP, and remembers what it was asked."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._addresses = addresses
        self._servers: list[DNSServer] = []

    def serve(self, namespace: Namespace, address: str) -> Self:
        """On port 53 of an address that the namespace has."""
        with namespace.entered():
            self._servers = [
                DNSServer(self, address=address, port=53, tcp=tcp, logger=_QUIET)
                for tcp in (False, True)
            ]
        for server in self._servers:
            server.start_thread()
        return self

    def close(self) -> None:
        for server in self._servers:
            server.stop()
            server.server.server_close()

    def resolve(self, request: Any, handler: Any) -> Any:
        name = str(request.q.qname).rstrip(".")
        kind = QTYPE[request.q.qtype]
        self.asked.append((name, kind))
        reply = request.reply()
        if name in self._addresses and kind == "A":
            answer = A(self._addresses[name])
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=answer, ttl=60))
        return reply
