"""What the bench compares with does its job, and what it measures with tells right from wrong: else
its figures would be a lie."""

import contextlib

import pytest

from tests.bench import forwarding, ports, queries
from tests.bench.outages import user_data
from tests.bench.stage import JobNotDone, Stage, script
from tests.nat import Nat
from tests.skipping import program
from tests.stages.kernel import nft
from tests.stages.two_zones import TwoZones
from tests.world.scene import ZONES

OWN, OTHER = ZONES

needs_curl = pytest.mark.usefixtures("what_the_script_needs")


@pytest.fixture
def what_the_script_needs() -> None:
    program("curl")


# --- The script -----------------------------------------------------------------------------------


@needs_curl
def test_the_script_does_its_job(nat):
    scene = nat.scene
    peer = Nat(scene, scene.launch_group(OTHER))
    empty = scene.private_tables[OWN]
    [shared] = scene.add_tables(1, default=peer.interface)

    ran = script(nat)

    assert ran.code == 0, ran.output
    assert nat.owns(empty)
    assert nat.owns(shared)
    assert nat.route(scene.private_tables[OTHER]) is None
    assert nat.answers == ["CONTINUE"]
    assert nat.state == "InService"
    assert nat.changes == {
        "ModifyNetworkInterfaceAttribute": 1,
        "CreateRoute": 1,
        "ReplaceRoute": 1,
        "CompleteLifecycleAction": 1,
    }


@needs_curl
def test_the_script_abandons_when_it_fails(nat):
    nat.world.deny("CreateRoute")

    ran = script(nat)

    assert ran.code != 0, ran.output
    assert nat.answers == ["ABANDON"]


@pytest.fixture
def stage(isolated, world):
    """A zone whose NATs have the script as user data."""
    for needed in ("nft", "sysctl"):
        program(needed)
    with TwoZones(world, user_data(), zones=[OWN]) as stage:
        yield stage


@needs_curl
def test_as_user_data_it_makes_a_nat(stage):
    with stage.probes() as probes:
        [nat] = stage.launch()
        probes[OWN].wait_connected()
        report = probes[OWN].stop()

    assert stage.vpc.wait_booted(nat).code == 0, stage.vpc.log(nat)
    assert report.addresses == (stage.public(nat),)
    assert [c.result for c in stage.world.completions] == ["CONTINUE"]


@needs_curl
def test_as_user_data_it_abandons_when_it_fails(stage):
    stage.world.deny("CreateRoute", times=1)

    failed = stage.scene.launch_group(OWN)
    successor = stage.serving(OWN, other_than=failed)

    assert "UnauthorizedOperation" in stage.vpc.log(failed)
    results = [(c.instance_id, c.result) for c in stage.world.completions]
    assert results == [(failed, "ABANDON"), (successor, "CONTINUE")]


# --- On packets -----------------------------------------------------------------------------------


def test_forwarding_is_measured_with_each_set_of_rules(isolated, world):
    for needed in ("nft", "iptables-nft"):
        program(needed)

    figures = forwarding.in_turns(Stage(world, 1).nat, turns=2, seconds=0.001, size=1 << 20)

    assert list(figures) == list(forwarding.RULES)
    for of_one in figures.values():
        assert [len(of_one.packets), len(of_one.bits)] == [2, 2]
        assert min(*of_one.packets, *of_one.bits) > 0


def test_forwarding_is_not_measured_with_other_rules_than_it_says(isolated, world, monkeypatch):
    for needed in ("nft", "iptables-nft"):
        program(needed)
    monkeypatch.setitem(forwarding.RULES, "iptables-nft MASQUERADE", forwarding.no_rules)

    with pytest.raises(JobNotDone, match=r"asked by 10\.0\.1\.10"):
        forwarding.in_turns(Stage(world, 1).nat, turns=1, seconds=0.001, size=1 << 20)


@pytest.mark.parametrize("rules", [ports.no_rules, ports.as_claimed, ports.drawn_anew])
def test_exchanges_are_counted(isolated, world, rules):
    program("nft")
    with ports.nat_with(world, rules) as around:
        clients, total = [around.client, around.other], int(2 * ports.RATE * 0.25)

        done = ports.exchanges(clients, around.outside, 0.25, patience=60)
        assert done == ports.Exchanges(total, 0)

        around.router.set_link("outside", state="down")
        done = ports.exchanges(clients, around.outside, 0.25, patience=0.1)
        assert done == ports.Exchanges(total, total)


def test_ports_drawn_anew_are_those_of_hanats_table_with_a_flag(isolated, nat):
    program("nft")
    assert nat.claim().code == 0
    ports.drawn_anew(nat)

    [rule] = [line for line in nft(nat.machine, "list ruleset").splitlines() if "masq" in line]
    assert rule.split()[-2:] == ["masquerade", "fully-random"]


def test_a_crowd_is_counted(isolated, world):
    program("nft")
    with ports.nat_with(world, ports.as_claimed) as around:
        lines = ports.crowd(around, 200, line=100)
        assert [line.connections for line in lines] == [100, 200]
        assert sum(line.never for line in lines) == 0

        around.router.set_link("outside", state="down")
        assert ports.crowd(around, 20, line=20, seed=1) == [ports.Line(20, 20, 20)]


def test_queries_make_entries(isolated):
    program("nft")
    with contextlib.closing(queries.Lane(rate=100, timeout=120, servers=4)) as lane:
        [count] = queries.entries([lane], seconds=0.5, looked=0.5)
        assert lane.asked == lane.answered == 50
        assert 0 < count <= 50

        queries.fill(lane, 2000)
        assert 2000 <= lane.entries <= lane.asked
