"""What packets meet on a NAT instance that hanat has set up."""

import re
import socket
from ipaddress import IPv4Interface

import pytest

from tests.stages.kernel import nft
from tests.stages.packets import (
    JUMBO,
    Connection,
    Host,
    many_connections,
    ping,
    tcp,
    tcp_server,
    udp,
)
from tests.world.scene import ZONES


@pytest.mark.parametrize("send", [tcp, udp, ping])
def test_the_outside_sees_the_nats_address(nat, around, send):
    assert nat.claim().code == 0
    assert send(around.client, around.outside) == nat.private_address


@pytest.mark.parametrize("send", [tcp, udp, ping])
def test_what_stays_in_the_vpc_is_not_masqueraded(nat, around, send):
    assert nat.claim().code == 0
    assert send(around.client, around.other) == around.client.address
    assert send(around.other, around.client) == around.other.address


def test_every_block_of_the_vpc_goes_out(nat, around):
    assert nat.claim().code == 0
    assert tcp(around.other, around.outside) == nat.private_address


def test_peered_networks_are_masqueraded_too(nat, around):
    assert nat.claim().code == 0
    assert tcp(around.peered, around.outside) == nat.private_address


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_sources_can_be_restricted(nat, around, how):
    blocks = ["10.0.0.0/16", "192.168.99.0/24"]
    if how == "flag":
        ran = nat.claim("--source", blocks[0], "--source", blocks[1])
    else:
        ran = nat.claim(env={"HANAT_SOURCE": ",".join(blocks)})
    assert ran.code == 0, ran
    assert tcp(around.client, around.outside) == nat.private_address
    assert udp(around.peered, around.outside) == around.peered.address
    assert udp(around.other, around.outside) == around.other.address


def test_a_client_keeps_its_port_whatever_the_destination(nat, around):
    """RFC 4787, REQ-1: what makes two clients behind NATs find each other."""
    assert nat.claim().code == 0
    ports = range(40000, 40020)
    there = {port: around.outside.socket(socket.SOCK_DGRAM) for port in (53, 3478)}
    for port, sock in there.items():
        sock.bind((around.outside.address, port))
    seen = []
    for port in ports:
        with around.client.socket(socket.SOCK_DGRAM) as here:
            here.bind((around.client.address, port))
            for to, sock in there.items():
                here.sendto(b"hello", (around.outside.address, to))
                seen.append((port, sock.recvfrom(100)[1][1]))
    for sock in there.values():
        sock.close()
    assert seen == [(port, port) for port in ports for _ in there]


def test_two_clients_with_the_same_port(nat, around):
    """The second one gets another port, and both are answered."""
    assert nat.claim().code == 0
    with (
        around.outside.socket(socket.SOCK_DGRAM) as there,
        around.client.socket(socket.SOCK_DGRAM) as one,
        around.other.socket(socket.SOCK_DGRAM) as other,
    ):
        there.bind((around.outside.address, 53))
        ports = []
        for host, sock in ((around.client, one), (around.other, other)):
            sock.bind((host.address, 40000))
            sock.sendto(host.address.encode(), (around.outside.address, 53))
            data, source = there.recvfrom(100)
            there.sendto(data, source)
            assert sock.recv(100) == host.address.encode()
            ports.append(source[1])
    assert ports[0] == 40000
    assert ports[1] != 40000


@pytest.mark.parametrize("icmp", ["icmp", "no icmp"])
def test_jumbo_frames_inside_do_not_stall_connections_outside(nat, around, icmp):
    """Both ends offer segments of 8961 bytes; the way between takes 1500."""
    around.outside.set_link("eth0", mtu=JUMBO)
    if icmp == "no icmp":
        around.silence_router()
    assert nat.claim().code == 0
    data = bytes(range(256)) * 40_000
    with tcp_server(around.outside):
        connection = Connection(around.client, around.outside)
        assert connection.echo(data) == data
        connection.close()


def masqueraded(nat):
    """The rule that masquerades, with what it has counted."""
    [rule] = re.findall(r".* masquerade\b.*", nft(nat.machine, "list ruleset"))
    return rule


def test_connections_and_counters_outlive_a_second_run(nat, around):
    assert nat.claim().code == 0
    with tcp_server(around.outside) as seen:
        connection = Connection(around.client, around.outside)
        counted = masqueraded(nat)
        assert "counter packets 1 " in counted
        assert nat.claim().code == 0
        assert masqueraded(nat) == counted
        assert connection.echo(b"still here") == b"still here"
        # Other rules, in which the connection would not be masqueraded.
        assert nat.claim("--source", "192.168.0.0/16").code == 0
        assert connection.echo(b"still here") == b"still here"
        assert seen == [nat.private_address], "one connection all along"
        connection.close()


def test_the_nats_own_connections_outlive_the_first_run(nat, around):
    """Its agents' ones, or the run's own to AWS: the kernel tracks none before there are rules."""
    with tcp_server(around.outside) as seen:
        connection = Connection(nat.machine, around.outside)
        assert connection.echo(b"before") == b"before"
        assert nat.claim().code == 0
        assert connection.echo(b"after") == b"after"
        assert seen == [nat.private_address], "one connection all along"
        connection.close()


def test_instance_metadata_is_not_for_those_behind(nat, around):
    """They would get the NAT's own credentials."""
    assert nat.claim().code == 0
    metadata = Host("metadata", "169.254.169.254/24", around.router)
    with (
        metadata.socket(socket.SOCK_DGRAM) as there,
        around.client.socket(socket.SOCK_DGRAM) as here,
    ):
        there.bind((metadata.address, 80))
        with nat.machine.socket(socket.SOCK_DGRAM) as own:
            own.sendto(b"from the instance", (metadata.address, 80))
        assert there.recv(100) == b"from the instance"
        here.sendto(b"from behind", (metadata.address, 80))
        # What one sender sends arrives in order: had it come through, it would be there now.
        assert udp(around.client, around.outside) == nat.private_address
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(100)
    metadata.close()


def test_containers_on_the_nat_reach_the_metadata(nat, around):
    """They are the instance's own, as those of Docker are behind its bridge."""
    assert nat.claim().code == 0
    container = Host("docker0", "172.17.0.2/16", nat.machine)
    metadata = Host("metadata", "169.254.169.254/24", around.router)
    assert udp(container, metadata, 80) == nat.private_address
    assert tcp(container, metadata) == nat.private_address
    metadata.close()
    container.close()


def test_no_address_of_the_nats_own_is_masqueraded(nat, around):
    """Neither a secondary one of its interface, nor one of another interface."""
    second = nat.scene.attach_interface(nat.instance, nat.scene.private_subnets[ZONES[0]])
    for interface in (nat.interface, second):
        nat.world.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=1
        )
    interfaces = nat.world.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[nat.interface, second]
    )
    addresses = [
        address["PrivateIpAddress"]
        for interface in interfaces["NetworkInterfaces"]
        for address in interface["PrivateIpAddresses"]
    ]
    assert len(addresses) == 4
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    network = ran.json["network"]
    assert network["private_address"] == network["private_addresses"][0] == nat.private_address
    assert sorted(network["private_addresses"]) == sorted(addresses)
    with around.outside.socket(socket.SOCK_DGRAM) as there:
        there.bind((around.outside.address, 53))
        for address in addresses:
            if address != nat.private_address:
                nat.machine.add_address("ens5", IPv4Interface(f"{address}/32"))
            with nat.machine.socket(socket.SOCK_DGRAM) as own:
                own.bind((address, 0))
                own.sendto(b"hello", (around.outside.address, 53))
            assert there.recvfrom(100)[1][0] == address


def test_strict_reverse_path_filters_are_loosened(nat, around):
    """The NAT knows the way to the peered network by no interface that it comes in by."""
    nat.machine.write_sysctl("net/ipv4/conf/all/rp_filter", 1)
    with nat.machine.netlink() as netlink:
        netlink.link("add", ifname="elsewhere", kind="veth", peer={"ifname": "nowhere"})
        elsewhere = netlink.link_lookup(ifname="elsewhere")[0]
        netlink.link("set", index=elsewhere, state="up")
        netlink.route("add", dst="192.168.7.0/24", oif=elsewhere, priority=1)
    assert nat.claim().code == 0
    with (
        around.outside.socket(socket.SOCK_DGRAM) as there,
        around.peered.socket(socket.SOCK_DGRAM) as here,
    ):
        there.bind((around.outside.address, 53))
        here.sendto(b"hello", (around.outside.address, 53))
        assert there.recvfrom(100)[1][0] == nat.private_address


def test_twenty_thousand_connections(nat, around):
    assert nat.claim().code == 0
    n = 20_000
    seen = many_connections(around.client, around.outside, n)
    assert len(seen) == n
    assert {address for address, *_ in seen} == {nat.private_address}
    assert int(nat.machine.read_sysctl("net/netfilter/nf_conntrack_count")) >= n
