"""An instance that is on: a network namespace, processes of its own, a boot.

What runs on it finds what it would on EC2: its metadata at 169.254.169.254, a resolver, AWS's
endpoints on the Internet under their own names. Which files it sees is up to its first process.
"""

import contextlib
import functools
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.world.imds import Imds
from tests.world.machine import PRIMARY, Machine

from .init import Init
from .picture import Described
from .router import METADATA, Port, Router, port_name


@dataclass(frozen=True)
class Boot:
    """What the instance's user data did. Times by time.monotonic()."""

    started: float
    ended: float
    code: int


class Instance:
    def __init__(
        self,
        about: Described,
        router: Router,
        imds: Imds,
        start_init: Callable[[Machine], Init],
    ) -> None:
        """`imds` is its own; `start_init` starts its first process."""
        self.about = about
        self.port = Port(port_name(about.instance), about.address, about.subnet, about.mac)
        self.place = Machine(about.mac, about.address, router, self.port.name)
        # None until its user data has run to its end.
        self.boot: Boot | None = None
        self.alive = True
        # Held while it is killed or closed.
        self._lock = threading.Lock()
        self._closed = False
        self._started_lock = threading.Lock()
        self._started: list[subprocess.Popen[str]] = []
        self._over = threading.Event()
        self._boot: threading.Thread | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(self.place.close)
            router.plug(self.port, self.place)
            stack.callback(router.unplug, self.port.name)
            metadata = _metadata_socket(router, self.port.name)
            imds.listen(sock=metadata)
            stack.callback(imds.http.stop, metadata)
            self._init = start_init(self.place)
            stack.callback(self._end_processes)
            self._stack = stack.pop_all()

    # --- What runs on it ------------------------------------------------------------------------

    def start(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[str]:
        """`how` is for Popen; without it there is no input."""
        how.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            [*self._init.within(), *command],
            env={**self._init.env, **(env or {})},
            text=True,
            **how,
        )
        with self._started_lock:
            self._started = [known for known in self._started if known.poll() is None]
            self._started.append(process)
        return process

    def run(self, *command: str | Path, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        with self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def boot_up(self, after: float, tell: Callable[[str], None]) -> None:
        """So many seconds from now, run its user data; `tell` is told of it."""
        self._boot = threading.Thread(target=self._boot_up, args=(after, tell))
        self._boot.start()

    def _boot_up(self, after: float, tell: Callable[[str], None]) -> None:
        if self._over.wait(after):
            return
        started = time.monotonic()
        begins = functools.partial(tell, "has booted, runs its user data")
        code = self._init.boot(self.start, begins, self._over)
        self.boot = Boot(started, time.monotonic(), code)
        if self.alive:
            tell(f"user data ended with exit code {code}")

    # --- What becomes of it ---------------------------------------------------------------------

    def kill(self) -> None:
        """Without notice: its processes and its forwarding stop. EC2 knows nothing of it."""
        with self._lock:
            if not self._closed:
                self.alive = False
                self._end_processes()
                self.place.set_link(PRIMARY, state="down")

    def freeze(self) -> None:
        """Every process stands still."""
        self._init.freeze()

    def thaw(self) -> None:
        self._init.thaw()
        with self._started_lock:
            for process in self._started:
                # nsenter stands still when what it has started does.
                process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stack.close()

    def _end_processes(self) -> None:
        self._over.set()
        self._init.end()
        with self._started_lock:
            for process in self._started:
                process.kill()
        if self._boot:
            self._boot.join()


def _metadata_socket(router: Router, port: str) -> socket.socket:
    """At the address that metadata has everywhere, on this port's cable alone."""
    sock = router.bound_socket(str(METADATA), 80, interface=port)
    # EC2 user guide, "Instance metadata": the answers' hop limit is 1 unless set, so that none is
    # forwarded.
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
    return sock
