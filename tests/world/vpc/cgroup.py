"""The control group of an instance with a system: systemd needs one of its own, and by it all
processes of the instance stand still, or end."""

import os
import time
from collections.abc import Callable
from pathlib import Path

_PATIENCE = 10.0


def hierarchy() -> Path | None:
    """Where version 2 is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


class Cgroup:
    """`system` is for systemd alone. What is started from outside has its own place beside it, for
    systemd would have to share the root of its hierarchy (systemd's documentation, "Control Group
    APIs and Delegation")."""

    def __init__(self, name: str) -> None:
        top = hierarchy()
        assert top, "nobody asked why no system can boot"
        self._path = top / name
        self.system, self.guests = self._path / "system", self._path / "guests"
        for path in (self.system, self.guests):
            path.mkdir(parents=True)

    def freeze(self, yes: bool) -> None:
        """Until every process stands still, or goes on."""
        (self._path / "cgroup.freeze").write_text(f"{yes:d}")
        self._wait(lambda: f"frozen {yes:d}\n" in (self._path / "cgroup.events").read_text())

    def close(self) -> None:
        """Ends its processes, even those that stand still."""
        (self._path / "cgroup.kill").write_text("1")
        self._wait(self._remove)

    def _remove(self) -> bool:
        try:
            for path, _, _ in os.walk(self._path, topdown=False):
                os.rmdir(path)
        except OSError:
            return False
        return True

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._path}: {(self._path / 'cgroup.events').read_text()}")
            time.sleep(0.005)
