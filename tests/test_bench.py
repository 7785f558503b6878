"""The script that the bench compares with does its job: else the comparison would be a lie."""

import shutil

import pytest

from tests.bench.stage import script
from tests.nat import Nat
from tests.world.scene import ZONES

OWN, OTHER = ZONES

pytestmark = pytest.mark.skipif(
    not shutil.which("curl"), reason="curl is not installed, the script needs it"
)


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
