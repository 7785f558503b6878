"""The VPC that the scenes play in: does it do what EC2 says?"""

import contextlib
import socket
import time

import pytest

from tests.two_zones import TwoZones
from tests.world.machine import PRIMARY
from tests.world.scene import ZONES
from tests.world.vpc.internet import HOST

OWN, OTHER = ZONES
WHO = f"http://{HOST}/"


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
    with stage.vpc.instance(instance).place.entered():
        sock = socket.socket()
    with sock:
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


@pytest.mark.parametrize("gone", ["stopped", "terminated"])
def test_a_blackhole_drops(stage, nats, gone):
    table = stage.scene.private_tables[OWN]
    alone = stage.launch_client(stage.scene.public_subnets[OWN])
    stage.world.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=stage.scene.interface(alone), SourceDestCheck={"Value": False}
    )
    default_route(stage, table, NetworkInterfaceId=stage.scene.interface(alone))
    end = {"stopped": "stop_instances", "terminated": "terminate_instances"}[gone]
    getattr(stage.world.ec2, end)(InstanceIds=[alone])
    assert stage.world.default_route(table).state == "blackhole"
    assert seen_as(stage, stage.client_id(OWN)) is None


def test_addresses_of_the_vpc_that_nobody_has_lead_nowhere(stage, nats):
    """Not even to the default route's target."""
    with stage.client(OWN).place.entered():
        sock = socket.socket()
    with sock:
        sock.settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
            sock.connect(("10.0.77.7", 80))


def test_the_check_of_source_and_destination(stage, nats):
    """While it is on, an instance gets and sends packets of its own only."""
    attribute = {"NetworkInterfaceId": stage.scene.interface(nats[OWN])}
    modify = stage.world.ec2.modify_network_interface_attribute
    modify(**attribute, SourceDestCheck={"Value": True})
    assert seen_as(stage, stage.client_id(OWN)) is None
    assert seen_as(stage, nats[OWN]) == stage.public(nats[OWN])
    modify(**attribute, SourceDestCheck={"Value": False})
    assert seen_as(stage, stage.client_id(OWN)) == stage.public(nats[OWN])


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


def test_an_instance_sees_no_process_and_no_mount_of_others(stage, nats):
    own, other = (stage.vpc.instance(nat) for nat in nats.values())
    with own.start(["sleep", "1000"]) as sleeping:
        assert "sleep" in own.run("sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()
        assert "sleep" not in other.run("sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()
        sleeping.kill()
    assert "169.254.169.253" in own.run("cat", "/etc/resolv.conf").stdout
    with open("/etc/resolv.conf") as ours:
        assert "169.254.169.253" not in ours.read()


def test_a_terminated_instance_leaves_nothing(stage, nats):
    instance = stage.vpc.instance(nats[OWN])
    with instance.start(["sleep", "1000"]) as running:
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
    after = stage.vpc.instance(instance)
    assert after is not before
    assert after.run("true").returncode == 0


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
        with stage.vpc.internet.entered():
            sock = socket.socket()
        with sock:
            sock.settimeout(0.5)
            # Nobody listens there, and says so.
            error = ConnectionRefusedError if reached else (TimeoutError, OSError)
            with pytest.raises(error) as raised:
                sock.connect((address, 9))
            assert isinstance(raised.value, ConnectionRefusedError) == reached


def test_icmp_errors_come_back_through_gateway_and_nat(stage, nats):
    with stage.client(OWN).place.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(10)
        sock.connect((HOST, 9))
        sock.send(b"nobody listens there")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


# --- Faults ---------------------------------------------------------------------------------------


def reached(stage, source: str, target: str) -> bool:
    """Whether an instance reaches another one."""
    address = str(stage.vpc.picture.instances[target].address.ip)
    with stage.vpc.instance(source).place.entered():
        sock = socket.socket()
    with sock:
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
    with stage.vpc.instance(nat).start(["sleep", "1000"]) as running:
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
    with stage.vpc.instance(nat).start(["sh", "-c", ticking]) as process:
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
        stage.vpc.kill(nat)
        assert process.wait(10) != 0


def test_some_packets_are_lost(stage, nats):
    stage.vpc.lose(nats[OWN], 0.5)
    with stage.probes() as probes:
        for probe in probes.values():
            probe.wait_connected()
        time.sleep(0.5)  # which is 50 datagrams
        reports = {zone: probe.stop() for zone, probe in probes.items()}
    assert reports[OWN].lost > 0
    assert reports[OTHER].lost == 0
