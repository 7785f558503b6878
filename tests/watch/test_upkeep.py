"""How `hanat watch` begins, what it does while nothing happens, what it puts back, and how it
ends."""

import json
import subprocess
from itertools import pairwise

import pytest

from tests.nat import binary_path
from tests.stages.kernel import handles, nft, own_table, ruleset
from tests.stages.watching import BEGUN, LEADS_HERE_NO_MORE, called, completed
from tests.world.weather import Body, ErrorReply, Hang

SECONDLY = {"upkeep_interval": "1s"}
STOPPED = "stopping (SIGTERM): the routes stay as they are"


@pytest.fixture
def claimed(stage):
    """The stage, with a NAT that forwards."""
    ran = stage.vpc.instance(stage.nat.instance).run("hanat", "claim")
    assert ran.returncode == 0, ran.stderr
    return stage


def place(stage):
    """The NAT's network namespace."""
    return stage.vpc.instance(stage.nat.instance).place


def sysctl(stage, setting: str) -> str:
    return place(stage).read_sysctl(setting.replace(".", "/"))


def upkeeps(stage) -> list[float]:
    return called(stage.world, stage.nat.instance, "DescribeNetworkInterfaces")


def wait_upkeep(stage, times: int = 2) -> None:
    """Until it looked so often from now on."""
    before = len(upkeeps(stage))
    stage.world.wait_until(lambda: len(upkeeps(stage)) >= before + times, 30)


# --- What it puts back ----------------------------------------------------------------------------


def test_what_somebody_undid_is_put_back(claimed):
    stage = claimed
    watch = stage.watch(**SECONDLY)
    masquerades = own_table(place(stage))

    nft(place(stage), "flush ruleset")
    said = watch.wait_said("put back: nftables table ip hanat created")
    assert " WARN " in said
    assert own_table(place(stage)) == masquerades

    place(stage).write_sysctl("net/ipv4/ip_forward", 0)
    said = watch.wait_said("put back: net.ipv4.ip_forward 0 → 1")
    assert " WARN " in said
    assert sysctl(stage, "net.ipv4.ip_forward") == "1"
    assert sysctl(stage, "net.ipv4.conf.ens5.forwarding") == "1"

    stage.check(stage.nat, on=True)
    said = watch.wait_said("put back: source/destination check")
    assert said.endswith(
        f" WARN put back: source/destination check of {stage.nat.interface} turned off"
    )
    assert not stage.vpc.picture.instances[stage.nat.instance].checked
    wait_upkeep(stage)
    lines = watch.said("put back")
    assert len([line for line in lines if "nftables" in line]) == 1
    assert len([line for line in lines if "source/destination" in line]) == 1
    assert len([line for line in lines if ".ip_forward" in line]) == 1


def test_nothing_is_done_where_nothing_was_undone(claimed):
    """What deserves a look is said once; and AWS is asked one question each time."""
    stage = claimed
    made, rules = handles(place(stage)), ruleset(place(stage))
    before = stage.nat.called
    watch = stage.watch(**SECONDLY)
    wait_upkeep(stage, 1)
    said = watch.log.splitlines()
    assert all("cannot be set from within a network namespace" in line for line in said[1:])
    wait_upkeep(stage, 4)
    assert watch.log.splitlines() == said
    assert handles(place(stage)) == made
    assert ruleset(place(stage)) == rules
    after = stage.nat.called
    asked = {name for name in after if after[name] != before.get(name, 0)}
    assert asked == {"DescribeNetworkInterfaces"} | BEGUN
    times = upkeeps(stage)[-4:]
    assert all(later - earlier > 0.9 for earlier, later in pairwise(times))


def test_a_firewall_that_may_drop_is_warned_of(claimed):
    """It does not keep its own rules away."""
    stage = claimed
    watch = stage.watch(**SECONDLY)
    masquerades = own_table(place(stage))
    nft(
        place(stage),
        "flush ruleset; table inet filter { chain forward { "
        "type filter hook forward priority 0; policy drop; limit rate 1000/second accept; }; }",
    )
    said = watch.wait_said("WARN forwarded packets may be dropped")
    assert "a limit in chain forward" in said
    assert len(watch.said("put back: nftables table ip hanat created")) == 1
    assert own_table(place(stage)) == masquerades
    wait_upkeep(stage)
    assert watch.said("forwarded packets") == [said]


def test_a_firewall_that_drops_does_not_keep_its_own_rules_away(claimed):
    """It is told of once, and when it is over."""
    stage = claimed
    watch = stage.watch(**SECONDLY)
    masquerades = own_table(place(stage))
    nft(
        place(stage),
        "flush ruleset; table inet filter { "
        "chain forward { type filter hook forward priority 0; policy drop; }; }",
    )
    said = watch.wait_said("WARN keeping the kernel a NAT: forwarded packets would be dropped")
    assert "chain forward of table inet filter has the policy drop" in said
    assert len(watch.said("put back: nftables table ip hanat created")) == 1
    assert own_table(place(stage)) == masquerades
    nft(place(stage), "delete table inet filter")
    watch.wait_said("keeping the kernel a NAT: works again")
    assert watch.said("WARN keeping") == [said]


def test_upkeep_in_bad_weather(claimed):
    """The kernel is kept although EC2 is down, and each is said once."""
    stage = claimed
    watch = stage.watch(**SECONDLY)
    stage.world.deny("DescribeNetworkInterfaces")
    said = watch.wait_said("WARN keeping the source/destination check off")
    assert "UnauthorizedOperation" in said
    nft(place(stage), "flush ruleset")
    watch.wait_said("put back: nftables table ip hanat created")
    stage.world.allow("DescribeNetworkInterfaces")
    watch.wait_said("keeping the source/destination check off: works again")
    assert watch.said("WARN keeping") == [said]
    # Which nobody but upkeep reads by now.
    imds = stage.imds_weather(ErrorReply(503, "Unavailable"), "mac")
    nft(place(stage), "flush ruleset")
    stage.world.wait_until(lambda: imds.fired > 0)
    assert len(watch.said("put back: nftables")) == 1
    stage.world.calm()
    watch.wait_said("put back: nftables", 2)


# --- How it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_stops_it_and_moves_nothing(stage, peer, signal):
    watch = stage.watch(drain_wait="0s")
    stage.wait_looked(1)
    assert watch.signal(signal) == 0
    assert watch.log.splitlines()[-1].endswith(STOPPED.replace("TERM", signal))
    assert stage.nat.owns(stage.table)
    assert stage.nat.called.keys() <= BEGUN


def test_sigterm_in_the_middle_of_leaving_and_another_start(stage, peer):
    """The hook still waits, and the next run goes on."""
    watch = stage.watch(drain_wait="1h")
    stage.leave()
    watch.wait_said("terminating hook")
    stage.world.wait_for("RecordLifecycleActionHeartbeat")
    assert watch.signal("TERM") == 0
    assert STOPPED in watch.log
    assert stage.nat.owns(stage.table)
    assert stage.nat.changes == {"RecordLifecycleActionHeartbeat": 1}
    assert stage.nat.state == "Terminating:Wait"
    stage.watch(drain_wait="0s")
    stage.wait_completed()
    assert peer.owns(stage.table)


def test_it_is_killed_in_the_middle_of_handing_over_and_started_again(stage, peer):
    watch = stage.watch(drain_wait="0s")
    stage.world.weather("ReplaceRoute", Hang())
    stage.leave()
    stage.world.wait_for("ReplaceRoute", timeout=30)
    assert watch.signal("KILL") != 0
    stage.world.calm()
    assert stage.nat.owns(stage.table)
    stage.watch(drain_wait="0s")
    stage.wait_completed()
    assert peer.owns(stage.table)
    assert len(completed(stage.world, stage.nat.instance)) == 1


def test_sigterm_while_a_route_is_being_changed(stage, peer):
    """It stops at once, and what was not done is not done."""
    watch = stage.watch(drain_wait="0s")
    stage.world.weather("ReplaceRoute", Hang())
    stage.leave()
    stage.world.wait_for("ReplaceRoute", timeout=30)
    assert watch.signal("TERM") == 0
    assert stage.nat.owns(stage.table)
    assert completed(stage.world, stage.nat.instance) == []


# --- How it begins --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["instance-id", "mac", "network/interfaces/macs/*/interface-id"])
def test_it_begins_once_imds_says_who_it_is(stage, peer, path):
    """It does not end for that, and says it once."""
    stage.imds_weather(Body("not ready"), path)
    watch = stage.start()
    said = watch.wait_said("beginning to watch: reading ")
    assert " WARN " in said
    assert "not ready" in said
    stage.world.calm()
    stage.leave()
    watch.wait_said("beginning to watch: works again")
    watch.wait_said(LEADS_HERE_NO_MORE)
    assert watch.said("WARN beginning") == [said]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--interval", "1ms"], "--interval 1ms"),
        (["--interval", "11s"], "--interval 11s"),
        (["--upkeep-interval", "0s"], "--upkeep-interval 0s"),
        (["--drain-wait", "soon"], "--drain-wait"),
        (["--drain-wait", "3days"], "--drain-wait 3days"),
        (["--linger", "1h"], "--linger 1h"),
        (["--owner-tag", ""], "--owner-tag"),
        (["--no-kernel", "--source", "10.0.0.0/8"], "--no-kernel"),
        (["--deadline", "0s"], "--deadline 0s"),
        (["--probe-url", "ftp://example.com/"], "--probe-url"),
        (["--dry-run"], "--dry-run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage(flags, named):
    ran = subprocess.run([binary_path(), "watch", *flags], capture_output=True, text=True)
    assert ran.returncode == 2, ran
    assert named in ran.stderr


def test_the_log_for_programs(stage, peer):
    watch = stage.watch(log_format="json", drain_wait="0s", linger="0s")
    stage.world.reclaim_spot(stage.nat.instance)
    watch.wait_said(LEADS_HERE_NO_MORE)
    lines = [json.loads(line) for line in watch.log.splitlines()]
    assert {line["level"] for line in lines} == {"INFO", "WARN"}
