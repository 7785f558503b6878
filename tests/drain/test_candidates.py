"""`hanat drain`: who gets the routes, and who does not and why."""

import pytest

from tests.claim.test_scenes import assert_nothing_lost
from tests.stages.handover import DEFAULT, OTHER, OWN
from tests.stages.two_zones import LAUNCH_FIRST, TwoZones
from tests.world.scene import HOOK
from tests.world.weather import ErrorReply, Hang


def hop(nat) -> str:
    """As the report spells it."""
    return f"{nat.instance}/{nat.interface}"


# --- Health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effect",
    [ErrorReply(403, "UnauthorizedOperation"), ErrorReply(503, "Unavailable"), Hang()],
    ids=["denied", "unavailable", "no answer"],
)
def test_a_gateway_where_nothing_is_said_of_peers(stage, effect):
    stage.peer(OTHER)
    gateway = stage.scene.nat_gateway(OTHER, owner=OWN)
    stage.world.weather("DescribeNetworkInterfaces", effect)
    ran = stage.drain()
    assert ran.code == 0, ran
    assert "WARN looking for peers: " in ran.stderr
    assert "DescribeNetworkInterfaces" in ran.stderr
    assert stage.routes[stage.table] == gateway


def test_a_peer_that_no_way_leads_to(stage):
    """Pinging it fails before anything is sent."""
    peer = stage.peer(OTHER)
    with stage.vpc.instance(stage.nat.instance).place.netlink() as netlink:
        netlink.route("add", dst=f"{peer.private_address}/32", type="unreachable")
    ran = stage.drain()
    assert ran.code == 1, ran
    assert f"{peer.private_address} does not answer ICMP" in ran.error
    assert stage.nat.owns(stage.table)


def test_unhealthy_peers_are_passed_over_each_with_its_reason(stage):
    """All of them are in the table's zone; the one that gets it is not."""
    silent, checked, stopped, impaired = (stage.peer(OWN) for _ in range(4))
    leaving = stage.peer_in_group(OWN, terminating_hook=True)
    outgoing = stage.peer_in_group(OWN, maintenance=LAUNCH_FIRST)
    world = stage.world
    # What replaces it waits, and so it stays in service.
    world.autoscaling.put_lifecycle_hook(
        AutoScalingGroupName=stage.scene.groups[OWN],
        LifecycleHookName=HOOK,
        LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING",
    )
    stage.vpc.freeze(silent.instance)
    stage.check(checked, on=True)
    world.ec2.stop_instances(InstanceIds=[stopped.instance])
    world.impair(impaired.instance, noticed_after=3600)
    world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=leaving.instance, ShouldDecrementDesiredCapacity=False
    )
    world.autoscaling.set_instance_health(InstanceId=outgoing.instance, HealthStatus="Unhealthy")
    assert (leaving.state, outgoing.state) == ("Terminating:Wait", "InService")
    reasons = {
        hop(silent): f"{silent.private_address} does not answer ICMP",
        hop(checked): "its source/destination check is on",
        hop(stopped): "it does not run",
        hop(impaired): "its EC2 status checks fail",
        hop(leaving): "its group has it in Terminating:Wait",
        hop(outgoing): "its group takes it for unhealthy",
    }

    ran = stage.drain("--output", "json")

    assert {one["target"]: one["reason"] for one in ran.json["candidates"]} == reasons
    assert not any(one["healthy"] for one in ran.json["candidates"])
    assert ran.code == 1, ran
    assert ran.error.startswith(f"1 of 1 route tables were not handed over: {stage.table}: ")
    for target, reason in reasons.items():
        assert f"{target}: {reason}" in ran.error
    assert stage.nat.owns(stage.table)
    assert stage.nat.changes == {}

    healthy = stage.peer(OTHER)
    ran = stage.drain()
    assert ran.code == 0, ran
    assert healthy.owns(stage.table)
    for target, reason in reasons.items():
        assert f"candidate {target} in {OWN}: {reason}" in ran.stdout


@pytest.mark.parametrize("association", ["by name", "main"])
def test_a_table_is_not_given_to_whose_own_subnet_uses_it(stage, association):
    """It would lead that one to itself."""
    ec2, subnet = stage.world.ec2, stage.scene.private_subnets[OWN]
    if association == "main":
        tables = ec2.describe_route_tables(
            Filters=[{"Name": "vpc-id", "Values": [stage.scene.vpc]}]
        )["RouteTables"]
        links = [link for table in tables for link in table["Associations"]]
        [main] = (link for link in links if link["Main"])
        ec2.replace_route_table_association(
            AssociationId=main["RouteTableAssociationId"], RouteTableId=stage.table
        )
        [named] = (link for link in links if link.get("SubnetId") == subnet)
        ec2.disassociate_route_table(AssociationId=named["RouteTableAssociationId"])
    behind = stage.host(subnet)
    stage.scene.add_tables(1, default=behind.interface)

    ran = stage.drain()

    assert ran.code == 1, ran
    assert f"{hop(behind)}: its own subnet uses the table" in ran.error
    assert stage.nat.owns(stage.table)
    healthy = stage.peer(OTHER)
    assert stage.drain().code == 0
    assert healthy.owns(stage.table)


def test_another_interface_of_its_own_is_nobody_else(stage):
    second = stage.scene.attach_interface(stage.nat.instance, stage.scene.public_subnets[OWN])
    stage.scene.add_tables(1, default=second)
    ran = stage.drain("--output", "json")
    assert ran.code == 1, ran
    assert ran.json["candidates"] == []
    assert stage.nat.owns(stage.table)


# --- Preference -----------------------------------------------------------------------------------


def test_each_table_goes_to_the_peer_of_its_zone(stage):
    """One for any zone stays in this one. The zone counts more than who has fewer tables."""
    here, there = stage.peer(OWN), stage.peer(OTHER)
    stage.scene.add_tables(3, default=here.interface)
    [foreign] = stage.scene.add_tables(1, owner=OTHER, default=stage.nat.interface)
    [anybodys] = stage.scene.add_tables(1, default=stage.nat.interface)
    ran = stage.drain()
    assert ran.code == 0, ran
    assert here.owns(stage.table)
    assert there.owns(foreign)
    assert here.owns(anybodys)


def test_of_equals_the_one_with_the_fewest_tables_gets_the_next(stage):
    idle, busy = (stage.peer(OWN) for _ in range(2))
    stage.scene.add_tables(2, default=busy.interface)
    tables = [stage.table, *stage.scene.add_tables(3, owner=OWN, default=stage.nat.interface)]
    ran = stage.drain()
    assert ran.code == 0, ran
    assert sum(idle.owns(table) for table in tables) == 3
    assert sum(busy.owns(table) for table in tables) == 1


# --- By name --------------------------------------------------------------------------------------


def test_whoever_is_named_gets_it(stage):
    """Also one that holds nothing, in another zone than a peer."""
    stage.peer(OWN)
    named = stage.host(stage.scene.public_subnets[OTHER])
    for name in (named.instance, named.interface):
        ran = stage.drain("--to", name)
        assert ran.code == 0, ran
        assert named.owns(stage.table), name
        stage.give(stage.table, stage.nat)


def test_who_cannot_be_named(stage):
    """The route stays, although there is a healthy peer."""
    stage.peer(OWN)
    scene, vpc = stage.scene, stage.scene.vpc
    second = scene.attach_interface(stage.nat.instance, scene.private_subnets[OWN])
    loose = stage.world.ec2.create_network_interface(SubnetId=scene.public_subnets[OWN])
    stranger = stage.stranger()
    itself, nobody = "that is this instance itself", f"{vpc} has no such interface or instance"
    for name, reason in {
        stage.nat.instance: itself,
        stage.nat.interface: itself,
        second: itself,
        loose["NetworkInterface"]["NetworkInterfaceId"]: "it is attached to no instance",
        stranger.instance: nobody,
        stranger.interface: nobody,
        "i-0123456789abcdef0": nobody,
        "eni-0123456789abcdef0": nobody,
        "nat-0123456789abcdef0": f"is no NAT gateway of {vpc} that is available, public and tagged",
    }.items():
        ran = stage.drain("--to", name)
        assert ran.code == 1, ran
        assert reason in ran.error
        assert stage.nat.owns(stage.table)
    assert stage.nat.changes == {}


def test_what_is_no_name(stage):
    for name in ("nobody", "rtb-0123456789abcdef0", "i-0", "10.0.0.4"):
        ran = stage.drain("--to", name)
        assert ran.code == 2, ran
        assert ran.error.startswith("--to: ")
        assert f'"{name}"' in ran.error


def test_who_is_named_and_unhealthy_is_refused(stage):
    stage.peer(OWN)
    named = stage.peer(OTHER)
    stage.vpc.freeze(named.instance)
    ran = stage.drain("--to", named.instance)
    assert ran.code == 1, ran
    assert f"{hop(named)}: {named.private_address} does not answer ICMP" in ran.error
    assert stage.nat.owns(stage.table)


# --- Standby NAT gateways -------------------------------------------------------------------------


def test_a_nat_gateway_serves_where_there_is_no_healthy_peer(isolated, world):
    with TwoZones(world, zones=[OWN]) as stage:
        [nat] = stage.launch()
        stage.scene.nat_gateway(OWN)
        standby = stage.scene.nat_gateway(OTHER, owner="any")
        with stage.connected_probe() as probe:
            ran = stage.vpc.instance(nat).run("hanat", "drain")
            assert ran.returncode == 0, ran.stderr
            assert stage.routed_to(OWN) == standby
            public = stage.vpc.picture.nat_gateways[standby].public
            probe.wait_seen_as(public)
            report = probe.stop()
        assert_nothing_lost(report)
        assert report.addresses == (stage.public(nat), public)


def test_a_peer_is_better_than_a_nat_gateway_unless_that_is_named(stage):
    peer, gateway = stage.peer(OTHER), stage.scene.nat_gateway(OWN, owner=OWN)
    assert stage.drain().code == 0
    assert peer.owns(stage.table)
    stage.give(stage.table, stage.nat)
    ran = stage.drain("--to", gateway)
    assert ran.code == 0, ran
    assert stage.routes[stage.table] == gateway


def test_the_nat_gateway_whose_tag_names_the_zone_comes_first(stage):
    stage.scene.nat_gateway(OWN, owner="any")
    stage.scene.nat_gateway(OWN, owner=OTHER)
    own = stage.scene.nat_gateway(OWN, owner=OWN)
    # Of equals, another one would get it.
    stage.world.ec2.create_route(
        RouteTableId=stage.scene.private_tables[OTHER],
        DestinationCidrBlock=DEFAULT,
        NatGatewayId=own,
    )
    ran = stage.drain()
    assert ran.code == 0, ran
    assert stage.routes[stage.table] == own


def test_nat_gateways_that_are_not_used(stage):
    """Without the tag, deleted, private, or not available yet."""
    ec2, subnet = stage.world.ec2, stage.scene.public_subnets[OWN]
    untagged, deleted = stage.scene.nat_gateway(OWN), stage.scene.nat_gateway(OWN, owner=OWN)
    ec2.delete_nat_gateway(NatGatewayId=deleted)
    private = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")
    private = private["NatGateway"]["NatGatewayId"]
    ec2.create_tags(Resources=[private], Tags=[{"Key": "NATAZ", "Value": OWN}])
    stage.world.slow_nat_gateways(pending=3600, deleting=0)
    pending = stage.scene.nat_gateway(OWN, owner=OWN)

    ran = stage.drain()
    assert ran.code == 1, ran
    assert "there is no other NAT instance with a route and no standby NAT gateway" in ran.error
    for gateway in (untagged, deleted, private, pending):
        ran = stage.drain("--to", gateway)
        assert ran.code == 1, ran
        assert f"{gateway} is no NAT gateway of {stage.scene.vpc} that is available" in ran.error
    assert stage.nat.owns(stage.table)

    stage.world.clock.advance(3600)
    ran = stage.drain()
    assert ran.code == 0, ran
    assert stage.routes[stage.table] == pending
