"""Another kernel than this machine's, as a program meets it over netlink: one that lacks a part of
netfilter, that refuses, or that does not do what it says.

What a program gets from socket(AF_NETLINK, …, NETLINK_NETFILTER) is one end of a pair. What it
writes there is altered and handed to the real kernel, in the program's network namespace, and the
answers are the real ones: a kernel that lacks something is this one, asked for it by a name that it
does not know.

In all else that socket is none of netlink: it cannot be bound and has no options, NETLINK_EXT_ACK
is set. The program is taken for root of its namespace.
"""

import contextlib
import errno
import functools
import io
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from . import nfnetlink
from .namespace import Namespace
from .seccomp import Call, Filter, Rule

# linux/netlink.h
_AF_NETLINK, _NETLINK_NETFILTER = 16, 12
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11

_File = socket.socket | io.FileIO


class OtherKernel:
    """While it is open, programs meet it that are started with its `install` as `preexec_fn`.

    `lacks` is a kernel module: nfnetlink, nf_tables, nf_conntrack_netlink, or that of an
    expression, such as nft_masq.
    One that `forgets` checks a transaction, acknowledges it, and leaves everything as it was.
    `refuses` are the errors by which the first transactions are answered, one each, whoever asks.
    """

    def __init__(
        self, *, lacks: str | None = None, forgets: bool = False, refuses: Iterable[int] = ()
    ) -> None:
        self._refusals = iter(refuses)
        self._alterations: list[Callable[[bytes], bytes]] = []
        error = None
        if lacks == "nfnetlink":
            error = errno.EPROTONOSUPPORT  # net/netlink/af_netlink.c, netlink_create()
        elif lacks == "nf_tables":
            self._alterations.append(nfnetlink.without_nf_tables)
        elif lacks == "nf_conntrack_netlink":
            self._alterations.append(nfnetlink.without_conntrack)
        elif lacks is not None:
            module, _, expression = lacks.partition("_")
            assert module == "nft", f"a kernel without {lacks} is not known here"
            self._alterations.append(
                functools.partial(nfnetlink.without_expression, expression.encode())
            )
        if forgets:
            self._alterations.append(nfnetlink.without_end)
        self._filter = Filter(
            Rule("socket", {0: _AF_NETLINK, 2: _NETLINK_NETFILTER}, error),
            # Which socket it is for is not known here; of all others it takes the explanations of
            # errors away.
            Rule("setsockopt", {1: _SOL_NETLINK, 2: _NETLINK_EXT_ACK}, 0),
        )

    def __enter__(self) -> Self:
        self._inbox, self._outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._executor = ThreadPoolExecutor(1)
        self._served = self._executor.submit(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self._outbox.shutdown(socket.SHUT_RDWR)
        self._executor.shutdown()
        self._outbox.close()
        self._served.result()

    def install(self) -> None:
        """For the child, between fork and exec. Waits for nobody."""
        listener = self._filter.install()
        if listener is not None:
            # Not by send_fds(), which imports: another thread may have been importing at the fork.
            rights = struct.pack("=i", listener)
            self._outbox.sendmsg([b"listener"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    # --- The thread that is the kernel ------------------------------------------------------------

    def _serve(self) -> None:
        """However this ends, everything is closed then, so that no program waits: its socket()
        fails with ENOSYS (kernel/seccomp.c, seccomp_notify_detach()), its recv() sees the end."""
        self._open: dict[int, tuple[_File, Callable[[int], None]]] = {}
        with select.epoll() as self._epoll:
            try:
                self._watch(self._inbox, self._adopt)
                while self._inbox.fileno() in self._open:
                    # One at a time: handling it may close what the next would be about.
                    for fd, events in self._epoll.poll(maxevents=1):
                        self._open[fd][1](events)
            finally:
                self._close(*[file for file, _ in self._open.values()])

    def _watch(self, file: _File, handle: Callable[[int], None]) -> None:
        self._open[file.fileno()] = file, handle
        self._epoll.register(file, select.EPOLLIN)

    def _close(self, *files: _File) -> None:
        for file in files:
            # Closing is not enough while a child between fork and exec has it, too.
            self._epoll.unregister(file)
            del self._open[file.fileno()]
            file.close()

    def _adopt(self, _: int) -> None:
        """A program was started, or this is the end."""
        _, fds, _, _ = socket.recv_fds(self._inbox, 16, 1)
        for fd in fds:
            listener = io.FileIO(fd)
            self._watch(listener, functools.partial(self._connect, listener))
        if not fds:
            self._close(self._inbox)

    def _connect(self, listener: io.FileIO, events: int) -> None:
        if not events & select.EPOLLIN:
            # All that have the filter are gone: kernel/seccomp.c, seccomp_notify_poll().
            self._close(listener)
            return
        # Gone is also who is killed while it waits.
        gone = contextlib.suppress(FileNotFoundError, ProcessLookupError)
        with gone, contextlib.ExitStack() as unless_given:
            call = Call.receive(listener.fileno())
            kind = call.arguments[1]
            real = unless_given.enter_context(_netlink_of(call.thread))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            unless_given.enter_context(ours)
            # Ends what would otherwise wait forever for a program that does not read.
            ours.settimeout(10)
            with theirs:
                theirs.setblocking(not kind & socket.SOCK_NONBLOCK)
                call.give(listener.fileno(), theirs, cloexec=bool(kind & socket.SOCK_CLOEXEC))
            unless_given.pop_all()
            asked: dict[int, bytes] = {}
            self._watch(ours, lambda _: self._ask(ours, real, asked))
            self._watch(real, lambda _: self._answer(ours, real, asked))

    def _ask(self, ours: socket.socket, real: socket.socket, asked: dict[int, bytes]) -> None:
        datagram = b""
        # Whoever closes it without having read everything resets it.
        with contextlib.suppress(ConnectionResetError):
            datagram = ours.recv(1 << 20)
        if not datagram:
            self._close(ours, real)
            return
        messages = nfnetlink.split(datagram)
        asked.update((nfnetlink.sequence_number(message), message) for message in messages)
        if nfnetlink.is_transaction(messages) and (error := next(self._refusals, 0)):
            self._tell(ours, real, nfnetlink.refusal(messages[0], error))
            return
        for alter in self._alterations:
            messages = [alter(message) for message in messages]
        real.send(b"".join(messages))

    def _answer(self, ours: socket.socket, real: socket.socket, asked: dict[int, bytes]) -> None:
        # A dump comes in pieces as large as the reader's buffer (net/netlink/af_netlink.c,
        # netlink_dump()), and no reader has a smaller one.
        messages = nfnetlink.split(real.recv(8192))
        answer = b"".join(nfnetlink.as_asked(message, asked) for message in messages)
        self._tell(ours, real, answer)

    def _tell(self, ours: socket.socket, real: socket.socket, answer: bytes) -> None:
        try:
            ours.send(answer)
        except (ConnectionError, TimeoutError):
            self._close(ours, real)


def _netlink_of(thread: int) -> socket.socket:
    """A netlink socket in the namespace that a thread is in."""
    namespace = Namespace(os.open(f"/proc/{thread}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    try:
        with namespace.entered():
            real = socket.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    finally:
        namespace.close()
    real.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    return real
