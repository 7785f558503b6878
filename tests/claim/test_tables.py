"""Route tables in every state: which are claimed, which are refused, and what the run says."""

import pytest

from tests.nat import Nat
from tests.world.scene import OWNER_TAG, ZONES
from tests.world.weather import ErrorReply, Latency

OWN, OTHER = ZONES


def test_no_table_is_tagged(nat):
    table = nat.scene.private_tables[OWN]
    nat.world.ec2.delete_tags(Resources=[table], Tags=[{"Key": OWNER_TAG}])
    ran = nat.claim()
    assert ran.code == 1, ran
    assert f"no route table of {nat.scene.vpc} is tagged NATAZ={OWN} or NATAZ=any" in ran.error
    assert nat.answers == ["ABANDON"]


def test_no_table_is_tagged_and_that_is_fine(nat):
    table = nat.scene.private_tables[OWN]
    nat.world.ec2.delete_tags(Resources=[table], Tags=[{"Key": OWNER_TAG}])
    ran = nat.claim("--allow-none")
    assert ran.code == 0, ran
    assert "nothing to do" in ran.stdout
    assert nat.answers == ["CONTINUE"]


def test_a_table_that_leads_to_an_internet_gateway_is_refused(nat):
    [public] = nat.scene.add_tables(1, default="igw")
    ran = nat.claim()
    assert ran.code == 3, ran
    assert f"{public} refused" in ran.error
    assert nat.scene.internet_gateway in ran.error
    assert nat.route(public).target == nat.scene.internet_gateway
    assert nat.owns(nat.scene.private_tables[OWN]), "the others are still claimed"
    assert nat.answers == ["CONTINUE"]


def test_the_own_subnets_table_is_refused(nat):
    [own] = nat.scene.add_tables(1)
    subnet = nat.scene.public_subnets[OWN]
    associations = nat.world.ec2.describe_route_tables(RouteTableIds=[nat.scene.public_table])
    for association in associations["RouteTables"][0]["Associations"]:
        if association.get("SubnetId") == subnet:
            nat.world.ec2.replace_route_table_association(
                AssociationId=association["RouteTableAssociationId"], RouteTableId=own
            )
    ran = nat.claim()
    assert ran.code == 3, ran
    assert f"{own} refused" in ran.error
    assert subnet in ran.error
    assert nat.route(own) is None
    assert nat.owns(nat.scene.private_tables[OWN])


def main_table(nat: Nat) -> str:
    """The VPC's main table, tagged for any NAT."""
    tables = nat.world.ec2.describe_route_tables(
        Filters=[
            {"Name": "vpc-id", "Values": [nat.scene.vpc]},
            {"Name": "association.main", "Values": ["true"]},
        ]
    )["RouteTables"]
    main = tables[0]["RouteTableId"]
    nat.world.ec2.create_tags(Resources=[main], Tags=[{"Key": OWNER_TAG, "Value": "any"}])
    return main


def test_the_main_table_is_refused_where_it_serves_the_own_subnet(nat):
    main = main_table(nat)
    table = nat.world.ec2.describe_route_tables(RouteTableIds=[nat.scene.public_table])
    for association in table["RouteTables"][0]["Associations"]:
        nat.world.ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
    ran = nat.claim()
    assert ran.code == 3, ran
    assert f"{main} refused" in ran.error
    assert nat.route(main) is None


def test_the_main_table_is_claimed_where_it_does_not(nat):
    main = main_table(nat)
    assert nat.claim().code == 0
    assert nat.owns(main)


def test_nothing_but_refused_tables(nat):
    nat.scene.add_tables(2, default="igw")
    table = nat.scene.private_tables[OWN]
    nat.world.ec2.delete_tags(Resources=[table], Tags=[{"Key": OWNER_TAG}])
    ran = nat.claim()
    assert ran.code == 3, ran
    assert "none of 2 route tables claimed" in ran.error
    assert nat.answers == ["ABANDON"]


def test_tables_of_another_vpc_are_not_touched(nat):
    other = nat.world.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    foreign = nat.scene.add_tables(3, vpc=other) + nat.scene.add_tables(1, owner=OWN, vpc=other)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert [nat.route(table) for table in foreign] == [None] * 4
    assert not any(table in ran.stdout for table in foreign)


def test_the_other_zones_tables_are_not_touched(nat):
    others = nat.scene.add_tables(2, owner=OTHER) + nat.scene.add_tables(1, owner="ANY")
    ran = nat.claim()
    assert ran.code == 0, ran
    assert [nat.route(table) for table in others] == [None] * 3


def test_a_table_deleted_between_read_and_replace(nat):
    [doomed] = nat.scene.add_tables(1)
    nat.world.weather("CreateRoute", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("CreateRoute")
        nat.world.ec2.delete_route_table(RouteTableId=doomed)
        ran = running.wait()
    assert ran.code == 4, ran
    assert doomed in ran.error
    assert "InvalidRouteTableID.NotFound" in ran.error
    calls = nat.world.calls("CreateRoute")
    assert [call.params["RouteTableId"] for call in calls].count(doomed) == 1, "it is gone"
    assert nat.owns(nat.scene.private_tables[OWN])
    assert nat.answers == ["CONTINUE"]


def test_a_default_route_deleted_between_read_and_replace(nat):
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [table] = nat.scene.add_tables(1, default=peer.interface)
    nat.world.weather("ReplaceRoute", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("ReplaceRoute")
        nat.world.ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
        ran = running.wait()
    assert ran.code == 0, ran
    assert nat.owns(table)


def test_a_default_route_made_between_read_and_create(nat):
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [table] = nat.scene.add_tables(1)
    nat.world.weather("CreateRoute", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("CreateRoute")
        nat.world.ec2.create_route(
            RouteTableId=table,
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=peer.interface,
        )
        ran = running.wait()
    assert ran.code == 0, ran
    assert nat.owns(table)


def test_an_internet_gateway_that_came_between_read_and_create_is_left_alone(nat):
    [table] = nat.scene.add_tables(1)
    nat.world.weather("CreateRoute", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("CreateRoute")
        nat.world.ec2.create_route(
            RouteTableId=table,
            DestinationCidrBlock="0.0.0.0/0",
            GatewayId=nat.scene.internet_gateway,
        )
        ran = running.wait()
    assert ran.code == 4, ran
    said = f"{table}: somebody else changed it: its default route leads to an internet gateway"
    assert f"{said}, {nat.scene.internet_gateway}" in ran.error
    assert nat.route(table).target == nat.scene.internet_gateway


def test_a_dead_nats_blackhole_is_replaced(nat):
    dead = Nat(nat.scene, nat.scene.launch_instance(nat.scene.public_subnets[OWN]))
    [table] = nat.scene.add_tables(1, default=dead.interface)
    nat.world.ec2.terminate_instances(InstanceIds=[dead.instance])
    assert nat.route(table).state == "blackhole"
    ran = nat.claim()
    assert ran.code == 0, ran
    assert "(blackhole) → " in ran.stdout
    assert nat.owns(table)


def test_a_managed_nat_gateway_is_replaced(nat):
    [table] = nat.scene.add_tables(1, default="natgw")
    before = nat.route(table).target
    ran = nat.claim()
    assert ran.code == 0, ran
    assert f"{before} → {nat.instance}/{nat.interface}" in ran.stdout
    assert nat.owns(table)


@pytest.mark.parametrize("zone", [OWN, OTHER])
def test_another_nat_is_replaced(nat, zone):
    other = Nat(nat.scene, nat.scene.launch_instance(nat.scene.public_subnets[zone]))
    [table] = nat.scene.add_tables(1, default=other.interface)
    assert nat.claim().code == 0
    assert nat.owns(table)


def test_a_route_that_leads_here_is_kept(nat):
    [table] = nat.scene.add_tables(1, default=nat.interface)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.changes["CreateRoute"] == 1, "of the own zone's table"
    assert "ReplaceRoute" not in nat.changes
    [line] = [line for line in ran.stdout.splitlines() if line.startswith(table)]
    assert line.endswith("kept")


# --- Propagated routes ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_a_propagated_default_route_beside_a_static_one(nat, first):
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [table] = nat.scene.add_tables(1, default=peer.interface)
    nat.world.propagate_default_route(table, first)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert f"{peer.instance}/{peer.interface} → {nat.instance}/{nat.interface}" in ran.stdout
    assert nat.owns(table)
    assert nat.changes["ReplaceRoute"] == 1
    again = nat.claim()
    assert "nothing to do: 2 of 2 route tables lead here already" in again.stdout


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_a_static_route_is_made_beside_a_propagated_one(nat, first):
    table = nat.scene.private_tables[OWN]
    gateway = nat.world.propagate_default_route(table, first)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert f"{gateway} (propagated) → {nat.instance}/{nat.interface}" in ran.stdout
    assert nat.owns(table)
    assert "ReplaceRoute" not in nat.changes
    again = nat.claim()
    assert "nothing to do: 1 of 1 route tables lead here already" in again.stdout


REFUSED = {
    "in the world's words": None,
    "in others": ErrorReply(400, "IncorrectState", "It cannot be replaced."),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_static_route_deleted_beside_a_propagated_one(nat, words):
    """Replacing what is left is refused, in whatever words."""
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [table] = nat.scene.add_tables(1, default=peer.interface)
    nat.world.propagate_default_route(table, first=True)
    if effect := REFUSED[words]:
        nat.world.weather("ReplaceRoute", effect)
    nat.world.weather("ReplaceRoute", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("ReplaceRoute")
        nat.world.ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
        ran = running.wait()
    assert ran.code == 0, ran
    assert nat.owns(table)


def test_a_refusal_to_replace_a_static_route_is_final(nat):
    """Whatever its words."""
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [table] = nat.scene.add_tables(1, default=peer.interface)
    nat.world.weather("ReplaceRoute", ErrorReply(400, "IncorrectState", "Not so."))
    ran = nat.claim()
    assert ran.code == 4, ran
    assert f"replacing the default route of {table}: IncorrectState: Not so." in ran.error
    assert nat.changes["ReplaceRoute"] == 1


# --- What is told ---------------------------------------------------------------------------------

NOBODYS = ["use1-az1", "", "Any", "any ", f"{OWN} ", "us-west-2a", "us-east-1"]


@pytest.mark.parametrize("owner", NOBODYS)
@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["", "dry run"])
def test_a_tag_that_names_nobody(nat, owner, flags):
    [table] = nat.scene.add_tables(1, owner=None)
    nat.world.ec2.create_tags(Resources=[table], Tags=[{"Key": OWNER_TAG, "Value": owner}])
    nat.scene.add_tables(1, owner=OTHER)
    ran = nat.claim("--output", "json", *flags)
    assert ran.code == 0, ran
    [told] = ran.json["warnings"]
    assert told.startswith(f"{table} is tagged {OWNER_TAG}=")
    assert owner in told
    assert [line for line in ran.stderr.splitlines() if f" WARN {told}" in line]
    assert len(ran.json["tables"]) == 1
    assert nat.route(table) is None


def test_routes_that_win_over_the_default_route(nat):
    table = nat.scene.private_tables[OWN]
    peer = Nat(nat.scene, nat.scene.launch_instance(nat.scene.public_subnets[OTHER]))
    for half in ("128.0.0.0/1", "0.0.0.0/1", "11.0.0.0/8"):
        nat.world.ec2.create_route(
            RouteTableId=table, DestinationCidrBlock=half, NetworkInterfaceId=peer.interface
        )
    ran = nat.claim()
    assert ran.code == 0, ran
    there = f"{peer.instance}/{peer.interface}"
    told = (
        f"{table} has routes that win over its default route: "
        f"0.0.0.0/1 → {there}, 128.0.0.0/1 → {there}"
    )
    assert f"warning: {told}\n" in ran.stdout
    assert told in ran.stderr
    assert nat.owns(table)


def endpoint(nat: Nat) -> str:
    """Of a firewall, in the own zone."""
    answer = nat.world.ec2.create_vpc_endpoint(
        VpcId=nat.scene.vpc,
        ServiceName="com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0",
        VpcEndpointType="GatewayLoadBalancer",
        SubnetIds=[nat.scene.private_subnets[OWN]],
    )
    return answer["VpcEndpoint"]["VpcEndpointId"]


def test_a_table_that_leads_to_a_firewall_is_refused_unless_that_is_asked_for(nat):
    [table] = nat.scene.add_tables(1)
    firewall = endpoint(nat)
    nat.world.ec2.create_route(
        RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", VpcEndpointId=firewall
    )
    ran = nat.claim()
    assert ran.code == 3, ran
    assert f"{table} refused: its default route leads to a VPC endpoint, {firewall}" in ran.error
    assert "--replace-endpoint" in ran.error
    assert nat.route(table).target == firewall
    assert nat.owns(nat.scene.private_tables[OWN])
    ran = nat.claim(env={"HANAT_REPLACE_ENDPOINT": "true"})
    assert ran.code == 0, ran
    assert f"{firewall} → {nat.instance}/{nat.interface}" in ran.stdout
    assert nat.owns(table)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_firewall_that_came_between_read_and_create(nat, replaces):
    [table] = nat.scene.add_tables(1)
    firewall = endpoint(nat)
    nat.world.weather("CreateRoute", Latency(0.5))
    with nat.start(*["--replace-endpoint"] * replaces) as running:
        nat.world.wait_for("CreateRoute")
        nat.world.ec2.create_route(
            RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", VpcEndpointId=firewall
        )
        ran = running.wait()
    assert ran.code == (0 if replaces else 4), ran
    assert nat.owns(table) == replaces
    if not replaces:
        assert f"{table}: somebody else changed it: its default route leads to a VPC" in ran.error


def test_all_pages_are_read(nat):
    tables = nat.scene.add_tables(120, default=nat.interface)
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    shown = {row["route_table_id"] for row in ran.json["tables"]}
    assert shown == {*tables, nat.scene.private_tables[OWN]}


def test_own_zone_comes_before_any(nat):
    nat.scene.add_tables(20)
    own = {*nat.scene.add_tables(19, owner=OWN), nat.scene.private_tables[OWN]}
    assert nat.claim().code == 0
    order = [call.params["RouteTableId"] for call in nat.world.calls("CreateRoute")]
    # Sixteen calls are under way at once and may arrive in any order.
    assert set(order[:5]) <= own
