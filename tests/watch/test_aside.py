"""A NAT under `hanat watch` that its group takes out of service and puts back: Standby, detached,
and warm pools, of which those that run or hibernate do not boot when they are drawn."""

import pytest

from tests.stages.handover import OTHER, OWN
from tests.stages.kernel import nft
from tests.stages.watching import (
    AWAITS_SERVICE,
    BEGUN,
    LEADS_HERE_NO_MORE,
    NOTICES,
    TERMINATING_HOOK,
    called,
    completed,
    group,
)
from tests.world.scene import HOOK
from tests.world.weather import Body, ErrorReply, Hang

TARGET = NOTICES[0]
CLAIMING = "comes into service: claiming"
DONE = " INFO done: "


# --- Out of service and back ----------------------------------------------------------------------


def test_in_standby_it_hands_over_at_once_and_claims_once_it_is_back(stage, peer):
    watch = stage.watch(drain_wait="1h")
    stage.enter_standby()
    assert "this instance is in Standby" in watch.wait_said(AWAITS_SERVICE)
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    stage.wait_looked()
    assert stage.nat.changes == {"ReplaceRoute": 1}, "and no hook is answered"
    stage.exit_standby()
    watch.wait_said(DONE)
    assert stage.nat.owns(stage.table)
    assert stage.nat.state == "InService"
    stage.wait_looked()
    assert stage.nat.changes == {"ReplaceRoute": 3}, "the peer's is for any zone"


def test_detached_it_hands_over_at_once(stage, peer):
    watch = stage.watch(drain_wait="1h")
    stage.detach()
    assert "detached from its Auto Scaling group" in watch.wait_said(AWAITS_SERVICE)
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    stage.wait_looked()
    assert stage.nat.changes == {"ReplaceRoute": 1}


def test_what_comes_to_lead_to_it_in_standby_goes_too(stage, peer):
    """However often, and the watch of another time goes on with it."""
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert watch.signal("TERM") == 0
    [late] = stage.scene.add_tables(1, default=stage.nat.interface)
    watch = stage.watch()
    stage.world.wait_until(lambda: peer.owns(late), 30)


def test_in_standby_with_nobody_to_hand_over_to_it_serves_until_somebody_comes(stage):
    watch = stage.watch()
    stage.enter_standby()
    assert " WARN leaving: " in watch.wait_said("there is no other NAT instance")
    stage.wait_looked()
    assert stage.nat.owns(stage.table)
    peer = stage.peer(OTHER)
    stage.world.wait_until(lambda: peer.owns(stage.table), 30)


def test_back_in_service_before_anybody_came_it_keeps_its_tables(stage):
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said("there is no other NAT instance")
    stage.exit_standby()
    watch.wait_said("nothing to do: 1 of 1 route tables lead here already")
    peer = stage.peer(OTHER)
    stage.wait_looked()
    assert stage.nat.owns(stage.table), "it does not leave any more"
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)


def test_in_standby_it_gets_nothing_from_others(stage, peer):
    """It is no candidate of a NAT that leaves, though it answers and forwards."""
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    watch.signal("TERM")
    stage.scene.add_tables(1, default=stage.nat.interface)
    ran = stage.vpc.instance(peer.instance).run("hanat", "drain")
    assert ran.returncode == 1
    assert f"{stage.nat.instance}/{stage.nat.interface}: its group has it in Standby" in ran.stderr


def test_it_is_terminated_in_standby(stage, peer):
    watch = stage.watch(drain_wait="1h")
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    stage.world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=stage.nat.instance, ShouldDecrementDesiredCapacity=False
    )
    stage.wait_completed()
    assert completed(stage.world, stage.nat.instance) == [(TERMINATING_HOOK, "CONTINUE")]


def test_a_spot_notice_outweighs_that_it_is_back_in_service(stage, peer):
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    stage.world.reclaim_spot(stage.nat.instance)
    watch.wait_said("Spot Instance")
    stage.exit_standby()
    stage.wait_looked()
    assert peer.owns(stage.table)
    assert watch.said(CLAIMING) == []


# --- What is no reason to claim -------------------------------------------------------------------


def test_a_watch_that_begins_in_service_claims_nothing(stage, peer):
    """That is for the boot."""
    stage.give(stage.table, peer)
    watch = stage.watch()
    stage.wait_looked()
    assert watch.said(CLAIMING) == []
    assert stage.nat.called.keys() <= BEGUN


@pytest.mark.parametrize(
    "answer",
    [Body("Not Found", 404), Body("Retired:Elsewhere"), ErrorReply(503, "Unavailable")],
    ids=["no target", "nobody knows it", "503"],
)
def test_a_target_that_says_nothing_puts_nobody_back_into_service(stage, peer, answer):
    watch = stage.watch()
    stage.detach()
    watch.wait_said(LEADS_HERE_NO_MORE)
    rule = stage.imds_weather(answer, TARGET)
    stage.world.wait_until(lambda: rule.fired >= 3, 30)
    assert watch.said(CLAIMING) == []
    assert peer.owns(stage.table)


def test_the_groups_word_counts_more_than_that_of_imds(stage, peer):
    """Which may be ahead of it: the claim is tried again until both agree."""
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    stage.say(TARGET, "InService")
    watch.wait_said("in Standby: nothing is claimed")
    assert peer.owns(stage.table)
    stage.exit_standby()
    watch.wait_said(DONE)
    assert stage.nat.owns(stage.table)


# --- The claim ------------------------------------------------------------------------------------


def test_a_claim_that_fails_is_tried_again(stage, peer):
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    [refused] = stage.scene.add_tables(1, default="igw")
    stage.world.deny("ReplaceRoute")
    stage.exit_standby()
    said = watch.wait_said("WARN claiming: ")
    assert "UnauthorizedOperation" in said
    stage.world.allow("ReplaceRoute")
    stage.world.wait_until(lambda: stage.nat.owns(stage.table), 60)
    assert watch.said("WARN claiming: ") == [said]
    assert stage.nat.route(refused).target == stage.scene.internet_gateway


def test_an_end_in_the_middle_of_a_claim_ends_that_too(stage, peer):
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    [late] = stage.scene.add_tables(1)
    rule = stage.world.weather("ReplaceRoute", Hang(), match={"RouteTableId": stage.table})
    stage.exit_standby()
    stage.world.wait_until(lambda: rule.fired > 0 and stage.nat.owns(late), 30)
    stage.leave()
    stage.world.calm()
    stage.wait_completed()
    assert peer.owns(late)
    assert peer.owns(stage.table)


def test_a_signal_in_the_middle_of_a_claim_stops_the_watch(stage, peer):
    watch = stage.watch()
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    rule = stage.world.weather("ReplaceRoute", Hang())
    stage.exit_standby()
    stage.world.wait_until(lambda: rule.fired > 0, 30)
    assert watch.signal("TERM") == 0
    assert "stopping (SIGTERM)" in watch.log


def test_it_claims_as_it_is_told_to(stage, peer):
    """The settings of `hanat claim` are those of the watch."""
    watch = stage.watch(probe_url="http://127.0.0.1:9/", deadline="4s")
    stage.enter_standby()
    watch.wait_said(LEADS_HERE_NO_MORE)
    stage.exit_standby()
    assert "127.0.0.1:9" in watch.wait_said("WARN claiming: ")
    assert peer.owns(stage.table)


# --- Warm pools -----------------------------------------------------------------------------------


def ready(stage, state: str):
    """A warm NAT that has booted, and its watch; what it would have from a boot it has not."""
    warm = stage.put_pool(state)
    nft(stage.vpc.instance(warm.instance).place, "flush ruleset")
    stage.check(warm, on=True)
    return warm


@group(hook=True)
def test_drawn_from_a_running_warm_pool_it_claims_and_comes_into_service(stage):
    old = stage.nat
    warm = ready(stage, "Running")
    watch = stage.watch(upkeep_interval="1h")
    assert "in the warm pool" in watch.wait_said(AWAITS_SERVICE)
    stage.complete(HOOK)
    stage.world.wait_until(lambda: warm.state == "Warmed:Running")
    stage.wait_looked()
    assert watch.said(CLAIMING) == []
    assert old.owns(stage.table)
    stage.world.ec2.terminate_instances(InstanceIds=[old.instance])
    watch.wait_said(DONE)
    assert warm.owns(stage.table)
    assert warm.state == "InService"
    assert warm.answers == ["CONTINUE", "CONTINUE"], "into the pool, and out of it"
    assert stage.world.timeouts == []


@group(hook=True)
def test_drawn_from_a_warm_pool_and_not_able_to_forward_it_is_given_up(stage):
    """As it would be at boot."""
    old = stage.nat
    warm = ready(stage, "Running")
    watch = stage.watch(deadline="4s", upkeep_interval="1h")
    stage.complete(HOOK)
    stage.world.deny("ModifyNetworkInterfaceAttribute")
    stage.world.ec2.terminate_instances(InstanceIds=[old.instance])
    said = watch.wait_said("giving the launch up")
    assert "UnauthorizedOperation" in said
    stage.world.wait_until(lambda: warm.answers == ["CONTINUE", "ABANDON"], 30)
    assert called(stage.world, warm.instance, "ReplaceRoute") == []


@group(hook=True)
def test_a_watch_that_is_restarted_before_it_has_claimed_goes_on_with_that(stage):
    """The launching hook waits for it."""
    old = stage.nat
    warm = ready(stage, "Running")
    watch = stage.watch(upkeep_interval="1h")
    watch.wait_said(AWAITS_SERVICE)
    stage.complete(HOOK)
    rule = stage.world.weather("ReplaceRoute", Hang())
    stage.world.ec2.terminate_instances(InstanceIds=[old.instance])
    stage.world.wait_until(lambda: rule.fired > 0, 30)
    watch.signal("KILL")
    stage.world.calm()
    stage.watch(upkeep_interval="1h")
    stage.world.wait_until(lambda: warm.state == "InService", 30)
    assert warm.owns(stage.table)


@group(hook=True)
def test_drawn_and_terminated_before_it_could_claim(stage, peer):
    """The hook that ends it is answered, and nothing leads to it."""
    old = stage.nat
    warm = ready(stage, "Running")
    watch = stage.watch(upkeep_interval="1h")
    stage.complete(HOOK)
    hangs = stage.world.weather("DescribeRouteTables", Hang())
    stage.world.ec2.terminate_instances(InstanceIds=[old.instance])
    watch.wait_said(CLAIMING)
    stage.world.wait_until(lambda: hangs.fired > 0, 30)
    stage.world.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=warm.instance, ShouldDecrementDesiredCapacity=False
    )
    stage.world.calm()
    stage.wait_completed()
    assert called(stage.world, warm.instance, "ReplaceRoute") == []


def test_an_instance_that_is_drawn_as_its_watch_begins(stage):
    """Whoever asked IMDS heard of the pool once, and of service from then on."""
    rule = stage.imds_weather(Body("Warmed:Running"), TARGET, times=1)
    watch = stage.watch()
    watch.wait_said(CLAIMING)
    assert rule.spent()


def test_an_instance_in_service_that_goes_back_to_the_pool(stage, peer):
    """As a scale-in does where the pool takes its instances back."""
    stage.world.autoscaling.put_warm_pool(
        AutoScalingGroupName=stage.scene.groups[OWN], MinSize=0, PoolState="Running"
    )
    watch = stage.watch()
    stage.say(TARGET, "Warmed:Running")
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
