"""A threaded HTTP/1.1 server close to the socket, so that answers can be broken on purpose.

It owns sockets, connections, parsing and framing; what is answered is the handler's business.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from .namespace import Namespace

_MAX_HEAD = 64 * 1024
# How often, in seconds, some of a slow body goes out.
_STEP = 0.05


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
    # How many bytes of the body go out a second; None: all at once.
    rate: float | None = None
    # Answer with a TCP RST and nothing else.
    reset: bool = False


Handler = Callable[[Request], Reply]


@dataclass(eq=False)
class _Listener:
    sock: socket.socket
    context: ssl.SSLContext | None
    # Whether other namespaces get its like.
    repeated: bool
    # The namespace that it is the like in, if it is one.
    place: Namespace | None = None


class HttpServer:
    """Serves one handler on any number of sockets, one thread a connection. A namespace that it
    serves in has the same URLs: every address that is listened on, on that namespace's loopback.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._places: list[Namespace] = []
        self._listeners: list[_Listener] = []
        self._connections: dict[socket.socket, _Listener] = {}
        self._lock = threading.Lock()

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: tuple[str, str] | None = None,
        sock: socket.socket | None = None,
    ) -> str:
        """Start to serve and return the URL. `sock` is a bound socket, which is served as it is
        and nowhere else; `tls` is (certificate file, key file)."""
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        listener = _Listener(sock or _bound(host, port), context, repeated=sock is None)
        with self._lock:
            self._open(listener)
            for place in self._places:
                self._repeat(listener, place)
        bound_host, bound_port = listener.sock.getsockname()[:2]
        bound_host = f"[{bound_host}]" if ":" in bound_host else bound_host
        return f"{'https' if tls else 'http'}://{bound_host}:{bound_port}"

    def stop(self, sock: socket.socket) -> None:
        """No longer listen on a socket that `listen` was given."""
        with self._lock:
            self._close([listener for listener in self._listeners if listener.sock is sock])

    def serve_in(self, place: Namespace) -> None:
        """Serve in this namespace too, on what is listened on now and on what will be."""
        with self._lock:
            self._places.append(place)
            for listener in list(self._listeners):
                self._repeat(listener, place)

    def leave(self, place: Namespace) -> None:
        with self._lock:
            self._places.remove(place)
            self._close([listener for listener in self._listeners if listener.place is place])

    def close(self) -> None:
        """Stop to listen, everywhere. The next `listen` is in the same namespaces again."""
        with self._lock:
            self._close(self._listeners)

    def _repeat(self, listener: _Listener, place: Namespace) -> None:
        if listener.repeated:
            with place.entered():
                sock = _bound(*listener.sock.getsockname()[:2])
            # Out here again: a thread that is started inside keeps the namespace alive.
            self._open(_Listener(sock, listener.context, repeated=False, place=place))

    def _open(self, listener: _Listener) -> None:
        listener.sock.listen(512)
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _close(self, closed: list[_Listener]) -> None:
        cut = [conn for conn, listener in self._connections.items() if listener in closed]
        for sock in [*(listener.sock for listener in closed), *cut]:
            # shutdown, not only close, wakes a thread that is blocked in accept or recv.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._listeners = [listener for listener in self._listeners if listener not in closed]
        for conn in cut:
            del self._connections[conn]

    def _accept(self, listener: _Listener) -> None:
        while True:
            try:
                conn, _ = listener.sock.accept()
            except OSError:
                return
            with self._lock:
                if listener not in self._listeners:
                    conn.close()
                    return
                self._connections[conn] = listener
            threading.Thread(target=self._serve, args=(conn, listener), daemon=True).start()

    def _serve(self, raw: socket.socket, listener: _Listener) -> None:
        conn = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if listener.context:
                conn = listener.context.wrap_socket(
                    raw, server_side=True, do_handshake_on_connect=False
                )
                # It takes the file over from `raw`; now it can be cut, even in its handshake.
                with self._lock:
                    self._connections[conn] = listener
                conn.do_handshake()
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
                self._connections.pop(raw, None)
                self._connections.pop(conn, None)
            conn.close()


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


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
    body = b"" if request.method == "HEAD" else reply.body
    if reply.rate is None:
        conn.sendall(head + body)
        return keep
    conn.sendall(head)
    step = max(1, int(reply.rate * _STEP))
    for start in range(0, len(body), step):
        time.sleep(_STEP)
        conn.sendall(body[start : start + step])
    return keep
