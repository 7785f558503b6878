"""One odd item in a list that AWS answers is named and left out, and the rest counts. What could be
this instance's own is an error."""

import copy

import pytest

from tests.drain.test_candidates import hop
from tests.nat import Nat
from tests.stages.handover import DEFAULT, OTHER, OWN, Handover
from tests.stages.watching import Watching
from tests.world.scene import HOOK
from tests.world.weather import Body, Edit, Replace, Rule, field, twice

TABLES, INTERFACES = "DescribeRouteTables", "DescribeNetworkInterfaces"
OVERLONG = "x" * 5000


@pytest.fixture
def stage(isolated, world):
    with Handover(world) as stage:
        yield stage


def warned(ran, text: str) -> list[str]:
    """The warnings in its log that have it."""
    return [line for line in ran.stderr.splitlines() if " WARN " in line and text in line]


def odd_lists(world, action: str, key: str, change) -> None:
    """From now on, wherever that is among what the action lists."""
    world.weather(action, Edit(key, change))


def odd_at_first(world, table: str, change) -> None:
    """Only when the tables are read for the plan."""
    match = {"Filter.1.Name": "vpc-id"}
    world.weather(TABLES, Edit(table, change), match=match, times=1)


# --- Claim: route tables --------------------------------------------------------------------------

UNPARSED = {
    "no ID": ("routeTableId", None, "route table without an ID: expected a route table ID"),
    "empty ID": ("routeTableId", "", 'route table "": expected a route table ID'),
    "odd ID": ("routeTableId", "rtb-<b>", 'route table "rtb-<b>": expected a route table ID'),
    "no VPC": ("vpcId", None, "expected a VPC ID (vpc-…), got"),
    "overlong VPC": ("vpcId", OVERLONG, "expected a VPC ID (vpc-…), got"),
}


@pytest.mark.parametrize("odd", UNPARSED)
@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["", "dry run"])
def test_a_tagged_table_that_cannot_be_understood(nat, odd, flags):
    """It may have been ours: the others are claimed, and the run fails with its name."""
    [spoilt] = nat.scene.add_tables(1)
    name, text, said = UNPARSED[odd]
    odd_lists(nat.world, TABLES, spoilt, field(name, text))
    ran = nat.claim(*flags)
    assert ran.code == 4, ran
    assert ran.error.startswith("1 of 2 route tables not claimed: route table ")
    assert said in ran.error
    assert len(ran.error) < 500
    assert len(warned(ran, "leaving out route table")) == 1, "it was read several times"
    assert nat.route(spoilt) is None
    if not flags:
        assert nat.owns(nat.scene.private_tables[OWN])
        assert nat.answers == ["CONTINUE"]


def test_nothing_but_a_table_that_cannot_be_understood(nat):
    odd_lists(nat.world, TABLES, nat.scene.private_tables[OWN], field("routeTableId", "odd"))
    ran = nat.claim("--allow-none")
    assert ran.code == 1, ran
    assert "none of 1 route tables claimed: route table odd: expected" in ran.error
    assert nat.answers == ["ABANDON"]


@pytest.mark.parametrize(
    ("name", "text", "before"),
    [
        ("networkInterfaceId", "eni-new-0001", "eni-new-0001"),
        ("networkInterfaceId", "<odd>", '"<odd>"'),
        ("networkInterfaceId", OVERLONG, "x" * 80),
        ("networkInterfaceId", None, None),
        ("instanceId", "mi-0001", None),
        ("instanceId", None, None),
        ("state", "new", None),
        ("origin", "New", None),
        ("subnetId", "odd", None),
        ("subnetId", OVERLONG, None),
    ],
)
def test_a_part_of_a_table_that_cannot_be_understood(nat, name, text, before):
    peer = Nat(nat.scene, nat.scene.launch_instance(nat.scene.public_subnets[OTHER]))
    [table] = nat.scene.add_tables(1, default=peer.interface)
    subnet = nat.world.ec2.create_subnet(
        VpcId=nat.scene.vpc, AvailabilityZone=OTHER, CidrBlock="10.0.9.0/24"
    )["Subnet"]["SubnetId"]
    nat.world.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    odd_at_first(nat.world, table, field(name, text))
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert nat.owns(table)
    assert nat.owns(nat.scene.private_tables[OWN])
    [row] = [row for row in ran.json["tables"] if row["route_table_id"] == table]
    assert before is None or row["before"] == before
    if name == "subnetId":
        [said] = warned(ran, f"an association of {table}")
        assert len(said) < 500


def test_a_table_that_cannot_be_understood_when_it_is_read_back(nat):
    """It is not gone."""
    table = nat.scene.private_tables[OWN]
    odd = Edit(table, field("vpcId", "odd"))
    reads_back = {"Filter.1.Name": "vpc-id"}
    nat.world.weather(TABLES, odd, match=reads_back, skip=1, times=3)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert "done: 1 claimed" in ran.stdout


def test_a_route_without_any_target(nat):
    [table] = nat.scene.add_tables(1, default="natgw")
    odd_at_first(nat.world, table, field("natGatewayId", None))
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    [row] = [row for row in ran.json["tables"] if row["route_table_id"] == table]
    assert row["before"] == "unknown"
    assert nat.owns(table)


def test_a_table_that_comes_twice_counts_once(nat):
    odd_lists(nat.world, TABLES, nat.scene.private_tables[OWN], twice)
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert len(ran.json["tables"]) == 1
    assert nat.changes["CreateRoute"] == 1


def test_the_own_subnets_table_that_cannot_be_understood(nat):
    """It could be any of those that are to be claimed."""
    odd_lists(nat.world, TABLES, nat.scene.public_table, field("routeTableId", "odd"))
    ran = nat.claim()
    assert ran.code == 1, ran
    subnet = nat.scene.public_subnets[OWN]
    assert f"describing the route table of {subnet}: route table odd: expected" in ran.error
    assert nat.changes.get("CreateRoute") is None


# --- Claim: what is its own -----------------------------------------------------------------------


def test_the_own_interfaces_check_is_missing(nat):
    odd_lists(nat.world, INTERFACES, nat.interface, field("sourceDestCheck", None))
    ran = nat.claim()
    assert ran.code == 1, ran
    said = f"describing {nat.interface}: the answer has no source/destination check"
    assert said in ran.error
    assert nat.answers == ["ABANDON"]


@pytest.mark.parametrize("name", ["AutoScalingGroupName", "LifecycleState", "InstanceId"])
@pytest.mark.parametrize("text", [None, OVERLONG], ids=["missing", "overlong"])
def test_what_the_group_says_of_this_instance_cannot_be_understood(nat, name, text):
    """Which is not to say that it is in no group."""
    odd_lists(nat.world, "DescribeAutoScalingInstances", nat.instance, field(name, text))
    ran = nat.claim()
    assert ran.code == 1, ran
    said = f"asking for the Auto Scaling group of {nat.instance}: what Auto Scaling says of "
    assert said in ran.error
    assert len(ran.error) < 700
    assert nat.route(nat.scene.private_tables[OWN]) is None


def test_another_instance_in_the_answer_about_this_one(nat):
    peer = nat.scene.launch_group(OTHER, hook=False)
    odd_lists(
        nat.world,
        "DescribeAutoScalingInstances",
        nat.instance,
        lambda item: [*twice(item), *_other(item, peer)],
    )
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


def _other(item, instance: str) -> list:
    return field("InstanceId", instance)(copy.deepcopy(item))


@pytest.mark.parametrize("name", ["LifecycleHookName", "LifecycleTransition"])
def test_a_hook_that_cannot_be_understood_could_be_ours(nat, name):
    second(nat, "LAUNCHING")
    odd_lists(nat.world, "DescribeLifecycleHooks", "second", field(name, None))
    ran = nat.claim()
    assert ran.code == 1, ran
    assert "cannot be understood, name ours by --lifecycle-hook: " in ran.error
    assert HOOK in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"], "the one that is known ends the launch"


def test_a_hook_that_cannot_be_understood_beside_the_named_one(nat):
    second(nat, "LAUNCHING")
    odd_lists(nat.world, "DescribeLifecycleHooks", "second", field("LifecycleHookName", None))
    ran = nat.claim("--lifecycle-hook", HOOK)
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


def test_a_hook_of_a_kind_that_nobody_knows_is_not_ours(nat):
    second(nat, "TERMINATING")
    kind = field("LifecycleTransition", "autoscaling:EC2_INSTANCE_REBOOTING")
    odd_lists(nat.world, "DescribeLifecycleHooks", "second", kind)
    assert nat.claim().code == 0


def second(nat: Nat, transition: str) -> None:
    """A hook that does not hold this instance."""
    nat.world.autoscaling.put_lifecycle_hook(
        AutoScalingGroupName=nat.scene.groups[OWN],
        LifecycleHookName="second",
        LifecycleTransition=f"autoscaling:EC2_INSTANCE_{transition}",
    )


# --- Claim: IMDS ----------------------------------------------------------------------------------


def imds(nat: Nat, name: str, text: str) -> None:
    path = f"/latest/meta-data/network/interfaces/macs/*/{name}"
    nat.world.weather(Rule(None, Body(text), service="imds", path=path))


@pytest.mark.parametrize("odd", ["", "0.0.0.0/0", "fd00::/8", "<odd>", OVERLONG])
@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
def test_an_odd_block_of_the_vpc_is_left_out(nat, odd, order):
    imds(nat, "vpc-ipv4-cidr-blocks", "\n".join(["10.0.0.0/16", odd, "10.0.0.0/16"][::order]))
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert ran.json["network"]["vpc_cidr_blocks"] == ["10.0.0.0/16"]
    [said] = warned(ran, "leaving out of network/interfaces/macs/")
    assert "expected a VPC's CIDR block" in said
    assert len(said) < 500


def test_an_odd_address_behind_the_own_one_is_left_out(nat):
    imds(nat, "local-ipv4s", f"{nat.private_address}\nodd")
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert ran.json["network"]["private_address"] == nat.private_address
    assert len(warned(ran, "local-ipv4s from IMDS odd: expected an IPv4 address")) == 1


def test_an_odd_address_in_the_place_of_the_own_one(nat):
    imds(nat, "local-ipv4s", f"odd\n{nat.private_address}")
    ran = nat.claim()
    assert ran.code == 1, ran
    assert 'local-ipv4s from IMDS: expected an IPv4 address, got "odd"' in ran.error
    assert nat.answers == ["ABANDON"]


# --- Drain: peers ---------------------------------------------------------------------------------

NO_PEER = {
    "no address": ("privateIpAddress", None, 'its address: expected an IPv4 address, got ""'),
    "odd address": ("privateIpAddress", "::1", 'its address: expected an IPv4 address, got "::1"'),
    "no subnet": ("subnetId", None, 'its subnet: expected a subnet ID (subnet-…), got ""'),
    "no VPC": ("vpcId", None, 'its VPC: expected a VPC ID (vpc-…), got ""'),
    "no check": (
        "sourceDestCheck",
        None,
        "EC2 does not say whether its source/destination check is off",
    ),
}


@pytest.mark.parametrize("odd", NO_PEER)
def test_a_peer_of_which_something_is_not_known_is_in_trouble(stage, odd):
    """Although it would be the better one."""
    spoilt, good = stage.peer(OWN), stage.peer(OTHER)
    name, text, reason = NO_PEER[odd]
    odd_lists(stage.world, INTERFACES, spoilt.interface, field(name, text))
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    assert good.owns(stage.table)
    reasons = {one["target"]: one["reason"] for one in ran.json["candidates"]}
    assert reasons == {hop(spoilt): reason, hop(good): None}


@pytest.mark.parametrize("text", [None, "", "odd", OVERLONG])
def test_a_peer_whose_zone_is_not_known_is_in_none(stage, text):
    elsewhere, good = stage.peer(OWN), stage.peer(OWN)
    odd_lists(stage.world, INTERFACES, elsewhere.interface, field("availabilityZone", text))
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    assert good.owns(stage.table)
    zones = {one["target"]: one["availability_zone"] for one in ran.json["candidates"]}
    assert zones == {hop(elsewhere): None, hop(good): OWN}
    assert len(warned(ran, f"the zone of {elsewhere.interface}: expected")) == 1
    stage.give(stage.table, stage.nat)
    assert stage.drain("--to", elsewhere.instance).code == 0
    assert elsewhere.owns(stage.table)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("networkInterfaceId", None),
        ("networkInterfaceId", "odd"),
        ("instanceId", "odd"),
        ("instanceId", OVERLONG),
    ],
)
def test_an_interface_that_is_nobodys_is_left_out(stage, name, text):
    spoilt, good = stage.peer(OWN), stage.peer(OTHER)
    odd_lists(stage.world, INTERFACES, spoilt.interface, field(name, text))
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    assert good.owns(stage.table)
    assert [one["target"] for one in ran.json["candidates"]] == [hop(good)]
    assert len(warned(ran, "leaving out network interface ")) == 1


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("DescribeInstanceStatus", "instanceId"),
        ("DescribeAutoScalingInstances", "InstanceId"),
        ("DescribeAutoScalingInstances", "LifecycleState"),
    ],
)
def test_what_cannot_be_understood_of_how_a_peer_is_tells_nothing(stage, action, name):
    peer = stage.peer_in_group(OWN)
    odd_lists(stage.world, action, peer.instance, field(name, None))
    ran = stage.drain()
    assert ran.code == 0, ran
    assert peer.owns(stage.table)
    assert len(warned(ran, "leaving out ")) == 1


def test_a_peer_that_comes_twice_is_one(stage):
    peer = stage.peer(OTHER)
    odd_lists(stage.world, INTERFACES, peer.interface, twice)
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    assert len(ran.json["candidates"]) == 1


# --- Drain: NAT gateways --------------------------------------------------------------------------


def test_a_regional_nat_gateway_is_a_standby_like_any_other(stage):
    zonal = stage.scene.nat_gateway(OWN, owner=OWN)
    regional = stage.scene.regional_nat_gateway("any")
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    assert stage.routes[stage.table] == zonal, "its tag names the zone"
    subnets = {one["target"]: one["subnet_id"] for one in ran.json["candidates"]}
    assert subnets == {zonal: stage.scene.public_subnets[OWN], regional: None}
    stage.give(stage.table, stage.nat)
    stage.world.ec2.delete_nat_gateway(NatGatewayId=zonal)
    assert stage.drain().code == 0
    assert stage.routes[stage.table] == regional
    stage.give(stage.table, stage.nat)
    assert stage.drain("--to", regional).code == 0
    assert stage.routes[stage.table] == regional


@pytest.mark.parametrize(
    ("name", "text"), [("natGatewayId", None), ("natGatewayId", OVERLONG), ("subnetId", "odd")]
)
def test_an_odd_nat_gateway_hides_no_other(stage, name, text):
    spoilt, good = (stage.scene.nat_gateway(OTHER, owner=OWN) for _ in range(2))
    odd_lists(stage.world, "DescribeNatGateways", spoilt, field(name, text))
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    assert stage.routes[stage.table] == good
    assert len(ran.json["candidates"]) == 1
    assert len(warned(ran, "leaving out NAT gateway ")) == 1


# --- Drain: route tables --------------------------------------------------------------------------


def test_a_tagged_table_that_cannot_be_understood_does_not_keep_the_others(stage):
    peer = stage.peer(OTHER)
    [spoilt] = stage.scene.add_tables(1, default=stage.nat.interface)
    odd_lists(stage.world, TABLES, spoilt, field("routeTableId", None))
    ran = stage.drain()
    assert ran.code == 4, ran
    assert ran.error.startswith(
        "1 of 2 route tables were not handed over: route table without an ID: expected "
    )
    assert peer.owns(stage.table)
    assert len(warned(ran, "leaving out route table")) == 1


def test_a_table_that_cannot_be_understood_right_before_it_is_moved(stage):
    """Nobody knows whether somebody took it: that is not to say so."""
    stage.peer(OTHER)
    again = {"Filter.1.Name": "route-table-id"}
    stage.world.weather(TABLES, Edit(stage.table, field("vpcId", "odd")), match=again)
    ran = stage.drain()
    assert ran.code == 1, ran
    assert f"describing {stage.table}: route table {stage.table}: expected a VPC ID" in ran.error
    assert stage.nat.owns(stage.table)


def test_a_table_that_cannot_be_understood_when_it_is_read_back_says_nothing_of_others(stage):
    peer = stage.peer(OTHER)
    [other] = stage.scene.add_tables(1, default=stage.nat.interface)
    odd = Edit(stage.table, field("vpcId", "odd"))
    stage.world.weather(TABLES, odd, match={"Filter.1.Name": "vpc-id"}, skip=1)
    again = {"Filter.1.Name": "route-table-id", "Filter.1.Value.1": stage.table}
    stage.world.weather(TABLES, odd, match=again, skip=1)
    ran = stage.drain("--output", "json")
    assert ran.code == 4, ran
    assert f"describing {stage.table}: " in ran.error
    results = {row["route_table_id"]: row["result"] for row in ran.json["tables"]}
    assert results == {stage.table: "unverified", other: "handed_over"}
    assert peer.owns(other)


@pytest.mark.parametrize("text", [None, "odd", OVERLONG])
def test_another_tables_route_whose_target_has_an_unknown_form(stage, text):
    peer = stage.peer(OTHER)
    gateway = stage.scene.nat_gateway(OWN)
    [other] = stage.scene.add_tables(1)
    stage.world.ec2.create_route(
        RouteTableId=other, DestinationCidrBlock=DEFAULT, NatGatewayId=gateway
    )
    odd_lists(stage.world, TABLES, other, field("natGatewayId", text))
    ran = stage.drain()
    assert ran.code == 0, ran
    assert peer.owns(stage.table)


# --- Watch ----------------------------------------------------------------------------------------


def test_a_watch_names_it_once_and_leaves(isolated, world):
    """It asks for the tables every second."""
    with Watching(world) as stage:
        peer = stage.peer(OTHER)
        [spoilt] = stage.scene.add_tables(1, default=peer.interface)
        odd_lists(world, TABLES, spoilt, field("routeTableId", "odd"))
        watch = stage.watch(linger="2s")
        stage.leave()
        stage.wait_completed()
        assert peer.owns(stage.table)
        assert stage.nat.called[TABLES] > 3
        assert len(watch.said("leaving out route table odd")) == 1


def test_empty_lists(nat):
    """As an emulator may answer them, without even the list itself."""
    nothing = (
        '<DescribeRouteTablesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        "<requestId>r</requestId></DescribeRouteTablesResponse>"
    )
    nat.world.weather(TABLES, Replace(nothing))
    ran = nat.claim()
    assert ran.code == 1, ran
    assert "no route table of " in ran.error
