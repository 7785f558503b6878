"""The terminating hook under `hanat watch`: which one is kept and completed, and what happens when
it cannot be, or when nobody takes the routes."""

import time

import pytest

from tests.stages.handover import OWN
from tests.stages.watching import LEADS_HERE_NO_MORE, TERMINATING_HOOK, called, completed, group
from tests.world.weather import ErrorReply, Hang, Replace, Trickle

HEARTBEAT = "RecordLifecycleActionHeartbeat"
OURS = (TERMINATING_HOOK, "CONTINUE")
PATIENT = {"drain_wait": "1h"}


# --- Which one ------------------------------------------------------------------------------------


def test_several_hooks_need_a_name(stage, peer):
    stage.add_hook("inventory")
    watch = stage.watch(**PATIENT)
    stage.leave()
    said = watch.wait_said("--terminating-hook")
    assert " WARN " in said
    assert TERMINATING_HOOK in said
    assert "inventory" in said
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table), "at once, for nobody keeps a hook waiting"
    assert watch.said("--terminating-hook") == [said]
    assert completed(stage.world, stage.nat.instance) == []
    assert stage.nat.changes == {"ReplaceRoute": 1}


def test_the_named_hook_is_completed_and_no_other(stage, peer):
    stage.add_hook("inventory")
    watch = stage.watch(drain_wait="0s", terminating_hook=TERMINATING_HOOK)
    stage.leave()
    watch.wait_said(f"lifecycle hook {TERMINATING_HOOK} completed with CONTINUE")
    assert completed(stage.world, stage.nat.instance) == [OURS]
    assert stage.nat.state == "Terminating:Wait", "the other hook still waits"
    kept = [call.params["LifecycleHookName"] for call in stage.world.calls(HEARTBEAT)]
    assert set(kept) == {TERMINATING_HOOK}
    assert watch.said("WARN") == []


def test_a_name_that_the_group_does_not_have(stage, peer):
    watch = stage.watch(drain_wait="0s", terminating_hook="typo")
    stage.leave()
    said = watch.wait_said('"typo"')
    assert " WARN " in said
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    assert watch.said("typo") == [said]


@group(terminating_hook=False)
def test_no_hook_holds_it(stage, peer):
    """It hands over at once: it may end any moment."""
    watch = stage.watch(**PATIENT)
    stage.world.set_lifecycle_state(stage.nat.instance, "Terminating")
    said = watch.wait_said("no terminating hook holds this instance")
    assert " WARN " in said
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    assert stage.nat.changes == {"ReplaceRoute": 1}


@group(timeout=30)
def test_somebody_else_completes_it(stage, peer):
    """Which another one's hook lets it live to see."""
    stage.add_hook("inventory")
    watch = stage.watch(**PATIENT, terminating_hook=TERMINATING_HOOK)
    stage.leave()
    stage.world.wait_for(HEARTBEAT, timeout=30)
    stage.complete(TERMINATING_HOOK)
    said = watch.wait_said("waits no longer: somebody else completed it", timeout=40)
    assert " WARN " in said
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    stage.wait_looked()
    assert stage.nat.changes.keys() == {HEARTBEAT, "ReplaceRoute"}, "there is nothing to complete"


def test_a_table_that_comes_to_lead_here_later_holds_the_hook(stage, peer):
    """What was found before the group terminates the instance does not count."""
    stage.world.reclaim_spot(stage.nat.instance)
    watch = stage.watch(linger="2s")
    watch.wait_said(LEADS_HERE_NO_MORE)
    [late] = stage.scene.add_tables(1, default=stage.nat.interface)
    stage.leave()
    stage.wait_completed()
    assert peer.owns(late), watch.log
    [*_, moved] = called(stage.world, stage.nat.instance, "ReplaceRoute")
    [ended] = called(stage.world, stage.nat.instance, "CompleteLifecycleAction")
    assert ended > moved + 1.5, "the time to linger begins anew"


def test_a_table_that_comes_back_and_cannot_go_holds_the_hook(stage, peer):
    """After the NAT had left, and while nobody could tell which hook holds it."""
    stage.world.deny("DescribeLifecycleHooks")
    watch = stage.watch()
    stage.leave()
    watch.wait_said(LEADS_HERE_NO_MORE)
    stage.give(stage.table, stage.nat)
    watch.wait_said("it is leaving, too")
    stage.world.allow("DescribeLifecycleHooks")
    stage.world.wait_for(HEARTBEAT, timeout=30)
    stage.wait_looked(20)
    assert completed(stage.world, stage.nat.instance) == []
    replacement = stage.replacement()
    stage.give(stage.table, replacement)
    stage.wait_completed()
    assert replacement.owns(stage.table)


@group(timeout=30)
def test_a_table_that_comes_before_the_hook_could_be_answered_holds_it(stage, peer):
    """While nobody can see that it did."""
    stage.world.deny("CompleteLifecycleAction")
    watch = stage.watch(linger="0s")
    stage.leave()
    watch.wait_said("WARN answering the terminating hook")
    stage.world.weather("DescribeRouteTables", Hang())
    [late] = stage.scene.add_tables(1, default=stage.nat.interface)
    stage.world.allow("CompleteLifecycleAction")
    beats = len(stage.world.calls(HEARTBEAT))
    stage.world.wait_for(HEARTBEAT, beats + 2, timeout=30)
    assert stage.world.completions == []
    stage.world.calm()
    stage.wait_completed()
    assert peer.owns(late)


def test_the_group_takes_its_time_until_the_hook_waits(stage, peer):
    """As one behind a load balancer does. It is no reason to hurry."""
    watch = stage.watch(**PATIENT)
    stage.world.set_lifecycle_state(stage.nat.instance, "Terminating")
    watch.wait_said("a replacement has 1h at most")
    # Longer than Auto Scaling has for an answer.
    time.sleep(12)
    assert stage.nat.owns(stage.table)
    assert watch.said("WARN") == []
    stage.world.set_lifecycle_state(stage.nat.instance, "InService")
    stage.leave()
    stage.world.wait_for(HEARTBEAT, timeout=30)
    stage.give(stage.table, stage.replacement())
    stage.wait_completed()


def test_in_the_warm_pool(stage):
    """A hook holds its instances, too. They have no routes."""
    warm = stage.put_pool("Running")
    assert warm.state == "Warmed:Running"
    watch = stage.watch()
    stage.world.autoscaling.delete_warm_pool(
        AutoScalingGroupName=stage.scene.groups[OWN], ForceDelete=False
    )
    stage.wait_completed()
    assert watch.said("WARN") == []


# --- Nobody to hand over to -----------------------------------------------------------------------


@group(timeout=30)
def test_nobody_is_there_until_somebody_comes(stage):
    """It stays, keeps its hook, and says so once."""
    watch = stage.watch(drain_wait="0s")
    stage.leave()
    said = watch.wait_said("there is no other NAT instance")
    assert " WARN leaving: " in said
    assert said.endswith("there is no other NAT instance with a route and no standby NAT gateway")
    stage.world.wait_for(HEARTBEAT, 2, timeout=40)
    assert watch.said("there is no other NAT instance") == [said]
    assert stage.nat.owns(stage.table)
    assert stage.nat.changes.keys() == {HEARTBEAT}
    replacement = stage.replacement()
    stage.scene.add_tables(1, default=replacement.interface)
    watch.wait_said("leaving: works again")
    stage.wait_completed()
    assert replacement.owns(stage.table)


def test_nobody_is_there_after_ec2_failed(stage):
    """One trouble does not hide the other in the log."""
    stage.world.weather("DescribeRouteTables", ErrorReply(403, "UnauthorizedOperation"), times=1)
    watch = stage.watch()
    stage.leave()
    watch.wait_said("UnauthorizedOperation")
    watch.wait_said("works again")
    assert " WARN " in watch.wait_said("there is no other NAT instance")


def test_a_replacement_that_takes_the_table_ends_the_wait(stage):
    watch = stage.watch(drain_wait="0s")
    stage.leave()
    watch.wait_said("there is no other NAT instance")
    replacement = stage.replacement()
    stage.give(stage.table, replacement)
    stage.wait_completed()
    assert replacement.owns(stage.table)
    assert called(stage.world, stage.nat.instance, "ReplaceRoute") == []


# --- Nobody is wanted -----------------------------------------------------------------------------

WANTED = "asking whether the group wants a NAT"


def assert_given_up(stage, watch):
    """It leaves although clients count on it, and says so."""
    stage.wait_completed()
    [said] = watch.said("wants no instance any more")
    assert " WARN " in said
    assert stage.table in said
    assert said.endswith("lose their way out")
    assert called(stage.world, stage.nat.instance, "ReplaceRoute") == []
    assert completed(stage.world, stage.nat.instance) == [OURS]


def test_a_group_that_is_to_be_empty_is_not_held_up(stage):
    """As CloudFormation empties it before it deletes it."""
    watch = stage.watch(drain_wait="2s")
    stage.scale_in()
    watch.wait_said("a replacement has 2s at most")
    assert completed(stage.world, stage.nat.instance) == []
    assert_given_up(stage, watch)


def test_a_group_that_is_deleted_is_not_held_up(stage):
    """Whatever it was to hold before."""
    stage.world.wait_for_hooks_when_deleted(True)
    watch = stage.watch()
    group = stage.scene.groups[OWN]
    stage.world.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=group, ForceDelete=True)
    assert_given_up(stage, watch)
    stage.world.wait_until(lambda: stage.world.lifecycles() == {})


def test_of_a_group_that_is_to_be_empty_others_get_the_tables_all_the_same(stage, peer):
    watch = stage.watch()
    stage.scale_in()
    stage.wait_completed()
    assert peer.owns(stage.table)
    assert watch.said("wants no instance") == []
    assert stage.world.calls("DescribeAutoScalingGroups") == []


@group(timeout=30)
@pytest.mark.parametrize(
    "effect",
    [
        None,
        ErrorReply(403, "AccessDenied"),
        Hang(),
        Replace("<DescribeAutoScalingGroupsResponse/>"),
        Replace(
            '<DescribeAutoScalingGroupsResponse xmlns="http://autoscaling.amazonaws.com/doc/'
            '2011-01-01/"><DescribeAutoScalingGroupsResult><AutoScalingGroups><member>'
            "<AutoScalingGroupName>another</AutoScalingGroupName><DesiredCapacity>0"
            "</DesiredCapacity></member></AutoScalingGroups></DescribeAutoScalingGroupsResult>"
            "</DescribeAutoScalingGroupsResponse>"
        ),
    ],
    ids=["one is wanted", "denied", "no answer", "nothing", "another"],
)
def test_a_group_that_wants_one_or_does_not_say_is_waited_for(stage, effect):
    """The clients' way out is kept for as long as the hook allows."""
    if effect:
        stage.world.weather("DescribeAutoScalingGroups", effect)
    watch = stage.watch()
    stage.leave()
    if effect:
        watch.wait_said(f"WARN {WANTED}")
    asked = len(stage.world.calls("DescribeAutoScalingGroups"))
    stage.world.wait_for("DescribeAutoScalingGroups", asked + 2, timeout=60)
    assert stage.nat.owns(stage.table)
    assert completed(stage.world, stage.nat.instance) == []
    assert len(watch.said(f"WARN {WANTED}")) == (1 if effect else 0)
    assert watch.said("wants no instance") == []


def test_a_group_that_wants_nobody_after_all(stage):
    """The stack is deleted while its NAT waits for a replacement that does not come."""
    watch = stage.watch()
    stage.leave()
    watch.wait_said("there is no other NAT instance")
    stage.wait_looked()
    assert completed(stage.world, stage.nat.instance) == []
    stage.scale_in()
    assert_given_up(stage, watch)


# --- It cannot be kept ----------------------------------------------------------------------------


@group(timeout=30)
@pytest.mark.parametrize(
    ("effect", "why"),
    [(ErrorReply(400, "AccessDenied"), "AccessDenied"), (Hang(), HEARTBEAT)],
    ids=["denied", "no answer"],
)
def test_heartbeats_fail(stage, peer, effect, why):
    """So it hands over before the hook's first time is up, and does not wait as long as asked."""
    stage.world.weather(HEARTBEAT, effect)
    watch = stage.watch(**PATIENT)
    stage.leave()
    said = watch.wait_said("heartbeat of the terminating hook", timeout=20)
    assert " WARN " in said
    assert why in said
    stage.wait_looked()
    assert stage.nat.owns(stage.table), "half of the time is for a replacement"
    stage.world.wait_until(lambda: peer.owns(stage.table), 30)
    stage.wait_completed()
    assert watch.said("heartbeat of the terminating hook") == [said]
    assert stage.world.timeouts == []


@group(timeout=30)
def test_the_last_moment(stage):
    """Nobody takes the routes, and the hook cannot be kept: it is completed all the same, because
    of what Auto Scaling would make of its time-out."""
    stage.world.deny(HEARTBEAT)
    watch = stage.watch(**PATIENT)
    stage.leave()
    said = watch.wait_said(f"the time of terminating hook {TERMINATING_HOOK} is up", timeout=60)
    assert " ERROR " in said
    assert "route tables may still lead here" in said
    stage.wait_completed()
    assert stage.world.timeouts == []
    assert len(watch.said("there is no other NAT instance")) == 1


@group(timeout=30)
def test_auto_scaling_tells_nothing_of_the_hook(stage, peer):
    """How long it waits is not known then, so it hands over at once."""
    stage.world.deny("DescribeLifecycleHooks")
    watch = stage.watch(**PATIENT)
    stage.leave()
    said = watch.wait_said("keeping the terminating hook")
    assert " WARN " in said
    assert "AccessDenied" in said
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    stage.world.allow("DescribeLifecycleHooks")
    stage.wait_completed()
    assert watch.said("WARN") == [said]


def test_a_heartbeat_without_an_answer_delays_nothing(stage):
    hangs = stage.world.weather(HEARTBEAT, Hang())
    stage.watch(**PATIENT)
    stage.leave()
    stage.world.wait_until(lambda: hangs.fired > 0, 30)
    replacement = stage.replacement()
    stage.give(stage.table, replacement)
    stage.wait_completed()
    assert replacement.owns(stage.table)


@group(timeout=30)
def test_its_clock_is_wrong_for_a_while(stage, peer):
    """AWS takes no request whose signature was made at another time than its own; what it is signed
    with is all that the clock's time is used for."""
    watch = stage.watch()
    stage.world.wait_until(lambda: stage.world.calls("DescribeAutoScalingInstances"), 30)
    refused = "Signature expired: 20200101T000000Z is now earlier than 20261123T000000Z"
    rules = [
        stage.world.weather("*", ErrorReply(status, code, refused), service=service)
        for service, status, code in (
            ("ec2", 400, "RequestExpired"),
            ("autoscaling", 403, "SignatureDoesNotMatch"),
        )
    ]
    stage.leave()
    stage.world.wait_until(lambda: all(rule.fired > 2 for rule in rules), 30)
    assert stage.nat.owns(stage.table)
    assert len(watch.said("WARN")) == 2, "one of each"
    stage.world.calm()
    stage.wait_completed()
    assert peer.owns(stage.table)


# --- Others are at work ---------------------------------------------------------------------------


def test_a_table_that_a_person_turns_elsewhere_is_left_alone(stage, peer):
    """While it waits for the replacement, and in the middle of handing over."""
    [waited, moved] = stage.scene.add_tables(2, default=stage.nat.interface)
    watch = stage.watch(drain_wait="3s")
    stage.leave()
    watch.wait_said("terminating hook")
    stage.give(waited, stage.third)
    looks_again = {"Filter.1.Name": "route-table-id", "Filter.1.Value.1": moved}
    rule = stage.world.weather("DescribeRouteTables", Hang(), match=looks_again)
    stage.world.wait_until(lambda: rule.fired > 0, 30)
    stage.give(moved, stage.third)
    stage.world.calm()
    stage.wait_completed()
    assert stage.third.owns(waited)
    assert stage.third.owns(moved)
    assert len(watch.said(f"{moved} was taken by somebody else")) == 1
    changed = [call.params["RouteTableId"] for call in stage.world.calls("ReplaceRoute")]
    assert changed == [stage.table]


@pytest.mark.parametrize("seconds", [4, 10], ids=["4 s", "10 s"])
def test_it_stands_still_between_reading_and_changing(stage, peer, seconds):
    """It comes back with an answer that the table still leads here, in time for that call or too
    late for it."""
    watch = stage.watch()
    looks_again = {"Filter.1.Name": "route-table-id", "Filter.1.Value.1": stage.table}
    slow = Trickle(1000.0)
    rule = stage.world.weather("DescribeRouteTables", slow, match=looks_again, times=1)
    stage.leave()
    stage.world.wait_until(lambda: rule.fired > 0, 30)
    # What comes meanwhile waits for it; its network goes on.
    nat = stage.vpc.instance(stage.nat.instance)
    nat.freeze()
    replacement = stage.replacement()
    stage.give(stage.table, replacement)
    time.sleep(seconds)
    nat.thaw()
    stage.wait_completed()
    assert replacement.owns(stage.table), watch.log
    assert called(stage.world, stage.nat.instance, "ReplaceRoute") == []


def test_it_stands_still_in_the_middle_of_handing_over(stage, peer):
    """What somebody took meanwhile is theirs."""
    stage.watch(drain_wait="0s")
    looks_for_others = stage.world.weather("DescribeNatGateways", Hang())
    stage.leave()
    stage.world.wait_until(lambda: looks_for_others.fired > 0, 30)
    stage.vpc.freeze(stage.nat.instance)
    replacement = stage.replacement()
    stage.give(stage.table, replacement)
    stage.world.calm()
    # So long it stands still.
    time.sleep(2)
    stage.vpc.thaw(stage.nat.instance)
    stage.wait_completed()
    assert replacement.owns(stage.table)
    assert called(stage.world, stage.nat.instance, "ReplaceRoute") == []
