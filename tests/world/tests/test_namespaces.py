"""The machines that NATs run on, and what keeps them away from the host's network."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
from ipaddress import IPv4Interface
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.isolate import OUTSIDE, namespace
from tests.nat import ROOT, Nat, binary_path
from tests.world.machine import Machine
from tests.world.namespace import Namespace
from tests.world.scene import ZONES

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def peer(nat) -> Nat:
    """A NAT of the other zone."""
    return Nat(nat.scene, nat.scene.launch_group(ZONES[1]))


@pytest.fixture
def session():
    """The namespace that tests run in."""
    with contextlib.closing(Namespace.current()) as session:
        yield session


def links(place: Namespace) -> dict[str, dict]:
    """The interfaces of a namespace, by name."""
    with place.netlink() as netlink:
        return {link.get("ifname"): link for link in netlink.get_links()}


def own_namespace() -> str:
    """Of the calling thread."""
    return os.readlink("/proc/thread-self/ns/net")


def status(url: str, place: Namespace) -> int:
    """What a GET of the URL is answered with, asked in a namespace."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    with place.entered():
        # The fixture `world` wants no request to IMDS without a token.
        headers = {"X-aws-ec2-metadata-token": "made-up"}
        connection.request("GET", urlsplit(url).path, headers=headers)
    with contextlib.closing(connection):
        return connection.getresponse().status


# --- The session ----------------------------------------------------------------------------------


def test_the_session_is_not_in_the_hosts_namespace():
    assert os.environ[OUTSIDE].split()[0] != namespace("net")


def test_machines_leave_the_sessions_namespace_as_it_is(nat, peer, session):
    before = links(session).keys()
    for one in (nat, peer):
        assert one.machine
    assert links(session).keys() == before
    nat.world.reset()
    assert links(session).keys() == before


@pytest.fixture
def not_allowed(tmp_path) -> dict[str, str]:
    """The environment of a shell on a machine that allows no namespaces."""
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in (OUTSIDE, "CI")}
    return {**env, "PATH": str(tmp_path), "HANAT_BIN": str(binary_path())}


def run_python(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", *words]
    return subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(("ci", "code", "count"), [("", 0, "1 skipped"), ("true", 1, "1 error")])
def test_where_namespaces_are_not_allowed_tests_say_so(not_allowed, ci, code, count):
    test = "tests/claim/test_run.py::test_first_boot_in_a_group"
    done = run_python("pytest", "-p", "no:cacheprovider", test, env={**not_allowed, "CI": ci})
    assert done.returncode == code, done.stdout
    assert count in done.stdout
    assert "NOT TESTED: " in done.stdout
    assert "unshare failed: Operation not permitted" in done.stdout


def test_where_namespaces_are_not_allowed_the_demo_shows_the_api(not_allowed):
    done = run_python("tests.demo", env=not_allowed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unshare failed: Operation not permitted" in done.stdout
    assert done.stdout.count(" planned") == 2
    # What it says of this machine's kernel, which it leaves alone.
    assert " ERROR " in done.stderr


@pytest.mark.parametrize("tool", ["lab", "bench", "world"])
def test_where_namespaces_are_not_allowed_tools_do_not_start(not_allowed, tool):
    done = run_python(f"tests.{tool}", env=not_allowed)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert "run it as root: unshare failed: Operation not permitted" in done.stderr


# --- Namespaces -----------------------------------------------------------------------------------


@pytest.fixture
def place(isolated):
    with contextlib.closing(Namespace()) as place:
        yield place


def test_what_is_made_inside_belongs_there(place):
    outside = own_namespace()
    with place.entered(), socket.create_server(("127.0.0.1", 0)) as server:
        inside = own_namespace()
        seen = subprocess.run(
            ["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
        ).stdout.strip()
        address = server.getsockname()
        socket.create_connection(address, timeout=5).close()
        with contextlib.closing(Namespace.current()) as here, here.entered():
            assert own_namespace() == inside
        others = []
        thread = threading.Thread(target=lambda: others.append(own_namespace()))
        thread.start()
        thread.join()
    assert inside == seen == others[0] != outside
    assert own_namespace() == outside


def test_a_socket_stays_where_it_was_made(place):
    with socket.socket() as reserved:
        # Outside nobody listens there, whatever else is going on.
        reserved.bind(("127.0.0.1", 0))
        with place.entered():
            server = socket.create_server(reserved.getsockname())
        with server:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(server.getsockname(), timeout=5)
            with place.entered():
                socket.create_connection(server.getsockname(), timeout=5).close()


def test_entering_moves_no_other_thread_and_an_exception_leads_out(place):
    outside, entered, asked = own_namespace(), threading.Event(), threading.Event()

    def enter() -> None:
        with place.entered():
            entered.set()
            asked.wait(10)

    thread = threading.Thread(target=enter)
    thread.start()
    assert entered.wait(10)
    assert own_namespace() == outside
    asked.set()
    thread.join()
    with pytest.raises(ZeroDivisionError), place.entered():
        _ = 1 / 0
    assert own_namespace() == outside


def test_a_cable_between_two(place):
    with contextlib.closing(Namespace()) as other:
        place.add_veth("here", other, "there", mac="02:00:00:00:be:ef", mtu=9001)
        place.add_address("here", IPv4Interface("192.0.2.1/24"))
        other.add_address("there", IPv4Interface("192.0.2.2/24"))
        other.set_link("there", mtu=1500)
        assert links(place)["here"].get("address") == "02:00:00:00:be:ef"
        assert links(place)["here"].get("mtu") == 9001
        assert links(other)["there"].get("mtu") == 1500
        with other.entered():
            server = socket.create_server(("192.0.2.2", 0))
        with server:
            with place.entered():
                client = socket.create_connection(server.getsockname(), timeout=5)
            with client:
                assert server.accept()[1] == client.getsockname()


# --- Machines -------------------------------------------------------------------------------------


def test_a_machine_has_the_interface_that_ec2_describes(nat):
    [described] = nat.world.ec2.describe_network_interfaces(NetworkInterfaceIds=[nat.interface])[
        "NetworkInterfaces"
    ]
    with nat.machine.netlink() as netlink:
        link = netlink.link("get", ifname="ens5")[0]
        [address] = netlink.get_addr(family=socket.AF_INET, index=link["index"])
        [route] = netlink.get_default_routes(family=socket.AF_INET)
    assert link.get("address") == described["MacAddress"]
    assert (link.get("mtu"), link.get("operstate")) == (9001, "UP")
    assert address.get("address") == described["PrivateIpAddress"]
    assert address["prefixlen"] == 24
    assert (route.get("gateway"), route.get("oif")) == ("10.0.0.1", link["index"])


def test_the_gateway_is_at_the_other_end(nat):
    with nat.machine.entered(), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("10.0.0.1", 80), timeout=5)


def test_machines_do_not_see_each_other(nat, peer):
    assert nat.machine is not peer.machine
    macs = [links(one.machine)["ens5"].get("address") for one in (nat, peer)]
    assert macs[0] != macs[1]
    with nat.machine.entered(), socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with peer.machine.entered():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
            # The same port is free here.
            socket.create_server(("", port)).close()


def test_the_world_is_in_each_machine_under_the_same_urls(nat, peer, session):
    world = nat.world
    for place in (session, nat.machine, peer.machine):
        assert status(f"{world.url}/", place) == 401
        assert status(world.probe_url, place) == 200
    for one, other in ((nat, peer), (peer, nat)):
        url = f"{world.imds(one.instance).url}/latest/meta-data/instance-id"
        for place in (session, one.machine):
            assert status(url, place) == 401
        with pytest.raises(ConnectionRefusedError):
            status(url, other.machine)


def test_what_the_world_listens_on_later_is_in_the_machines_too(nat):
    for _ in range(2):
        nat.world.probe.mode = "closed"
        with pytest.raises(ConnectionRefusedError):
            status(nat.world.probe_url, nat.machine)
        nat.world.probe.mode = "ok"
        assert status(nat.world.probe_url, nat.machine) == 200
    assert status(f"{nat.world.listen(host='127.0.0.2')}/", nat.machine) == 401


def test_a_closed_machine_is_let_go_of(nat, session):
    machine, world = nat.machine, nat.world
    address = urlsplit(world.url)
    with contextlib.closing(Namespace(os.open(machine.path, os.O_RDONLY))) as kept:
        with kept.entered():
            under_way = socket.create_connection((address.hostname, address.port), timeout=5)
        with under_way:
            under_way.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert under_way.recv(4096).startswith(b"HTTP/1.1 401 ")
            world.reset()
            assert under_way.recv(1) == b"", "a connection is closed with its machine"
        for url in (world.url, world.probe_url):
            with pytest.raises(ConnectionRefusedError):
                status(url, kept)
    assert not Path(machine.path).exists()
    assert status(world.probe_url, session) == 200


def test_a_machine_as_any_address_has_it(place):
    """The gateway is the subnet's first address, however large the subnet is."""
    address = IPv4Interface("172.31.37.9/20")
    machine = Machine("02:00:00:00:be:ef", address, place, "subnet")
    with contextlib.closing(machine), machine.netlink() as netlink:
        [route] = netlink.get_default_routes(family=socket.AF_INET)
        assert route.get("gateway") == "172.31.32.1"


def test_the_binary_runs_in_its_machine(nat):
    with nat.start("--deadline", "4s") as running:
        with nat.machine.entered():
            inside = own_namespace()
        assert os.readlink(f"/proc/{running.process.pid}/ns/net") == inside
        assert running.wait().code == 0
