"""EC2 and Auto Scaling in bad weather: every call of the run in turn, passing trouble and
trouble that lasts, denials, stale reads."""

import signal

import pytest

from tests.nat import Nat
from tests.world.scene import HOOK, ZONES
from tests.world.weather import (
    Body,
    ErrorReply,
    Hang,
    Latency,
    Replace,
    Reset,
    ResetAfter,
    Rule,
    ShortBody,
    Throttle,
    Truncate,
)

OWN, OTHER = ZONES

# Every call of a run that creates one route and replaces another: the action, which of its
# occurrences, and the parameters that tell it from others.
CALLS = {
    "group": ("DescribeAutoScalingInstances", 0, None),
    "hooks": ("DescribeLifecycleHooks", 0, None),
    "tagged tables": ("DescribeRouteTables", 0, {"Filter.1.Name": "vpc-id"}),
    "own subnet's table": ("DescribeRouteTables", 0, {"Filter.1.Name": "association.subnet-id"}),
    "interface": ("DescribeNetworkInterfaces", 0, None),
    "check off": ("ModifyNetworkInterfaceAttribute", 0, None),
    "create": ("CreateRoute", 0, None),
    "replace": ("ReplaceRoute", 0, None),
    "read back tables": ("DescribeRouteTables", 1, {"Filter.1.Name": "vpc-id"}),
    "read back interface": ("DescribeNetworkInterfaces", 1, None),
    "complete": ("CompleteLifecycleAction", 0, None),
}

PASSING = {
    "throttled": (Throttle(), 3),
    "500": (ErrorReply(500, "InternalError"), 2),
    "503": (ErrorReply(503, "Unavailable"), 2),
    "reset": (Reset(), 2),
    "reset after the effect": (ResetAfter(), 1),
    "hangs past the attempt's timeout": (Hang(), 1),
    "truncated": (Truncate(), 2),
    "breaks off": (ShortBody(), 2),
    "not XML": (Replace("<html>Service Unavailable</html>", 503), 2),
}


@pytest.fixture
def replacing(nat) -> Nat:
    """A NAT that has one route to create (its zone's) and one to replace."""
    peer = Nat(nat.scene, nat.scene.launch_group(OTHER))
    nat.scene.add_tables(1, default=peer.interface)
    return nat


@pytest.mark.parametrize("trouble", PASSING)
@pytest.mark.parametrize("call", CALLS)
def test_passing_trouble_at_every_call(replacing, call, trouble):
    action, skip, match = CALLS[call]
    effect, times = PASSING[trouble]
    rule = replacing.world.weather(action, effect, times=times, skip=skip, match=match)

    ran = replacing.claim("--output", "json")

    assert ran.code == 0, ran
    assert rule.fired == times, "the trouble did not happen"
    assert [row["result"] for row in ran.json["tables"]] == ["claimed", "claimed"]
    assert all(replacing.owns(row["route_table_id"]) for row in ran.json["tables"])
    assert replacing.answers == ["CONTINUE"]
    assert replacing.state == "InService"


# Such as leave the route alone: an answer that breaks off comes after the effect.
LASTING = {
    "throttled": (Throttle(), "RequestLimitExceeded"),
    "503": (ErrorReply(503, "Unavailable", "Try later."), "Unavailable: Try later."),
    "reset": (Reset(), "reset"),
    "hangs": (Hang(), "time"),
    "not XML": (Replace("<html>No.</html>", 503), "503"),
}


@pytest.mark.parametrize("trouble", LASTING)
@pytest.mark.parametrize(
    "action",
    [
        "DescribeRouteTables",
        "DescribeNetworkInterfaces",
        "ModifyNetworkInterfaceAttribute",
        "CreateRoute",
    ],
)
def test_lasting_trouble_ends_with_the_deadline_and_its_cause(nat, action, trouble):
    effect, cause = LASTING[trouble]
    nat.world.weather(action, effect)

    ran = nat.claim("--deadline", "8s")

    assert ran.code == 1, ran
    assert ran.error.startswith("the time is up: ")
    assert action in ran.error
    assert cause in ran.error
    assert nat.answers == ["ABANDON"]
    assert nat.state == "Terminated"


@pytest.mark.parametrize("action", ["DescribeAutoScalingInstances", "DescribeLifecycleHooks"])
def test_auto_scaling_that_lasts_in_trouble(nat, action):
    nat.world.weather(action, Throttle())
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert action in ran.error
    assert "Throttling" in ran.error
    assert "answering the lifecycle hook" in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None


def test_a_completion_that_never_goes_through(nat):
    nat.world.weather("CompleteLifecycleAction", ErrorReply(500, "ResourceContention"))
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert "answering the lifecycle hook: no time is left" in ran.error
    assert "CompleteLifecycleAction: ResourceContention" in ran.error
    assert nat.owns(nat.scene.private_tables[OWN])


@pytest.mark.parametrize(
    ("action", "doing"),
    [
        ("DescribeRouteTables", "describing the route table"),
        ("DescribeNetworkInterfaces", "describing eni-"),
        ("ModifyNetworkInterfaceAttribute", "turning the source/destination check of eni-"),
        ("CreateRoute", "creating the default route of rtb-"),
    ],
)
def test_ec2_denies(nat, action, doing):
    nat.world.deny(action)
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert doing in ran.error
    assert "UnauthorizedOperation" in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"]


def test_ec2_denies_replacing_only(replacing):
    replacing.world.deny("ReplaceRoute")
    ran = replacing.claim("--deadline", "4s")
    assert ran.code == 4, ran
    assert "1 of 2 route tables not claimed: replacing the default route of rtb-" in ran.error
    assert "UnauthorizedOperation" in ran.error
    assert replacing.owns(replacing.scene.private_tables[OWN])
    assert replacing.answers == ["CONTINUE"]


# What AWS may say right after a launch, of which nothing is true a few seconds later.
EARLY = {
    "not allowed": ErrorReply(403, "UnauthorizedOperation"),
    "access denied": ErrorReply(400, "AccessDenied"),
    "not authenticated": ErrorReply(401, "AuthFailure"),
    "interface not found": ErrorReply(400, "InvalidNetworkInterfaceID.NotFound"),
    "table not found": ErrorReply(400, "InvalidRouteTableID.NotFound"),
    "instance pending": ErrorReply(400, "InvalidInstanceID", "The pending instance 'i-1' …"),
    "state": ErrorReply(400, "IncorrectInstanceState"),
    "signature": ErrorReply(403, "SignatureDoesNotMatch"),
    "clock": ErrorReply(400, "RequestExpired"),
    "account": ErrorReply(400, "PendingVerification"),
}


@pytest.mark.parametrize(
    ("call", "early"),
    [(call, early) for call in CALLS for early in ("not allowed", "access denied")]
    + [("replace", early) for early in EARLY]
    + [("create", "table not found"), ("interface", "interface not found")],
)
def test_what_passes_right_after_a_launch_is_tried_again(replacing, call, early):
    action, skip, match = CALLS[call]
    rule = replacing.world.weather(action, EARLY[early], times=3, skip=skip, match=match)

    ran = replacing.claim()

    assert ran.code == 0, ran
    assert rule.fired == 3, "the trouble did not happen"
    assert "2 claimed" in ran.stdout
    assert replacing.answers == ["CONTINUE"]
    if early != "table not found":
        said = next(line for line in ran.stderr.splitlines() if f" {action}: " in line)
        assert f"{action}: {EARLY[early].code}: " in said
        # Half of the deadline, from the beginning on.
        assert "(that may pass: it is tried again for 5" in said


def test_several_interfaces_do_not_pass(replacing):
    several = "There are multiple interfaces attached to instance 'i-1'."
    replacing.world.weather("ReplaceRoute", ErrorReply(400, "InvalidInstanceID", several))
    ran = replacing.claim()
    assert ran.code == 4, ran
    assert several in ran.error
    assert replacing.changes["ReplaceRoute"] == 1


def test_nobody_waits_for_a_permission_in_a_dry_run(nat):
    nat.world.deny("DescribeRouteTables")
    ran = nat.claim("--dry-run")
    assert ran.code == 1, ran
    assert nat.called["DescribeRouteTables"] <= 2


def test_no_credentials(nat):
    nat.world.imds(nat.instance).role = None
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert "credentials" in ran.error
    assert "404" in ran.error
    assert nat.called == {}
    assert nat.state == "Pending:Wait"


def test_credentials_that_expire_soon(nat):
    nat.world.imds(nat.instance).credentials_seconds = 20
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.owns(nat.scene.private_tables[OWN])
    assert nat.answers == ["CONTINUE"]


def test_credentials_that_are_not_there_yet(nat):
    path = "/latest/meta-data/iam/security-credentials/"
    nat.world.weather(Rule(None, Body("Not Found", 404), service="imds", path=path, times=3))
    ran = nat.claim()
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


@pytest.mark.parametrize("reads", [1, 4])
def test_the_read_back_shows_old_state_for_a_while(replacing, reads):
    replacing.world.stale_reads(reads=reads, interfaces=True)
    ran = replacing.claim()
    assert ran.code == 0, ran
    assert replacing.called["DescribeRouteTables"] >= 3 + reads - 1
    assert "2 claimed" in ran.stdout
    assert replacing.answers == ["CONTINUE"]


def test_the_read_back_never_shows_it(nat):
    nat.world.stale_reads(seconds=3600)
    ran = nat.claim("--deadline", "4s", "--output", "json")
    assert ran.code == 1, ran
    assert "reading back" in ran.error
    assert "EC2 accepted the change and still shows no default route" in ran.error
    assert [row["result"] for row in ran.json["tables"]] == ["unverified"]
    assert nat.answers == ["ABANDON"]


def test_the_check_never_shows_off(nat):
    nat.world.stale_reads(seconds=3600, interfaces=True)
    ran = nat.claim("--deadline", "4s")
    assert ran.code == 1, ran
    assert "the source/destination check is still on" in ran.error
    assert nat.answers == ["ABANDON"]


def test_the_read_back_is_in_trouble_until_the_end(nat):
    """What cannot be looked at must not keep the hook waiting."""
    read_back = {"Filter.1.Name": "vpc-id"}
    nat.world.weather("DescribeRouteTables", Throttle(), skip=1, match=read_back)
    ran = nat.claim("--deadline", "6s", "--output", "json")
    assert ran.code == 1, ran
    assert "DescribeRouteTables: RequestLimitExceeded" in ran.error
    assert [row["result"] for row in ran.json["tables"]] == ["unverified"]
    assert nat.answers == ["ABANDON"]


@pytest.mark.parametrize(("mode", "cause"), [("closed", "refused"), ("hang", "time")])
def test_the_internet_does_not_answer(nat, mode, cause):
    nat.world.probe.mode = mode
    ran = nat.claim("--deadline", "6s")
    assert ran.code == 1, ran
    assert f"probing {nat.world.probe_url}" in ran.error
    assert cause in ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"]


def test_any_answer_of_the_internet_counts(nat):
    nat.world.probe.mode = "503"
    assert nat.claim().code == 0


def test_the_internet_answers_late(nat):
    nat.world.probe.mode = "closed"
    with nat.start() as running:
        nat.world.wait_for("ModifyNetworkInterfaceAttribute")
        assert nat.route(nat.scene.private_tables[OWN]) is None
        nat.world.probe.mode = "ok"
        ran = running.wait()
    assert ran.code == 0, ran


def test_one_answer_of_several_is_enough(nat):
    nothing = "http://127.0.0.1:9/"
    ran = nat.claim("--probe-url", nothing, "--probe-url", nat.world.probe_url)
    assert ran.code == 0, ran


def test_no_probe(nat):
    nat.world.probe.mode = "closed"
    ran = nat.claim("--no-probe")
    assert ran.code == 0, ran
    assert nat.world.probe.hits == 0


def test_sigterm_before_a_route_was_changed(nat):
    nat.world.weather("CreateRoute", Hang())
    with nat.start() as running:
        nat.world.wait_for("CreateRoute")
        running.terminate()
        ran = running.wait()
    assert ran.code == 1, ran
    assert ran.error == "stopped by SIGTERM"
    assert nat.answers == ["ABANDON"]


def test_sigterm_while_reading_back(nat):
    nat.world.weather("DescribeRouteTables", Hang(), skip=1, match={"Filter.1.Name": "vpc-id"})
    with nat.start() as running:
        nat.world.wait_for("DescribeRouteTables", 3)
        nat.world.calm()
        nat.world.weather("DescribeRouteTables", Latency(0.3))
        running.terminate()
        ran = running.wait()
    assert ran.code == 1, ran
    assert nat.answers == ["CONTINUE"], "the table leads here, and a last look showed it"


def test_sigterm_while_answering(nat):
    nat.world.weather("CompleteLifecycleAction", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("CompleteLifecycleAction")
        running.terminate()
        ran = running.wait()
    assert ran.code == 0, ran
    assert nat.answers == ["CONTINUE"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_reading(nat, stop):
    nat.world.weather("Describe*", Latency(0.5))
    with nat.start() as running:
        nat.world.wait_for("DescribeRouteTables")
        running.process.send_signal(stop)
        ran = running.wait()
    assert ran.code == 1, ran
    assert ran.error == f"stopped by {stop.name}"
    assert nat.answers == ["ABANDON"], "the group is looked up again for this"
    assert nat.route(nat.scene.private_tables[OWN]) is None


def test_sigterm_when_a_route_leads_here_already(nat):
    """The change was made, its answer lost: a look at the table tells, and the hook hears that
    traffic counts on this instance."""
    nat.world.weather("CreateRoute", Hang(), after=True)
    with nat.start("--output", "json") as running:
        nat.world.wait_for("CreateRoute")
        nat.world.wait_until(lambda: nat.owns(nat.scene.private_tables[OWN]))
        running.terminate()
        ran = running.wait()
    assert ran.code == 1, ran
    assert [row["result"] for row in ran.json["tables"]] == ["claimed"]
    assert nat.answers == ["CONTINUE"]
    assert ran.json["lifecycle"]["hook"] == HOOK
