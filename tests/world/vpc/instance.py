"""An instance that is on: a network namespace, processes of its own, a boot.

What runs on it finds what it would on EC2: its metadata at 169.254.169.254, a resolver, AWS's
endpoints on the Internet under their own names. It shares files with everybody else.
"""

import contextlib
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

from .picture import Described
from .router import METADATA, Port, Router, port_name

# Its first process, whose end is everybody's (pid_namespaces(7)). It mounts what is the instance's
# own, then waits for the end of its input, which comes when the world ends, however it does.
_INIT = """
mount --bind "$0" /etc/resolv.conf || exit
# Where a container hides parts of /proc, none can be mounted; the outer one does.
mount -t proc proc /proc 2>/dev/null
echo up
exec cat >/dev/null
"""
# Starts a program that ends with the thread that starts it, at the latest.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
_OWN = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--"]

_NAMESPACES = {
    "net": "net",
    "mount": "mnt",
    "uts": "uts",
    "ipc": "ipc",
    # Of its children: unshare itself stays in the one that it was started in.
    "pid": "pid_for_children",
}


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
        resolv_conf: Path,
        env: Mapping[str, str],
    ) -> None:
        """`imds` is its own; `env` is what every program finds in its environment."""
        self.about = about
        self.port = Port(port_name(about.instance), about.address, about.subnet, about.mac)
        self.place = Machine(about.mac, about.address, router, self.port.name)
        # None until its user data has run to its end.
        self.boot: Boot | None = None
        self.alive = True
        self._env = dict(env)
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
            with self.place.entered():
                self._init = subprocess.Popen(
                    [*_OWN, "sh", "-c", _INIT, resolv_conf],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    # What is typed to stop the world is for the world.
                    start_new_session=True,
                )
            stack.callback(self._end_processes)
            said = self._init.stdout.readline() if self._init.stdout else ""
            if said != "up\n":
                raise RuntimeError(f"{about.instance} does not start: {said}")
            self._stack = stack.pop_all()

    # --- What runs on it ------------------------------------------------------------------------

    def _within(self) -> list[str]:
        """What starts a program on it."""
        ns = f"/proc/{self._init.pid}/ns"
        shared = [f"--{kind}={ns}/{file}" for kind, file in _NAMESPACES.items()]
        # The program ends with the instance. nsenter, outside, would be left when it stands still,
        # which it does as soon as the program does.
        return [*ENDS_WITH_US, "nsenter", *shared, "--"]

    def start(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[str]:
        """`how` is for Popen; without it there is no input."""
        how.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(
            [*self._within(), *command],
            env={**self._env, **(env or {})},
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

    def run_at_boot(
        self, script: Path, log: Path, after: float, tell: Callable[[str], None]
    ) -> None:
        """So many seconds from now, run what the instance boots with; `tell` is told of it."""
        arguments = script, log, after, tell
        self._boot = threading.Thread(target=self._run_at_boot, args=arguments)
        self._boot.start()

    def _run_at_boot(
        self, script: Path, log: Path, after: float, tell: Callable[[str], None]
    ) -> None:
        if self._over.wait(after):
            return
        started = time.monotonic()
        tell("has booted, runs its user data")
        with log.open("ab") as output:
            process = self.start([script], stdout=output, stderr=output, start_new_session=True)
        code = process.wait()
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
        self._signal("STOP")

    def thaw(self) -> None:
        self._signal("CONT")
        with self._started_lock:
            for process in self._started:
                # nsenter stands still when what it has started does.
                process.send_signal(signal.SIGCONT)

    def _signal(self, name: str) -> None:
        self.run("sh", "-c", f"kill -{name} -1", timeout=10)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stack.close()

    def _end_processes(self) -> None:
        self._over.set()
        with self._init:
            self._init.kill()
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
