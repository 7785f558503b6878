"""A host on the internet: HTTP on port 80, TCP and UDP echo on port 7, and whom it saw.

Its argument is the address to listen on. It imports nothing of ours, because it runs beside the
emulator and not in it. It prints `{"ready": true}`, and for each line "seen" on standard input
how often it saw which address: HTTP requests, TCP connections, datagrams. When standard input
ends, so does it.

A datagram is answered with itself, a space, and the address that it came from.
"""

import contextlib
import functools
import json
import os
import select
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable

CHUNK = 1 << 16


class Host:
    """Connections that fall silent are kept: a failover leaves a few, and the run is short."""

    def __init__(self, address: str) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._seen = {"http": Counter[str](), "tcp": Counter[str](), "udp": Counter[str]()}
        self._commands = b""
        self._listen(address, 80, self._accept_http)
        self._listen(address, 7, self._accept_echo)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((address, 7))
        self._watch(udp, functools.partial(self._answer_datagram, udp))
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)

    def run(self) -> None:
        _print({"ready": True})
        while True:
            for fd, _ in self._epoll.poll():
                if fd != sys.stdin.fileno():
                    self._handlers[fd]()
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        """False at the end of standard input."""
        data = os.read(sys.stdin.fileno(), CHUNK)
        *commands, self._commands = (self._commands + data).split(b"\n")
        for command in commands:
            if command == b"seen":
                _print(self._seen)
        return data != b""

    def _listen(self, address: str, port: int, accept: Callable[[socket.socket], None]) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
        self._watch(listener, functools.partial(accept, listener))

    def _watch(self, sock: socket.socket, handler: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock, select.EPOLLIN)

    def _close(self, sock: socket.socket) -> None:
        del self._handlers[sock.fileno()]
        sock.close()

    # --- HTTP -------------------------------------------------------------------------------------

    def _accept_http(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, (address, _) = listener.accept()
            request = bytearray()
            self._watch(sock, functools.partial(self._read_http, sock, address, request))

    def _read_http(self, sock: socket.socket, address: str, request: bytearray) -> None:
        try:
            data = sock.recv(CHUNK)
            request += data
            if b"\r\n\r\n" in request:
                self._seen["http"][address] += 1
                # It is sent together with the FIN that close sends.
                sock.send(_http_answer(address), socket.MSG_MORE)
            elif data:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(sock)

    # --- Echo -------------------------------------------------------------------------------------

    def _accept_echo(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, (address, _) = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._seen["tcp"][address] += 1
            self._watch(sock, functools.partial(self._echo, sock, bytearray()))

    def _echo(self, sock: socket.socket, unsent: bytearray) -> None:
        """Reads only when everything that was read before is sent."""
        try:
            if not unsent:
                unsent += sock.recv(CHUNK)
                if not unsent:
                    self._close(sock)
                    return
            del unsent[: sock.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._close(sock)
            return
        self._epoll.modify(sock, select.EPOLLOUT if unsent else select.EPOLLIN)

    def _answer_datagram(self, sock: socket.socket) -> None:
        # A datagram that can't be answered is one that the network lost.
        with contextlib.suppress(OSError):
            data, source = sock.recvfrom(CHUNK)
            self._seen["udp"][source[0]] += 1
            sock.sendto(data + b" " + source[0].encode(), source)


def _http_answer(address: str) -> bytes:
    body = f"{address}\n"
    return (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
        f"\r\n{body}"
    ).encode()


def _print(content: object) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    # Its parent decides when it ends, a terminal does not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Host(sys.argv[1]).run()
