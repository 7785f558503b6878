"""The first process of an instance, whose end is everybody's (pid_namespaces(7)): what it runs in,
and how user data comes to run. Here the light one, which shares files with everybody else; one
with a system of its own is in system.py.
"""

import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.world.namespace import Namespace

# Starts a program that ends with the thread that starts it, at the latest.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
# By nsenter's and unshare's names, and the kernel's. Of its children, where there is a difference:
# unshare itself stays in the one that it was started in.
_FILES = {
    "net": "net",
    "mount": "mnt",
    "uts": "uts",
    "ipc": "ipc",
    "pid": "pid_for_children",
    "cgroup": "cgroup",
}


# Starts a program on the instance, as Instance.start does.
Start = Callable[..., subprocess.Popen[str]]


class Init:
    """`kinds` are the namespaces of its own, apart from the network's, which `place` is."""

    kinds: tuple[str, ...] = ("mount", "uts", "ipc", "pid")
    # What every program finds in its environment.
    env: Mapping[str, str] = {}

    def _launch(self, place: Namespace, script: str, *arguments: str | Path) -> None:
        """Runs the shell script until it says "up". `$0` is its first argument."""
        own = [f"--{kind}" for kind in self.kinds]
        unshare = ["unshare", *own, "--fork", "--kill-child", "--", "sh", "-c", script]
        with place.entered():
            self.process = subprocess.Popen(
                [*self._before(), *unshare, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # What is typed to stop the world is for the world.
                start_new_session=True,
            )
        said = self.process.stdout.readline() if self.process.stdout else ""
        if said != "up\n":
            self.end()
            raise RuntimeError(f"no instance starts: {said}")

    def _before(self) -> list[str]:
        """What comes before a program that is started for the instance."""
        return []

    def within(self) -> list[str]:
        """What starts a program on it. The program ends with the instance; nsenter, outside, would
        be left when it stands still, which it does as soon as the program does."""
        ns = f"/proc/{self.process.pid}/ns"
        shared = [f"--{kind}={ns}/{_FILES[kind]}" for kind in ("net", *self.kinds)]
        return [*ENDS_WITH_US, *self._before(), "nsenter", *shared, "--"]

    def boot(self, start: Start, begins: Callable[[], None], over: threading.Event) -> int:
        """Has user data run, and says how that ended. `begins` is called when it begins; when it
        is `over`, there is nothing to wait for any more."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Every process stands still."""
        self._signal("STOP")

    def thaw(self) -> None:
        self._signal("CONT")

    def _signal(self, name: str) -> None:
        command = [*self.within(), "sh", "-c", f"kill -{name} -1"]
        subprocess.run(command, check=False, timeout=10)

    def end(self) -> None:
        with self.process:
            self.process.kill()


# It mounts what is the instance's own, then waits for the end of its input, which comes when the
# world ends, however it does.
_LIGHT = """
mount --bind "$0" /etc/resolv.conf || exit
# Where a container hides parts of /proc, none can be mounted; the outer one does.
mount -t proc proc /proc 2>/dev/null
echo up
exec cat >/dev/null
"""


class LightInit(Init):
    def __init__(
        self, place: Namespace, resolv_conf: Path, env: Mapping[str, str], script: Path, log: Path
    ) -> None:
        """`script` is the user data, if there is any."""
        self.env = env
        self._script = script
        self._log = log
        self._launch(place, _LIGHT, resolv_conf)

    def boot(self, start: Start, begins: Callable[[], None], over: threading.Event) -> int:
        begins()
        with self._log.open("ab") as output:
            process = start([self._script], stdout=output, stderr=output, start_new_session=True)
        return process.wait()
