"""A host on the internet that answers, and tells whom it saw: the handle of its program."""

import json
import subprocess
import sys
from pathlib import Path

from tests.world.namespace import Namespace

_PROGRAM = Path(__file__).with_name("internet_host_program.py")


class InternetHost:
    """Listens from the beginning: HTTP on port 80, TCP and UDP echo on port 7."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        """The namespace has the address."""
        with namespace.entered():
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", _PROGRAM, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def seen(self) -> dict[str, dict[str, int]]:
        """How often it saw which address, by kind: "http" (requests), "tcp" (connections to the
        echo port) and "udp" (datagrams)."""
        assert self.process.stdin
        self.process.stdin.write("seen\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        # Leaving `with` closes the pipes and waits.
        with self.process:
            self.process.kill()

    def _read(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the internet host ended with code {self.process.wait()}")
        return json.loads(line)
