"""A threaded HTTP/1.1 server close to the socket, so that answers can be broken on purpose.

It owns connections, parsing and framing; what is answered is the handler's business.
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

_MAX_HEAD = 64 * 1024


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names
    body: bytes


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    # Bytes promised by Content-Length and never sent; the connection is closed instead.
    missing: int = 0
    # Answer with a TCP RST and nothing else.
    reset: bool = False


Handler = Callable[[Request], Reply]


class HttpServer:
    """Serves one handler on any number of sockets, one thread a connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._listeners: list[socket.socket] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: tuple[str, str] | None = None,
        sock: socket.socket | None = None,
    ) -> str:
        """Start to serve and return the URL. `sock` is a bound socket from elsewhere, such as
        another network namespace; `tls` is (certificate file, key file)."""
        if sock is None:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        sock.listen(512)
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        with self._lock:
            self._listeners.append(sock)
        threading.Thread(target=self._accept, args=(sock, context), daemon=True).start()
        bound_host, bound_port = sock.getsockname()[:2]
        bound_host = f"[{bound_host}]" if ":" in bound_host else bound_host
        return f"{'https' if tls else 'http'}://{bound_host}:{bound_port}"

    def close(self) -> None:
        with self._lock:
            listeners, self._listeners = self._listeners, []
            connections, self._connections = self._connections, set()
        for sock in [*listeners, *connections]:
            # shutdown, not only close, wakes a thread that is blocked in accept or recv.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if listener not in self._listeners:
                    conn.close()
                    return
                self._connections.add(conn)
            threading.Thread(target=self._serve, args=(conn, context), daemon=True).start()

    def _serve(self, raw: socket.socket, context: ssl.SSLContext | None) -> None:
        conn = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context:
                conn = context.wrap_socket(raw, server_side=True)
                with self._lock:
                    self._connections.add(conn)
            buffer = b""
            while (read := _read_request(conn, buffer)) is not None:
                request, buffer = read
                reply = self._handler(request)
                if not _send(conn, request, reply):
                    return
        except (OSError, ValueError):
            pass  # the client went away or does not speak HTTP: nobody is left to tell
        finally:
            with self._lock:
                self._connections -= {raw, conn}
            conn.close()


def _read_request(conn: socket.socket, buffer: bytes) -> tuple[Request, bytes] | None:
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        chunk = conn.recv(65536)
        if not chunk or len(buffer) > _MAX_HEAD:
            return None
        buffer += chunk
    head, rest = buffer[:end].decode("latin-1").split("\r\n"), buffer[end + 4 :]
    method, target, _ = head[0].split(" ", 2)
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(headers.get("content-length") or 0)
    while len(rest) < length:
        chunk = conn.recv(65536)
        if not chunk:
            return None
        rest += chunk
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, rest[:length]), rest[length:]


def _send(conn: socket.socket, request: Request, reply: Reply) -> bool:
    """Send the answer; says whether the connection may carry another request."""
    if reply.reset:
        # Linger of zero seconds makes close() send RST in place of FIN.
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    keep = request.headers.get("connection", "").lower() != "close" and not reply.missing
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {reply.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    lines.append(f"Content-Length: {len(reply.body) + reply.missing}")
    lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    conn.sendall(head if request.method == "HEAD" else head + reply.body)
    return keep
