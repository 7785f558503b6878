"""The world's own tests: what EC2 says of NAT gateways, status checks and interfaces."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.world import World
from tests.world.scene import OWNER_TAG, ZONES, Scene

A, B = ZONES
DEFAULT = "0.0.0.0/0"
CLIENT = "AKIACLIENT0000000000"


@pytest.fixture
def scene(network: Scene) -> Scene:
    return network


def only(**filters: str | list[str]) -> list[dict[str, Any]]:
    """As requests have them; names with "_" for "-", and "__" for "."."""
    return [
        {
            "Name": name.replace("__", ".").replace("_", "-"),
            "Values": [values] if isinstance(values, str) else values,
        }
        for name, values in filters.items()
    ]


# --- NAT gateways ---------------------------------------------------------------------------------


def gateways(scene: Scene, *filters: dict[str, Any], **how: Any) -> list[str]:
    answer = scene.world.ec2.describe_nat_gateways(Filter=filters, **how)
    return [gateway["NatGatewayId"] for gateway in answer["NatGateways"]]


def about(scene: Scene, gateway: str) -> dict[str, Any]:
    return scene.world.ec2.describe_nat_gateways(NatGatewayIds=[gateway])["NatGateways"][0]


def test_what_a_nat_gateway_has(scene: Scene) -> None:
    gateway = scene.nat_gateway(A, owner="any")
    shown = about(scene, gateway)
    assert shown["State"] == "available"
    assert shown["SubnetId"] == scene.public_subnets[A]
    assert shown["VpcId"] == scene.vpc
    assert shown["ConnectivityType"] == "public"
    assert shown["Tags"] == [{"Key": OWNER_TAG, "Value": "any"}]
    [address] = shown["NatGatewayAddresses"]
    [elastic] = scene.world.ec2.describe_addresses()["Addresses"]
    assert address["PublicIp"] == elastic["PublicIp"]
    assert address["AllocationId"] == elastic["AllocationId"]
    interface = network_interface(scene, address["NetworkInterfaceId"])
    assert interface["PrivateIpAddress"] == address["PrivateIp"] == "10.0.0.4"
    assert (interface["InterfaceType"], interface["Status"]) == ("nat_gateway", "in-use")
    assert interface["SubnetId"] == scene.public_subnets[A]
    assert not interface["SourceDestCheck"]


def test_the_states_of_a_nat_gateway(scene: Scene) -> None:
    world, ec2 = scene.world, scene.world.ec2
    world.slow_nat_gateways(pending=60, deleting=30)
    gateway = scene.nat_gateway()
    [table] = scene.add_tables(1)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock=DEFAULT, NatGatewayId=gateway)

    def state() -> tuple[str, str]:
        route = world.default_route(table)
        assert route
        assert route.target == gateway
        return about(scene, gateway)["State"], route.state

    world.clock.advance(59)
    assert state() == ("pending", "active")
    world.clock.advance(1)
    assert state() == ("available", "active")
    [elastic] = ec2.describe_addresses()["Addresses"]
    assert "AssociationId" in elastic
    interface = about(scene, gateway)["NatGatewayAddresses"][0]["NetworkInterfaceId"]
    ec2.delete_nat_gateway(NatGatewayId=gateway)
    world.clock.advance(29)
    assert state() == ("deleting", "blackhole")
    world.clock.advance(1)
    assert state() == ("deleted", "blackhole")
    [elastic] = ec2.describe_addresses()["Addresses"]
    assert "AssociationId" not in elastic, "but it is still there"
    with pytest.raises(ClientError, match=r"InvalidNetworkInterfaceID\.NotFound"):
        network_interface(scene, interface)
    ec2.delete_nat_gateway(NatGatewayId=gateway)
    world.clock.advance(3599)
    assert state() == ("deleted", "blackhole")
    world.clock.advance(1)
    with pytest.raises(ClientError, match="NatGatewayNotFound"):
        about(scene, gateway)
    assert world.default_route(table).state == "blackhole"


def test_a_nat_gateway_that_is_just_made_is_pending(scene: Scene) -> None:
    made = scene.world.ec2.create_nat_gateway(
        SubnetId=scene.public_subnets[A], ConnectivityType="private"
    )["NatGateway"]
    assert (made["State"], made["ConnectivityType"]) == ("pending", "private")
    shown = about(scene, made["NatGatewayId"])
    assert shown["State"] == "available"
    assert "PublicIp" not in shown["NatGatewayAddresses"][0]


def test_a_regional_nat_gateway(scene: Scene) -> None:
    gateway = scene.regional_nat_gateway("any")
    shown = about(scene, gateway)
    assert shown["AvailabilityMode"] == "regional"
    assert "SubnetId" not in shown
    assert (shown["State"], shown["VpcId"]) == ("available", scene.vpc)
    assert shown["NatGatewayAddresses"][0]["PublicIp"]
    assert about(scene, scene.nat_gateway())["AvailabilityMode"] == "zonal"
    subnet = scene.public_subnets[A]
    both = {"AvailabilityMode": "regional", "VpcId": scene.vpc, "SubnetId": subnet}
    assert_refused(scene.world.ec2.create_nat_gateway, "InvalidParameterCombination", **both)


def test_filters_of_nat_gateways(scene: Scene) -> None:
    ec2 = scene.world.ec2
    anyone, own, untagged = (
        scene.nat_gateway(A, owner="any"),
        scene.nat_gateway(B, owner=B),
        scene.nat_gateway(B),
    )
    gone = scene.nat_gateway(A, owner="any")
    ec2.delete_nat_gateway(NatGatewayId=gone)
    everywhere = {anyone, own, untagged, gone}
    tag = f"tag:{OWNER_TAG}"

    def found(*filters: dict[str, Any]) -> set[str]:
        return set(gateways(scene, *filters))

    assert found(*only(vpc_id=scene.vpc)) == everywhere
    assert found(*only(vpc_id="vpc-0123456789abcdef0")) == set()
    assert found(*only(state="available")) == everywhere - {gone}
    assert found(*only(state=["pending", "deleted"])) == {gone}
    assert found({"Name": tag, "Values": ["any", A]}) == {anyone, gone}
    assert found({"Name": tag, "Values": ["any", B]}, *only(state="available")) == {anyone, own}
    assert found(*only(tag_key=OWNER_TAG)) == everywhere - {untagged}
    assert found(*only(subnet_id=scene.public_subnets[B])) == {own, untagged}
    assert found(*only(nat_gateway_id=own)) == {own}
    with pytest.raises(ClientError, match="filter 'nonsense' is invalid"):
        found(*only(nonsense="x"))


def test_pages_of_nat_gateways(scene: Scene) -> None:
    ec2 = scene.world.ec2
    made = [scene.nat_gateway() for _ in range(7)]
    assert gateways(scene) == made
    first = ec2.describe_nat_gateways(MaxResults=5)
    assert len(first["NatGateways"]) == 5
    assert gateways(scene, MaxResults=5, NextToken=first["NextToken"]) == made[5:]
    assert_refused(ec2.describe_nat_gateways, "InvalidParameterValue", MaxResults=1001)


def test_errors_of_nat_gateways(scene: Scene) -> None:
    ec2, unknown = scene.world.ec2, "nat-0123456789abcdef0"
    assert_refused(ec2.describe_nat_gateways, "NatGatewayNotFound", NatGatewayIds=[unknown])
    assert_refused(ec2.describe_nat_gateways, "NatGatewayMalformed", NatGatewayIds=["nat-x"])
    assert_refused(ec2.delete_nat_gateway, "NatGatewayNotFound", NatGatewayId=unknown)
    [table] = scene.add_tables(1, default="igw")
    to = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT}
    missing = r"InvalidNatGatewayID\.NotFound.*The natGateway ID '{}' does not exist"
    with pytest.raises(ClientError, match=missing.format(unknown)):
        ec2.replace_route(**to, NatGatewayId=unknown)
    gone = scene.nat_gateway()
    ec2.delete_nat_gateway(NatGatewayId=gone)
    with pytest.raises(ClientError, match=missing.format(gone)):
        ec2.replace_route(**to, NatGatewayId=gone)
    assert scene.world.default_route(table).target == scene.internet_gateway, "nothing changed"
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    [foreign] = scene.add_tables(1, vpc=other)
    to_another = {**to, "RouteTableId": foreign, "NatGatewayId": scene.nat_gateway()}
    assert_refused(ec2.create_route, "InvalidParameterValue", **to_another)


def test_a_route_moves_between_an_instance_and_a_nat_gateway(scene: Scene) -> None:
    ec2, gateway = scene.world.ec2, scene.nat_gateway()
    interface = scene.interface(scene.launch_instance(scene.public_subnets[A]))
    [table] = scene.add_tables(1, default=interface)
    to = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT}

    def route() -> dict[str, Any]:
        answer = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]
        return next(r for r in answer["Routes"] if r["DestinationCidrBlock"] == DEFAULT)

    ec2.replace_route(**to, NatGatewayId=gateway)
    assert (route()["NatGatewayId"], route()["State"]) == (gateway, "active")
    assert not {"InstanceId", "NetworkInterfaceId", "GatewayId"} & route().keys()
    ec2.replace_route(**to, NetworkInterfaceId=interface)
    assert route()["NetworkInterfaceId"] == interface
    assert "NatGatewayId" not in route()


# --- Status checks --------------------------------------------------------------------------------


def statuses(scene: Scene, **how: Any) -> dict[str, tuple[str, str, str]]:
    """State, and the status of instance and system, by instance."""
    answer = scene.world.ec2.describe_instance_status(**how)
    return {
        status["InstanceId"]: (
            status["InstanceState"]["Name"],
            status["InstanceStatus"]["Status"],
            status["SystemStatus"]["Status"],
        )
        for status in answer["InstanceStatuses"]
    }


WELL, IMPAIRED = ("running", "ok", "ok"), ("running", "impaired", "ok")


def test_only_running_instances_unless_all_are_asked_for(scene: Scene) -> None:
    ec2 = scene.world.ec2
    running, stopped, gone = (scene.launch_instance(scene.public_subnets[A]) for _ in range(3))
    ec2.stop_instances(InstanceIds=[stopped])
    ec2.terminate_instances(InstanceIds=[gone])
    everything = {
        running: WELL,
        stopped: ("stopped", "not-applicable", "not-applicable"),
        gone: ("terminated", "not-applicable", "not-applicable"),
    }
    ids = [running, stopped, gone]
    assert statuses(scene) == statuses(scene, InstanceIds=ids) == {running: WELL}
    assert statuses(scene, IncludeAllInstances=True) == everything
    assert statuses(scene, InstanceIds=ids, IncludeAllInstances=True) == everything
    assert statuses(scene, InstanceIds=[gone]) == {}
    [shown] = ec2.describe_instance_status(InstanceIds=[running])["InstanceStatuses"]
    assert shown["AvailabilityZone"] == A


def test_an_impaired_instance(scene: Scene) -> None:
    world, ec2 = scene.world, scene.world.ec2
    nat = scene.launch_group(A, hook=False)
    world.impair(nat, noticed_after=60)
    assert statuses(scene) == {nat: IMPAIRED}
    [shown] = ec2.describe_instance_status()["InstanceStatuses"]
    [detail] = shown["InstanceStatus"]["Details"]
    assert (detail["Name"], detail["Status"]) == ("reachability", "failed")
    assert abs(detail["ImpairedSince"] - datetime.now(UTC)) < timedelta(seconds=10)
    assert world.lifecycle(nat) == "InService"
    world.clock.advance(60)
    assert world.lifecycle(nat) == "Terminated", "its group has noticed"
    [new] = scene.members(A)
    assert statuses(scene) == {new: WELL}


def test_a_reboot_mends_an_impaired_instance(scene: Scene) -> None:
    instance = scene.launch_instance(scene.public_subnets[A])
    scene.world.impair(instance, noticed_after=60)
    scene.world.ec2.reboot_instances(InstanceIds=[instance])
    assert statuses(scene) == {instance: WELL}
    scene.world.impair(instance, noticed_after=60)
    scene.world.reset()
    assert statuses(scene) == {}


def test_filters_of_statuses(scene: Scene) -> None:
    well, ill = (scene.launch_instance(scene.public_subnets[zone]) for zone in ZONES)
    stopped = scene.launch_instance(scene.public_subnets[A])
    scene.world.ec2.stop_instances(InstanceIds=[stopped])
    scene.world.impair(ill, noticed_after=60)

    def found(everything: bool = False, **filters: str | list[str]) -> set[str]:
        return set(statuses(scene, Filters=only(**filters), IncludeAllInstances=everything))

    assert found(availability_zone=A) == {well}
    assert found(instance_status__status="impaired") == {ill}
    assert found(instance_status__status="ok", system_status__status="ok") == {well}
    assert found(instance_status__reachability="failed") == {ill}
    assert found(system_status__reachability="passed") == {well, ill}
    assert found(True, instance_status__status="not-applicable") == {stopped}
    assert found(True, instance_state_name=["stopped", "stopping"]) == {stopped}
    assert found(True, instance_state_code="16") == {well, ill}
    with pytest.raises(ClientError, match="filter 'vpc-id' is invalid"):
        found(vpc_id=scene.vpc)


def test_pages_and_errors_of_statuses(scene: Scene) -> None:
    ec2 = scene.world.ec2
    made = {scene.launch_instance(scene.public_subnets[A]) for _ in range(6)}
    pages = ec2.get_paginator("describe_instance_status").paginate(PaginationConfig={"PageSize": 5})
    sizes = [len(page["InstanceStatuses"]) for page in pages]
    assert sizes == [5, 1]
    refused, one = ec2.describe_instance_status, next(iter(made))
    both = {"InstanceIds": [one], "MaxResults": 5}
    assert_refused(refused, "InvalidParameterCombination", **both)
    assert_refused(refused, "InvalidParameterValue", MaxResults=1001)
    unknown = [one, "i-0123456789abcdef0"]
    assert_refused(refused, r"InvalidInstanceID\.NotFound", InstanceIds=unknown)
    for malformed in ("i-0", "x", "i-0123456789ABCDEF0"):
        assert_refused(refused, r"InvalidInstanceID\.Malformed", InstanceIds=[malformed])


# --- Propagated routes ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_a_static_route_beside_a_propagated_one(scene: Scene, first: bool) -> None:
    world, ec2 = scene.world, scene.world.ec2
    [table] = scene.add_tables(1)
    gateway = world.propagate_default_route(table, first)
    to = {"RouteTableId": table, "DestinationCidrBlock": DEFAULT}

    def shown() -> list[tuple[str, str]]:
        described = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        routes = [route for route in described if route.get("DestinationCidrBlock") == DEFAULT]
        return [(route["GatewayId"], route["Origin"]) for route in routes]

    propagated = (gateway, "EnableVgwRoutePropagation")
    assert shown() == [propagated]
    igw = scene.internet_gateway
    assert_refused(ec2.replace_route, "InvalidParameterCombination", **to, GatewayId=igw)
    ec2.create_route(**to, GatewayId=igw)
    both = [(igw, "CreateRoute"), propagated]
    assert shown() == (both[::-1] if first else both)
    assert world.default_route(table).target == igw
    assert_refused(ec2.create_route, "RouteAlreadyExists", **to, GatewayId=igw)
    ec2.delete_route(**to)
    assert shown() == [propagated]


# --- Interfaces -----------------------------------------------------------------------------------


def network_interface(scene: Scene, interface: str) -> dict[str, Any]:
    answer = scene.world.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])
    return answer["NetworkInterfaces"][0]


def test_what_an_interface_has(scene: Scene) -> None:
    ec2, instance = scene.world.ec2, scene.launch_instance(scene.public_subnets[B])
    primary, second = (
        scene.interface(instance),
        scene.attach_interface(instance, scene.private_subnets[B]),
    )
    shown = network_interface(scene, primary)
    assert shown["Attachment"]["InstanceId"] == instance
    assert shown["Attachment"]["DeviceIndex"] == 0
    assert shown["Attachment"]["Status"] == "attached"
    assert shown["AvailabilityZone"] == B
    assert shown["PrivateIpAddress"] == "10.0.2.4"
    assert (shown["VpcId"], shown["SubnetId"]) == (scene.vpc, scene.public_subnets[B])
    assert (shown["Status"], shown["SourceDestCheck"]) == ("in-use", True)
    ec2.modify_network_interface_attribute(
        NetworkInterfaceId=primary, SourceDestCheck={"Value": False}
    )
    assert not network_interface(scene, primary)["SourceDestCheck"]
    shown = network_interface(scene, second)
    assert (shown["Attachment"]["DeviceIndex"], shown["SourceDestCheck"]) == (1, True)
    ec2.detach_network_interface(AttachmentId=shown["Attachment"]["AttachmentId"])
    shown = network_interface(scene, second)
    assert shown["Status"] == "available"
    assert "Attachment" not in shown


def test_how_long_ec2_remembers_connections(scene: Scene) -> None:
    """EC2 API reference, ConnectionTrackingSpecificationRequest."""

    def launch(**times: int) -> str:
        subnet = scene.public_subnets[A]
        interface = {"DeviceIndex": 0, "SubnetId": subnet, "ConnectionTrackingSpecification": times}
        answer = scene.world.ec2.run_instances(
            ImageId="ami-12345678", MinCount=1, MaxCount=1, NetworkInterfaces=[interface]
        )
        return answer["Instances"][0]["NetworkInterfaces"][0]["NetworkInterfaceId"]

    shown = network_interface(scene, launch(TcpEstablishedTimeout=60, UdpTimeout=60))
    told = {"TcpEstablishedTimeout": 60, "UdpTimeout": 60}
    assert shown["ConnectionTrackingConfiguration"] == told
    for times in ({"UdpTimeout": 61}, {"UdpStreamTimeout": 59}, {"TcpEstablishedTimeout": 432001}):
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            launch(**times)
    plain = scene.interface(scene.launch_instance(scene.public_subnets[A]))
    assert "ConnectionTrackingConfiguration" not in network_interface(scene, plain)


def test_interfaces_by_id_and_filter(scene: Scene) -> None:
    ec2 = scene.world.ec2
    one, other = (scene.launch_instance(scene.public_subnets[zone]) for zone in ZONES)
    first, second = scene.interface(one), scene.interface(other)
    extra = scene.attach_interface(one, scene.public_subnets[A])
    loose = ec2.create_network_interface(SubnetId=scene.public_subnets[A])
    loose = loose["NetworkInterface"]["NetworkInterfaceId"]

    def found(*filters: dict[str, Any], **how: Any) -> set[str]:
        answer = ec2.describe_network_interfaces(Filters=filters, **how)
        return {interface["NetworkInterfaceId"] for interface in answer["NetworkInterfaces"]}

    assert found(NetworkInterfaceIds=[first, second]) == {first, second}
    assert found(*only(attachment__instance_id=one)) == {first, extra}
    primary = only(attachment__instance_id=[one, other], attachment__device_index="0")
    assert found(*primary) == {first, second}
    assert found(*only(attachment__device_index="1")) == {extra}
    assert found(*only(vpc_id=scene.vpc)) == {first, second, extra, loose}
    assert found(*only(vpc_id="vpc-0123456789abcdef0")) == set()
    unknown = "eni-0123456789abcdef0"
    assert_refused(
        ec2.describe_network_interfaces,
        rf"InvalidNetworkInterfaceID\.NotFound.*{unknown}",
        NetworkInterfaceIds=[first, unknown],
    )


def test_pages_of_interfaces(scene: Scene) -> None:
    ec2 = scene.world.ec2
    for _ in range(7):
        ec2.create_network_interface(SubnetId=scene.public_subnets[A])
    mine = only(vpc_id=scene.vpc)
    pages = ec2.get_paginator("describe_network_interfaces").paginate(
        Filters=mine, PaginationConfig={"PageSize": 5}
    )
    found = [interface for page in pages for interface in page["NetworkInterfaces"]]
    assert len({interface["NetworkInterfaceId"] for interface in found}) == len(found) == 7
    refused = ec2.describe_network_interfaces
    assert_refused(refused, "InvalidParameterValue", MaxResults=1001)
    both = {"NetworkInterfaceIds": [found[0]["NetworkInterfaceId"]], "MaxResults": 5}
    assert_refused(refused, "InvalidParameterCombination", **both)


# --- Requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    ["describe_nat_gateways", "describe_instance_status", "describe_network_interfaces"],
)
def test_buckets_of_descriptions(world: World, action: str) -> None:
    world.clock.freeze()
    ask = getattr(world.client("ec2", CLIENT), action)
    for _ in range(100):
        ask()
    assert_refused(ask, "RequestLimitExceeded")
    world.clock.advance(1)
    for _ in range(20):
        ask()
    assert_refused(ask, "RequestLimitExceeded")


def assert_refused(call: Any, code: str, **params: Any) -> None:
    with pytest.raises(ClientError, match=code):
        call(**params)
