"""What tests of `hanat drain` start from."""

import pytest

from tests.stages.handover import OTHER, Handover


@pytest.fixture
def stage(isolated, world):
    with Handover(world) as stage:
        yield stage


@pytest.fixture
def peer(stage):
    return stage.peer(OTHER)
