"""An instance with an arm64 processor and a kernel of its own: QEMU in the instance's network
namespace, where the world answers it as it answers others there.

QEMU's own network (its documentation, "Network emulation", user mode) takes the place of the cable:
what the machine sends to its gateway arrives at the namespace's loopback, under the same port.
"""

import shutil
import socket
import subprocess
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

from .arm64_image import INITRAMFS, KERNEL, SYSTEM, archive
from .machine import PRIMARY, Machine
from .vpc.init import ENDS_WITH_US

# What it can do is the smallest instance's, t4g.nano's (EC2 instance types).
_MIB, _PROCESSORS = 512, 2
_LOOPBACK = "127.0.0.1"
_PORT = 1
# Emulated, beside other work. Where it works at all it takes a twentieth.
_PATIENCE = 120.0


class Arm64Machine:
    """Its root holds `binary` as /hanat and what arm64_image.py says; `folder` is for files."""

    def __init__(self, machine: Machine, image: Path, binary: Path, folder: Path) -> None:
        self.gateway = str(machine.gateway)
        self._machine = machine
        self._console = folder / "console"
        with machine.bound_socket(_LOOPBACK, 0) as free:
            self._port = free.getsockname()[1]
        with machine.entered():
            self._qemu = subprocess.Popen(
                self._command(image, self._initramfs(image, binary, folder)),
                stdin=subprocess.DEVNULL,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _initramfs(self, image: Path, binary: Path, folder: Path) -> Path:
        own = folder / "root"
        own.mkdir()
        shutil.copy(binary, own / "hanat")
        initramfs = folder / INITRAMFS
        initramfs.write_bytes((image / INITRAMFS).read_bytes() + archive(own, image / "busybox"))
        return initramfs

    def _command(self, image: Path, initramfs: Path) -> list[str | Path]:
        machine = self._machine
        # The kernel puts what it does not know into the first process's environment.
        environment = (
            f"interface={PRIMARY} address={machine.address} gateway={machine.gateway} port={_PORT}"
        )
        network = (
            f"user,id=cable,net={machine.address.network},host={machine.gateway}"
            f",dns={machine.address.network[2]}"
            f",hostfwd=tcp:{_LOOPBACK}:{self._port}-{machine.address.ip}:{_PORT}"
        )
        return [
            *(*ENDS_WITH_US, SYSTEM, "-nodefaults", "-nographic", "-no-reboot"),
            *("-machine", "virt", "-cpu", "cortex-a72"),
            *("-smp", str(_PROCESSORS), "-m", f"{_MIB}M"),
            *("-kernel", image / KERNEL, "-initrd", initramfs),
            *("-append", f"console=ttyAMA0 quiet panic=-1 {environment}"),
            *("-serial", f"file:{self._console}"),
            *("-netdev", network),
            *("-device", f"virtio-net-pci,netdev=cable,mac={machine.mac},romfile="),
        ]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while "ready" not in (said := self.console).split():
            if self._qemu.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no arm64 machine starts: {said}")
            time.sleep(0.05)

    @property
    def console(self) -> str:
        """What the kernel and the first process have said."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def run(self, script: str) -> CompletedProcess[str]:
        """By the machine's shell, with nothing to read."""
        wrapped = (
            f"{{ {script}\n}} >/tmp/out 2>/tmp/err </dev/null; "
            "echo $? $(wc -c </tmp/out); cat /tmp/out /tmp/err"
        )
        with self._machine.entered():
            connection = socket.create_connection((_LOOPBACK, self._port), _PATIENCE)
        with connection, connection.makefile("rb") as answer:
            connection.sendall(wrapped.encode())
            connection.shutdown(socket.SHUT_WR)
            code, length = map(int, answer.readline().split())
            stdout, stderr = answer.read(length), answer.read()
        return CompletedProcess(script, code, stdout.decode(), stderr.decode())

    def close(self) -> None:
        self._qemu.kill()
        self._qemu.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
