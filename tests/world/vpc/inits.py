"""What the instances of a VPC start with: which first process, and the folder where their user
data, logs and disks are."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.world.namespace import Namespace

from .cgroup import hierarchy
from .init import Init, LightInit
from .router import DNS
from .system import Disk, SystemInit


class Inits:
    def __init__(
        self, folder: Path, program: Path, certificate: Path, layers: Sequence[Path]
    ) -> None:
        """Without layers no instance boots a system."""
        self._folder = folder
        self._certificate = certificate
        self._layers = layers
        self._resolv_conf = folder / "resolv.conf"
        self._resolv_conf.write_text(f"nameserver {DNS}\n")
        (folder / "hanat").symlink_to(program)

    def start(self, instance: str, user_data: bytes | None, place: Namespace) -> Init:
        """The first process of an instance: with user data, and layers, a system's."""
        log = self.log(instance)
        if user_data is not None and self._layers:
            disk = Disk(self.disk(instance), self._layers, self._certificate, self._resolv_conf)
            return SystemInit(place, disk, f"{self._folder.name}/{instance}", log)
        script = self._folder / instance
        if user_data is not None:
            script.write_bytes(user_data)
            script.chmod(0o700)
        path = [self._folder, Path(sys.executable).parent, os.environ["PATH"], "/usr/sbin", "/sbin"]
        env = {"AWS_CA_BUNDLE": str(self._certificate), "PATH": ":".join(map(str, path))}
        return LightInit(place, self._resolv_conf, env, script, log)

    def log(self, instance: str) -> Path:
        return self._folder / f"{instance}.log"

    def remove_disk(self, instance: str) -> None:
        """If it has one."""
        shutil.rmtree(self.disk(instance), ignore_errors=True)

    def disk(self, instance: str) -> Path:
        return self._folder / "disks" / instance


# A control group can be removed when the last process in it has ended.
_CLEAN_UP = """
cat >/dev/null
if [ -d "$1" ]; then echo 1 >"$1/cgroup.kill"; fi
for _ in $(seq 100); do
    [ -d "$1" ] || break
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
done
rm -rf "$0"
"""


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """For as long as this process lives and it is needed, and so the control groups of its name:
    what removes it waits for the end of its input, which comes even when this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix=f"hanat-vpc-{os.getpid()}-"))
    command = ["sh", "-c", _CLEAN_UP, folder, (hierarchy() or Path("/nowhere")) / folder.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield folder
