"""What arm64 machines boot from: Debian's arm64 kernel for clouds, and an initramfs with busybox,
ip, nft and this kernel's modules for networks, made once and kept.
`python -m tests.world.arm64_image` makes it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.skipping import PACKAGES

from .debian import Kept, NotMade, install

KERNEL, INITRAMFS = "vmlinuz", "initramfs"
SYSTEM, USER = "qemu-system-aarch64", "qemu-aarch64-static"

_PACKAGES = (
    "busybox-static",
    "iproute2",
    "linux-image-cloud-arm64",
    "nftables",
    # The smallest of what the kernel's package asks for, which is not run.
    "tiny-initramfs",
)
# Of the kernel's modules, those that a NAT needs.
_MODULES = (
    "crypto",
    "drivers/net/net_failover.ko",
    "drivers/net/veth.ko",
    "drivers/net/virtio_net.ko",
    "drivers/virtio",
    "lib",
    "net",
)
_LEFT_OUT = ("boot", "usr/share", "var")

# The first process. It runs scripts that are sent to its port, one at a time, and says on the
# console when they may be.
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe virtio_pci
modprobe virtio_net
ip link set lo up
ip link set eth0 name "$interface" up
ip address add "$address" dev "$interface"
ip route add default via "$gateway"
nc -ll -p "$port" -e sh &
until netstat -ltn | grep -q ":$port "; do
    usleep 10000
done
echo ready
wait
"""


def archive(folder: Path, busybox: Path) -> bytes:
    """As the kernel unpacks it at its start, one after another where there are several
    (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    names = [".", *(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))]
    done = subprocess.run(
        [USER, busybox, "cpio", "-o", "-H", "newc"],
        cwd=folder,
        input="\n".join(names).encode(),
        capture_output=True,
        check=True,
    )
    return done.stdout


def _must_emulate() -> None:
    if missing := [program for program in (SYSTEM, USER) if shutil.which(program) is None]:
        raise NotMade(f"{' and '.join(missing)} not installed", PACKAGES)


def _make(place: Path) -> None:
    place.mkdir()
    root = place / "root"
    install(root, _PACKAGES, "--variant=extract", "--architectures=arm64")
    [modules] = (root / "lib/modules").iterdir()
    shutil.move(root / f"boot/vmlinuz-{modules.name}", place / KERNEL)
    for name in _LEFT_OUT:
        shutil.rmtree(root / name)
    every = modules / "kernel"
    every.rename(modules / "every")
    for name in _MODULES:
        (every / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / "every" / name).rename(every / name)
    shutil.rmtree(modules / "every")
    busybox = root / "bin/busybox"
    subprocess.run([USER, busybox, "depmod", "-b", root, modules.name], check=True)
    # What the kernel calls for the modules that something needs: with the index that busybox makes.
    modprobe = root / "sbin/modprobe"
    modprobe.unlink()
    modprobe.symlink_to("/bin/busybox")
    for name in ("dev", "etc", "proc", "run", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    init = root / "init"
    init.write_text(_INIT)
    init.chmod(0o755)
    (place / INITRAMFS).write_bytes(archive(root, busybox))
    shutil.copy(busybox, place / "busybox")
    shutil.rmtree(root)


IMAGE = Kept("arm64", "the arm64 machine", Path(__file__), _must_emulate, _make)

if __name__ == "__main__":
    sys.exit(IMAGE.main())
