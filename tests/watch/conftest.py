"""What tests of `hanat watch` start from, unless they have a stage of their own."""

import pytest

from tests.stages.handover import OTHER
from tests.stages.watching import Watching


@pytest.fixture
def stage(isolated, world, request):
    """With the parameters of the group that a test gives by `@group(…)`."""
    with Watching(world, **getattr(request, "param", {})) as stage:
        yield stage


@pytest.fixture
def peer(stage):
    return stage.peer(OTHER)
