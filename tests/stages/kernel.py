"""The kernel's side of a NAT instance: looking at it, and spoiling it, with other programs."""

import os
import re
import shlex
import subprocess
from ipaddress import IPv4Interface
from pathlib import Path

from tests.skipping import program
from tests.world.machine import Machine
from tests.world.namespace import Namespace


def nft(namespace: Namespace, commands: str) -> str:
    """What `nft` prints; `commands` is a script of it."""
    return _run(namespace, "nft", "--file", "-", stdin=commands)


def ruleset(namespace: Namespace) -> str:
    """All the rules as `nft` lists them, without what their counters count: that is whatever comes
    by."""
    return _run(namespace, "nft", "--stateless", "list", "ruleset")


def own_table(namespace: Namespace) -> str:
    """The binary's rules, in the same way."""
    return _run(namespace, "nft", "--stateless", "list", "table", "ip", "hanat")


def handles(namespace: Namespace) -> list[str]:
    """The kernel's numbers for rules, chains and tables: whatever is made anew has another one."""
    listed = _run(namespace, "nft", "--handle", "list", "ruleset")
    return re.findall("# handle [0-9]+", listed)


def iptables(namespace: Namespace, *arguments: str) -> None:
    _run(namespace, "iptables-nft", *arguments)


def _run(namespace: Namespace, name: str, *arguments: str, stdin: str = "") -> str:
    with namespace.entered():
        done = subprocess.run(
            [program(name), *arguments], input=stdin, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def second_interface(machine: Machine, address: str, name: str = "ens6") -> None:
    """Another network interface, in whatever subnet, as EC2 attaches them and systems set them
    up. Nothing that it sends goes on: EC2 drops what leaves by an interface that is not its source
    (EC2 user guide, "Source/destination checking")."""
    port = f"to-{name}"
    machine.add_veth(name, machine.router, port)
    machine.add_address(name, IPv4Interface(address))
    with machine.router.netlink() as netlink:
        netlink.rule("add", iifname=port, action="blackhole", priority=1)


def shell(namespace: Namespace, command: str) -> None:
    """What somebody does who is logged in there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    with namespace.entered():
        done = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr


def with_files(files: dict[str, Path]) -> list[str]:
    """What starts a program that finds these files at those places, unlike everybody else."""
    mounts = [f"mount --bind {shlex.quote(str(file))} {place}" for place, file in files.items()]
    return _in_mount_namespace(*mounts)


def with_read_only(place: str) -> list[str]:
    """What starts a program that can't write below that place, unlike everybody else."""
    return _in_mount_namespace(f"mount --bind {place} {place}", f"mount -o remount,bind,ro {place}")


def without_net_admin() -> list[str]:
    """What starts a program that may not change the network."""
    return ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]


def _in_mount_namespace(*commands: str) -> list[str]:
    script = " && ".join([*commands, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
