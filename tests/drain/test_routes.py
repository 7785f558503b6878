"""`hanat drain`: what becomes of the routes, of the clients, and of a run in bad weather."""

import pytest

from tests.claim.test_scenes import assert_nothing_lost
from tests.stages.handover import DEFAULT, OTHER, OWN
from tests.stages.two_zones import TwoZones, stop_all
from tests.world.weather import ErrorReply, Hang, Reset, ResetAfter, Throttle

PROPAGATION = 0.5


def last_line(text: str) -> str:
    return text.splitlines()[-1]


# --- Packets --------------------------------------------------------------------------------------


def test_clients_lose_nothing_on_the_way_to_the_other_zone_and_back(isolated, world):
    """Although packets go by the old route for a while."""
    with TwoZones(world, propagation=PROPAGATION) as stage:
        own, other = stage.launch()
        nat = stage.vpc.instance(own)
        with stage.connected_probes() as probes:
            ran = nat.run("hanat", "drain")
            assert ran.returncode == 0, ran.stderr
            assert last_line(ran.stdout) == "done: 1 handed over"
            assert stage.routed_to(OWN) == other
            probes[OWN].wait_seen_as(stage.public(other))
            again = nat.run("hanat", "drain")
            assert again.returncode == 0, again.stderr
            assert last_line(again.stdout).startswith("nothing to do")
            back = nat.run("hanat", "claim")
            assert back.returncode == 0, back.stderr
            probes[OWN].wait_seen_as(stage.public(own))
            reports = stop_all(probes)
        assert_nothing_lost(reports[OWN])
        assert reports[OWN].addresses == (stage.public(own), stage.public(other))
        assert_nothing_lost(reports[OTHER])
        assert reports[OTHER].addresses == (stage.public(other),)
        assert reports[OTHER].broken == 0


# --- What is done, and said -----------------------------------------------------------------------


def test_the_route_leads_to_the_peer_and_the_report_says_so(stage, peer):
    nat, table = stage.nat, stage.table
    before = stage.routes

    ran = stage.drain()

    assert ran.code == 0, ran
    assert stage.routes == {**before, table: peer.interface}
    assert nat.changes == {"ReplaceRoute": 1}
    here, there = (f"{one.instance}/{one.interface}" for one in (nat, peer))
    [row] = [line.split() for line in ran.stdout.splitlines() if line.startswith("rtb-")]
    assert row == [table, f"NATAZ={OWN}", here, "→", there, "handed", "over"]
    assert f"candidate {there} in {OTHER}: healthy" in ran.stdout
    assert last_line(ran.stdout) == "done: 1 handed over"


def test_the_document(stage, peer):
    ran = stage.drain("--output", "json")
    assert ran.code == 0, ran
    document = ran.json
    here, there = (f"{one.instance}/{one.interface}" for one in (stage.nat, peer))
    assert document.pop("version")
    assert document.pop("instance")["instance_id"] == stage.nat.instance
    assert document.pop("network")["interface_id"] == stage.nat.interface
    assert document == {
        "command": "drain",
        "dry_run": False,
        "owner_tag": "NATAZ",
        "candidates": [
            {
                "target": there,
                "availability_zone": OTHER,
                "subnet_id": stage.scene.public_subnets[OTHER],
                "healthy": True,
                "reason": None,
            }
        ],
        "tables": [
            {
                "route_table_id": stage.table,
                "tag": OWN,
                "before": here,
                "after": there,
                "result": "handed_over",
                "reason": None,
            }
        ],
        "error": None,
        "exit_code": 0,
    }


def test_a_dry_run_changes_nothing(stage, peer):
    before = stage.routes
    ran = stage.drain("--dry-run", "--output", "json")
    assert ran.code == 0, ran
    assert [row["result"] for row in ran.json["tables"]] == ["planned"]
    assert [row["after"] for row in ran.json["tables"]] == [f"{peer.instance}/{peer.interface}"]
    said = last_line(stage.drain("--dry-run").stdout)
    assert said == "dry run: 1 to hand over; nothing was changed"
    assert stage.routes == before
    assert stage.nat.changes == {}


def test_a_second_run_has_nothing_to_do(stage, peer):
    assert stage.drain().code == 0
    changes = stage.nat.changes
    ran = stage.drain()
    assert ran.code == 0, ran
    assert last_line(ran.stdout) == "nothing to do: no tagged route table leads here"
    assert stage.nat.changes == changes
    assert peer.owns(stage.table)


@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["", "dry run"])
def test_nobody_to_hand_over_to(stage, flags):
    ran = stage.drain(*flags)
    assert ran.code == 1, ran
    assert ran.error == (
        f"1 of 1 route tables were not handed over: {stage.table}: "
        "there is no other NAT instance with a route and no standby NAT gateway"
    )
    assert stage.nat.owns(stage.table)
    assert stage.nat.changes == {}


def test_tables_of_others_are_left_alone(stage, peer):
    """Those without the tag, those of another VPC, and those that lead elsewhere. Who holds a
    table of another VPC is no peer."""
    stranger = stage.stranger()
    stage.scene.add_tables(1, owner=None, default=stage.nat.interface)
    stage.scene.add_tables(1, owner=OWN, default=stranger.interface, vpc=stranger.scene.vpc)
    stage.scene.add_tables(1, default="igw")
    stage.scene.add_tables(1, default="natgw")
    stage.scene.add_tables(1)
    before = stage.routes

    ran = stage.drain("--output", "json")

    assert ran.code == 0, ran
    assert [row["route_table_id"] for row in ran.json["tables"]] == [stage.table]
    assert len(ran.json["candidates"]) == 1
    assert stage.routes == {**before, stage.table: peer.interface}


def test_another_owner_tag(stage, peer):
    tables = stage.scene.add_tables(2, owner=None, default=stage.nat.interface)
    tables += stage.scene.add_tables(1, owner=None, default=peer.interface)
    tag = {"Key": "Uses", "Value": "any"}
    stage.world.ec2.create_tags(Resources=tables, Tags=[tag])
    ran = stage.drain("--owner-tag", "Uses")
    assert ran.code == 0, ran
    assert all(peer.owns(table) for table in tables)
    assert stage.nat.owns(stage.table)


# --- Somebody else is quicker ---------------------------------------------------------------------


def test_a_table_that_somebody_takes_before_it_is_moved_is_theirs(stage, peer):
    """Between the first look and the one right before the change."""
    successor = stage.host(stage.scene.public_subnets[OWN])
    [second] = stage.scene.add_tables(1, default=stage.nat.interface)
    looks_again = {"Filter.1.Name": "route-table-id", "Filter.1.Value.1": stage.table}
    stage.world.weather("DescribeRouteTables", Hang(), match=looks_again)
    with stage.start("--output", "json") as running:
        stage.world.wait_until(lambda: peer.owns(second))
        stage.give(stage.table, successor)
        stage.world.calm()
        ran = running.wait()
    assert ran.code == 0, ran
    rows = {row["route_table_id"]: row for row in ran.json["tables"]}
    assert {table: row["result"] for table, row in rows.items()} == {
        stage.table: "taken",
        second: "handed_over",
    }
    assert rows[stage.table]["after"] == f"{successor.instance}/{successor.interface}"
    assert successor.owns(stage.table)


def test_a_table_that_somebody_deletes_before_it_is_moved_needs_nobody(stage, peer):
    [deleted] = stage.scene.add_tables(1, default=stage.nat.interface)
    looks_again = {"Filter.1.Name": "route-table-id", "Filter.1.Value.1": deleted}
    stage.world.weather("DescribeRouteTables", Hang(), match=looks_again)
    with stage.start("--output", "json") as running:
        stage.world.wait_until(lambda: peer.owns(stage.table))
        stage.world.ec2.delete_route_table(RouteTableId=deleted)
        stage.world.calm()
        ran = running.wait()
    assert ran.code == 0, ran
    results = {row["route_table_id"]: row["result"] for row in ran.json["tables"]}
    assert results == {stage.table: "handed_over", deleted: "taken"}


def test_a_table_that_somebody_takes_while_ec2_refuses_the_change_is_theirs(stage, peer):
    successor = stage.host(stage.scene.public_subnets[OWN])
    stage.world.weather("ReplaceRoute", Throttle())
    with stage.start() as running:
        stage.world.wait_for("ReplaceRoute")
        stage.give(stage.table, successor)
        stage.world.calm()
        ran = running.wait()
    assert ran.code == 0, ran
    assert successor.owns(stage.table)
    assert last_line(ran.stdout) == "done: 0 handed over, 1 taken by somebody else first"


def test_a_table_that_somebody_takes_while_it_waits_for_its_turn_is_theirs(stage, peer):
    """More tables than EC2 lets anybody change at once (50, then 5 a second). The last one's turn
    is two seconds away when it is taken."""
    *_, waiting = stage.scene.add_tables(55, default=stage.nat.interface)
    successor = stage.host(stage.scene.public_subnets[OWN])
    with stage.start() as running:
        stage.world.wait_for("ReplaceRoute", 45)
        stage.give(waiting, successor)
        ran = running.wait()
    assert ran.code == 0, ran
    assert successor.owns(waiting)
    assert last_line(ran.stdout) == "done: 55 handed over, 1 taken by somebody else first"


def test_a_table_that_somebody_takes_right_after_is_theirs(stage, peer):
    successor = stage.host(stage.scene.public_subnets[OWN])
    reads_back = {"Filter.1.Name": "vpc-id"}
    stage.world.weather("DescribeRouteTables", Hang(), skip=1, match=reads_back)
    with stage.start() as running:
        stage.world.wait_until(lambda: peer.owns(stage.table))
        stage.give(stage.table, successor)
        stage.world.calm()
        ran = running.wait()
    assert ran.code == 0, ran
    assert successor.owns(stage.table), "nobody fights for a table"
    assert last_line(ran.stdout) == "done: 0 handed over, 1 taken by somebody else first"


# --- Propagated routes ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_the_static_route_is_handed_over_beside_a_propagated_one(stage, peer, first):
    """Which would take nobody's packets: the static one wins."""
    stage.world.propagate_default_route(stage.table, first)
    ran = stage.drain()
    assert ran.code == 0, ran
    assert last_line(ran.stdout) == "done: 1 handed over"
    assert peer.owns(stage.table)


# --- Bad weather ----------------------------------------------------------------------------------

# Every call of a run: the action, which of its occurrences, what tells it from others.
CALLS = [
    ("DescribeRouteTables", 0, {"Filter.1.Name": "vpc-id"}),
    ("DescribeNetworkInterfaces", 0, None),
    ("DescribeNatGateways", 0, None),
    ("DescribeInstanceStatus", 0, None),
    ("DescribeAutoScalingInstances", 0, None),
    ("DescribeRouteTables", 0, {"Filter.1.Name": "route-table-id"}),
    ("ReplaceRoute", 0, None),
    ("DescribeRouteTables", 1, {"Filter.1.Name": "vpc-id"}),
]


@pytest.mark.parametrize(
    ("effect", "times"),
    [
        (Throttle(), 3),
        (ErrorReply(503, "Unavailable"), 2),
        (Reset(), 2),
        (ResetAfter(), 1),
        (Hang(0.5), 1),
    ],
    ids=["throttled", "503", "reset", "reset after the effect", "hangs"],
)
def test_passing_trouble_at_every_call(stage, peer, effect, times):
    rules = [
        stage.world.weather(action, effect, times=times, skip=skip, match=match)
        for action, skip, match in CALLS
    ]
    ran = stage.drain()
    assert ran.code == 0, ran
    assert last_line(ran.stdout) == "done: 1 handed over"
    assert peer.owns(stage.table)
    assert [rule.fired for rule in rules] == [times] * len(CALLS), "the trouble did not happen"


def test_ec2_that_is_down_for_good(stage, peer):
    stage.world.weather("*", ErrorReply(503, "Unavailable", "Try later."))
    ran = stage.drain("--deadline", "2s")
    assert ran.code == 1, ran
    assert ran.error.startswith("the time is up: DescribeRouteTables: ")
    assert "Unavailable: Try later." in ran.error
    assert stage.nat.owns(stage.table)


# What is asked of AWS about candidates besides who they are; without it the rest has to do.
HOW_PEERS_ARE = ("DescribeAutoScalingInstances", "DescribeInstanceStatus", "DescribeNatGateways")


def test_what_is_denied_is_named(stage, peer):
    for action in sorted({action for action, *_ in CALLS}):
        stage.world.deny(action)
        ran = stage.drain()
        stage.world.allow(action)
        denied = "AccessDenied" if "AutoScaling" in action else "UnauthorizedOperation"
        if action in HOW_PEERS_ARE:
            assert ran.code == 0, ran
            [said] = (line for line in ran.stderr.splitlines() if " WARN " in line)
            assert denied in said, action
            assert peer.owns(stage.table), action
            stage.give(stage.table, stage.nat)
        else:
            assert ran.code == 1, ran
            assert denied in ran.error, action
            assert action in ran.error, action
        assert stage.nat.owns(stage.table), action
    assert stage.drain().code == 0


@pytest.mark.parametrize("action", HOW_PEERS_ARE)
def test_who_does_not_answer_is_not_waited_for(stage, peer, action):
    stage.world.weather(action, Hang())
    ran = stage.drain()
    assert ran.code == 0, ran
    assert peer.owns(stage.table)


def test_one_table_of_two_is_denied(stage, peer):
    [other] = stage.scene.add_tables(1, default=stage.nat.interface)
    stage.world.weather(
        "ReplaceRoute",
        ErrorReply(403, "UnauthorizedOperation"),
        match={"RouteTableId": stage.table},
    )
    ran = stage.drain("--output", "json")
    assert ran.code == ran.json["exit_code"] == 4, ran
    assert ran.error == ran.json["error"]
    assert ran.error.startswith(
        f"1 of 2 route tables were not handed over: {stage.table}: "
        f"replacing the default route of {stage.table}: "
    )
    assert "UnauthorizedOperation" in ran.error
    results = {row["route_table_id"]: row["result"] for row in ran.json["tables"]}
    assert results == {stage.table: "failed", other: "handed_over"}
    assert stage.nat.owns(stage.table)
    assert peer.owns(other)


def test_a_successor_that_goes_before_ec2_shows_it(stage, peer):
    """The table leads there all the same, and to nobody."""
    stage.world.stale_reads(reads=6)
    with stage.start("--output", "json") as running:
        stage.world.wait_for("ReplaceRoute")
        stage.world.ec2.terminate_instances(InstanceIds=[peer.instance])
        ran = running.wait()
    assert ran.code == 1, ran
    gone = f"{peer.instance}/{peer.interface} is gone since"
    assert ran.error == f"1 of 1 route tables were not handed over: {stage.table}: {gone}"
    [row] = ran.json["tables"]
    assert row["result"] == "failed"
    assert row["before"] != row["after"]
    assert peer.interface in row["after"]


def test_success_is_said_when_ec2_shows_it(stage, peer):
    stage.world.stale_reads(reads=3)
    ran = stage.drain()
    assert ran.code == 0, ran
    assert last_line(ran.stdout) == "done: 1 handed over"
    # Plan, look again, three reads that show the old route, one that shows the new one.
    assert stage.nat.called["DescribeRouteTables"] == 6


def test_ec2_that_never_shows_it(stage, peer):
    stage.world.stale_reads(seconds=3600)
    ran = stage.drain("--deadline", "2s", "--output", "json")
    assert ran.code == 1, ran
    assert ran.error == (
        f"the time is up: reading back: EC2 accepted the change and still shows {stage.table} here"
    )
    assert [row["result"] for row in ran.json["tables"]] == ["unverified"]


def test_a_table_that_is_deleted_meanwhile(stage, peer):
    """By whoever tidies up: it leads here no more, and there is nothing to wait for."""
    [doomed] = stage.scene.add_tables(1, default=stage.nat.interface)
    reads_back = {"Filter.1.Name": "vpc-id"}
    stage.world.weather("DescribeRouteTables", Hang(), skip=1, match=reads_back)
    with stage.start("--deadline", "5s", "--output", "json") as running:
        stage.world.wait_until(lambda: peer.owns(stage.table) and peer.owns(doomed))
        stage.world.ec2.delete_route(RouteTableId=doomed, DestinationCidrBlock=DEFAULT)
        stage.world.ec2.delete_route_table(RouteTableId=doomed)
        stage.world.calm()
        ran = running.wait()
    assert "the time is up" not in ran.stderr, ran
    results = {row["route_table_id"]: row["result"] for row in ran.json["tables"]}
    assert results[stage.table] == "handed_over"


def test_sigterm_in_the_middle(stage, peer):
    stage.world.weather("ReplaceRoute", Hang())
    with stage.start() as running:
        stage.world.wait_for("ReplaceRoute")
        stage.terminate()
        ran = running.wait()
    assert ran.code == 1, ran
    assert ran.error == "stopped by SIGTERM"
    assert stage.nat.owns(stage.table)
