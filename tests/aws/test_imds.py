"""IMDS in bad weather. What it says is parsed or refused, and version 1 is never asked (the
`world` fixture checks every request)."""

import re
import socket

import pytest

from tests.nat import Nat
from tests.world.scene import ZONES
from tests.world.weather import Body, ErrorReply, Hang, Latency, Reset, Rule

OWN = ZONES[0]
META = "/latest/meta-data"


def imds_rule(nat: Nat, path: str, effect, **how) -> None:
    nat.world.weather(Rule(None, effect, service="imds", path=path, **how))


def assert_claimed(nat: Nat, ran) -> None:
    assert ran.code == 0, ran
    assert nat.owns(nat.scene.private_tables[OWN])
    assert nat.answers == ["CONTINUE"]


def assert_nothing_called(nat: Nat, ran) -> None:
    """Without region and instance ID there is nobody to tell: the hook's own time-out does."""
    assert ran.code == 1, ran
    assert nat.called == {}


def assert_abandoned(nat: Nat, ran) -> None:
    assert ran.code == 1, ran
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"]


def test_imds_is_not_there(nat):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ran = nat.claim("--deadline", "4s", env={"AWS_EC2_METADATA_SERVICE_ENDPOINT": url})
    assert_nothing_called(nat, ran)
    assert "IMDS" in ran.error
    assert "Connection refused" in ran.error


def test_imds_does_not_answer(nat):
    imds_rule(nat, "*", Hang())
    ran = nat.claim("--deadline", "4s")
    assert_nothing_called(nat, ran)
    assert re.match("the time is up: IMDS: reading [a-z/-]+ from IMDS: .*timed out", ran.error)


def test_only_version_1(nat):
    nat.world.imds(nat.instance).mode = "v1_only"
    ran = nat.claim("--deadline", "4s")
    assert_nothing_called(nat, ran)
    assert "token" in ran.error


def test_imds_is_off(nat):
    nat.world.imds(nat.instance).mode = "off"
    ran = nat.claim("--deadline", "4s")
    assert_nothing_called(nat, ran)
    assert "forbidden" in ran.error.lower()


def test_the_token_expires_between_two_reads(nat):
    imds = nat.world.imds(nat.instance)
    imds_rule(nat, f"{META}/mac", Latency(0.5), times=1)
    with nat.start() as running:
        nat.world.wait_for_imds(f"{META}/mac")
        imds.expire_tokens()
        ran = running.wait()
    assert_claimed(nat, ran)
    assert 401 in [call.status for call in nat.world.imds_calls()]


def test_imds_is_slow(nat):
    imds_rule(nat, "*", Latency(0.3))
    assert_claimed(nat, nat.claim())


def test_imds_answers_503_a_few_times(nat):
    imds_rule(nat, f"{META}/mac", ErrorReply(503, "Busy"), times=3)
    assert_claimed(nat, nat.claim())


def test_imds_comes_up_late(nat):
    imds_rule(nat, "*", Reset(), times=8)
    assert_claimed(nat, nat.claim())


def test_the_token_is_refused_with_503_a_few_times(nat):
    imds_rule(nat, "/latest/api/token", ErrorReply(503, "Busy"), times=3)
    assert_claimed(nat, nat.claim())


def test_imds_resets_once(nat):
    imds_rule(nat, f"{META}/network/*/vpc-id", Reset(), times=1)
    assert_claimed(nat, nat.claim())


@pytest.mark.parametrize("text", ["", "<html>", "us-east-1.evil.example", "us-east-1\r\nx: y"])
@pytest.mark.parametrize("path", ["placement/region", "instance-id"])
def test_without_region_and_instance_id_nothing_is_called(nat, path, text):
    imds_rule(nat, f"{META}/{path}", Body(text))
    ran = nat.claim()
    assert_nothing_called(nat, ran)
    assert ran.error.startswith(f"reading {path} from IMDS: expected ")
    assert text.splitlines()[0] in ran.error if text else 'got ""' in ran.error


@pytest.mark.parametrize("text", ["", "garbled <value>", "eni-0123456789abcdef0\neni-1"])
@pytest.mark.parametrize(
    "path",
    [
        "mac",
        "placement/availability-zone",
        "network/interfaces/macs/*/vpc-id",
        "network/interfaces/macs/*/vpc-ipv4-cidr-blocks",
        "network/interfaces/macs/*/subnet-id",
        "network/interfaces/macs/*/interface-id",
        "network/interfaces/macs/*/local-ipv4s",
        "autoscaling/target-lifecycle-state",
    ],
)
def test_a_garbled_value_is_refused_with_its_path(nat, path, text):
    imds_rule(nat, f"{META}/{path}", Body(text))
    ran = nat.claim()
    assert_abandoned(nat, ran)
    assert ran.error.startswith("reading ")
    assert path.rpartition("/")[2] in ran.error
    assert text.splitlines()[0] in ran.error if text else "empty" in ran.error or '""' in ran.error


def test_a_block_that_is_the_whole_internet(nat):
    """Nothing would be left to masquerade."""
    imds_rule(nat, f"{META}/network/interfaces/macs/*/vpc-ipv4-cidr-blocks", Body("0.0.0.0/0"))
    ran = nat.claim()
    assert_abandoned(nat, ran)
    assert "vpc-ipv4-cidr-blocks" in ran.error
    assert '"0.0.0.0/0"' in ran.error


def test_a_value_that_is_missing(nat):
    imds_rule(nat, f"{META}/network/*/vpc-id", Body("Not Found", 404))
    ran = nat.claim()
    assert_abandoned(nat, ran)
    assert "vpc-id from IMDS: not there (404)" in ran.error


def test_no_lifecycle_state_outside_a_group(scene):
    nat = Nat(scene, scene.launch_instance(scene.public_subnets[OWN]))
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert ran.json["target_lifecycle_state"] is None
    assert ran.json["lifecycle"] is None
    reads = [c for c in nat.world.imds_calls() if c.path.endswith("target-lifecycle-state")]
    assert [call.status for call in reads] == [404]


def test_no_lifecycle_state_yet_although_a_hook_waits(nat):
    imds_rule(nat, f"{META}/autoscaling/target-lifecycle-state", Body("Not Found", 404))
    assert_claimed(nat, nat.claim())


def test_imds_follows_the_group_out_of_the_warm_pool(nat):
    imds_rule(nat, f"{META}/autoscaling/target-lifecycle-state", Body("Warmed:Stopped"))
    assert_claimed(nat, nat.claim())


def test_imds_follows_the_group_out_of_standby(nat):
    imds_rule(nat, f"{META}/autoscaling/target-lifecycle-state", Body("Standby"))
    assert_claimed(nat, nat.claim())


def test_a_lifecycle_state_that_nobody_knows(nat):
    """AWS may invent more of them, and a NAT that does not start helps nobody."""
    imds_rule(nat, f"{META}/autoscaling/target-lifecycle-state", Body("Retired:Elsewhere"))
    assert_claimed(nat, nat.claim())


def test_several_interfaces_the_primary_one_is_claimed_with(nat):
    second = nat.scene.attach_interface(nat.instance, nat.scene.private_subnets[OWN])
    ran = nat.claim("--output", "json")
    assert_claimed(nat, ran)
    assert second != nat.interface == ran.json["network"]["interface_id"]


def test_several_cidr_blocks(nat):
    nat.world.ec2.associate_vpc_cidr_block(VpcId=nat.scene.vpc, CidrBlock="10.1.0.0/16")
    ran = nat.claim("--output", "json")
    assert ran.json["network"]["vpc_cidr_blocks"] == ["10.0.0.0/16", "10.1.0.0/16"]


def test_every_value_is_read_once(nat):
    assert nat.claim().code == 0
    reads = [c.path for c in nat.world.imds_calls() if c.method == "GET"]
    assert len(reads) == len(set(reads))
