"""What the kernel remembers of connections that are older than the rules."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.nat import Nat, Ran, Running, binary_path
from tests.stages.kernel import nft
from tests.stages.packets import Connection, Flow, Host, ping, tcp_server
from tests.world.other_kernel import OtherKernel

# Makes the kernel track connections.
FIREWALL = """
    table inet firewall {
        chain forward {
            type filter hook forward priority 0;
            ct state established,related counter accept
            ct state new counter accept
        }
    }
"""
# An image's own way to do it.
MASQUERADING = """
    table ip image {
        chain postrouting { type nat hook postrouting priority 100; oifname "ens5" masquerade; }
    }
"""


@pytest.fixture
def forwarding(nat, around):
    """The surroundings of a NAT whose image forwards by itself, and tracks connections."""
    nat.machine.write_sysctl("net/ipv4/ip_forward", 1)
    nft(nat.machine, FIREWALL)
    return around


def forgotten(ran: Ran) -> list[str]:
    changes = ran.json["kernel"]["changes"]
    return [change for change in changes if "connection table" in change]


def claims(nat: Nat) -> Ran:
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    return ran


# --- What is forgotten ----------------------------------------------------------------------------


def test_a_flow_that_began_before_the_rules(nat, forwarding):
    """It goes on, translated, without a pause of its sender's."""
    with Flow(forwarding.client, forwarding.outside) as flow:
        assert flow.seen_as() == forwarding.client.address
        ran = claims(nat)
        assert forgotten(ran) == ["connection table: 1 untranslated entry forgotten"]
        flow.wait_seen_as(nat.private_address)
        again = claims(nat)
        assert again.json["kernel"]["changes"] == []
        assert flow.seen_as() == nat.private_address


def test_a_flow_that_nobody_tracked_before(nat, around):
    """The kernel begins to track while the rules are being put in place."""
    nat.machine.write_sysctl("net/ipv4/ip_forward", 1)
    with ExitStack() as stack:
        flows = [
            stack.enter_context(Flow(around.client, around.outside, port))
            for port in range(5000, 5020)
        ]
        for flow in flows:
            assert flow.seen_as() == around.client.address
        claims(nat)
        for flow in flows:
            flow.wait_seen_as(nat.private_address)


def test_every_protocol(nat, forwarding):
    client, outside = forwarding.client, forwarding.outside
    assert ping(client, outside) == client.address
    unheard_of = 253  # RFC 3692: for experiments
    with (
        Flow(client, outside) as flow,
        tcp_server(outside),
        outside.socket(socket.SOCK_RAW, unheard_of) as there,
        client.socket(socket.SOCK_RAW, unheard_of) as here,
    ):
        assert flow.seen_as() == client.address
        connection = Connection(client, outside)
        here.sendto(b"hello", (outside.address, 0))
        assert there.recvfrom(100)[1][0] == client.address
        assert forgotten(claims(nat)) == ["connection table: 4 untranslated entries forgotten"]
        here.sendto(b"hello", (outside.address, 0))
        assert there.recvfrom(100)[1][0] == nat.private_address
        connection.close()
    assert ping(client, outside) == nat.private_address


def test_whom_the_rules_leave_out(nat, forwarding):
    """And who is left out no longer."""
    outside = forwarding.outside
    with (
        Flow(forwarding.client, outside, 5000) as client,
        Flow(forwarding.peered, outside, 5001) as peered,
    ):
        client.seen_as(), peered.seen_as()
        ran = nat.claim("--source", "10.0.0.0/16", "--output", "json")
        assert forgotten(ran) == ["connection table: 1 untranslated entry forgotten"]
        client.wait_seen_as(nat.private_address)
        assert peered.seen_as() == forwarding.peered.address
        assert forgotten(claims(nat)) == ["connection table: 1 untranslated entry forgotten"]
        peered.wait_seen_as(nat.private_address)


def test_a_way_to_the_metadata(nat, forwarding):
    """It was open, by the image's own rules, and translated."""
    nft(nat.machine, MASQUERADING)
    metadata = Host("metadata", "169.254.169.254/24", forwarding.router)
    with (
        Flow(forwarding.client, metadata) as asking,
        Flow(forwarding.client, forwarding.outside) as flow,
        Flow(nat.machine, metadata, 5001) as own,
    ):
        for each in (asking, flow, own):
            assert each.seen_as() == nat.private_address
        assert forgotten(claims(nat)) == ["connection table: 1 untranslated entry forgotten"]
    metadata.close()


# --- What is not ----------------------------------------------------------------------------------


@pytest.fixture
def container(nat):
    """On the NAT, as Docker makes them, with its port 5000 published."""
    host = Host("docker0", "172.17.0.2/16", nat.machine, mtu=1500)
    nft(
        nat.machine,
        """table ip docker { chain prerouting { type nat hook prerouting priority -100;
            iifname "ens5" udp dport 5000 dnat to 172.17.0.2; }; }""",
    )
    yield host
    host.close()


def test_what_the_rules_would_not_translate_stays(nat, forwarding, container):
    client = forwarding.client
    with (
        Flow(nat.machine, forwarding.outside, 5001) as own,
        Flow(client, forwarding.other, 5002) as in_the_vpc,
        Flow(client, container, to=nat.private_address) as published,
        Flow(container, client, 5003) as of_a_container,
    ):
        for flow, seen_as in (
            (own, nat.private_address),
            (in_the_vpc, client.address),
            (published, client.address),
            (of_a_container, container.address),
        ):
            assert flow.seen_as() == seen_as
        assert forgotten(claims(nat)) == []
        assert published.seen_as() == client.address


def test_what_others_translate_stays(nat, forwarding):
    nft(nat.machine, MASQUERADING)
    with Flow(forwarding.client, forwarding.outside) as flow:
        assert flow.seen_as() == nat.private_address
        assert forgotten(claims(nat)) == []


def test_a_kernel_that_does_not_show_its_connections(nat, forwarding):
    """The NAT works all the same for what begins from now on."""
    with OtherKernel(lacks="nf_conntrack_netlink") as kernel:
        ran = nat.claim("--output", "json", preexec=kernel.install)
    assert ran.code == 0, ran
    [warning] = [line for line in ran.stderr.splitlines() if "untranslated" in line]
    assert " WARN connections that are older than the rules may go on untranslated" in warning
    assert "nf_conntrack_netlink" in warning


# --- Rules that were away for a while -------------------------------------------------------------


@contextmanager
def watching(nat: Nat) -> Iterator[None]:
    command = [binary_path(), "watch", "--upkeep-interval", "1s"]
    with nat.machine.entered():
        process = subprocess.Popen(command, env=nat.env, stderr=subprocess.DEVNULL, text=True)
    with Running(process):
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


DAMAGE = ["delete table ip hanat", "flush ruleset"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_flows_of_while_the_rules_were_away(nat, forwarding, damage):
    """One that began before, and one that began meanwhile."""
    claims(nat)
    forwarding.know_no_private_addresses()
    with Flow(forwarding.client, forwarding.outside, 5000) as before:
        assert before.seen_as() == nat.private_address
        nft(nat.machine, damage)
        with Flow(forwarding.client, forwarding.outside, 5001) as meanwhile, watching(nat):
            meanwhile.wait_seen_as(nat.private_address)
            before.wait_seen_as(nat.private_address)


def test_a_connection_that_was_asked_for_while_the_rules_were_away(nat, forwarding):
    """The client asks again and again, for minutes, and the kernel took it for one and the same."""
    claims(nat)
    forwarding.know_no_private_addresses()
    nft(nat.machine, "delete table ip hanat")
    nft(nat.machine, "reset counters table inet firewall")
    with tcp_server(forwarding.outside) as seen, forwarding.client.socket() as asking:
        asking.setblocking(False)
        with pytest.raises(BlockingIOError):
            asking.connect((forwarding.outside.address, 80))
        new = "ct state new counter packets 1 "
        nat.world.wait_until(lambda: new in nft(nat.machine, "list table inet firewall"))
        with watching(nat):
            asking.setblocking(True)
            asking.settimeout(30)
            assert asking.recv(100) == f"{nat.private_address}\n".encode()
        assert seen == [nat.private_address]
