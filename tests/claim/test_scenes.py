"""What clients lose when NATs come and go: scenes on packets, played by the shipped binary."""

import pytest

from tests.stages.two_zones import LAUNCH_FIRST, TwoZones, stop_all, wait_for_all
from tests.world.scene import ZONES
from tests.world.vpc.internet import HOST
from tests.world.vpc.probe import Report

OWN, OTHER = ZONES
# Long enough to tell one from the other, and from what a busy machine takes.
DETECTION, BOOT, PROPAGATION = 0.7, 0.5, 1.0


@pytest.fixture
def stage(isolated, world, request):
    """Two zones, with the parameters that a test gives by `@pytest.mark.parametrize("stage", …)`"""
    with TwoZones(world, **getattr(request, "param", {})) as stage:
        yield stage


def one_zone(**parameters):
    return pytest.mark.parametrize("stage", [{"zones": [OWN], **parameters}], indirect=True)


def two_zones(**parameters):
    return pytest.mark.parametrize("stage", [parameters], indirect=True)


def assert_nothing_lost(report: Report) -> None:
    assert (report.failed, report.lost, report.outages) == (0, 0, ()), report
    # Those under way at the moment when the route changes: no NAT knows another's connections.
    assert report.cut <= 5, report
    assert report.exchanges > 0
    assert report.datagrams > 0


@one_zone(boot_time=BOOT)
def test_first_launch(stage):
    """The client has no way out until the NAT has booted and claimed."""
    with stage.probes() as probes:
        probe = probes[OWN]
        [nat] = stage.launch()
        probe.wait_connected()
        report = probe.stop()
    assert stage.vpc.wait_booted(nat).code == 0, stage.vpc.log(nat)
    assert report.addresses == (stage.public(nat),)
    assert report.outage >= BOOT, "from the beginning until the claim"
    assert report.broken == 0
    assert set(stage.vpc.internet.host.seen()["http"]) == {stage.public(nat)}


@one_zone(boot_time=BOOT)
def test_reboot(stage):
    """The kernel forgets everything; the route and the instance stay. Connections in which the
    client speaks next go on: the NAT takes them up in the middle, under the same port."""
    [nat] = stage.launch()
    with stage.connected_probe() as probe, stage.client(OWN).place.socket() as connection:
        connection.settimeout(30)
        connection.connect((HOST, 7))
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        stage.world.ec2.reboot_instances(InstanceIds=[nat])
        assert stage.vpc.wait_booted(nat).code == 0, stage.vpc.log(nat)
        connection.sendall(b"after")
        assert connection.recv(100) == b"after"
        probe.wait_connected()
        report = probe.stop()
    assert report.outage >= BOOT
    assert report.failed > 0
    assert report.addresses == (stage.public(nat),)
    assert stage.routed_to(OWN) == nat
    assert "nothing to do" in stage.vpc.log(nat).splitlines()[-1]
    assert [c.result for c in stage.world.completions] == ["CONTINUE"], "at the first boot"


@one_zone(boot_time=BOOT, api_latency=0.05)
def test_replacement_after_sudden_death(stage):
    [nat] = stage.launch()
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        stage.vpc.kill(nat, noticed_after=DETECTION)
        successor = stage.serving(OWN, other_than=nat)
        probe.wait_connected()
        report = probe.stop()
    boot = stage.vpc.wait_booted(successor)
    assert boot.code == 0, stage.vpc.log(successor)
    assert report.addresses == (before, stage.public(successor))
    assert report.outage >= DETECTION + BOOT
    assert report.broken == 1
    # The claim's own share; how short it is, `make bench` measures.
    assert stage.routed_at(successor) - boot.started < 5


@one_zone()
def test_replacement_from_a_warm_pool(stage):
    """It booted before, on its way into the pool, and took no route then; drawn from the pool it
    boots again, and does."""
    [nat] = stage.launch()
    with stage.connected_probe() as probe:
        stage.world.autoscaling.put_warm_pool(
            AutoScalingGroupName=stage.group(OWN), MaxGroupPreparedCapacity=2
        )
        stage.vpc.wait_until(lambda: "Warmed:Stopped" in lifecycles(stage))
        [warm] = (i for i, (_, state) in stage.world.lifecycles().items() if i != nat)
        assert "nothing is claimed" in stage.vpc.log(warm)
        assert stage.routed_to(OWN) == nat
        stage.vpc.kill(nat, noticed_after=0)
        assert stage.serving(OWN, other_than=nat) == warm
        probe.wait_connected()
        report = probe.stop()
    assert "1 claimed" in stage.vpc.log(warm)
    assert report.addresses[-1] == stage.public(warm)


def lifecycles(stage) -> list[str]:
    return [state for _, state in stage.world.lifecycles().values()]


@one_zone(api_latency=0.05)
def test_refresh_that_launches_before_it_terminates(stage):
    """The old NAT serves until the new one does."""
    [nat] = stage.launch(maintenance=LAUNCH_FIRST)
    before = stage.public(nat)
    with stage.connected_probe() as probe:
        stage.refresh(OWN)
        successor = stage.serving(OWN, other_than=nat)
        stage.wait_off(nat)
        probe.wait_connected()
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.addresses == (before, stage.public(successor))
    assert report.broken == 1, "the new NAT does not know the old one's connections"


@two_zones(boot_time=BOOT)
def test_two_zones_at_once(stage):
    """Both NATs die; each successor takes its own zone's table, and no other."""
    nats = dict(zip(ZONES, stage.launch(), strict=True))
    before = {zone: stage.public(nat) for zone, nat in nats.items()}
    with stage.connected_probes() as probes:
        for nat in nats.values():
            stage.vpc.kill(nat, noticed_after=DETECTION)
        successors = {zone: stage.serving(zone, other_than=nats[zone]) for zone in ZONES}
        wait_for_all(probes)
        reports = stop_all(probes)
    for zone, report in reports.items():
        assert report.addresses == (before[zone], stage.public(successors[zone]))
        assert report.outage >= DETECTION + BOOT
        assert stage.vpc.picture.instances[successors[zone]].zone == zone
    assert Report.of_all(reports.values()).broken == 2


@one_zone(propagation=PROPAGATION)
def test_a_route_that_takes_its_time(stage):
    """It is claimed, EC2 says so, and still packets go nowhere for a second."""
    with stage.probes() as probes:
        probe = probes[OWN]
        [nat] = stage.launch()
        probe.wait_connected()
        report = probe.stop()
    assert report.addresses == (stage.public(nat),)
    for outage in report.outages:
        # A packet is no earlier than its probe.
        assert outage.end > stage.routed_at(nat) + PROPAGATION - 0.1


@one_zone(propagation=PROPAGATION)
def test_a_terminating_hook_covers_a_route_that_takes_its_time(stage):
    """While the hook holds the old NAT, it forwards what still comes to it."""
    [nat] = stage.launch(maintenance=LAUNCH_FIRST, terminating_hook=True, timeout=300)
    with stage.connected_probe() as probe:
        stage.refresh(OWN)
        successor = stage.serving(OWN, other_than=nat)
        probe.wait_seen_as(stage.public(successor))
        stage.world.clock.advance(300)
        stage.wait_off(nat)
        probe.wait_connected()
        report = probe.stop()
    assert_nothing_lost(report)


@one_zone()
def test_reclaim_by_hand_that_finds_nothing_to_do(stage):
    [nat] = stage.launch()
    with stage.connected_probe() as probe:
        for _ in range(3):
            ran = stage.vpc.instance(nat).run("hanat", "claim")
            assert ran.returncode == 0, ran.stderr
            assert "nothing to do" in ran.stdout
        probe.wait_connected()
        report = probe.stop()
    assert_nothing_lost(report)
    assert report.broken == 0
    assert report.addresses == (stage.public(nat),)


@two_zones()
def test_reclaim_by_hand_from_a_stand_in(stage):
    """The other zone's NAT had the table; both forward all the while."""
    own, other = stage.launch()
    with stage.connected_probes() as probes:
        probe = probes[OWN]
        stage.world.ec2.replace_route(
            RouteTableId=stage.scene.private_tables[OWN],
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=stage.scene.interface(other),
        )
        probe.wait_seen_as(stage.public(other))
        ran = stage.vpc.instance(own).run("hanat", "claim")
        assert ran.returncode == 0, ran.stderr
        probe.wait_seen_as(stage.public(own))
        reports = stop_all(probes)
    assert_nothing_lost(reports[OWN])
    assert_nothing_lost(reports[OTHER])
    assert reports[OTHER].broken == 0
