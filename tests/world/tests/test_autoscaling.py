"""What the world's groups do by themselves: replacements, refreshes, warm pools, spot reclaims."""

import base64
import http.client
import json
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.world import World, ec2
from tests.world.metadata import user_data
from tests.world.scene import HOOK, ZONES, Scene, two_zone_vpc

A, B = ZONES
DRAIN = "hanat-terminating"
FIRST = (100, 200)
TARGET = "autoscaling/target-lifecycle-state"


@pytest.fixture
def scene(world: World) -> Scene:
    world.clock.freeze()
    return two_zone_vpc(world, nats_in_group=False)


def complete(scene: Scene, instance: str, hook: str = HOOK, result: str = "CONTINUE") -> None:
    scene.world.autoscaling.complete_lifecycle_action(
        AutoScalingGroupName=scene.groups[A],
        LifecycleHookName=hook,
        LifecycleActionResult=result,
        InstanceId=instance,
    )


def states(scene: Scene) -> dict[str, str]:
    """The lifecycle states in the group of zone A."""
    group = scene.groups[A]
    members = scene.world.lifecycles()
    return {i: state for i, (name, state) in members.items() if name == group}


def served(scene: Scene, **how: Any) -> str:
    """The instance of a new group in zone A, in service."""
    nat = scene.launch_group(A, **how)
    if how.get("hook", True):
        complete(scene, nat)
    assert states(scene) == {nat: "InService"}
    return nat


def other(scene: Scene, *known: str) -> str:
    """The only member besides those known."""
    [new] = [i for i in states(scene) if i not in known]
    return new


def sick(scene: Scene, instance: str) -> None:
    scene.world.autoscaling.set_instance_health(InstanceId=instance, HealthStatus="Unhealthy")


def ec2_state(scene: Scene, instance: str) -> str:
    answer = scene.world.ec2.describe_instances(InstanceIds=[instance])
    return answer["Reservations"][0]["Instances"][0]["State"]["Name"]


def group_of(scene: Scene) -> dict[str, Any]:
    name = scene.groups[A]
    answer = scene.world.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    return answer["AutoScalingGroups"][0]


def update(scene: Scene, **settings: Any) -> None:
    client = scene.world.autoscaling
    client.update_auto_scaling_group(AutoScalingGroupName=scene.groups[A], **settings)


def imds_get(world: World, instance: str, path: str, token: bool = True) -> tuple[int, bytes]:
    url = urllib.parse.urlsplit(world.imds(instance).url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port)
    headers = {}
    if token:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        connection.request("PUT", "/latest/api/token", headers=ttl)
        headers = {"X-aws-ec2-metadata-token": connection.getresponse().read().decode()}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    status, body = answer.status, answer.read()
    connection.close()
    return status, body


def meta(world: World, instance: str, path: str) -> tuple[int, bytes]:
    return imds_get(world, instance, f"/latest/meta-data/{path}")


# --- Replacement ----------------------------------------------------------------------------------


def test_the_policy_is_shown_and_cleared(scene: Scene) -> None:
    scene.launch_group(A, maintenance=FIRST)
    shown = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200}
    assert group_of(scene)["InstanceMaintenancePolicy"] == shown
    update(scene, MaxSize=2)
    assert group_of(scene)["InstanceMaintenancePolicy"] == shown
    cleared = {"MinHealthyPercentage": -1, "MaxHealthyPercentage": -1}
    update(scene, InstanceMaintenancePolicy=cleared)
    assert "InstanceMaintenancePolicy" not in group_of(scene)


@pytest.mark.parametrize("bounds", [(0, 200), (50, 99), (-1, 100), (50, None)])
def test_policies_are_checked(scene: Scene, bounds: tuple[int, int | None]) -> None:
    names = ("MinHealthyPercentage", "MaxHealthyPercentage")
    policy = {name: bound for name, bound in zip(names, bounds, strict=True) if bound is not None}
    scene.launch_group(A)
    with pytest.raises(ClientError, match="ValidationError"):
        update(scene, InstanceMaintenancePolicy=policy)


def test_the_policy_from_a_template(scene: Scene) -> None:
    policy = {"MinHealthyPercentage": "100", "MaxHealthyPercentage": 200}
    scene.group_by_template(A, InstanceMaintenancePolicy=policy)
    [made] = scene.world.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert made["InstanceMaintenancePolicy"]["MaxHealthyPercentage"] == 200


def test_launch_first(scene: Scene) -> None:
    old = served(scene, terminating_hook=True, maintenance=FIRST)
    sick(scene, old)
    failed = other(scene, old)
    assert states(scene) == {old: "InService", failed: "Pending:Wait"}
    complete(scene, failed, result="ABANDON")
    new = other(scene, old)
    assert new != failed
    assert states(scene) == {old: "InService", new: "Pending:Wait"}
    complete(scene, new)
    assert states(scene) == {old: "Terminating:Wait", new: "InService"}
    complete(scene, old, DRAIN)
    assert states(scene) == {new: "InService"}
    assert ec2_state(scene, old) == "terminated"


def test_launch_first_without_hooks(scene: Scene) -> None:
    old = served(scene, hook=False, maintenance=FIRST)
    sick(scene, old)
    assert states(scene) == {other(scene): "InService"}
    assert ec2_state(scene, old) == "terminated"


@pytest.mark.parametrize("maintenance", [None, (0, 100)])
def test_terminate_first(scene: Scene, maintenance: tuple[int, int] | None) -> None:
    old = served(scene, terminating_hook=True, maintenance=maintenance)
    sick(scene, old)
    assert states(scene) == {old: "Terminating:Wait", other(scene, old): "Pending:Wait"}


def test_a_group_of_one_too_small_for_its_policy_launches_first(scene: Scene) -> None:
    old = served(scene, terminating_hook=True, maintenance=(50, 150))
    sick(scene, old)
    assert states(scene) == {old: "InService", other(scene, old): "Pending:Wait"}


def test_two_at_a_time_only_as_the_policy_allows(scene: Scene) -> None:
    first = served(scene, maintenance=(100, 150))
    update(scene, MaxSize=2, DesiredCapacity=2)
    second = other(scene, first)
    complete(scene, second)
    sick(scene, first)
    sick(scene, second)
    third = other(scene, first, second)
    complete(scene, third)
    fourth = other(scene, second, third)
    assert states(scene) == {second: "InService", third: "InService", fourth: "Pending:Wait"}
    complete(scene, fourth)
    assert states(scene) == {third: "InService", fourth: "InService"}


def by_hand(scene: Scene, instance: str) -> None:
    scene.world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=instance, ShouldDecrementDesiredCapacity=False
    )


def directly(scene: Scene, instance: str) -> None:
    scene.world.ec2.terminate_instances(InstanceIds=[instance])


@pytest.mark.parametrize(("end", "left"), [(by_hand, ["Terminating:Wait"]), (directly, [])])
def test_the_policy_is_not_for_what_a_human_does(
    scene: Scene, end: Callable[[Scene, str], None], left: list[str]
) -> None:
    old = served(scene, terminating_hook=True, maintenance=FIRST)
    end(scene, old)
    assert [state for i, state in states(scene).items() if i == old] == left
    assert states(scene)[other(scene, old)] == "Pending:Wait"


def test_the_old_one_dies_while_its_successor_launches(scene: Scene) -> None:
    old = served(scene, maintenance=FIRST)
    sick(scene, old)
    new = other(scene, old)
    directly(scene, old)
    assert states(scene) == {new: "Pending:Wait"}
    complete(scene, new)
    assert states(scene) == {new: "InService"}


def test_updates_during_a_replacement(scene: Scene) -> None:
    old = served(scene, maintenance=FIRST)
    sick(scene, old)
    new = other(scene, old)
    update(scene, MinSize=1, MaxSize=1)
    assert group_of(scene)["DesiredCapacity"] == 1
    assert states(scene) == {old: "InService", new: "Pending:Wait"}
    update(scene, MinSize=0, DesiredCapacity=0)
    assert states(scene) == {}


def test_an_impairment_is_noticed(scene: Scene) -> None:
    world = scene.world
    old = served(scene, terminating_hook=True, timeout=300, maintenance=FIRST)
    world.impair(old, noticed_after=60)
    world.clock.advance(59)
    assert states(scene) == {old: "InService"}
    world.clock.advance(1)
    new = other(scene, old)
    complete(scene, new)
    assert states(scene) == {old: "Terminating:Wait", new: "InService"}
    world.clock.advance(300)
    assert states(scene) == {new: "InService"}
    assert world.timeouts == [(old, DRAIN, "ABANDON")]


def test_nobody_notices_an_impairment_of_one_that_is_gone(scene: Scene) -> None:
    old = served(scene)
    scene.world.impair(old, noticed_after=60)
    directly(scene, old)
    new = other(scene)
    scene.world.clock.advance(100)
    assert states(scene) == {new: "Pending:Wait"}


def test_one_that_does_not_serve_yet_is_not_checked(scene: Scene) -> None:
    pending = scene.launch_group(A, maintenance=FIRST)
    scene.world.impair(pending, noticed_after=0)
    assert states(scene) == {pending: "Pending:Wait"}
    complete(scene, pending)
    assert states(scene) == {pending: "InService", other(scene, pending): "Pending:Wait"}


def test_one_that_does_not_serve_yet_need_not_wait_for_its_successor(scene: Scene) -> None:
    pending = scene.launch_group(A, maintenance=FIRST)
    sick(scene, pending)
    assert states(scene) == {other(scene): "Pending:Wait"}
    assert ec2_state(scene, pending) == "terminated"


# --- Heartbeats -----------------------------------------------------------------------------------


def heartbeat(scene: Scene, instance: str, hook: str = DRAIN) -> None:
    scene.world.autoscaling.record_lifecycle_action_heartbeat(
        AutoScalingGroupName=scene.groups[A], LifecycleHookName=hook, InstanceId=instance
    )


def test_heartbeats_hold_a_leaving_instance(scene: Scene) -> None:
    world = scene.world
    old = served(scene, terminating_hook=True, timeout=300)
    by_hand(scene, old)
    for _ in range(3):
        world.clock.advance(299)
        heartbeat(scene, old)
    world.clock.advance(299)
    assert states(scene)[old] == "Terminating:Wait"
    assert ec2_state(scene, old) == "running"
    # A launching hook times out meanwhile, so that others came and went.
    world.clock.advance(1)
    assert old not in states(scene)
    assert ec2_state(scene, old) == "terminated"
    assert (old, DRAIN, "ABANDON") in world.timeouts


@pytest.mark.parametrize(("timeout", "most"), [(30, 3000), (1728, 172800), (7200, 172800)])
def test_heartbeats_do_not_hold_an_instance_for_ever(scene: Scene, timeout: int, most: int) -> None:
    """100 times the timeout, or 48 hours, if that is less."""
    old = served(scene, hook=False, terminating_hook=True, timeout=timeout)
    group = {"AutoScalingGroupName": scene.groups[A]}
    [hook] = scene.world.autoscaling.describe_lifecycle_hooks(**group)["LifecycleHooks"]
    assert (hook["HeartbeatTimeout"], hook["GlobalTimeout"]) == (timeout, most)
    by_hand(scene, old)
    waited = 0
    while waited < most - timeout:
        scene.world.clock.advance(timeout - 1)
        waited += timeout - 1
        heartbeat(scene, old)
    scene.world.clock.advance(most - 1 - waited)
    assert states(scene)[old] == "Terminating:Wait"
    scene.world.clock.advance(1)
    assert old not in states(scene)


def test_a_heartbeat_that_nothing_waits_for(scene: Scene) -> None:
    nat = served(scene, terminating_hook=True)
    nothing = rf"\(ValidationError\).*No active Lifecycle Action found with instance ID {nat}"
    for hook in (DRAIN, HOOK):
        with pytest.raises(ClientError, match=nothing):
            heartbeat(scene, nat, hook)
    by_hand(scene, nat)
    heartbeat(scene, nat)
    complete(scene, nat, DRAIN)
    with pytest.raises(ClientError, match=nothing):
        heartbeat(scene, nat)


# --- Refresh --------------------------------------------------------------------------------------


def start(scene: Scene, **preferences: Any) -> str:
    answer = scene.world.autoscaling.start_instance_refresh(
        AutoScalingGroupName=scene.groups[A], Preferences=preferences
    )
    return answer["InstanceRefreshId"]


def refreshes(scene: Scene) -> list[dict[str, Any]]:
    answer = scene.world.autoscaling.describe_instance_refreshes(
        AutoScalingGroupName=scene.groups[A]
    )
    return answer["InstanceRefreshes"]


def progress(scene: Scene) -> tuple[str, int, int]:
    refresh = refreshes(scene)[0]
    assert ("EndTime" in refresh) == (refresh["Status"] not in ("InProgress", "Cancelling"))
    return refresh["Status"], refresh["PercentageComplete"], refresh["InstancesToUpdate"]


@pytest.mark.parametrize(
    ("policy", "preferences"),
    [
        (None, {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200}),
        (None, {"MinHealthyPercentage": 100}),
        (FIRST, {}),
    ],
)
def test_refresh_launching_first(
    scene: Scene, policy: tuple[int, int] | None, preferences: dict[str, int]
) -> None:
    old = served(scene, maintenance=policy)
    refresh = start(scene, **preferences)
    new = other(scene, old)
    assert states(scene) == {old: "InService", new: "Pending:Wait"}
    assert progress(scene) == ("InProgress", 0, 1)
    complete(scene, new)
    assert states(scene) == {new: "InService"}
    assert progress(scene) == ("Successful", 100, 0)
    assert [listed["InstanceRefreshId"] for listed in refreshes(scene)] == [refresh]


def test_refresh_by_default_terminates_first(scene: Scene) -> None:
    scene.world.replace_while_terminating(False)
    old = served(scene, terminating_hook=True)
    start(scene)
    assert states(scene) == {old: "Terminating:Wait"}
    complete(scene, old, DRAIN)
    new = other(scene)
    assert progress(scene) == ("InProgress", 0, 1)
    complete(scene, new)
    assert progress(scene) == ("Successful", 100, 0)


def test_refresh_takes_one_after_the_other(scene: Scene) -> None:
    first = served(scene)
    update(scene, MaxSize=2, DesiredCapacity=2)
    second = other(scene, first)
    complete(scene, second)
    start(scene)
    third = other(scene, second)
    assert states(scene) == {second: "InService", third: "Pending:Wait"}
    complete(scene, third)
    assert progress(scene) == ("InProgress", 50, 1)
    complete(scene, other(scene, third))
    assert progress(scene) == ("Successful", 100, 0)


def test_refresh_skips_what_matches(scene: Scene) -> None:
    old = served(scene)
    start(scene, SkipMatching=True)
    assert progress(scene) == ("Successful", 100, 0)
    scene.world.ec2.create_launch_template_version(
        LaunchTemplateId=scene.launch_template,
        LaunchTemplateData={"ImageId": "ami-0123456789abcdef1", "InstanceType": "t4g.micro"},
    )
    start(scene, SkipMatching=True)
    assert progress(scene) == ("InProgress", 0, 1)
    [member] = group_of(scene)["Instances"]
    assert member["InstanceId"] != old
    assert member["LaunchTemplate"]["Version"] == "2"


def test_refresh_errors(scene: Scene) -> None:
    client = scene.world.autoscaling
    group = {"AutoScalingGroupName": scene.groups.get(A, "none")}
    with pytest.raises(ClientError, match="ValidationError"):
        client.start_instance_refresh(**group)
    old = served(scene, maintenance=FIRST)
    group = {"AutoScalingGroupName": scene.groups[A]}
    with pytest.raises(client.exceptions.ActiveInstanceRefreshNotFoundFault):
        client.cancel_instance_refresh(**group)
    with pytest.raises(ClientError, match="ValidationError"):
        start(scene, MaxHealthyPercentage=110)
    refresh = start(scene)
    with pytest.raises(client.exceptions.InstanceRefreshInProgressFault):
        start(scene)
    assert client.cancel_instance_refresh(**group)["InstanceRefreshId"] == refresh
    assert progress(scene)[0] == "Cancelling"
    new = other(scene, old)
    complete(scene, new)
    assert progress(scene)[0] == "Cancelled"
    assert states(scene) == {new: "InService"}
    start(scene)
    client.cancel_instance_refresh(WaitForTransitioningInstances=False, **group)
    assert progress(scene)[0] == "Cancelled"


def test_refresh_fails_after_an_hour(scene: Scene) -> None:
    old = served(scene, maintenance=FIRST, timeout=1800)
    start(scene)
    for _ in range(2):
        scene.world.clock.advance(1799)
        assert progress(scene)[0] == "InProgress"
    scene.world.clock.advance(3)
    assert progress(scene) == ("Failed", 0, 1)
    assert states(scene)[old] == "InService"


def test_a_group_takes_its_refresh_along(scene: Scene) -> None:
    served(scene, maintenance=FIRST, name="gone")
    start(scene)
    scene.world.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="gone", ForceDelete=True)
    assert scene.world.lifecycles() == {}
    served(scene, maintenance=FIRST, name="gone")
    assert refreshes(scene) == []


# --- Warm pool ------------------------------------------------------------------------------------


def put_pool(scene: Scene, **settings: Any) -> None:
    scene.world.autoscaling.put_warm_pool(AutoScalingGroupName=scene.groups[A], **settings)


def pool(scene: Scene) -> dict[str, str]:
    answer = scene.world.autoscaling.describe_warm_pool(AutoScalingGroupName=scene.groups[A])
    return {member["InstanceId"]: member["LifecycleState"] for member in answer["Instances"]}


@pytest.mark.parametrize(
    ("kind", "ec2"), [("Stopped", "stopped"), ("Hibernated", "stopped"), ("Running", "running")]
)
def test_a_pool_fills_a_place_and_is_refilled(scene: Scene, kind: str, ec2: str) -> None:
    nat = served(scene)
    put_pool(scene, MinSize=1, PoolState=kind)
    [warm] = pool(scene)
    assert pool(scene) == {warm: "Warmed:Pending:Wait"}
    target = "autoscaling/target-lifecycle-state"
    assert meta(scene.world, warm, target) == (200, f"Warmed:{kind}".encode())
    complete(scene, warm)
    assert pool(scene) == {warm: f"Warmed:{kind}"}
    assert ec2_state(scene, warm) == ec2
    assert scene.members(A) == [nat]
    assert group_of(scene)["WarmPoolSize"] == 1
    listed = scene.world.autoscaling.describe_auto_scaling_instances(InstanceIds=[warm])
    assert listed["AutoScalingInstances"][0]["LifecycleState"] == f"Warmed:{kind}"

    directly(scene, nat)
    [fresh] = pool(scene)
    assert states(scene) == {warm: "Pending:Wait", fresh: "Warmed:Pending:Wait"}
    assert meta(scene.world, warm, target) == (200, b"InService")
    assert ec2_state(scene, warm) == "running"
    complete(scene, warm)
    assert states(scene) == {warm: "InService", fresh: "Warmed:Pending:Wait"}


def test_a_pool_without_hooks(scene: Scene) -> None:
    served(scene, hook=False)
    put_pool(scene, MinSize=1)
    [warm] = pool(scene)
    assert pool(scene) == {warm: "Warmed:Stopped"}
    update(scene, MaxSize=2, DesiredCapacity=2)
    assert states(scene)[warm] == "InService"


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 4),
        ({"MaxGroupPreparedCapacity": 3}, 2),
        ({"MaxGroupPreparedCapacity": 3, "MinSize": 3}, 3),
        ({"MaxGroupPreparedCapacity": -1}, 4),
    ],
)
def test_the_size_of_a_pool(scene: Scene, settings: dict[str, int], size: int) -> None:
    served(scene, hook=False)
    update(scene, MaxSize=5)
    put_pool(scene, **settings)
    assert len(pool(scene)) == size
    update(scene, MinSize=2)
    assert group_of(scene)["DesiredCapacity"] == 2, "warm instances are not its capacity"
    if settings.get("MinSize") is None:
        assert len(pool(scene)) == size - 1


def test_a_pool_that_is_not_ready_is_not_drawn_on(scene: Scene) -> None:
    nat = served(scene)
    put_pool(scene, MinSize=1)
    [warm] = pool(scene)
    directly(scene, nat)
    assert states(scene) == {warm: "Warmed:Pending:Wait", other(scene, warm): "Pending:Wait"}


def test_a_sick_warm_instance_is_replaced_in_the_pool(scene: Scene) -> None:
    nat = served(scene, terminating_hook=True, maintenance=FIRST)
    put_pool(scene, MinSize=1)
    [warm] = pool(scene)
    complete(scene, warm)
    scene.world.impair(warm, noticed_after=0)
    fresh = other(scene, nat, warm)
    assert pool(scene) == {warm: "Warmed:Terminating:Wait", fresh: "Warmed:Pending:Wait"}
    assert scene.members(A) == [nat]


def test_an_abandoned_warm_instance_is_replaced(scene: Scene) -> None:
    served(scene)
    put_pool(scene, MinSize=1)
    [warm] = pool(scene)
    complete(scene, warm, result="ABANDON")
    [fresh] = pool(scene)
    assert fresh != warm
    with pytest.raises(ClientError, match="ValidationError"):
        by_hand(scene, fresh)


@pytest.mark.parametrize("force", [True, False])
def test_a_pool_is_deleted(scene: Scene, force: bool) -> None:
    nat = served(scene, terminating_hook=True)
    put_pool(scene, MinSize=1)
    [warm] = pool(scene)
    name = scene.groups[A]
    client = scene.world.autoscaling
    client.delete_warm_pool(AutoScalingGroupName=name, ForceDelete=force)
    if not force:
        assert pool(scene) == {warm: "Warmed:Terminating:Wait"}
        answer = client.describe_warm_pool(AutoScalingGroupName=name)
        assert answer["WarmPoolConfiguration"]["Status"] == "PendingDelete"
        complete(scene, warm, DRAIN)
    assert states(scene) == {nat: "InService"}
    assert ec2_state(scene, warm) == "terminated"
    assert "WarmPoolConfiguration" not in client.describe_warm_pool(AutoScalingGroupName=name)


def test_a_group_takes_its_pool_along(scene: Scene) -> None:
    served(scene, hook=False)
    put_pool(scene, MinSize=2)
    client = scene.world.autoscaling
    client.delete_auto_scaling_group(AutoScalingGroupName=scene.groups[A], ForceDelete=True)
    assert scene.world.lifecycles() == {}
    reservations = scene.world.ec2.describe_instances()["Reservations"]
    found = [instance for reservation in reservations for instance in reservation["Instances"]]
    assert {instance["State"]["Name"] for instance in found} == {"terminated"}


@pytest.mark.parametrize(("kind", "boots"), [("Stopped", 1), ("Hibernated", 0), ("Running", 0)])
def test_what_is_drawn_boots_only_where_it_was_stopped(scene: Scene, kind: str, boots: int) -> None:
    nat = served(scene)
    put_pool(scene, MinSize=1, PoolState=kind)
    [warm] = pool(scene)
    complete(scene, warm)
    directly(scene, nat)
    assert states(scene)[warm] == "Pending:Wait"
    assert ec2.boots(ec2.backend().get_instance(warm)) == boots


def test_one_that_hibernated_boots_when_it_is_stopped_and_started_later(scene: Scene) -> None:
    nat = served(scene, hook=False)
    put_pool(scene, MinSize=1, PoolState="Hibernated")
    [warm] = pool(scene)
    directly(scene, nat)
    scene.world.ec2.stop_instances(InstanceIds=[warm])
    scene.world.ec2.start_instances(InstanceIds=[warm])
    assert ec2.boots(ec2.backend().get_instance(warm)) == 1


# --- Standby, detached ----------------------------------------------------------------------------


def standby(scene: Scene, instance: str, decrement: bool = True) -> None:
    scene.world.autoscaling.enter_standby(
        AutoScalingGroupName=scene.groups[A],
        InstanceIds=[instance],
        ShouldDecrementDesiredCapacity=decrement,
    )


def back(scene: Scene, instance: str) -> None:
    name = scene.groups[A]
    scene.world.autoscaling.exit_standby(AutoScalingGroupName=name, InstanceIds=[instance])


def test_standby_and_back(scene: Scene) -> None:
    """No launching hook waits on the way back."""
    nat = served(scene)
    with pytest.raises(ClientError, match="min-size"):
        standby(scene, nat)
    update(scene, MinSize=0)
    standby(scene, nat)
    assert states(scene) == {nat: "Standby"}
    assert group_of(scene)["DesiredCapacity"] == 0
    assert meta(scene.world, nat, TARGET) == (200, b"Standby")
    with pytest.raises(ClientError, match="not in InService"):
        standby(scene, nat, decrement=False)
    back(scene, nat)
    assert states(scene) == {nat: "InService"}
    assert group_of(scene)["DesiredCapacity"] == 1
    assert meta(scene.world, nat, TARGET) == (200, b"InService")
    update(scene, MaxSize=2)
    with pytest.raises(ClientError, match="not in Standby"):
        back(scene, nat)


def test_another_in_the_place_of_one_in_standby(scene: Scene) -> None:
    nat = served(scene)
    standby(scene, nat, decrement=False)
    new = other(scene, nat)
    assert states(scene) == {nat: "Standby", new: "Pending:Wait"}
    complete(scene, new)
    with pytest.raises(ClientError, match="max-size"):
        back(scene, nat)
    sick(scene, new)
    assert states(scene)[nat] == "Standby", "it takes nobody's place by itself"


def test_one_in_standby_is_terminated_through_its_hook(scene: Scene) -> None:
    nat = served(scene, terminating_hook=True)
    standby(scene, nat, decrement=False)
    by_hand(scene, nat)
    assert states(scene)[nat] == "Terminating:Wait"


@pytest.mark.parametrize(
    ("state", "target"), [("EnteringStandby", b"Standby"), ("Detaching", b"Detached")]
)
def test_on_the_way_there(scene: Scene, state: str, target: bytes) -> None:
    nat = served(scene)
    scene.world.set_lifecycle_state(nat, state)
    assert meta(scene.world, nat, TARGET) == (200, target)


def test_detached(scene: Scene) -> None:
    """It runs on, and no list of its group's has it."""
    nat = served(scene, terminating_hook=True)
    scene.world.autoscaling.detach_instances(
        AutoScalingGroupName=scene.groups[A],
        InstanceIds=[nat],
        ShouldDecrementDesiredCapacity=False,
    )
    assert states(scene) == {other(scene): "Pending:Wait"}
    described = scene.world.autoscaling.describe_auto_scaling_instances(InstanceIds=[nat])
    assert described["AutoScalingInstances"] == []
    assert meta(scene.world, nat, TARGET) == (200, b"Detached")
    assert ec2_state(scene, nat) == "running"


# --- Deletion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False])
def test_a_group_is_deleted_by_force(scene: Scene, waits: bool) -> None:
    client, nat = scene.world.autoscaling, served(scene, terminating_hook=True)
    scene.world.wait_for_hooks_when_deleted(waits)
    with pytest.raises(ClientError, match="ResourceInUse"):
        client.delete_auto_scaling_group(AutoScalingGroupName=scene.groups[A])
    assert "Status" not in group_of(scene)
    client.delete_auto_scaling_group(AutoScalingGroupName=scene.groups[A], ForceDelete=True)
    if waits:
        assert states(scene) == {nat: "Terminating:Wait"}
        assert group_of(scene)["Status"] == "Delete in progress"
        complete(scene, nat, DRAIN)
    assert scene.world.lifecycles() == {}
    assert client.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert ec2_state(scene, nat) == "terminated"


# --- Spot -----------------------------------------------------------------------------------------


def test_a_reclaim(scene: Scene) -> None:
    world, path = scene.world, "spot/instance-action"
    old = served(scene, terminating_hook=True, maintenance=FIRST)
    assert meta(world, old, path)[0] == 404
    world.reclaim_spot(old, notice=120)
    status, body = meta(world, old, path)
    action = json.loads(body)
    assert (status, action["action"]) == (200, "terminate")
    when = datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(when - datetime.now(UTC) - timedelta(seconds=120)) < timedelta(seconds=10)
    by_hand(scene, old)
    world.clock.advance(119)
    assert states(scene)[old] == "Terminating:Wait"
    world.clock.advance(1)
    assert ec2_state(scene, old) == "terminated", "a hook does not delay it"
    assert states(scene) == {other(scene): "Pending:Wait"}


def test_a_reclaim_is_refilled_whatever_the_policy(scene: Scene) -> None:
    old = served(scene, maintenance=FIRST)
    scene.world.reclaim_spot(old)
    assert states(scene) == {old: "InService"}
    scene.world.clock.advance(120)
    assert states(scene) == {other(scene): "Pending:Wait"}
    assert scene.world.lifecycle(old) == "Terminated"


def test_a_rebalance_recommendation(scene: Scene) -> None:
    world, path = scene.world, "events/recommendations/rebalance"
    nat = served(scene)
    assert meta(world, nat, path)[0] == 404
    world.recommend_rebalance(nat)
    status, body = meta(world, nat, path)
    assert status == 200
    datetime.strptime(json.loads(body)["noticeTime"], "%Y-%m-%dT%H:%M:%SZ")
    assert states(scene) == {nat: "InService"}


# --- User data ------------------------------------------------------------------------------------

SCRIPT = b"#!/bin/sh\nhanat \xff\n"


def with_script(scene: Scene, script: bytes) -> None:
    """A version of the launch template that is not its default."""
    data = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t4g.nano"}
    data["UserData"] = base64.b64encode(script).decode()
    scene.world.ec2.create_launch_template_version(
        LaunchTemplateId=scene.launch_template, LaunchTemplateData=data
    )


def test_user_data(scene: Scene) -> None:
    world = scene.world
    without = scene.launch_group(A)
    with_script(scene, SCRIPT)
    nat = scene.launch_group(B)
    path = "/latest/user-data"
    assert imds_get(world, without, path)[0] == 404
    assert imds_get(world, nat, path) == (200, SCRIPT)
    assert (user_data(without), user_data(nat)) == (None, SCRIPT)


def test_user_data_is_of_the_version_that_the_group_names(scene: Scene) -> None:
    world = scene.world
    with_script(scene, SCRIPT)
    world.ec2.modify_launch_template(LaunchTemplateId=scene.launch_template, DefaultVersion="2")
    data = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t4g.nano"}
    world.ec2.create_launch_template_version(
        LaunchTemplateId=scene.launch_template, LaunchTemplateData=data
    )
    assert user_data(scene.launch_group(A)) is None, "version 3 has none, the default has"
    template = {"LaunchTemplateId": scene.launch_template, "Version": "2"}
    update(scene, LaunchTemplate=template)
    directly(scene, scene.nats[A])
    assert user_data(scene.members(A)[0]) == SCRIPT


def test_user_data_of_a_single_instance(scene: Scene) -> None:
    answer = scene.world.ec2.run_instances(
        ImageId="ami-0123456789abcdef0",
        MinCount=1,
        MaxCount=1,
        SubnetId=scene.public_subnets[A],
        UserData=SCRIPT,
    )
    assert user_data(answer["Instances"][0]["InstanceId"]) == SCRIPT
