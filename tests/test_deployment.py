"""Stacks as users deploy them: NATs install themselves, claim, are updated and fail as they should,
with the real cloud-init and the real systemd, while clients measure what they lose."""

import json
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import hcl2
import pytest

from tests.deployment import (
    PATH,
    UNIT,
    URL,
    archive,
    booted_well,
    deploy_nats,
    deploy_serving,
    on,
    where,
)
from tests.nat import ROOT, binary_path
from tests.stacks import WITH_VPC
from tests.two_zones import TwoZones
from tests.world.deploy import deploy
from tests.world.scene import ZONES
from tests.world.vpc.internet import HOST
from tests.world.vpc.probe import Probe
from tests.world.vpc.vpc import Vpc
from tests.world.weather import ErrorReply, Hang, Replace, Trickle

OWN = ZONES[0]
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> bytes:
    return archive(tmp_path_factory.mktemp("release"), binary_path())


@pytest.fixture
def stage(image, world, packed):
    """One zone of a VPC that exists, and a published release."""
    with TwoZones(world, zones=[OWN], image=image) as stage:
        stage.vpc.internet.downloads.files[PATH] = packed
        yield stage


def nat_of(stage) -> str:
    """The only instance that its group has now."""
    [nat] = stage.scene.members(OWN)
    return nat


# --- It works -------------------------------------------------------------------------------------


def test_the_whole_vpc(image, world, packed):
    """Nothing but the template; each zone goes out by its own NAT."""
    stack = deploy(world, WITH_VPC, {**where(packed), "Settings": "HANAT_LOG_FORMAT=json"})
    outputs = stack.outputs
    with Vpc(world, outputs["Vpc"], binary_path(), image=image) as vpc:
        vpc.internet.downloads.files[PATH] = packed
        nats = {}
        for zone in "AB":
            group = world.autoscaling.describe_auto_scaling_groups(
                AutoScalingGroupNames=[outputs[f"NatGroup{zone}"]]
            )["AutoScalingGroups"][0]
            [nats[zone]] = [member["InstanceId"] for member in group["Instances"]]
        for zone, nat in nats.items():
            booted_well(vpc, nat)
            client = world.ec2.run_instances(
                ImageId="ami-0123456789abcdef0",
                MinCount=1,
                MaxCount=1,
                SubnetId=outputs[f"PrivateSubnet{zone}"],
            )["Instances"][0]["InstanceId"]
            with Probe(zone, vpc.instance(client).place, HOST) as probe:
                probe.wait_connected()
                report = probe.stop()
            assert report.addresses == (vpc.picture.instances[nat].public,)
            assert vpc.picture.lifecycles[nat] == "InService"
            assert on(vpc, nat, f"systemctl is-enabled {UNIT}") == "enabled"
            assert '"level":"INFO"' in on(vpc, nat, f"journalctl --output cat --unit {UNIT}")
        assert [c.result for c in world.completions] == ["CONTINUE", "CONTINUE"]


def test_from_a_bucket(stage, packed):
    """The role reads the one object, by a signature that curl makes; IMDS has its credentials late,
    as on a stack's first day."""
    s3 = stage.world.client("s3")
    s3.create_bucket(Bucket="releases")
    s3.put_object(Bucket="releases", Key="v1/hanat.tar.gz", Body=packed)
    refused = '{"Code": "AssumeRoleUnauthorizedAccess", "Message": "not yet"}'
    credentials = "/latest/meta-data/iam/security-credentials/"
    stage.world.weather(None, ErrorReply(500, "Busy"), path="/latest/api/token", times=1)
    stage.world.weather(None, ErrorReply(404, "Not Found"), path=credentials, times=1)
    stage.world.weather(None, Replace(refused), path=f"{credentials}?*", times=1)
    deploy_serving(stage, where(packed, "s3://releases/v1/hanat.tar.gz"))
    assert stage.vpc.internet.downloads.requests == []
    assert len(stage.world.calls("GetObject")) == 1


def test_it_claims_again_at_every_boot(stage, packed):
    _, nat = deploy_serving(stage, where(packed))
    with stage.connected_probe() as probe:
        stage.world.ec2.reboot_instances(InstanceIds=[nat])
        booted_well(stage.vpc, nat)
        probe.wait_connected()
        report = probe.stop()
    assert report.addresses == (stage.public(nat),)
    assert "nothing to do" in on(stage.vpc, nat, f"journalctl --unit {UNIT}")
    [by_hand] = re.findall("^sudo (env .*)$", README.read_text(), re.M)
    assert "0 to claim, 1 lead here already" in on(stage.vpc, nat, by_hand)
    assert stage.vpc.internet.downloads.requests == [PATH], "installed once"
    assert [c.result for c in stage.world.completions] == ["CONTINUE"], "at the first boot"


def test_what_fails_at_a_boot_is_tried_again_by_systemd(stage, packed):
    """Longer than a run's own deadline."""
    _, nat = deploy_serving(stage, {**where(packed), "Settings": "HANAT_DEADLINE=4s"})
    stage.world.weather("DescribeRouteTables", ErrorReply(503, "Unavailable"))
    stage.world.ec2.reboot_instances(InstanceIds=[nat])
    stage.vpc.instance(nat)
    stage.vpc.wait_until(lambda: "Failed with result 'exit-code'" in stage.vpc.log(nat))
    stage.world.calm()
    with stage.probes() as probes:
        stage.vpc.wait_until(lambda: "Scheduled restart job" in stage.vpc.log(nat), timeout=60)
        probes[OWN].wait_connected()


# --- It does not ----------------------------------------------------------------------------------


def test_a_wrong_checksum_installs_nothing_and_the_group_gives_the_nat_up(stage, packed):
    wrong = where(packed[:-1])
    deploy_nats(stage, wrong)
    nat = nat_of(stage)
    assert stage.vpc.wait_booted(nat).code != 0
    log = stage.vpc.log(nat)
    right, given = where(packed)["HanatSha256X86"], wrong["HanatSha256X86"]
    assert f"hanat is not installed: {URL} has the SHA-256 {right} instead of {given}" in log
    ran = stage.vpc.instance(nat).run("sh", "-c", "ls /usr/bin/hanat /run/hanat/hanat.tar.gz")
    assert "/usr/bin/hanat\n" not in ran.stdout
    assert stage.vpc.picture.lifecycles[nat] == "Pending:Wait"
    assert stage.world.calls() == [], "nothing was asked of AWS"
    stage.world.clock.advance(600)
    stage.vpc.wait_until(lambda: nat not in stage.vpc.picture.instances)
    [replacement] = stage.scene.members(OWN)
    assert replacement != nat
    assert stage.routed_to(OWN) is None


def test_a_release_that_is_down_busy_stuck_and_slow(stage, packed):
    """Refused, 503, a connection on which nothing comes, then the archive in 3 seconds."""
    downloads = stage.vpc.internet.downloads
    downloads.weather(PATH, ErrorReply(503, "Busy"), times=2)
    downloads.weather(PATH, Hang(), times=1)
    downloads.weather(PATH, Trickle(len(packed) / 3))
    downloads.down()
    deploy_nats(stage, where(packed))
    nat = nat_of(stage)
    stage.vpc.instance(nat)
    stage.vpc.wait_until(lambda: "downloads.example.com port 443" in stage.vpc.log(nat))
    assert stage.routed_to(OWN) is None
    downloads.up()
    assert stage.serving(OWN, timeout=90) == nat
    booted_well(stage.vpc, nat)
    assert downloads.requests == [PATH] * 4


def test_a_claim_that_fails_says_why_on_the_console(image, world, packed, tmp_path):
    """All that is left of an instance that its group has given up. As on most systems, the journal
    is not forwarded there."""
    settings = tmp_path / "etc/systemd/journald.conf.d/zz.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text("[Journal]\nForwardToConsole=no\n")
    for folder in (tmp_path, *settings.parents[:4]):
        folder.chmod(0o755)
    with TwoZones(world, zones=[OWN], image=image, layers=[tmp_path]) as stage:
        stage.vpc.internet.downloads.files[PATH] = packed
        deploy_nats(stage, {**where(packed), "Settings": "HANAT_OWNER_TAG=Nobody"})
        nat = nat_of(stage)
        stage.vpc.wait_until(lambda: nat not in stage.vpc.picture.instances, timeout=60)
        assert f"no route table of {stage.scene.vpc} is tagged Nobody=" in stage.vpc.log(nat)
        assert world.completions[0].result == "ABANDON"


def test_the_unit_sees_the_tables_of_iptables_legacy(stage, packed):
    """Which only root's group may read."""
    _, nat = deploy_serving(stage, where(packed))
    with stage.vpc.instance(nat).place.entered():
        done = subprocess.run(["iptables-legacy", "--table", "filter", "--list"])
    assert done.returncode == 0
    on(stage.vpc, nat, f"systemctl restart {UNIT}")
    assert "iptables-legacy has a filter table" in stage.vpc.log(nat)


# --- Images ---------------------------------------------------------------------------------------


def baked_by_the_recipe(stage, content: bytes) -> Path:
    """What the image recipe's script leaves on the disk of an instance that it is run on."""
    [build] = hcl2.loads((ROOT / "userdata" / "image.pkr.hcl").read_text())["build"]
    [shell] = [step['"shell"'] for step in build["provisioner"] if '"shell"' in step]
    script = "\n".join(json.loads(line) for line in shell["inline"])
    builder = stage.scene.launch_instance(stage.scene.public_subnets[OWN], UserData="#!/bin/sh\n")
    booted_well(stage.vpc, builder)
    on(stage.vpc, builder, f"curl --silent --fail --output /tmp/hanat.tar.gz {URL}")
    on(stage.vpc, builder, f"export SHA256={sha256(content).hexdigest()}; set -eu; {script}")
    assert on(stage.vpc, builder, f"systemctl is-active {UNIT} || :") == "inactive"
    return stage.vpc.disk(builder) / "upper"


def test_baked_into_the_image_it_starts_by_itself_and_nothing_is_fetched(
    image, world, packed, tmp_path
):
    layer = tmp_path / "layer"
    with TwoZones(world, zones=[OWN], image=image) as stage:
        stage.vpc.internet.downloads.files[PATH] = packed
        disk = baked_by_the_recipe(stage, packed)
        subprocess.run(["cp", "--archive", disk, layer], check=True)
        assert stage.routed_to(OWN) is None
    world.reset()
    nowhere = where(packed, "https://nowhere.example.com/x") | {"ImageId": "ami-0123456789abcdef0"}
    with TwoZones(world, zones=[OWN], image=image, layers=[layer]) as stage:
        _, nat = deploy_serving(
            stage, {**nowhere, "Settings": "HANAT_LOG_FORMAT=json HANAT_NO_PROBE=true"}
        )
        with stage.connected_probe() as probe:
            assert probe.stop().failed == 0
        assert stage.vpc.internet.downloads.requests == []
        said = on(stage.vpc, nat, f"journalctl --output cat --unit {UNIT}")
        assert '"level":"INFO"' in said, "it has read its settings"
        runs = f"systemctl show --property ExecMainStartTimestampMonotonic --value {UNIT}"
        script = "systemctl show --property ExecMainStartTimestampMonotonic --value cloud-final"
        assert int(on(stage.vpc, nat, runs)) < int(on(stage.vpc, nat, script))


# --- Updates --------------------------------------------------------------------------------------


def test_an_update_under_traffic_fails_no_new_connection(stage, packed, tmp_path):
    stack, old = deploy_serving(stage, where(packed))
    before = stage.public(old)
    newer = tmp_path / "hanat"
    newer.write_bytes(binary_path().read_bytes() + b"newer")
    content = archive(tmp_path, newer)
    stage.vpc.internet.downloads.files["/hanat/newer.tar.gz"] = content
    with stage.connected_probe() as probe:
        stack.update(where(content, "https://downloads.example.com/hanat/newer.tar.gz"))
        assert stack.status == "UPDATE_COMPLETE", stack.reason
        assert stage.serving(OWN) == old, "an update alone moves nothing"
        stage.refresh(OWN)
        new = stage.serving(OWN, other_than=old, timeout=60)
        booted_well(stage.vpc, new)
        # Its terminating hook has its time.
        stage.world.clock.advance(60)
        stage.wait_off(old)
        report = probe.stop()
    assert (
        on(stage.vpc, new, "sha256sum /usr/bin/hanat").split()[0]
        == sha256(newer.read_bytes()).hexdigest()
    )
    assert (report.failed, report.lost, report.outages) == (0, 0, ()), report
    assert report.cut <= 5
    assert report.addresses == (before, stage.public(new))


def test_a_bad_update_leaves_the_old_nat_in_service(stage, packed):
    """The refresh cannot launch anything that comes into service."""
    stack, old = deploy_serving(stage, where(packed))
    stack.update(where(packed + b"x"))
    with stage.connected_probe() as probe:
        stage.refresh(OWN)
        stage.vpc.wait_until(lambda: len(stage.scene.members(OWN)) == 2)
        [new] = set(stage.scene.members(OWN)) - {old}
        assert stage.vpc.wait_booted(new).code != 0
        stage.world.clock.advance(600)
        stage.wait_off(new)
        report = probe.stop()
    assert stage.serving(OWN) == old
    assert (report.failed, report.outages) == (0, ()), report
