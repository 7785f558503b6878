"""The binary as it is shipped: static, alone in a root directory with nothing but /proc, with
names resolved over DNS and TLS checked against a CA bundle or its own roots."""

import ipaddress
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.nat import Nat, Ran, binary_path
from tests.skipping import program
from tests.world.authority import write_certificate
from tests.world.names import Names
from tests.world.scene import ZONES

OWN = ZONES[0]
API_NAME = "ec2.world.test"
PROBE_NAME = "probe.world.test"
# On the machine, where port 53 is free: resolv.conf cannot name another one.
DNS_ADDRESS = "127.0.0.53"
# In a mount namespace of the run's own, so that nothing stays mounted. Recursive, because without
# root what is mounted below /proc cannot be left behind.
IN_ROOT = 'mount --rbind /proc "$0/proc" && exec chroot "$0" /hanat claim "$@"'


@pytest.fixture
def dns(nat):
    names = Names({API_NAME: "127.0.0.1", PROBE_NAME: "127.0.0.1"})
    names.serve(nat.machine, DNS_ADDRESS)
    yield names
    names.close()


@pytest.fixture
def tls(tmp_path) -> tuple[Path, Path]:
    """A certificate for the API's name that is its own authority, and its key."""
    names = [x509.DNSName(API_NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return write_certificate(tmp_path, names)


@pytest.fixture
def empty_root(tmp_path) -> Path:
    """A root directory that holds the binary, a place for /proc, and nothing else."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    shutil.copy(binary_path(), root / "hanat")
    return root


def run_in(root: Path, nat: Nat, *flags: str, env: dict[str, str]) -> Ran:
    with nat.machine.entered():
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", IN_ROOT, root, *flags],
            env={**nat.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    return Ran(done.returncode, done.stdout, done.stderr)


def readelf(flag: str) -> str:
    return subprocess.run(
        [program("readelf"), flag, "--wide", binary_path()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_no_interpreter_and_no_shared_library():
    assert "INTERP" not in readelf("--segments")
    assert "NEEDED" not in readelf("--dynamic")
    assert "DYN (Position-Independent Executable file)" in readelf("--file-header")


def test_it_fails_in_order_where_backtraces_are_asked_for():
    """Which need tables for unwinding, though nothing unwinds."""
    done = subprocess.run(
        [binary_path(), "claim", "--deadline", "0s"],
        env={"RUST_BACKTRACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done
    assert "--deadline 0s" in done.stderr


def test_a_root_directory_with_nothing_but_proc_is_enough(nat, empty_root):
    ran = run_in(empty_root, nat, env={})
    assert ran.code == 0, ran
    assert nat.owns(nat.scene.private_tables[OWN])
    assert {path.name for path in empty_root.iterdir()} == {"hanat", "proc"}, (
        "nothing is left behind"
    )
    assert not any((empty_root / "proc").iterdir()), "/proc is not mounted outside of the run"


def test_names_over_dns_and_tls_with_a_ca_bundle(nat, empty_root, dns, tls):
    certificate, key = tls
    shutil.copy(certificate, empty_root / "ca.pem")
    (empty_root / "etc").mkdir()
    (empty_root / "etc/resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")
    endpoint = nat.world.listen(tls=(str(certificate), str(key)))
    probe = nat.world.probe_url.replace("127.0.0.1", PROBE_NAME)

    ran = run_in(
        empty_root,
        nat,
        env={
            "AWS_ENDPOINT_URL": endpoint.replace("127.0.0.1", API_NAME),
            "AWS_CA_BUNDLE": "/ca.pem",
            "HANAT_PROBE_URL": probe,
        },
    )

    assert ran.code == 0, ran
    assert nat.owns(nat.scene.private_tables[OWN])
    assert nat.answers == ["CONTINUE"]
    assert {name for name, _ in dns.asked} == {API_NAME, PROBE_NAME}
    assert {kind for _, kind in dns.asked} == {"A"}, "a NAT's way out is IPv4"


@pytest.mark.parametrize("where", ["etc/ssl/certs/ca-certificates.crt", "SSL_CERT_FILE"])
def test_tls_with_the_systems_roots(nat, empty_root, tls, where):
    certificate, key = tls
    env = {"AWS_ENDPOINT_URL": nat.world.listen(tls=(str(certificate), str(key)))}
    if where == "SSL_CERT_FILE":
        shutil.copy(certificate, empty_root / "mine.pem")
        env["SSL_CERT_FILE"] = "/mine.pem"
    else:
        bundle = empty_root / where
        bundle.parent.mkdir(parents=True)
        shutil.copy(certificate, bundle)
    ran = run_in(empty_root, nat, env=env)
    assert ran.code == 0, ran
    assert nat.owns(nat.scene.private_tables[OWN])


def test_a_name_that_does_not_resolve_is_named(nat, empty_root, dns):
    (empty_root / "etc").mkdir()
    (empty_root / "etc/resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")
    env = {"AWS_ENDPOINT_URL": "http://nowhere.world.test:1"}
    ran = run_in(empty_root, nat, "--deadline", "4s", env=env)
    assert ran.code == 1, ran
    assert "nowhere.world.test" in ran.error


def test_bundled_roots_take_part_in_the_handshake(nat, empty_root, tls):
    """Without system roots there are the bundled ones, which do not know this authority."""
    endpoint = nat.world.listen(tls=tuple(map(str, tls)))
    ran = run_in(empty_root, nat, "--deadline", "4s", env={"AWS_ENDPOINT_URL": endpoint})
    assert ran.code == 1, ran
    assert "UnknownIssuer" in ran.error


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\ngarbled\n"])
def test_a_ca_bundle_that_cannot_be_used_is_named(nat, tmp_path, content):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    ran = nat.claim(env={"AWS_CA_BUNDLE": str(bundle)})
    assert ran.code == 1, ran
    assert f"reading AWS_CA_BUNDLE {bundle}" in ran.error
