"""The script that the bench compares with does its job: else the comparison would be a lie."""

import pytest

from tests.bench.outages import user_data
from tests.bench.stage import script
from tests.nat import Nat
from tests.skipping import program
from tests.two_zones import TwoZones
from tests.world.scene import ZONES

OWN, OTHER = ZONES


@pytest.fixture(autouse=True)
def what_the_script_needs() -> None:
    program("curl")


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


def test_as_user_data_it_makes_a_nat(stage):
    with stage.probes() as probes:
        [nat] = stage.launch()
        probes[OWN].wait_connected()
        report = probes[OWN].stop()

    assert stage.vpc.wait_booted(nat).code == 0, stage.vpc.log(nat)
    assert report.addresses == (stage.public(nat),)
    assert [c.result for c in stage.world.completions] == ["CONTINUE"]


def test_as_user_data_it_abandons_when_it_fails(stage):
    stage.world.deny("CreateRoute", times=1)

    failed = stage.scene.launch_group(OWN)
    successor = stage.serving(OWN, other_than=failed)

    assert "UnauthorizedOperation" in stage.vpc.log(failed)
    results = [(c.instance_id, c.result) for c in stage.world.completions]
    assert results == [(failed, "ABANDON"), (successor, "CONTINUE")]
