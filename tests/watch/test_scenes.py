"""What clients lose when a NAT with `hanat watch` leaves: nothing. Scenes on packets, played by
the shipped binary."""

import time

import pytest

from tests.claim.test_scenes import BOOT, OTHER, OWN, assert_nothing_lost
from tests.stages.two_zones import LAUNCH_FIRST, TwoZones, stop_all
from tests.stages.watching import (
    AWAITS_SERVICE,
    TERMINATING_HOOK,
    boots_and_watches,
    called,
    completed,
    left_at,
)
from tests.world.scene import ZONES
from tests.world.weather import ErrorReply, Hang, Latency

DAY = 86400
PATIENT, IMPATIENT = (boots_and_watches(drain_wait=wait) for wait in ("1h", "1s"))
# What is denied to its claim is final after five seconds.
HASTY = PATIENT.replace("hanat claim", "hanat claim --deadline 10s")
HOOKED = {"terminating_hook": True, "timeout": 300}


@pytest.fixture
def stage(isolated, world, request):
    """Two zones, with the parameters that a test gives by `@pytest.mark.parametrize("stage", …)`"""
    with TwoZones(world, **{"boot_time": BOOT, **getattr(request, "param", {})}) as stage:
        yield stage


def staged(**parameters):
    return pytest.mark.parametrize("stage", [parameters], indirect=True)


def assert_completed_in_the_end(stage, nat):
    """After nothing led to it any more, and the second to linger."""
    stage.wait_off(nat)
    ours = (TERMINATING_HOOK, "CONTINUE")
    assert [one for one in completed(stage.world, nat) if one[0] == ours[0]] == [ours]
    [at] = called(stage.world, nat, "CompleteLifecycleAction")[1:]
    # It counts from before the look that found nothing, which may be a moment before.
    assert at > left_at(stage, OWN, nat) + 0.5, stage.vpc.log(nat)
    assert stage.world.timeouts == []


def moves(stage, nat) -> int:
    """How often it changed a route."""
    return len(called(stage.world, nat, "ReplaceRoute"))


# --- The group terminates it ----------------------------------------------------------------------


def refresh(stage, nat):
    stage.refresh(OWN)


def unhealthy(stage, nat):
    stage.world.autoscaling.set_instance_health(InstanceId=nat, HealthStatus="Unhealthy")


def old_age(stage, nat):
    stage.world.autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=stage.group(OWN), MaxInstanceLifetime=DAY
    )
    stage.world.clock.advance(DAY)


@staged(user_data=PATIENT, zones=[OWN])
@pytest.mark.parametrize(
    ("replace", "group"),
    [
        (refresh, {"maintenance": LAUNCH_FIRST}),
        (refresh, {}),
        (unhealthy, {}),
        (old_age, {}),
    ],
    ids=["refresh launches first", "refresh terminates first", "health", "maximum lifetime"],
)
def test_the_replacement_takes_the_table_itself(stage, replace, group):
    """While the old NAT waits for it."""
    [nat] = stage.launch(**HOOKED, **group)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        replace(stage, nat)
        successor = stage.serving(OWN, other_than=nat)
        assert_completed_in_the_end(stage, nat)
        probe.wait_connected()
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.addresses == (before, stage.public(successor))
    assert moves(stage, nat) == 0


@staged(user_data=IMPATIENT)
def test_the_replacement_comes_only_after_the_hook(stage):
    """So the other zone's NAT has the table in between."""
    stage.world.replace_while_terminating(False)
    nat, peer = stage.launch(**HOOKED)
    before = stage.public(nat)
    with stage.connected_probes() as probes:
        stage.refresh(OWN)
        successor = stage.serving(OWN, other_than=nat)
        assert_completed_in_the_end(stage, nat)
        probes[OWN].wait_seen_as(stage.public(successor))
        reports = stop_all(probes)
    for report in reports.values():
        assert_nothing_lost(report)
    there, after = stage.public(peer), stage.public(successor)
    assert reports[OWN].addresses == (before, there, after)
    assert reports[OTHER].addresses == (there,)
    assert reports[OTHER].broken == 0
    assert moves(stage, nat) == 1


@staged(user_data=IMPATIENT)
def test_scale_in(stage):
    nat, peer = stage.launch(**HOOKED)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        stage.world.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=stage.group(OWN), MinSize=0, DesiredCapacity=0
        )
        assert_completed_in_the_end(stage, nat)
        probe.wait_connected()
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.addresses == (before, stage.public(peer))
    assert stage.routed_to(OWN) == peer


@staged(user_data=IMPATIENT, zones=[OWN])
def test_a_standby_nat_gateway_serves_in_between(stage):
    """Where there is no other NAT instance."""
    stage.world.replace_while_terminating(False)
    gateway = stage.scene.nat_gateway(OWN, owner=OWN)
    [nat] = stage.launch(**HOOKED)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        stage.refresh(OWN)
        successor = stage.serving(OWN, other_than=nat)
        assert_completed_in_the_end(stage, nat)
        after = stage.public(successor)
        probe.wait_seen_as(after)
        report = probe.stop()
    assert_nothing_lost(report)
    there = stage.vpc.picture.nat_gateways[gateway].public
    assert report.addresses == (before, there, after)


@staged(user_data=IMPATIENT, boot_time=3.0)
def test_two_zones_at_once(stage):
    """Neither hands over to the other, which leaves, too: both wait for their replacements."""
    nats = stage.launch(**HOOKED)
    with stage.connected_probes() as probes:
        for nat in nats:
            unhealthy(stage, nat)
        successors = [
            stage.serving(zone, other_than=nat) for zone, nat in zip(ZONES, nats, strict=True)
        ]
        for nat in nats:
            stage.wait_off(nat)
            assert (TERMINATING_HOOK, "CONTINUE") in completed(stage.world, nat)
        reports = stop_all(probes)
    for report in reports.values():
        assert_nothing_lost(report)
    assert [stage.routed_to(zone) for zone in ZONES] == successors
    for zone, other in zip(ZONES, reversed(nats), strict=True):
        subnet = stage.scene.private_subnets[zone]
        led = [event.text for event in stage.vpc.events if event.subject == subnet]
        assert f"default route leads to {other}" not in led
    assert stage.world.timeouts == []


def results(stage) -> list[str]:
    return [completion.result for completion in stage.world.completions]


@staged(user_data=HASTY, zones=[OWN])
def test_a_replacement_that_fails_to_boot(stage):
    """The group tries again, and the old NAT serves all the while."""
    [nat] = stage.launch(**HOOKED)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        stage.world.deny("ModifyNetworkInterfaceAttribute")
        stage.refresh(OWN)
        stage.vpc.wait_until(lambda: "ABANDON" in results(stage))
        stage.world.allow("ModifyNetworkInterfaceAttribute")
        successor = stage.serving(OWN, other_than=nat)
        assert_completed_in_the_end(stage, nat)
        probe.wait_connected()
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.addresses == (before, stage.public(successor))


# --- Its group takes it out of service and back ---------------------------------------------------


@staged(user_data=PATIENT)
def test_standby_and_back(stage):
    """The other zone's NAT has the table in between."""
    nat, peer = stage.launch(**HOOKED)
    before, there = stage.public(nat), stage.public(peer)
    group = {"AutoScalingGroupName": stage.group(OWN)}
    stage.world.autoscaling.update_auto_scaling_group(**group, MinSize=0)
    with stage.connected_probe() as probe:
        stage.world.autoscaling.enter_standby(
            **group, InstanceIds=[nat], ShouldDecrementDesiredCapacity=True
        )
        probe.wait_seen_as(there)
        probe.wait_connected()
        stage.world.autoscaling.exit_standby(**group, InstanceIds=[nat])
        stage.serving(OWN, other_than=peer)
        probe.wait_seen_as(before)
        probe.wait_connected()
        report = probe.stop()
    assert (report.failed, report.lost, report.outages) == (0, 0, ()), report
    assert report.addresses == (before, there)
    assert completed(stage.world, nat) == [("hanat-launching", "CONTINUE")]


@staged(user_data=PATIENT, zones=[OWN])
@pytest.mark.parametrize("state", ["Running", "Hibernated"])
def test_a_warm_pool_whose_instances_do_not_boot_when_they_are_drawn(stage, state):
    [nat] = stage.launch()
    # So that it gets the answer to what it asked last.
    stage.world.slow_hibernation(5)
    with stage.connected_probe() as probe:
        stage.world.autoscaling.put_warm_pool(
            AutoScalingGroupName=stage.group(OWN), MinSize=1, PoolState=state
        )
        pooled = stage.world.lifecycles
        stage.vpc.wait_until(lambda: f"Warmed:{state}" in [s for _, s in pooled().values()])
        [warm] = (one for one in pooled() if one != nat)
        stage.vpc.wait_until(lambda: AWAITS_SERVICE in stage.vpc.log(warm))
        if state == "Hibernated":
            stage.vpc.wait_until(lambda: "hibernates" in told(stage, warm))
        assert stage.routed_to(OWN) == nat
        stage.vpc.kill(nat, noticed_after=0)
        assert stage.serving(OWN, other_than=nat) == warm
        probe.wait_connected()
        report = probe.stop()
    log = stage.vpc.log(warm)
    assert log.count("INFO in the warm pool: nothing is claimed") == 1, "it booted once"
    assert "comes into service: claiming" in log
    assert report.addresses[-1] == stage.public(warm)
    assert [c.result for c in stage.world.completions if c.instance_id == warm] == ["CONTINUE"] * 2
    assert stage.world.timeouts == []


def told(stage, instance) -> list[str]:
    return [event.text for event in stage.vpc.events if event.subject == instance]


# --- EC2 takes it ---------------------------------------------------------------------------------


@staged(user_data=PATIENT)
def test_a_spot_instance_is_taken(stage):
    """It hands over at once, and not when a replacement would have been waited for."""
    nat, peer = stage.launch(**HOOKED)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        stage.world.reclaim_spot(nat, notice=120)
        probe.wait_seen_as(stage.public(peer))
        assert nat in stage.vpc.picture.instances, "the two minutes are not over"
        stage.world.clock.advance(120)
        stage.wait_off(nat)
        successor = stage.serving(OWN, other_than=nat)
        probe.wait_seen_as(stage.public(successor))
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.addresses == (before, stage.public(peer), stage.public(successor))
    assert completed(stage.world, nat) == [("hanat-launching", "CONTINUE")]


@staged(user_data=PATIENT)
def test_spot_instances_of_both_zones_are_taken_at_once(stage):
    """Nothing is gained where they hand over to each other, but connections are lost each time."""
    nats = stage.launch(**HOOKED)
    with stage.connected_probe() as probe:
        for nat in nats:
            stage.world.reclaim_spot(nat, notice=120)
        for nat in nats:
            stage.vpc.wait_until(lambda nat=nat: "Spot Instance" in stage.vpc.log(nat))
        # Nothing tells that no more comes.
        time.sleep(4)
        report = probe.stop()
    assert_nothing_lost(report)
    # Each may have begun before it could know of the other.
    assert sum(moves(stage, nat) for nat in nats) <= 2, "\n".join(map(stage.vpc.log, nats))


# --- Bad weather ----------------------------------------------------------------------------------


@staged(user_data=IMPATIENT)
def test_ec2_is_down_for_a_while(stage):
    """It goes on forwarding and keeping its hook, and is done when EC2 is back."""
    stage.world.replace_while_terminating(False)
    nat, peer = stage.launch(terminating_hook=True, timeout=30)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        fails = stage.world.weather("*", ErrorReply(503, "Unavailable"), times=6, service="ec2")
        hangs = stage.world.weather("*", Hang(), service="ec2")
        stage.terminate(OWN)
        # One at the beginning, and one every ten seconds.
        stage.world.wait_for("RecordLifecycleActionHeartbeat", 2, timeout=40)
        assert fails.spent()
        assert hangs.fired > 0
        assert stage.routed_to(OWN) == nat
        stage.world.calm()
        probe.wait_seen_as(stage.public(peer))
        assert_completed_in_the_end(stage, nat)
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.addresses[:2] == (before, stage.public(peer))


@staged(user_data=IMPATIENT)
def test_the_time_to_linger_counts_from_when_ec2_has_changed_the_route(stage):
    """However long that took."""
    nat, peer = stage.launch(**HOOKED)
    stage.world.weather("ReplaceRoute", Latency(2))
    with stage.connected_probe() as probe:
        stage.world.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=stage.group(OWN), MinSize=0, DesiredCapacity=0
        )
        assert_completed_in_the_end(stage, nat)
        report = probe.stop()
    assert_nothing_lost(report)
    assert stage.routed_to(OWN) == peer
