"""The run by moment: first boot in a group and without one, by hand, again, warm pool, dry run;
and what it prints."""

import json

import pytest

from tests.nat import Nat
from tests.world.scene import HOOK, ZONES
from tests.world.weather import Replace

OWN, OTHER = ZONES


def test_first_boot_in_a_group(nat):
    table = nat.scene.private_tables[OWN]

    ran = nat.claim()

    assert ran.code == 0, ran
    assert nat.owns(table)
    assert nat.route(nat.scene.private_tables[OTHER]) is None
    assert nat.answers == ["CONTINUE"]
    assert nat.state == "InService"
    assert nat.called == {
        "DescribeAutoScalingInstances": 1,
        "DescribeLifecycleHooks": 1,
        # The tagged tables, the own subnet's, and the read-back.
        "DescribeRouteTables": 3,
        # The source/destination check before and after it was turned off.
        "DescribeNetworkInterfaces": 2,
        "ModifyNetworkInterfaceAttribute": 1,
        "CreateRoute": 1,
        "CompleteLifecycleAction": 1,
    }


def test_the_source_destination_check_is_off_before_a_route_leads_here(nat):
    assert nat.claim().code == 0
    interface = nat.world.ec2.describe_network_interfaces(NetworkInterfaceIds=[nat.interface])
    assert interface["NetworkInterfaces"][0]["SourceDestCheck"] is False
    order = [call.action for call in nat.world.calls()]
    assert order.index("ModifyNetworkInterfaceAttribute") < order.index("CreateRoute")


def test_the_readable_table(nat):
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    own = nat.scene.private_tables[OWN]
    [shared] = nat.scene.add_tables(1, "any", default=peer.interface)

    ran = nat.claim()

    lines = ran.stdout.splitlines()
    assert lines[1:3] == [
        "ens5 was made to forward and masquerade:",
        "  nftables table ip hanat created",
    ]
    header, first, second = lines[lines.index("  net.ipv4.ip_forward 0 → 1") :][-5:-2]
    assert header.split("  ")[0] == "ROUTE TABLE"
    here = f"{nat.instance}/{nat.interface}"
    assert first.split() == [
        *(own, f"NATAZ={OWN}", OWN),
        *("no", "default", "route", "→", here, "claimed"),
    ]
    before = f"{peer.instance}/{peer.interface}"
    assert second.split() == [shared, "NATAZ=any", OWN, before, "→", here, "claimed"]
    assert "done: 2 claimed" in ran.stdout
    assert f"hook {HOOK} completed with CONTINUE" in ran.stdout


def test_the_json_document(nat):
    table = nat.scene.private_tables[OWN]

    ran = nat.claim("--output", "json")

    assert ran.json == {
        "command": "claim",
        "version": ran.json["version"],
        "dry_run": False,
        "owner_tag": "NATAZ",
        "instance": {"region": "us-east-1", "instance_id": nat.instance},
        "network": {
            "availability_zone": OWN,
            "vpc_id": nat.scene.vpc,
            "vpc_cidr_blocks": ["10.0.0.0/16"],
            "subnet_id": nat.scene.public_subnets[OWN],
            "interface_id": nat.interface,
            "mac": ran.json["network"]["mac"],
            "private_address": nat.private_address,
            "private_addresses": [nat.private_address],
        },
        "target_lifecycle_state": "InService",
        "kernel": ran.json["kernel"],
        "source_dest_check_was_on": True,
        "tables": [
            {
                "route_table_id": table,
                "tag": OWN,
                "availability_zone": OWN,
                "before": None,
                "after": f"{nat.instance}/{nat.interface}",
                "action": "create",
                "result": "claimed",
                "reason": None,
            }
        ],
        "lifecycle": {
            "group": nat.scene.groups[OWN],
            "state": "Pending:Wait",
            "hook": HOOK,
            "result": "CONTINUE",
        },
        "warnings": [],
        "error": None,
        "exit_code": 0,
    }


def test_a_failure_is_one_json_document_too(nat):
    nat.world.deny("DescribeRouteTables")
    ran = nat.claim("--output", "json", "--log-format", "json", "--deadline", "2s")
    assert ran.code == 1
    assert ran.json["exit_code"] == 1
    assert "UnauthorizedOperation" in ran.json["error"]
    last = json.loads(ran.stderr.splitlines()[-1])
    assert last["level"] == "ERROR"
    assert last["message"] == ran.json["error"]


def test_first_boot_without_a_group(scene):
    nat = Nat(scene, scene.launch_instance(scene.public_subnets[OWN]))
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.owns(scene.private_tables[OWN])
    assert nat.answers == []
    assert "CompleteLifecycleAction" not in nat.called


def test_first_boot_in_a_group_without_a_hook(scene):
    nat = Nat(scene, scene.launch_group(OWN, hook=False))
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.owns(scene.private_tables[OWN])
    assert "CompleteLifecycleAction" not in nat.called
    assert nat.state == "InService"


def test_running_it_again_changes_nothing_and_says_so(nat):
    nat.scene.add_tables(3)
    assert nat.claim().code == 0
    changes = nat.changes

    ran = nat.claim()

    assert ran.code == 0, ran
    assert nat.changes == changes
    assert "nothing to do: 4 of 4 route tables lead here already" in ran.stdout


def test_claiming_routes_back_by_hand(nat):
    table = nat.scene.private_tables[OWN]
    assert nat.claim().code == 0
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    nat.world.ec2.replace_route(
        RouteTableId=table,
        DestinationCidrBlock="0.0.0.0/0",
        NetworkInterfaceId=peer.interface,
    )

    ran = nat.claim()

    assert ran.code == 0, ran
    assert nat.owns(table)
    assert nat.changes["ReplaceRoute"] == 1
    assert nat.changes["CompleteLifecycleAction"] == 1, "the hook was answered by the first run"


@pytest.mark.parametrize("state", ["Warmed:Pending:Wait", "Warmed:Stopped"])
def test_nothing_is_claimed_in_the_warm_pool(nat, state):
    nat.world.set_lifecycle_state(nat.instance, state)

    ran = nat.claim()

    assert ran.code == 0, ran
    assert nat.route(nat.scene.private_tables[OWN]) is None
    # Left without an answer, the hook would end the instance when its time is up.
    waits = state.endswith(":Wait")
    assert nat.answers == (["CONTINUE"] if waits else [])
    assert "CreateRoute" not in nat.changes


@pytest.mark.parametrize("state", ["EnteringStandby", "Standby", "Detaching"])
def test_nothing_is_claimed_out_of_service(scene, state):
    """Another one serves; this one gets ready and says so, as it may boot at any time."""
    nat = Nat(scene, scene.launch_group(OWN, hook=False))
    [table] = scene.add_tables(1, default=Nat(scene, scene.launch_group(OTHER)).interface)
    before = nat.route(table)
    nat.world.set_lifecycle_state(nat.instance, state)

    ran = nat.claim()

    assert ran.code == 0, ran
    word = "in Standby" if "Standby" in state else "detached from its Auto Scaling group"
    assert f"INFO {word}: nothing is claimed" in ran.stderr
    assert ran.stdout.splitlines()[-1] == f"{word}: nothing is claimed"
    assert nat.route(table) == before
    assert nat.route(scene.private_tables[OWN]) is None
    assert nat.changes == {"ModifyNetworkInterfaceAttribute": 1}
    assert "was made to forward and masquerade" in ran.stdout


def test_nothing_is_claimed_where_the_group_has_let_it_go(scene):
    """Its list does not have it any more, and is not waited for. Tables there need not be."""
    nat = Nat(scene, scene.launch_group(OWN, hook=False))
    nat.world.autoscaling.detach_instances(
        AutoScalingGroupName=scene.groups[OWN],
        InstanceIds=[nat.instance],
        ShouldDecrementDesiredCapacity=False,
    )
    ran = nat.claim("--output", "json", "--owner-tag", "nobody")
    assert ran.code == 0, ran
    assert ran.json["target_lifecycle_state"] == "Detached"
    assert ran.json["lifecycle"] is None
    assert ran.json["tables"] == []
    assert nat.called["DescribeAutoScalingInstances"] == 1
    assert nat.changes == {"ModifyNetworkInterfaceAttribute": 1}


def test_a_dry_run_prints_the_plan_and_changes_nothing(nat):
    [refused] = nat.scene.add_tables(1, default="igw")

    ran = nat.claim("--dry-run")

    assert ran.code == 3, ran
    assert f"no default route → {nat.instance}/{nat.interface}" in ran.stdout
    assert refused in ran.error
    assert "would turn the source/destination check off" in ran.stdout
    assert nat.changes == {}
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.state == "Pending:Wait"


def test_the_group_may_need_a_moment_before_the_hook_waits(nat):
    nat.world.set_lifecycle_state(nat.instance, "Pending")
    with nat.start() as running:
        nat.world.wait_for("DescribeAutoScalingInstances", 2)
        assert nat.answers == []
        nat.world.set_lifecycle_state(nat.instance, "Pending:Wait")
        ran = running.wait()
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


def test_the_group_may_need_longer_than_the_run_itself(nat):
    nat.world.set_lifecycle_state(nat.instance, "Pending")
    with nat.start("--deadline", "12s") as running:
        # Half a second apart: longer than the part of the deadline that is kept for the answer.
        nat.world.wait_for("DescribeAutoScalingInstances", 9)
        nat.world.set_lifecycle_state(nat.instance, "Pending:Wait")
        ran = running.wait()
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


def test_a_group_without_a_hook_is_not_waited_for(scene):
    nat = Nat(scene, scene.launch_group(OWN, hook=False))
    nat.world.set_lifecycle_state(nat.instance, "Pending")
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.called["DescribeAutoScalingInstances"] == 1


def test_the_groups_list_may_not_show_the_instance_yet(nat):
    empty = (
        '<DescribeAutoScalingInstancesResponse xmlns="http://autoscaling.amazonaws.com/doc/'
        '2011-01-01/"><DescribeAutoScalingInstancesResult><AutoScalingInstances/>'
        "</DescribeAutoScalingInstancesResult><ResponseMetadata><RequestId>r</RequestId>"
        "</ResponseMetadata></DescribeAutoScalingInstancesResponse>"
    )
    nat.world.weather("DescribeAutoScalingInstances", Replace(empty), times=2)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


def test_an_instance_that_is_being_terminated_takes_no_routes(scene):
    nat = Nat(scene, scene.launch_group(OWN, hook=False, terminating_hook=True))
    nat.world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=nat.instance, ShouldDecrementDesiredCapacity=True
    )
    assert nat.state == "Terminating:Wait"
    ran = nat.claim()
    assert ran.code == 1, ran
    assert f"{nat.instance} is being terminated" in ran.error
    assert nat.route(scene.private_tables[OWN]) is None


def test_another_owner_tag(nat):
    table = nat.scene.private_tables[OWN]
    [mine] = nat.scene.add_tables(1, owner=None)
    nat.world.ec2.create_tags(Resources=[mine], Tags=[{"Key": "egress/owner", "Value": "any"}])
    ran = nat.claim(env={"HANAT_OWNER_TAG": "egress/owner"})
    assert ran.code == 0, ran
    assert nat.owns(mine)
    assert nat.route(table) is None


MISUSES = [
    (["--deadline", "soon"], {}, "--deadline"),
    (["--deadline", "0s"], {}, "--deadline"),
    (["--probe-url", "ftp://127.0.0.1/"], {}, "--probe-url"),
    (["--owner-tag", ""], {}, "--owner-tag"),
    (["--no-such-flag"], {}, "--no-such-flag"),
    ([], {"HANAT_OUTPUT": "xml"}, "xml"),
    ([], {"HANAT_DRY_RUN": "perhaps"}, "perhaps"),
    ([], {"HANAT_SOURCES": "10.0.0.0/8"}, '"HANAT_SOURCES" (did you mean HANAT_SOURCE?)'),
    ([], {"HANAT_UPKEEP_INTERVALL": "1s"}, "did you mean HANAT_UPKEEP_INTERVAL?"),
]


@pytest.mark.parametrize(("flags", "env", "named"), MISUSES)
def test_wrong_usage_is_named_and_ends_the_launch(nat, flags, env, named):
    ran = nat.claim(*flags, env=env)
    assert ran.code == 2, ran
    assert named in ran.stderr
    assert ran.stdout == ""
    assert nat.answers == ["ABANDON"]
    assert nat.changes == {"CompleteLifecycleAction": 1}
    assert nat.state == "Terminated"


def test_wrong_usage_in_service_touches_nothing(scene):
    nat = Nat(scene, scene.launch_group(OWN, hook=False))
    ran = nat.claim("--no-such-flag")
    assert ran.code == 2, ran
    assert nat.changes == {}
    assert nat.state == "InService"


def test_wrong_usage_without_a_group_calls_nobody(scene):
    nat = Nat(scene, scene.launch_instance(scene.public_subnets[OWN]))
    ran = nat.claim("--deadline", "0s")
    assert ran.code == 2, ran
    assert nat.called == {}


def test_wrong_usage_before_the_hook_waits(nat):
    nat.world.set_lifecycle_state(nat.instance, "Pending")
    with nat.start(env={"HANAT_SOURCES": "10.0.0.0/8"}) as running:
        nat.world.wait_for("DescribeAutoScalingInstances", 2)
        nat.world.set_lifecycle_state(nat.instance, "Pending:Wait")
        ran = running.wait()
    assert ran.code == 2, ran
    assert nat.answers == ["ABANDON"]


def test_wrong_usage_where_the_group_cannot_be_asked(nat):
    nat.world.deny("DescribeAutoScalingInstances")
    ran = nat.claim("--no-such-flag")
    assert ran.code == 2, ran
    assert "--no-such-flag" in ran.stderr
    assert "AccessDenied" in ran.stderr


def test_settings_of_other_commands_are_no_misuse(nat):
    """All units read one file."""
    ran = nat.claim(env={"HANAT_INTERVAL": "1s", "HANAT_TO": "", "HANAT_LINGER": "never"})
    assert ran.code == 0, ran


def test_help_is_given_whatever_the_variables(nat):
    ran = nat.claim("--help", env={"HANAT_SOURCES": "10.0.0.0/8"})
    assert ran.code == 0, ran
    assert "--source <CIDR>" in ran.stdout
    assert nat.called == {}
