"""Stacks as users deploy them: NATs install themselves, claim, are updated and fail as they should,
with the real cloud-init and the real systemd, while clients measure what they lose."""

import json
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import hcl2
import pytest

from tests.nat import ROOT, binary_path
from tests.skipping import program
from tests.stages import kernel
from tests.stages.deployment import (
    PATH,
    UNIT,
    URL,
    WATCH,
    archive,
    booted_well,
    deploy_nats,
    deploy_serving,
    on,
    shown,
    where,
)
from tests.stages.stacks import WITH_VPC
from tests.stages.two_zones import TwoZones, stop_all
from tests.world.deploy import deploy
from tests.world.scene import ZONES
from tests.world.vpc.internet import HOST
from tests.world.vpc.probe import Probe
from tests.world.vpc.vpc import Vpc
from tests.world.weather import ErrorReply, Hang, Replace, Trickle

OWN, OTHER = ZONES
DEPLOYING = ROOT / "docs/deploying.md"


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
            assert on(vpc, nat, f"systemctl is-enabled {UNIT} {WATCH}") == "enabled\nenabled"
            assert shown(vpc, nat, "ActiveState") == "active"
            assert shown(vpc, nat, "StatusText") == "in service"
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
    [by_hand] = re.findall("^sudo (env .*)$", DEPLOYING.read_text(), re.M)
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


# --- It leaves ------------------------------------------------------------------------------------


def assert_let_go(stage, nat: str) -> None:
    """The NAT has answered its terminating hook itself, which did not time out."""
    assert (nat, "hanat-terminating", "CONTINUE") in stage.world.completions
    assert stage.world.timeouts == []


def test_a_nat_that_is_terminated_serves_until_its_replacement_does(stage, packed):
    """Which takes longer than the hook waits without a heartbeat."""
    _, old = deploy_serving(stage, where(packed))
    stage.vpc.internet.downloads.down()
    with stage.connected_probe() as probe:
        stage.terminate(OWN)
        for beats in (1, 2):
            stage.world.wait_for("RecordLifecycleActionHeartbeat", beats, timeout=80)
            stage.world.clock.advance(70)
        assert shown(stage.vpc, old, "StatusText").endswith("wait for a replacement: 1")
        stage.vpc.internet.downloads.up()
        new = stage.serving(OWN, other_than=old, timeout=60)
        stage.wait_off(old)
        report = probe.stop()
    assert_let_go(stage, old)
    assert (report.failed, report.lost, report.outages) == (0, 0, ()), report
    assert len(report.addresses) == 2
    assert report.addresses[-1] == stage.public(new)


def test_a_stack_that_is_deleted_goes_by_itself(stage, packed):
    """Nobody can take the routes of its NATs, and no replacement is to come: they serve for as long
    as one is waited for, say whose way out goes with them, and are gone."""
    stack, nat = deploy_serving(stage, {**where(packed), "Settings": "HANAT_DRAIN_WAIT=8s"})
    with stage.connected_probe() as probe:
        stack.delete()
        stage.vpc.wait_until(lambda: "a replacement has 8s at most" in stage.vpc.log(nat))
        assert stack.status == "DELETE_IN_PROGRESS"
        report = probe.stop()
    assert (report.failed, report.lost, report.cut) == (0, 0, 0), report
    stage.wait_off(nat)
    stage.vpc.wait_until(lambda: stack.status == "DELETE_COMPLETE")
    assert_let_go(stage, nat)
    assert f"nobody can take {stage.scene.private_tables[OWN]}" in stage.vpc.log(nat)
    assert [call for call in stage.world.calls() if call.status == 403] == []


def test_a_watch_that_dies_in_the_middle_of_a_drain_is_started_again_and_ends_it(
    image, world, packed
):
    """The other zone's NAT gets the routes; what is allowed for that, and the ping before it, is
    what the template and the unit say."""
    with TwoZones(world, image=image) as stage:
        stage.vpc.internet.downloads.files[PATH] = packed
        _, old = deploy_serving(stage, {**where(packed), "Settings": "HANAT_DRAIN_WAIT=0s"})
        peer = stage.serving(OTHER, timeout=60)
        world.replace_while_terminating(False)
        with stage.connected_probes() as probes:
            world.weather("DescribeInstanceStatus", ErrorReply(503, "Unavailable"))
            stage.terminate(OWN)
            world.wait_for("DescribeInstanceStatus", timeout=30)
            died = shown(stage.vpc, old, "MainPID")
            on(stage.vpc, old, f"systemctl kill --signal KILL {WATCH}")
            assert stage.routed_to(OWN) == old, "in the middle"
            stage.vpc.wait_until(lambda: shown(stage.vpc, old, "MainPID") not in ("0", died))
            world.calm()
            stage.vpc.wait_until(lambda: stage.routed_to(OWN) == peer)
            stage.wait_off(old)
            stage.serving(OWN, other_than=peer, timeout=60)
            reports = stop_all(probes)
        assert_let_go(stage, old)
        assert "taken to answer" not in stage.vpc.log(old), "it may ping"
        assert [call for call in world.calls() if call.status == 403] == []
    for report in reports.values():
        assert (report.failed, report.outages) == (0, ()), report


def test_a_watch_that_is_restarted_or_hangs_moves_no_route(stage, packed):
    _, nat = deploy_serving(stage, where(packed))

    def restarted(before: str) -> str:
        stage.vpc.wait_until(lambda: shown(stage.vpc, nat, "MainPID") not in ("0", before))
        stage.vpc.wait_until(lambda: shown(stage.vpc, nat, "StatusText") == "in service")
        return shown(stage.vpc, nat, "MainPID")

    def changes() -> list[str]:
        actions = [call.action for call in stage.world.calls()]
        return [action for action in actions if action.endswith("Route")]

    claimed = changes()
    with stage.connected_probe() as probe:
        first = shown(stage.vpc, nat, "MainPID")
        # Less than its 30 seconds, to be quick.
        drop_in = f"/etc/systemd/system/{WATCH}.d"
        quick = f"mkdir {drop_in} && printf '[Service]\\nWatchdogSec=4s\\n' >{drop_in}/quick.conf"
        on(stage.vpc, nat, f"{quick} && systemctl daemon-reload && systemctl restart {WATCH}")
        second = restarted(first)
        on(stage.vpc, nat, f"kill -STOP {second}")
        third = restarted(second)
        assert "Watchdog timeout" in stage.vpc.log(nat)
        # It lives for longer than what it is given.
        watched = "systemctl show --property WatchdogTimestampMonotonic --value " + WATCH
        begun = int(on(stage.vpc, nat, watched))
        stage.vpc.wait_until(lambda: int(on(stage.vpc, nat, watched)) > begun + 5_000_000)
        assert shown(stage.vpc, nat, "MainPID") == third
        report = probe.stop()
    assert changes() == claimed
    assert (report.failed, report.lost, report.cut) == (0, 0, 0), report
    assert "stopping (SIGTERM): the routes stay as they are" in stage.vpc.log(nat)


def test_the_watch_may_put_back_what_it_looks_after(stage, packed):
    """With what the unit and the policy leave it."""
    _, nat = deploy_serving(stage, {**where(packed), "Settings": "HANAT_UPKEEP_INTERVAL=1s"})
    kernel.nft(stage.vpc.instance(nat).place, "delete table ip hanat")
    on(stage.vpc, nat, "sysctl --write net.ipv4.ip_forward=0")
    stage.world.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=stage.scene.interface(nat), SourceDestCheck={"Value": True}
    )
    for what in ("nftables table ip hanat created", "net.ipv4.ip_forward 0 → 1", "source/dest"):
        stage.vpc.wait_until(lambda what=what: f"put back: {what}" in stage.vpc.log(nat))
    with stage.connected_probe() as probe:
        report = probe.stop()
    assert report.failed == 0
    said = on(stage.vpc, nat, f"journalctl --output cat --unit {WATCH}")
    warnings = re.findall(" (?:WARN|ERROR) (?!put back: ).*", said)
    # The size of the connection table, which belongs to the machine around the namespaces.
    expected = " cannot be set from within a network namespace"
    assert [warning for warning in warnings if not warning.endswith(expected)] == []


def test_a_claim_that_is_refused_a_table_is_watched_all_the_same(stage, packed):
    """It has others, and is in service."""
    stage.scene.add_tables(1, owner="any", default="igw")
    deploy_nats(stage, where(packed))
    nat = stage.serving(OWN, timeout=60)
    assert stage.vpc.wait_booted(nat).code != 0
    assert on(stage.vpc, nat, f"systemctl is-failed {UNIT}") == "failed"
    assert shown(stage.vpc, nat, "StatusText") == "in service"


def test_a_setting_that_the_watch_does_not_understand_is_an_error_of_user_data(stage, packed):
    """Which is the same the next time."""
    deploy_nats(stage, {**where(packed), "Settings": "HANAT_LINGER=long"})
    nat = stage.serving(OWN, timeout=60)
    assert stage.vpc.wait_booted(nat).code != 0
    assert shown(stage.vpc, nat, "ActiveState") == "failed"
    assert shown(stage.vpc, nat, "NRestarts") == "0"
    assert "invalid value 'long' for '--linger <TIME>'" in stage.vpc.log(nat)


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
        done = subprocess.run([program("iptables-legacy"), "--table", "filter", "--list"])
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
    active = on(stage.vpc, builder, f"systemctl is-active {UNIT} {WATCH} || :")
    assert active == "inactive\ninactive"
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
        assert shown(stage.vpc, nat, "StatusText") == "in service"
        assert on(stage.vpc, nat, f"systemctl is-enabled {UNIT} {WATCH}") == "enabled\nenabled"
        claimed = runs.replace("Start", "Exit")
        watches = int(shown(stage.vpc, nat, "ExecMainStartTimestampMonotonic"))
        assert int(on(stage.vpc, nat, claimed)) < watches


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
        stage.wait_off(old)
        report = probe.stop()
    assert_let_go(stage, old)
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
