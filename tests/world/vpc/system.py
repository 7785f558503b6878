"""An instance with a system of its own: systemd as its first process in a root of its own, where
cloud-init finds EC2 and runs the user data.

The root is layers that all instances share, and the instance's disk on top. What the system prints
on its console is kept, and so the whole journal.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.world.namespace import Namespace

from .cgroup import Cgroup, hierarchy
from .init import ENDS_WITH_US, Init, Start

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
NEEDS_ROOT = "this takes root, and not only in a user namespace"
# How often, in seconds, is looked for cloud-init's results.
_TICK = 0.05

# What a container manager sets up for systemd (systemd's documentation, "Container Interface").
_BOOT = """
set -e
root=$0 layers=$1 console=$2
mount -t overlay -o "$layers" overlay "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
# The kernel is everybody's, but for its network.
mount --bind proc/sys/net proc/sys/net
mount --rbind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then mount --bind /dev/null proc/sysrq-trigger; fi
# Where cloud-init looks whether this is EC2 (EC2 user guide, "Detect whether a host is an EC2
# instance").
mount -t sysfs -o ro sysfs mnt
mount -t tmpfs -o mode=755 sysfs sys
mkdir sys/hypervisor
echo ec2e1916-9099-7caf-fd21-012345abcdef >sys/hypervisor/uuid
for part in block bus class dev devices firmware fs kernel module; do
    mkdir "sys/$part"
    mount --bind "mnt/$part" "sys/$part"
done
umount mnt
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -o remount,ro sys
mount -t tmpfs -o mode=755,nosuid dev dev
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
: >dev/console
mount --bind "$console" dev/console
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
# As Debian's initramfs mounts it (initramfs-tools, init): no program starts from there.
mount -t tmpfs -o mode=755,nosuid,nodev,noexec run run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
pivot_root . mnt
cd /
umount -l mnt
# Whatever a unit mounts for itself starts from here.
mount --make-rshared /
echo up
# Until somebody switches it on.
read -r _ || :
exec env -i container=namespaces PATH="$PATH" \
    setpriv --bounding-set=-sys_time,-sys_module \
    /lib/systemd/systemd --show-status=false </dev/null >/dev/null 2>&1
"""
# Goes into a control group first.
_JOIN = 'echo 0 >"$0" && exec "$@"'


class Disk:
    """What an instance keeps when it reboots."""

    def __init__(
        self, folder: Path, layers: Sequence[Path], certificate: Path, resolv_conf: Path
    ) -> None:
        """`layers` are below it, the first one at the top. The certificate is as good as those that
        come with the system."""
        self.root = folder / "root"
        upper, work = folder / "upper", folder / "work"
        if not folder.exists():
            for path in (self.root, upper, work, (upper / _CERTIFICATES).parent):
                path.mkdir(parents=True)
            known = next(path for layer in layers if (path := layer / _CERTIFICATES).exists())
            (upper / _CERTIFICATES).write_bytes(known.read_bytes() + certificate.read_bytes())
            shutil.copy(resolv_conf, upper / "etc/resolv.conf")
        lower = ":".join(map(str, layers))
        self.options = f"lowerdir={lower},upperdir={upper},workdir={work}"


class SystemInit(Init):
    kinds = (*Init.kinds, "cgroup")

    def __init__(self, place: Namespace, disk: Disk, name: str, log: Path) -> None:
        """`name` is for its control group. Its console is added to `log`."""
        self.env = {"PATH": _PATH}
        self._cgroup = Cgroup(name)
        self._joins = self._cgroup.system
        reader, self._console = os.openpty()
        with log.open("ab") as output:
            self._reader = subprocess.Popen(
                ["cat"], stdin=reader, stdout=output, stderr=subprocess.DEVNULL
            )
        os.close(reader)
        self._launch(place, _BOOT, disk.root, disk.options, os.ttyname(self._console))
        self._joins = self._cgroup.guests
        # Its child alone stays where systemd is.
        (self._cgroup.guests / "cgroup.procs").write_text(str(self.process.pid))

    def _before(self) -> list[str]:
        return [*ENDS_WITH_US, "sh", "-c", _JOIN, str(self._joins / "cgroup.procs")]

    def boot(self, start: Start, begins: Callable[[], None], over: threading.Event) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        if self._wait("status", over) is None:
            return -1
        begins()
        result = self._wait("result", over)
        return -1 if result is None else int(bool(result["errors"]))

    def _wait(self, name: str, over: threading.Event) -> dict[str, Any] | None:
        """What cloud-init says of this boot (its documentation, "Boot status"); None when there is
        nothing to expect any more."""
        file = Path(f"/proc/{self.process.pid}/root/run/cloud-init/{name}.json")
        while self.process.poll() is None and not over.wait(_TICK):
            with contextlib.suppress(OSError):
                return json.loads(file.read_text())["v1"]
        return None

    def freeze(self) -> None:
        self._cgroup.freeze(True)

    def thaw(self) -> None:
        self._cgroup.freeze(False)

    def end(self) -> None:
        if self._console >= 0:
            self._cgroup.close()
            super().end()
            os.close(self._console)
            self._console = -1
            self._reader.wait()


def readable(console: str) -> str:
    """What a console was sent, without what is for terminals."""
    return re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[c!78])", "", console).replace("\r", "")


def cannot_boot() -> str:
    """Why no system can boot in an instance on this machine; empty when one can."""
    everybody = ["0", "0", "4294967295"]
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != everybody:
        return NEEDS_ROOT
    top = hierarchy()
    if top is None:
        return "no hierarchy of control groups version 2 is mounted"
    try:
        cgroup = Path(tempfile.mkdtemp(dir=top))
        can_kill = (cgroup / "cgroup.kill").exists()
        cgroup.rmdir()
    except OSError as error:
        return f"no control group can be made: {error}"
    if not can_kill:
        return "no control group can be killed, which takes Linux 5.14"
    with tempfile.TemporaryDirectory() as folder:
        script = 'cd "$0" && mkdir l u w m && exec mount -t overlay -o "$1" overlay m'
        options = "lowerdir=l,upperdir=u,workdir=w"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, folder, options],
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stderr.strip()
