"""The binary for arm64. `place` is where it runs: on this machine's kernel by QEMU, which
translates system calls but not netfilter's (linux-user/syscall.c, do_socket), or on a kernel of its
own.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from cryptography import x509

from tests.kernel.test_setup import EXPECTED, SETTINGS
from tests.nat import Nat, Ran, binary_path
from tests.skipping import not_tested, program
from tests.stages.kernel import with_files
from tests.world.arm64_image import IMAGE, USER
from tests.world.arm64_machine import Arm64Machine
from tests.world.authority import write_certificate
from tests.world.debian import NotMade
from tests.world.names import Names
from tests.world.scene import ZONES

OWN = ZONES[0]
TIME = re.compile(r"^[0-9T:.-]+Z", re.MULTILINE)
LOOPBACK = "127.0.0.1"
NAMES = {"api": "ec2.world.test", "probe": "probe.world.test"}

# The shell has an `ip` of its own, which knows no namespaces.
IP = "/sbin/ip"
CLIENT = f"""\
set -e
{IP} netns add client
{IP} link add inside type veth peer eth0 netns client
{IP} address add 10.0.9.1/24 dev inside
{IP} link set inside up
{IP} -n client address add 10.0.9.2/24 dev eth0
{IP} -n client link set eth0 up
{IP} -n client route add default via 10.0.9.1
"""


class Translated:
    """In the instance's namespace, by QEMU's user mode."""

    reaches_netfilter = False
    # Where the world and its DNS are.
    address = LOOPBACK

    def __init__(self, nat: Nat, binary: Path, folder: Path) -> None:
        self._nat, self._binary, self._folder = nat, binary, folder
        self._emulator = program(USER)
        self._starter: list[str] = []

    def resolve_by(self, address: str) -> None:
        """Names, from now on."""
        file = self._folder / "resolv.conf"
        file.write_text(f"nameserver {address}\n")
        self._starter = with_files({"/etc/resolv.conf": file})

    def carry(self, file: Path) -> None:
        """A file of this machine is where it is there, too."""

    def run(self, *arguments: str, env: Mapping[str, str]) -> Ran:
        """With nothing else in its environment."""
        with self._nat.machine.entered():
            done = subprocess.run(
                [*self._starter, self._emulator, self._binary, *arguments],
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
            )
        return Ran(done.returncode, done.stdout, done.stderr)


class OwnKernel:
    """On a machine of its own."""

    reaches_netfilter = True

    def __init__(self, nat: Nat, binary: Path, folder: Path) -> None:
        try:
            image = IMAGE.path()
        except NotMade as error:
            not_tested(str(error), *error.takes)
        self._nat = nat
        self.machine = Arm64Machine(nat.machine, image, binary, folder)
        self.address = self.machine.gateway

    def resolve_by(self, address: str) -> None:
        self.shell(f"echo nameserver {address} > /etc/resolv.conf")

    def carry(self, file: Path) -> None:
        content = shlex.quote(file.read_text())
        self.shell(f"mkdir -p {file.parent} && echo {content} > {file}")

    def run(self, *arguments: str, env: Mapping[str, str]) -> Ran:
        words = [f"{name}={value}" for name, value in env.items()]
        done = self.machine.run(shlex.join(["env", "-i", *words, "/hanat", *arguments]))
        return Ran(done.returncode, done.stdout, done.stderr)

    def claim(self, *flags: str) -> Ran:
        return self.run("claim", *flags, env=way_in(self._nat, self.address))

    def shell(self, script: str) -> str:
        done = self.machine.run(script)
        assert done.returncode == 0, done.stderr
        return done.stdout


def way_in(nat: Nat, address: str) -> dict[str, str]:
    """Into the world, from where the instance's loopback is that address."""
    return {name: url.replace(LOOPBACK, address) for name, url in nat.env.items()}


@pytest.fixture
def own_kernel(nat, arm64, tmp_path) -> Iterator[OwnKernel]:
    place = OwnKernel(nat, arm64, tmp_path)
    with place.machine:
        yield place


@pytest.fixture(params=["translated", "own kernel"])
def place(request, nat, arm64, tmp_path):
    if request.param == "translated":
        return Translated(nat, arm64, tmp_path)
    return request.getfixturevalue("own_kernel")


@pytest.fixture
def names(nat, place):
    """The world's, in both places: its DNS is the loopback's, as seen from there."""
    known = Names(dict.fromkeys(NAMES.values(), place.address))
    known.serve(nat.machine, LOOPBACK)
    yield known
    known.close()


def usage(said: str) -> list[str]:
    """Without what a claim that is called wrongly says of IMDS, which it asks whether a hook waits:
    there is none here, for one reason or another."""
    lines = TIME.sub("", said).splitlines()
    return [line for line in lines if "INFO IMDS: " not in line]


def test_it_says_what_the_native_binary_says(place):
    for arguments in (
        ["--version"],
        ["--help"],
        ["claim", "--help"],
        ["claim", "--deadline", "soon"],
        ["claim", "--no-kernel", "--conntrack-max", "9000"],
        ["claim", "--source", "10.0.0.0/33"],
        ["clam"],
    ):
        native = subprocess.run(
            [binary_path(), *arguments], env={}, capture_output=True, text=True, timeout=60
        )
        ran = place.run(*arguments, env={})
        assert (ran.code, ran.stdout) == (native.returncode, native.stdout)
        assert usage(ran.stderr) == usage(native.stderr)


def test_a_launch_by_names_and_tls(nat, place, names, tmp_path):
    certificate, key = write_certificate(tmp_path, [x509.DNSName(NAMES["api"])])
    endpoint = nat.world.listen(tls=(str(certificate), str(key)))
    env = {
        **way_in(nat, place.address),
        "AWS_ENDPOINT_URL": endpoint.replace(LOOPBACK, NAMES["api"]),
        "HANAT_PROBE_URL": nat.world.probe_url.replace(LOOPBACK, NAMES["probe"]),
    }
    place.resolve_by(place.address)
    place.carry(certificate)

    stranger = place.run("claim", "--dry-run", "--deadline", "5s", env=env)
    assert stranger.code == 1
    assert "UnknownIssuer" in stranger.error
    env["AWS_CA_BUNDLE"] = str(certificate)
    dry = place.run("claim", "--dry-run", env=env)
    assert "no default route → " in dry.stdout, dry
    assert nat.changes == {}
    ran = place.run("claim", env=env)

    assert {name for name, _ in names.asked} == set(NAMES.values())
    if place.reaches_netfilter:
        assert (dry.code, ran.code) == (0, 0), (dry, ran)
        assert nat.owns(nat.scene.private_tables[OWN])
        assert nat.answers == ["CONTINUE"]
    else:
        assert (dry.code, ran.code) == (1, 1), (dry, ran)
        assert "no netlink socket for netfilter is to be had" in ran.error
        assert nat.route(nat.scene.private_tables[OWN]) is None
        assert nat.answers == ["ABANDON"]


def test_the_kernel_is_set_up_as_on_x86_64(nat, own_kernel):
    """What netlink carries and what /proc/sys has, both ways, on a machine of 512 MiB that has none
    of the modules loaded."""
    flags = ["--source", "192.168.7.9/24", "--source", "10.0.0.0/16", "--output", "json"]
    own_kernel.shell(
        "nft add table ip others; nft 'add chain ip others through "
        "{ type filter hook forward priority 0; policy drop; }'"
    )
    refused = own_kernel.claim(*flags, "--dry-run")
    assert refused.code == 1
    assert "forwarded packets would be dropped: chain through of table ip others" in refused.error
    own_kernel.shell("nft flush ruleset")

    ran = own_kernel.claim(*flags)
    assert ran.code == 0, ran
    kernel = ran.json["kernel"]
    assert kernel["changes"][0] == "nftables table ip hanat created"
    assert kernel["warnings"] == kernel["masquerading_elsewhere"] == []
    ours = own_kernel.shell("nft --stateless list ruleset; nft --handle list ruleset")
    # By what it has of memory, less what the kernel keeps: one connection per 4 KiB.
    sizes = {f"net/netfilter/nf_conntrack_{name}": "114688" for name in ("max", "buckets")}
    settings = {**SETTINGS, **sizes}
    assert own_kernel.shell(f"cd /proc/sys; cat {shlex.join(settings)}").split() == list(
        settings.values()
    )

    again = own_kernel.claim(*flags)
    assert again.json["kernel"]["changes"] == []
    assert own_kernel.shell("nft --stateless list ruleset; nft --handle list ruleset") == ours
    wanted = shlex.quote((EXPECTED / "sources.nft").read_text())
    listed = own_kernel.shell("nft list ruleset")
    own_kernel.shell(f"nft flush ruleset; echo {wanted} | nft -f -")
    assert own_kernel.shell("nft list ruleset") == listed


def test_packets_are_masqueraded(nat, own_kernel):
    """A client behind the machine reaches an address outside of the VPC; QEMU's network answers
    nobody but the machine itself."""
    outside = IPv4Interface("198.51.100.1/32")
    nat.machine.add_address("lo", outside)
    served = nat.machine.bound_socket(str(outside.ip), 0)
    nat.world.probe.http.listen(sock=served)
    own_kernel.shell(CLIENT)
    ask = (
        "printf 'GET / HTTP/1.1\\r\\nHost: outside\\r\\nConnection: close\\r\\n\\r\\n'"
        f" | {IP} netns exec client nc -w 3 {outside.ip} {served.getsockname()[1]}"
    )
    try:
        assert "timed out" in own_kernel.machine.run(ask).stderr
        assert own_kernel.claim().code == 0
        assert own_kernel.shell(ask).startswith("HTTP/1.1 200 ")
    finally:
        nat.world.probe.http.stop(served)
    assert "counter packets 1 " in own_kernel.shell("nft list ruleset")
