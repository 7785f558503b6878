"""Network namespaces: making them, being in them, and the interfaces that join them."""

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, Self

from pyroute2 import IPRoute

# Python has os.unshare and os.setns since 3.12 only.
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


class Namespace:
    """Lives as long as it is open here, or a process or socket of it is left. A thread is in one
    namespace at a time, so entering one moves no other thread."""

    def __init__(self, fd: int | None = None) -> None:
        """A fresh one with `lo` up; or the one that `fd` is an open file of, which it then owns."""
        if fd is None:
            with _back_afterwards():
                _check(_libc.unshare(_CLONE_NEWNET), "unshare")
                fd = _current()
            self._fd = fd
            self.set_link("lo", state="up")
        else:
            self._fd = fd

    @classmethod
    def current(cls) -> Self:
        """The one that the calling thread is in."""
        return cls(_current())

    @property
    def path(self) -> str:
        """A file that is this namespace, for `nsenter --net=…` and the like."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """Inside, the calling thread is in the namespace: sockets that it makes and processes and
        threads that it starts belong there, and stay."""
        with _back_afterwards():
            _check(_libc.setns(self._fd, _CLONE_NEWNET), "setns")
            yield self

    def bound_socket(
        self,
        address: str,
        port: int,
        kind: int = socket.SOCK_STREAM,
        interface: str | None = None,
    ) -> socket.socket:
        """To an address that the namespace has; with `interface`, reached by that one alone."""
        sock = self.socket(kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((address, port))
        return sock

    # Below what uses the module of that name, which it hides in the class.
    def socket(
        self, kind: int = socket.SOCK_STREAM, protocol: int = 0, family: int = socket.AF_INET
    ) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind, protocol)

    @contextlib.contextmanager
    def netlink(self) -> Iterator[IPRoute]:
        with self.entered(), IPRoute() as netlink:
            yield netlink

    def add_veth(
        self, name: str, peer: "Namespace", peer_name: str, mac: str | None = None, mtu: int = 1500
    ) -> None:
        """Join two namespaces by a pair of interfaces, both up; the MAC is of the one here."""
        other_end = {"ifname": peer_name, "net_ns_fd": peer._fd, "mtu": mtu}
        with self.netlink() as netlink:
            here = {"address": mac} if mac else {}
            netlink.link("add", ifname=name, kind="veth", mtu=mtu, peer=other_end, **here)
        self.set_link(name, state="up")
        peer.set_link(peer_name, state="up")

    def set_link(self, name: str, **attributes: Any) -> None:
        """Change an interface, such as `state="up"` or `mtu=1500`."""
        with self.netlink() as netlink:
            netlink.link("set", index=_index(netlink, name), **attributes)

    def add_address(self, name: str, address: IPv4Interface) -> None:
        with self.netlink() as netlink:
            netlink.addr(
                "add",
                index=_index(netlink, name),
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
            )

    def add_route(self, destination: str, gateway: IPv4Address) -> None:
        with self.netlink() as netlink:
            netlink.route("add", dst=destination, gateway=str(gateway))

    def forward(self) -> None:
        """Forward packets, by whatever interface they come in; that must be made afterwards."""
        filters = "conf/all/rp_filter", "conf/default/rp_filter"
        for setting, value in (("ip_forward", 1), *((name, 0) for name in filters)):
            self.write_sysctl(f"net/ipv4/{setting}", value)

    def write_sysctl(self, path: str, value: object) -> None:
        with self.entered(), open(f"/proc/sys/{path}", "w") as file:
            file.write(str(value))

    def read_sysctl(self, path: str) -> str:
        with self.entered(), open(f"/proc/sys/{path}") as file:
            return file.read().strip()

    def close(self) -> None:
        # A number that is used again is another file's.
        fd, self._fd = self._fd, -1
        os.close(fd)


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _back_afterwards() -> Iterator[None]:
    before = _current()
    try:
        yield
    finally:
        _check(_libc.setns(before, _CLONE_NEWNET), "setns")
        os.close(before)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _index(netlink: IPRoute, name: str) -> int:
    return netlink.link_lookup(ifname=name)[0]
