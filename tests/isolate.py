"""Puts a process that runs the binary into a network namespace of its own.

The binary changes the network that it finds. Every run of it has a namespace anyway, the machine
that it runs on (tests/world/machine.py); this one, around them all, keeps the host's network out
of reach of tests, too. Without root it comes with a user namespace, in which one is root enough.
"""

import os
import subprocess
import sys
from collections.abc import Callable

from pyroute2 import IPRoute

# The namespaces that the process was started in, for whatever it starts in turn.
OUTSIDE = "ISOLATED_FROM"


def isolate(before_exec: Callable[[], None] = lambda: None) -> bool:
    """Start this program anew in a network namespace of its own; True once it is in there, where
    there is `lo` and nothing else. False where this machine does not allow it."""
    if not is_isolated():
        if refusal():
            return False
        before_exec()
        sys.stdout.flush()
        sys.stderr.flush()
        os.environ[OUTSIDE] = f"{namespace('net')} {namespace('user')}"
        argv = [*_unshare(), sys.executable, *sys.orig_argv[1:]]
        os.execvp(argv[0], argv)
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
    return True


def isolate_or_exit() -> None:
    """`isolate` for what people start by hand."""
    if not isolate():
        sys.exit(f"this needs a network namespace of its own, so run it as root: {refusal()}")


def is_isolated() -> bool:
    return OUTSIDE in os.environ and os.environ[OUTSIDE].split()[0] != namespace("net")


def refusal() -> str:
    """Why this machine allows no namespace; empty when it does."""
    try:
        done = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unshare is not installed (util-linux)"
    if done.returncode == 0:
        return ""
    return done.stderr.strip() or f"unshare: exit code {done.returncode}"


def way_in(path: str) -> str:
    """The command that starts a shell, or what follows it, in a network namespace of this process,
    from where the process was started."""
    user = ""
    if os.environ[OUTSIDE].split()[1] != namespace("user"):
        user = f"--user=/proc/{os.getpid()}/ns/user --preserve-credentials "
    return f"nsenter {user}--net={path}"


def namespace(kind: str) -> str:
    """The identity of one of this process's namespaces, such as `net:[4026531840]`."""
    return os.readlink(f"/proc/self/ns/{kind}")


def _unshare() -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, "--net", "--"]
