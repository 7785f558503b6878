"""The root that instances with a system of their own boot from: Debian with the real systemd and
the real cloud-init, made once and kept. `python -m tests.world.vpc.image` makes it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.nat import ROOT

from .system import cannot_boot

_SUITE = "bookworm"
_PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "iproute2",
    "procps",
    # What cloud-init's TLS library needs and Debian does not say.
    "python3-cffi-backend",
    "systemd",
    "systemd-sysv",
)
_LEFT_OUT = ("doc", "i18n", "info", "locale", "man")

# As an instance of Amazon Linux treats user data, without what asks for a disk, keys or packages.
# The list of data sources is read by line (ds-identify).
_CLOUD_INIT = """\
datasource_list: [Ec2]
network: {config: disabled}
cloud_init_modules: [bootcmd, write-files, set_hostname, update_hostname]
cloud_config_modules: [runcmd]
cloud_final_modules:
- write-files-deferred
- scripts-per-once
- scripts-per-boot
- scripts-per-instance
- scripts-user
- final-message
- power-state-change
"""
# All of the journal goes to the console, which outlives the instance (system.py). What is on its
# disk is one file the fewer to sync.
_JOURNALD = "[Journal]\nForwardToConsole=yes\nMaxLevelConsole=debug\nStorage=volatile\n"
_FILES = {
    "etc/cloud/cloud.cfg.d/99_instance.cfg": _CLOUD_INIT,
    "etc/systemd/journald.conf.d/console.conf": _JOURNALD,
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/hostname": "localhost\n",
    # Each instance gets its own at its first boot.
    "etc/machine-id": "",
    "etc/resolv.conf": "",
}
# What an instance has no use for: terminals, sessions, housekeeping, hardware.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "cloud-init-hotplugd.socket",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-journald-audit.socket",
    "systemd-logind.service",
    "systemd-random-seed.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
)

# The recipe is this file.
_RECIPE = Path(__file__).read_bytes() + os.uname().machine.encode()
_PLACE = ROOT / "target" / f"image-{hashlib.sha256(_RECIPE).hexdigest()[:12]}"


class NoImage(Exception):
    """Says why there is none, and what to do about it."""


def image() -> Path:
    """The root, if it has been made and a system can boot from it here."""
    if why := cannot_boot():
        raise NoImage(f"no system can boot in an instance: {why}")
    if not _PLACE.exists():
        raise NoImage("there is no image for instances to boot from: run `make image` as root")
    return _PLACE


def make() -> Path:
    """The root, which is made first if need be: from a package archive, so not from within a
    network namespace."""
    if why := cannot_boot():
        raise NoImage(f"no system can boot in an instance: {why}")
    if shutil.which("mmdebstrap") is None:
        raise NoImage("mmdebstrap is not installed")
    _PLACE.parent.mkdir(exist_ok=True)
    with (_PLACE.parent / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _PLACE.exists():
            unfinished = _PLACE.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _install(unfinished)
            _adapt(unfinished)
            for old in _PLACE.parent.glob("image-*"):
                if old != unfinished:
                    shutil.rmtree(old)
            unfinished.rename(_PLACE)
    return _PLACE


def _install(root: Path) -> None:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        *excluded,
        _SUITE,
        str(root),
        *_mirror(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(root, ignore_errors=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise NoImage(f"mmdebstrap: {'; '.join(errors) or done.stderr[-500:]}")


def _mirror() -> list[str]:
    """Where this machine gets the suite's packages from, if it is Debian and does; mmdebstrap knows
    another place."""
    columns = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", columns, "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    known = [line.split() for line in done.stdout.splitlines()]
    return [uri for uri, *of in known if of == [_SUITE, "main"]][:1]


def _adapt(root: Path) -> None:
    for path, text in _FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
    # An instance's address is set up already, so that nobody answers it.
    (root / "usr/sbin/dhclient").unlink()
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


def main() -> int:
    try:
        made = make()
    except NoImage as error:
        print(f"NOT MADE: the image that instances boot from: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    print(f"the image that instances boot from: {made.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
