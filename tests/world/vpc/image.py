"""The root that instances with a system of their own boot from: Debian with the real systemd and
the real cloud-init, made once and kept. `python -m tests.world.vpc.image` makes it.
"""

import sys
from pathlib import Path

from tests.skipping import ROOT_RIGHTS
from tests.world.debian import Kept, NotMade, install

from .system import NEEDS_ROOT, cannot_boot

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


def _must_boot() -> None:
    if why := cannot_boot():
        raise NotMade(why, *([ROOT_RIGHTS] if why == NEEDS_ROOT else []))


def _make(root: Path) -> None:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    install(root, _PACKAGES, "--variant=minbase", *excluded)
    for path, text in _FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
    # An instance's address is set up already, so that nobody answers it.
    (root / "usr/sbin/dhclient").unlink()
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


IMAGE = Kept("image", "the image that instances boot from", Path(__file__), _must_boot, _make)

if __name__ == "__main__":
    sys.exit(IMAGE.main())
