"""What `hanat watch` reads from IMDS and what it makes of it; and IMDS in bad weather."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tests.stages.kernel import nft
from tests.stages.stacks import HELD
from tests.stages.watching import BEGUN, LEADS_HERE_NO_MORE, NOTICES, Watching
from tests.world.weather import Body, ErrorReply, Hang, Reset

TARGET, SPOT, REBALANCE = NOTICES
TERMINATING = "the Auto Scaling group is terminating this instance"


@pytest.fixture
def stage(isolated, world):
    """With the terminating hook that the templates have."""
    with Watching(world, timeout=HELD) as stage:
        yield stage


def spot_notice(ahead: timedelta, action: str = "terminate") -> str:
    when = datetime.now(UTC) + ahead
    return json.dumps({"action": action, "time": when.strftime("%Y-%m-%dT%H:%M:%SZ")})


# --- What makes it leave --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ahead",
    [timedelta(minutes=2), timedelta(hours=-5), timedelta(hours=5)],
    ids=["two minutes", "past", "hours"],
)
def test_a_spot_notice_has_it_hand_over_at_once(stage, peer, ahead):
    """Whatever its clock says."""
    watch = stage.watch(drain_wait="1h")
    notice = spot_notice(ahead)
    stage.say(SPOT, notice)
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    stage.wait_looked()
    [said] = watch.said("Spot Instance")
    assert f"WARN EC2 will terminate this Spot Instance at {json.loads(notice)['time']}" in said
    assert watch.said("WARN") == [said]
    assert stage.nat.changes == {"ReplaceRoute": 1}, "and no hook is answered"


@pytest.mark.parametrize("action", ["stop", "hibernate"])
def test_a_spot_instance_that_is_stopped_leaves_too(stage, peer, action):
    watch = stage.watch(drain_wait="1h")
    stage.say(SPOT, spot_notice(timedelta(minutes=2), action))
    watch.wait_said(f"EC2 will {action} this Spot Instance")
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)


@pytest.mark.parametrize("time", ['"soon"', '"\\u001b[31m"', "5", "null"])
def test_a_spot_notice_with_an_odd_time_counts(stage, peer, time):
    """Nothing depends on that."""
    watch = stage.watch(drain_wait="1h")
    stage.say(SPOT, f'{{"action": "terminate", "time": {time}}}')
    assert watch.wait_said("Spot Instance").endswith("WARN EC2 will terminate this Spot Instance")
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)


def test_a_target_state_that_nobody_knows_is_no_notice(stage, peer):
    """AWS may invent more of them: the NAT begins, stays, and hears of everything else."""
    stage.say(TARGET, "Retired:Elsewhere")
    watch = stage.watch(drain_wait="0s", upkeep_interval="1s")
    nft(stage.vpc.instance(stage.nat.instance).place, "flush ruleset")
    watch.wait_said("put back: nftables table ip hanat created")
    assert watch.said("Retired") == []
    assert stage.nat.owns(stage.table)
    stage.world.reclaim_spot(stage.nat.instance)
    watch.wait_said(LEADS_HERE_NO_MORE)


def test_a_rebalance_recommendation_is_only_logged(stage, peer):
    watch = stage.watch(drain_wait="0s")
    stage.world.recommend_rebalance(stage.nat.instance)
    said = watch.wait_said("rebalance")
    stage.wait_looked()
    assert "WARN EC2 recommended at " in said
    assert said.endswith("to rebalance this Spot Instance; it stays (--drain-on-rebalance)")
    assert watch.said("rebalance") == [said]
    assert stage.nat.owns(stage.table)
    assert stage.nat.called.keys() <= BEGUN, "it looked at nothing more"


def test_a_rebalance_recommendation_has_it_leave_where_asked_to(stage, peer):
    watch = stage.watch(drain_wait="0s", drain_on_rebalance="")
    stage.world.recommend_rebalance(stage.nat.instance)
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    [said] = watch.said("rebalance")
    assert said.endswith("to rebalance this Spot Instance")
    assert stage.nat.changes == {"ReplaceRoute": 1}


def test_a_spot_notice_cuts_the_wait_for_a_replacement_short(stage, peer):
    watch = stage.watch(drain_wait="1h")
    stage.leave()
    watch.wait_said("terminating hook")
    stage.wait_looked()
    assert stage.nat.owns(stage.table)
    stage.world.reclaim_spot(stage.nat.instance)
    stage.world.wait_until(lambda: peer.owns(stage.table))
    stage.wait_completed()
    assert len(watch.said(TERMINATING)) == len(watch.said("Spot Instance")) == 1


def test_a_rebalance_recommendation_changes_nothing_for_one_that_leaves(stage, peer):
    watch = stage.watch()
    stage.world.reclaim_spot(stage.nat.instance)
    watch.wait_said(LEADS_HERE_NO_MORE)
    stage.world.recommend_rebalance(stage.nat.instance)
    assert watch.wait_said("rebalance").endswith("to rebalance this Spot Instance")


def test_each_notice_is_logged_once(stage, peer):
    """Although it is read again and again, and its text may change."""
    watch = stage.watch(drain_wait="1h")
    stage.world.recommend_rebalance(stage.nat.instance)
    watch.wait_said("rebalance")
    stage.world.calm()
    stage.say(REBALANCE, '{"noticeTime": "2020-10-27T08:22:00Z"}')
    stage.leave()
    watch.wait_said(TERMINATING)
    stage.wait_looked()
    assert len(watch.said("rebalance")) == len(watch.said(TERMINATING)) == 1


# --- How it asks ----------------------------------------------------------------------------------


def test_imds_is_read_with_few_tokens_and_no_more_often_than_said(stage, peer):
    """That none is read without a token, every test's world says."""
    stage.watch(interval="200ms")
    stage.wait_looked(10)
    asked = stage.world.imds_calls(stage.nat.instance)
    tokens = [call.at for call in asked if call.method == "PUT"]
    reads = [call.at for call in asked if call.path.endswith(SPOT)]
    assert len(tokens) <= 2, "one, and one for the credentials"
    assert len(reads) > 10
    assert all(after - before > 0.15 for before, after in pairwise(reads))


def test_a_token_that_is_refused_is_replaced(stage, peer):
    watch = stage.watch(drain_wait="0s")
    stage.wait_looked()
    stage.world.imds(stage.nat.instance).expire_tokens()
    stage.wait_looked()
    stage.leave()
    watch.wait_said(LEADS_HERE_NO_MORE)


# --- Bad weather ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effect",
    [ErrorReply(503, "Unavailable"), Hang(), Reset()],
    ids=["503", "hangs", "reset"],
)
def test_imds_is_gone_for_a_while(stage, peer, effect):
    """A notice that comes then is seen afterwards, a minute later by the group's clock."""
    watch = stage.watch(drain_wait="0s")
    rule = stage.imds_weather(effect)
    stage.leave()
    stage.world.wait_until(lambda: rule.fired >= 12, 30)
    stage.world.clock.advance(60)
    assert stage.nat.owns(stage.table)
    assert len(watch.said("IMDS: reading")) == 1, watch.log
    assert watch.said(TERMINATING) == []
    stage.world.calm()
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)
    stage.wait_completed()
    # An instance that ends has no IMDS any more, either.
    until_it_ends, *_ = watch.log.partition(LEADS_HERE_NO_MORE)
    assert until_it_ends.count("IMDS: reading") == 1
    assert stage.world.timeouts == []


def test_outside_a_group_each_outage_is_logged(stage, peer):
    """Where every answer of IMDS that works is that there is no notice."""
    stage.nat = stage.third
    stage.give(stage.table, stage.nat)
    watch = stage.watch()
    for outages in (1, 2):
        rule = stage.imds_weather(ErrorReply(503, "Unavailable"))
        stage.world.wait_until(lambda rule=rule: rule.fired >= 6, 30)
        assert len(watch.said("IMDS")) == outages, watch.log
        stage.world.calm()
        stage.wait_looked()
    stage.world.reclaim_spot(stage.nat.instance)
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert peer.owns(stage.table)


GARBAGE = {
    TARGET: ["terminated", ""],
    SPOT: [
        '{"action": "explode", "time": "2017-09-18T08:22:00Z"}',
        '{"time": "2017-09-18T08:22:00Z"}',
        "<html>Not now</html>",
    ],
    REBALANCE: ["[]", "\0\x1b[31m" + "x" * 100_000],
}


@pytest.mark.parametrize("path", GARBAGE)
def test_garbage_is_no_notice(stage, peer, path):
    watch = stage.watch(drain_wait="0s", drain_on_rebalance="")
    for n, garbage in enumerate(GARBAGE[path], 1):
        stage.say(path, garbage)
        watch.wait_said(path, n)
        stage.wait_looked()
        assert len(watch.said(path)) == n, "once"
        stage.world.calm()
        assert "INFO" in watch.wait_said("works again", n)
        stage.wait_looked()
    for said in watch.said(path):
        assert " WARN " in said
        assert len(said) < 500
        assert "\x1b" not in said
    assert stage.nat.owns(stage.table)
    assert stage.nat.called.keys() <= BEGUN


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        (SPOT, Body("garbage")),
        (REBALANCE, ErrorReply(503, "Unavailable")),
        (SPOT, Hang()),
        (TARGET, ErrorReply(503, "Unavailable")),
    ],
    ids=["garbage", "503", "hangs", "target"],
)
def test_trouble_with_one_notice_hides_no_other(stage, peer, path, effect):
    watch = stage.watch(drain_wait="0s")
    stage.imds_weather(effect, path)
    watch.wait_said(path)
    if path == TARGET:
        stage.world.reclaim_spot(stage.nat.instance)
    else:
        stage.leave()
    stage.world.wait_until(lambda: peer.owns(stage.table), 15)
    assert len(watch.said(path)) == 1, watch.log
