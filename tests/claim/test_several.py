"""Several NATs at once, and many tables."""

import pytest

from tests.nat import Nat
from tests.world.scene import ZONES
from tests.world.weather import Latency

OWN, OTHER = ZONES


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.parametrize("first_route", ["none", "dead"])
def test_two_nats_claim_the_same_table_at_the_same_moment(scene, first_route, round_):
    default = None
    if first_route == "dead":
        dead = Nat(scene, scene.launch_instance(scene.public_subnets[OWN]))
        default = dead.interface
    [shared] = scene.add_tables(1, default=default)
    nats = [Nat(scene, scene.launch_group(zone)) for zone in ZONES]
    if first_route == "dead":
        scene.world.ec2.terminate_instances(InstanceIds=[dead.instance])
    # Both read before either changes anything.
    scene.world.weather("CreateRoute", Latency(0.4))
    scene.world.weather("ReplaceRoute", Latency(0.4))

    with nats[0].start("--output", "json") as one, nats[1].start("--output", "json") as two:
        ran = [one.wait(), two.wait()]

    assert [r.code for r in ran] == [0, 0], ran
    assert [nat.answers for nat in nats] == [["CONTINUE"], ["CONTINUE"]]
    owners = [nat for nat in nats if nat.owns(shared)]
    assert len(owners) == 1
    for nat, result in zip(nats, ran, strict=True):
        row = next(r for r in result.json["tables"] if r["route_table_id"] == shared)
        if nat in owners:
            assert row["result"] == "claimed"
        else:
            # Seen before the other one's change, or after it.
            assert row["result"] in ("claimed", "superseded")
        assert nat.owns(scene.private_tables[ZONES[nats.index(nat)]])


def test_a_table_that_another_nat_takes_before_the_read_back(nat):
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [shared] = nat.scene.add_tables(1)
    nat.world.weather(
        "DescribeRouteTables", Latency(0.5), skip=1, match={"Filter.1.Name": "vpc-id"}
    )
    with nat.start("--output", "json") as running:
        nat.world.wait_for("CreateRoute", 2)
        nat.world.wait_until(lambda: nat.owns(shared))
        nat.world.ec2.replace_route(
            RouteTableId=shared,
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=peer.interface,
        )
        ran = running.wait()
    assert ran.code == 0, ran
    row = next(r for r in ran.json["tables"] if r["route_table_id"] == shared)
    assert row["result"] == "superseded"
    assert row["after"] == f"{peer.instance}/{peer.interface}"
    assert peer.owns(shared), "nobody fights for a table"
    assert nat.answers == ["CONTINUE"]


@pytest.mark.parametrize("former", ["another NAT", "a NAT gateway"])
def test_a_route_that_somebody_puts_back_before_the_read_back(nat, former):
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    [shared] = nat.scene.add_tables(
        1, default=peer.interface if former == "another NAT" else "natgw"
    )
    before = nat.route(shared).target
    nat.world.weather(
        "DescribeRouteTables", Latency(0.5), skip=1, match={"Filter.1.Name": "vpc-id"}
    )
    target = "NetworkInterfaceId" if former == "another NAT" else "NatGatewayId"
    with nat.start("--output", "json", "--deadline", "30s") as running:
        nat.world.wait_for("ReplaceRoute")
        nat.world.wait_until(lambda: nat.owns(shared))
        nat.world.ec2.replace_route(
            RouteTableId=shared, DestinationCidrBlock="0.0.0.0/0", **{target: before}
        )
        ran = running.wait()
    assert ran.code == 0, ran
    row = next(r for r in ran.json["tables"] if r["route_table_id"] == shared)
    assert row["result"] == "superseded"
    assert nat.route(shared).target == before, "nobody fights for a table"
    assert nat.answers == ["CONTINUE"]


def test_a_table_that_is_given_to_a_nat_gateway_before_the_read_back(nat):
    [shared] = nat.scene.add_tables(1)
    gateway = nat.scene.nat_gateway()
    nat.world.weather(
        "DescribeRouteTables", Latency(0.5), skip=1, match={"Filter.1.Name": "vpc-id"}
    )
    with nat.start() as running:
        nat.world.wait_for("CreateRoute", 2)
        nat.world.wait_until(lambda: nat.owns(shared))
        nat.world.ec2.replace_route(
            RouteTableId=shared, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway
        )
        ran = running.wait()
    assert ran.code == 4, ran
    assert f"{shared}: somebody else made it lead to {gateway}" in ran.error
    assert nat.route(shared).target == gateway


def test_250_tables_inside_the_request_buckets(nat):
    tables = nat.scene.add_tables(250)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert all(nat.owns(table) for table in tables)
    throttled = [call for call in nat.world.calls() if call.error == "RequestLimitExceeded"]
    assert throttled == []
    assert nat.changes["CreateRoute"] == 251
    assert nat.answers == ["CONTINUE"]
