"""The VPC that the scenes play in: does it do what EC2 says?"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest

from tests.skipping import not_tested
from tests.stages.two_zones import TwoZones, stop_all, wait_for_all
from tests.world import ec2
from tests.world.machine import PRIMARY
from tests.world.scene import ZONES
from tests.world.vpc.instance import Instance
from tests.world.vpc.internet import HOST
from tests.world.vpc.router import METADATA, port_name

OWN, OTHER = ZONES
PORT = 9999


@pytest.fixture
def stage(isolated, world):
    with TwoZones(world) as stage:
        yield stage


@pytest.fixture
def nats(stage):
    """In service, by zone."""
    return dict(zip(ZONES, stage.launch(), strict=True))


def seen_as(stage, instance: str) -> str | None:
    """The address that the Internet host sees when an instance connects; None for no way there."""
    with stage.vpc.instance(instance).place.socket() as sock:
        sock.settimeout(0.5)
        try:
            sock.connect((HOST, 80))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        except OSError:
            return None
    return answer.decode().split()[-1]


def default_route(stage, table: str, **target: str) -> None:
    with contextlib.suppress(stage.world.ec2.exceptions.ClientError):
        stage.world.ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    stage.world.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)


@contextlib.contextmanager
def runs(instance: Instance, *command: str) -> Iterator[subprocess.Popen[str]]:
    """On the instance, which at the latest ends it."""
    with instance.start(command) as process:
        try:
            yield process
        finally:
            process.kill()


# --- Routes ---------------------------------------------------------------------------------------


def test_clients_go_out_by_their_own_zones_nat(stage, nats):
    for zone, nat in nats.items():
        assert seen_as(stage, stage.client_id(zone)) == stage.public(nat)


def test_a_replaced_route_is_in_force_at_once(stage, nats):
    client, table = stage.client_id(OWN), stage.scene.private_tables[OWN]
    for nat in [nats[OTHER], nats[OWN]] * 5:
        stage.world.ec2.replace_route(
            RouteTableId=table,
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=stage.scene.interface(nat),
        )
        assert seen_as(stage, client) == stage.public(nat)


def test_no_default_route_leads_nowhere(stage, nats):
    stage.world.ec2.delete_route(
        RouteTableId=stage.scene.private_tables[OWN], DestinationCidrBlock="0.0.0.0/0"
    )
    assert seen_as(stage, stage.client_id(OWN)) is None
    assert seen_as(stage, stage.client_id(OTHER)) is not None


def test_a_subnet_follows_its_table(stage, nats):
    """By association, or the VPC's main table for want of one."""
    ec2, scene = stage.world.ec2, stage.scene
    tables = ec2.describe_route_tables(
        Filters=[{"Name": "route-table-id", "Values": [scene.private_tables[OWN]]}]
    )["RouteTables"]
    association = tables[0]["Associations"][0]["RouteTableAssociationId"]
    answer = ec2.replace_route_table_association(
        AssociationId=association, RouteTableId=scene.private_tables[OTHER]
    )
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nats[OTHER])
    ec2.disassociate_route_table(AssociationId=answer["NewAssociationId"])
    assert seen_as(stage, stage.client_id(OWN)) is None
    main = ec2.describe_route_tables(
        Filters=[
            {"Name": "vpc-id", "Values": [scene.vpc]},
            {"Name": "association.main", "Values": ["true"]},
        ]
    )["RouteTables"][0]
    default_route(stage, main["RouteTableId"], NetworkInterfaceId=scene.interface(nats[OWN]))
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nats[OWN])


def test_the_longest_prefix_wins(stage, nats):
    table = stage.scene.private_tables[OWN]
    stage.world.ec2.create_route(
        RouteTableId=table,
        DestinationCidrBlock=f"{HOST}/32",
        NetworkInterfaceId=stage.scene.interface(nats[OTHER]),
    )
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nats[OTHER])
    stage.world.ec2.delete_route(RouteTableId=table, DestinationCidrBlock=f"{HOST}/32")
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nats[OWN])


def test_a_nat_that_waits_for_its_terminating_hook_forwards(stage):
    stage.world.replace_while_terminating(False)
    nat, _ = stage.launch(terminating_hook=True)
    public = stage.public(nat)
    stage.terminate(OWN)
    assert stage.world.lifecycle(nat) == "Terminating:Wait"
    assert seen_as(stage, stage.client_id(OWN)) == public


@pytest.mark.parametrize("gone", ["stopped", "terminated"])
def test_a_blackhole_drops(stage, nats, gone):
    """A NAT of no group, which nobody replaces."""
    table = stage.scene.private_tables[OWN]
    alone = stage.scene.launch_instance(stage.scene.public_subnets[OWN])
    ran = stage.vpc.instance(alone).run("hanat", "claim")
    assert ran.returncode == 0, ran.stderr
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(alone)
    end = {"stopped": "stop_instances", "terminated": "terminate_instances"}[gone]
    getattr(stage.world.ec2, end)(InstanceIds=[alone])
    assert stage.world.default_route(table).state == "blackhole"
    assert seen_as(stage, stage.client_id(OWN)) is None


def test_addresses_of_the_vpc_that_nobody_has_lead_nowhere(stage, nats):
    """Not even to the default route's target, which would answer for this one."""
    stage.vpc.instance(nats[OWN]).place.add_address("lo", IPv4Interface("10.0.77.7/32"))
    with udp(stage, stage.client_id(OWN)) as here, udp(stage, nats[OWN]) as there:
        here.sendto(b"to nobody", ("10.0.77.7", PORT))
        assert_first(there, here, (str(address(stage, nats[OWN])), PORT))


def test_an_instance_sends_from_its_own_address_only(stage, nats):
    """As long as its source/destination check is on."""
    client = stage.client_id(OWN)
    stage.vpc.instance(client).place.add_address("lo", IPv4Interface("192.0.2.7/32"))
    to = str(address(stage, nats[OWN])), PORT
    with udp(stage, client, "192.0.2.7") as here, udp(stage, nats[OWN]) as there:
        here.sendto(b"checked", to)
        switch_check(stage, client, on=False)
        assert_first(there, here, to)


def test_an_instance_gets_what_is_for_its_own_address_only(stage, nats):
    nat = nats[OWN]
    stage.vpc.instance(nat).place.add_address("lo", IPv4Interface("192.0.2.7/32"))
    switch_check(stage, nat, on=True)
    with udp(stage, stage.client_id(OWN)) as here, udp(stage, nat, "192.0.2.7") as there:
        here.sendto(b"checked", ("192.0.2.7", PORT))
        switch_check(stage, nat, on=False)
        assert_first(there, here, ("192.0.2.7", PORT))


def test_a_checked_nat_does_not_forward(stage, nats):
    switch_check(stage, nats[OWN], on=True)
    assert seen_as(stage, stage.client_id(OWN)) is None
    assert seen_as(stage, nats[OWN]) == stage.public(nats[OWN])
    switch_check(stage, nats[OWN], on=False)
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nats[OWN])


def switch_check(stage, instance: str, on: bool) -> None:
    stage.world.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=stage.scene.interface(instance), SourceDestCheck={"Value": on}
    )


def address(stage, instance: str) -> IPv4Address:
    return stage.vpc.picture.instances[instance].address.ip


def udp(stage, instance: str, own: str = "0.0.0.0") -> socket.socket:
    return stage.vpc.instance(instance).place.bound_socket(own, PORT, socket.SOCK_DGRAM)


def assert_first(there: socket.socket, here: socket.socket, to: tuple[str, int]) -> None:
    """What is sent now is the first to arrive: what was sent before was lost."""
    here.sendto(b"now", to)
    there.settimeout(10)
    assert there.recv(100) == b"now"


# --- Instances ------------------------------------------------------------------------------------


def test_an_instance_is_what_ec2_describes(stage, nats):
    answer = stage.world.ec2.describe_instances(InstanceIds=[nats[OWN]])
    [interface] = answer["Reservations"][0]["Instances"][0]["NetworkInterfaces"]
    place = stage.vpc.instance(nats[OWN]).place
    with place.netlink() as netlink:
        [link] = netlink.get_links(netlink.link_lookup(ifname=PRIMARY)[0])
        [address] = netlink.get_addr(label=PRIMARY)
    assert link.get_attr("IFLA_ADDRESS") == interface["MacAddress"]
    assert address.get_attr("IFA_ADDRESS") == interface["PrivateIpAddress"]


def test_an_instance_meets_its_own_metadata(stage, nats):
    """By IMDSv2, at the address that it has everywhere."""
    script = """
import http.client
imds = http.client.HTTPConnection("169.254.169.254", timeout=5)
imds.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
token = imds.getresponse().read().decode()
headers = {"X-aws-ec2-metadata-token": token}
imds.request("GET", "/latest/meta-data/instance-id", headers=headers)
print(imds.getresponse().read().decode())
"""
    for nat in nats.values():
        ran = stage.vpc.instance(nat).run("python3", "-c", script)
        assert ran.stdout.strip() == nat, ran.stderr


def test_metadata_goes_no_further_than_the_instance(stage, nats):
    """The hop limit of what it is answered is 1."""
    place = stage.vpc.instance(nats[OWN]).place
    ipv4 = socket.htons(0x0800)
    with place.socket(socket.SOCK_DGRAM, ipv4, socket.AF_PACKET) as seen, place.socket() as asking:
        asking.settimeout(10)
        seen.settimeout(10)
        asking.connect((str(METADATA), 80))
        packet = b""
        while packet[12:16] != METADATA.packed:
            packet = seen.recv(1500)
    assert packet[8] == 1


def test_a_way_out_that_is_not_there(stage):
    """A gateway of another kind than the Internet's leads nowhere."""
    address = stage.world.ec2.allocate_address(Domain="vpc")
    client = stage.client_id(OWN)
    stage.world.ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=client)
    gateway = stage.world.ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    default_route(stage, stage.scene.private_tables[OWN], GatewayId=gateway)
    assert seen_as(stage, client) is None


def test_an_instance_sees_no_process_and_no_mount_of_others(stage, nats):
    own, other = (stage.vpc.instance(nat) for nat in nats.values())
    if own.run("cat", "/proc/1/comm").stdout != "cat\n":
        not_tested("no /proc can be mounted here")
    with runs(own, "sleep", "1000"):
        stage.vpc.wait_until(lambda: "sleep" in commands(own))
        assert "sleep" not in commands(other)
    assert "169.254.169.253" in own.run("cat", "/etc/resolv.conf").stdout
    with open("/etc/resolv.conf") as ours:
        assert "169.254.169.253" not in ours.read()


def commands(instance: Instance) -> list[str]:
    return instance.run("sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()


def test_a_terminated_instance_leaves_nothing(stage, nats):
    instance = stage.vpc.instance(nats[OWN])
    with runs(instance, "sleep", "1000") as running:
        stage.world.autoscaling.delete_auto_scaling_group(
            AutoScalingGroupName=stage.group(OWN), ForceDelete=True
        )
        assert running.wait(10) != 0
    stage.vpc.wait_until(lambda: instance.port.name not in ports(stage))
    assert seen_as(stage, stage.client_id(OWN)) is None


def test_a_stopped_instance_boots_when_it_is_started(stage):
    instance = stage.launch_client(stage.scene.private_subnets[OWN])
    before = stage.vpc.instance(instance)
    stage.world.ec2.stop_instances(InstanceIds=[instance])
    stage.vpc.wait_until(lambda: before.port.name not in ports(stage))
    stage.world.ec2.start_instances(InstanceIds=[instance])
    assert stage.vpc.instance(instance).run("true").returncode == 0


def test_even_one_that_is_started_at_once_boots(stage):
    """Before anybody looked."""
    instance = stage.launch_client(stage.scene.private_subnets[OWN])
    before = stage.vpc.instance(instance)
    with stage.world.lock:
        ec2.backend().stop_instances([instance])
        ec2.backend().start_instances([instance])
    stage.vpc.wait_until(lambda: stage.vpc.running(instance) not in (None, before))
    assert stage.vpc.instance(instance).run("true").returncode == 0


def ports(stage) -> set[str]:
    with stage.vpc.router.netlink() as netlink:
        return {link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}


# --- Gateway --------------------------------------------------------------------------------------


def test_without_a_public_address_there_is_no_way_out(stage):
    """Even by a route to the gateway."""
    client = stage.client_id(OWN)
    default_route(stage, stage.scene.private_tables[OWN], GatewayId=stage.scene.internet_gateway)
    assert seen_as(stage, client) is None
    address = stage.world.ec2.allocate_address(Domain="vpc")
    association = stage.world.ec2.associate_address(
        AllocationId=address["AllocationId"], InstanceId=client
    )
    assert seen_as(stage, client) == address["PublicIp"]
    stage.world.ec2.disassociate_address(AssociationId=association["AssociationId"])
    assert seen_as(stage, client) is None


def test_an_elastic_address_moves_from_one_nat_to_the_other(stage, nats):
    allocated = stage.world.ec2.allocate_address(Domain="vpc")
    assigned = stage.public(nats[OWN])
    for nat in nats.values():
        stage.world.ec2.associate_address(
            AllocationId=allocated["AllocationId"],
            NetworkInterfaceId=stage.scene.interface(nat),
            AllowReassociation=True,
        )
        assert seen_as(stage, nat) == allocated["PublicIp"]
    assert seen_as(stage, nats[OWN]) not in (None, assigned, allocated["PublicIp"])


def test_nobody_outside_reaches_an_address_without_a_mapping(stage, nats):
    for address, reached in ((stage.public(nats[OWN]), True), ("198.18.77.77", False)):
        with stage.vpc.internet.socket() as sock:
            sock.settimeout(0.5)
            # Nobody listens there, and says so.
            error = ConnectionRefusedError if reached else (TimeoutError, OSError)
            with pytest.raises(error) as raised:
                sock.connect((address, 9))
            assert isinstance(raised.value, ConnectionRefusedError) == reached


def test_icmp_errors_come_back_through_gateway_and_nat(stage, nats):
    with stage.client(OWN).place.socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((HOST, 9))
        sock.send(b"nobody listens there")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_a_gateway_that_is_detached_leads_nowhere(stage, nats):
    stage.world.ec2.detach_internet_gateway(
        InternetGatewayId=stage.scene.internet_gateway, VpcId=stage.scene.vpc
    )
    assert seen_as(stage, nats[OWN]) is None


# --- NAT gateways ---------------------------------------------------------------------------------


def nat_gateway(stage, zone: str) -> tuple[str, str]:
    """A new one, which is the only one, and its public address."""
    gateway = stage.scene.nat_gateway(zone)
    [elastic] = stage.world.ec2.describe_addresses()["Addresses"]
    return gateway, elastic["PublicIp"]


def test_clients_go_out_by_a_nat_gateway(stage):
    """In whichever zone it is, and until it is deleted."""
    client, table = stage.client_id(OWN), stage.scene.private_tables[OWN]
    gateway, public = nat_gateway(stage, OTHER)
    default_route(stage, table, NatGatewayId=gateway)
    assert seen_as(stage, client) == public
    with stage.probes() as probes:
        probes[OWN].wait_connected()
    assert stage.routed_to(OWN) == gateway
    assert seen_as(stage, stage.client_id(OTHER)) is None
    stage.world.ec2.delete_nat_gateway(NatGatewayId=gateway)
    assert stage.world.default_route(table).state == "blackhole"
    assert seen_as(stage, client) is None
    assert port_name(gateway) not in ports(stage)
    told = [event.text for event in stage.vpc.events if event.subject == gateway]
    assert told == [f"is available: {OTHER}", "is no longer available"]


def test_a_route_goes_over_to_a_nat_gateway_at_once(stage, nats):
    client, nat = stage.client_id(OWN), nats[OWN]
    gateway, public = nat_gateway(stage, OWN)
    interface = stage.scene.interface(nat)
    for _ in range(5):
        for target, seen in (
            ({"NatGatewayId": gateway}, public),
            ({"NetworkInterfaceId": interface}, stage.public(nat)),
        ):
            stage.world.ec2.replace_route(
                RouteTableId=stage.scene.private_tables[OWN],
                DestinationCidrBlock="0.0.0.0/0",
                **target,
            )
            assert seen_as(stage, client) == seen


def test_a_nat_gateway_that_is_pending_forwards_nothing(stage):
    client = stage.client_id(OWN)
    stage.world.slow_nat_gateways(pending=60, deleting=0)
    gateway, public = nat_gateway(stage, OWN)
    default_route(stage, stage.scene.private_tables[OWN], NatGatewayId=gateway)
    assert seen_as(stage, client) is None
    stage.world.clock.advance(60)
    stage.vpc.wait_until(lambda: seen_as(stage, client) == public)


def test_nobody_outside_reaches_a_nat_gateway(stage):
    gateway, public = nat_gateway(stage, OWN)
    default_route(stage, stage.scene.private_tables[OWN], NatGatewayId=gateway)
    with stage.vpc.internet.socket() as sock:
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.connect((public, 9))
    assert seen_as(stage, stage.client_id(OWN)) == public


def test_icmp_errors_come_back_through_a_nat_gateway(stage):
    gateway, _ = nat_gateway(stage, OWN)
    default_route(stage, stage.scene.private_tables[OWN], NatGatewayId=gateway)
    with stage.client(OWN).place.socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((HOST, 9))
        sock.send(b"nobody listens there")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


# --- Faults ---------------------------------------------------------------------------------------


def reached(stage, source: str, target: str) -> bool:
    """Whether an instance reaches another one."""
    address = str(stage.vpc.picture.instances[target].address.ip)
    with stage.vpc.instance(source).place.socket() as sock:
        sock.settimeout(0.5)
        try:
            sock.connect((address, 9))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    raise AssertionError("somebody listens there")


def test_a_killed_instance_runs_and_forwards_nothing(stage, nats):
    nat = nats[OWN]
    with runs(stage.vpc.instance(nat), "sleep", "1000") as running:
        stage.vpc.kill(nat)
        assert running.wait(10) != 0
    assert seen_as(stage, stage.client_id(OWN)) is None
    assert not reached(stage, nats[OTHER], nat)
    assert nat in stage.vpc.picture.instances, "EC2 knows nothing of it"


def test_a_nat_that_is_cut_off_from_the_internet(stage, nats):
    nat = nats[OWN]
    stage.vpc.cut_uplink(nat)
    assert seen_as(stage, nat) is None
    assert seen_as(stage, stage.client_id(OWN)) is None
    assert reached(stage, nats[OTHER], nat)
    assert reached(stage, nat, nats[OTHER])
    stage.vpc.mend(nat)
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nat)


def test_a_nat_that_is_cut_off_from_its_peers(stage, nats):
    nat = nats[OWN]
    stage.vpc.cut_from_peers(nat)
    assert not reached(stage, nats[OTHER], nat)
    assert not reached(stage, nat, nats[OTHER])
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nat)
    stage.vpc.mend(nat)
    assert reached(stage, nats[OTHER], nat)


def test_a_frozen_nat_goes_on_where_it_stood(stage, nats):
    nat, ticks = nats[OWN], stage.vpc.folder / "ticks"
    ticking = f"while :; do echo >>{ticks}; sleep 0.01; done"
    with runs(stage.vpc.instance(nat), "sh", "-c", ticking):
        for _ in range(2):
            more = ticks.stat().st_size if ticks.exists() else 0
            stage.vpc.wait_until(lambda more=more: ticks.exists() and ticks.stat().st_size > more)
            stage.vpc.freeze(nat)
            stopped = ticks.stat().st_size
            assert seen_as(stage, stage.client_id(OWN)) is None
            time.sleep(0.2)
            assert ticks.stat().st_size == stopped
            stage.vpc.thaw(nat)
            assert seen_as(stage, stage.client_id(OWN)) == stage.public(nat)


@pytest.mark.parametrize("end", ["killed", "terminated"])
def test_a_frozen_nat_ends_like_others(stage, nats, end):
    nat = nats[OWN]
    with runs(stage.vpc.instance(nat), "sleep", "1000") as process:
        stage.vpc.freeze(nat)
        if end == "killed":
            stage.vpc.kill(nat)
        else:
            stage.terminate(OWN)
            stage.wait_off(nat)
        assert process.wait(10) != 0
    stage.vpc.instance(nats[OTHER])


def test_some_packets_are_lost(stage, nats):
    stage.vpc.lose(nats[OWN], 0.5)
    with stage.probes() as probes:
        wait_for_all(probes)
        time.sleep(0.5)  # which is 50 datagrams
        reports = stop_all(probes)
    assert reports[OWN].lost > 0
    assert reports[OTHER].lost == 0
