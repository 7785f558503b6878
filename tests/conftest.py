"""Fixtures: the binary under test, the world it meets, and a NAT instance to run it on."""

from pathlib import Path

import pytest

from tests.isolate import is_isolated, isolate, refusal
from tests.nat import ROOT, Nat, binary_path
from tests.policy import Comparison, note
from tests.skipping import DIST, ROOT_RIGHTS, not_tested, not_tested_in_all
from tests.world import World
from tests.world.debian import NotMade
from tests.world.scene import ZONES, Scene, two_zone_vpc
from tests.world.vpc.image import IMAGE

ARM64 = "aarch64-unknown-linux-gnu"


@pytest.fixture(scope="session")
def _world():
    with World() as world:
        yield world


@pytest.fixture
def world(_world):
    """An empty account. Afterwards: moto met nothing it could not do, and IMDS was never read
    without a token."""
    _world.reset()
    yield _world
    note(_world.calls())
    faults = _world.faults
    tokenless = [c for c in _world.imds_calls() if c.method == "GET" and not c.had_token]
    _world.calm()
    assert faults == []
    assert tokenless == []


@pytest.fixture(scope="session")
def isolated() -> None:
    """For tests that run the binary, which changes the network it finds."""
    if not is_isolated():
        not_tested(f"it needs a network namespace, so run it as root: {refusal()}", ROOT_RIGHTS)


@pytest.fixture(scope="session")
def image(isolated) -> Path:
    """What instances with a system of their own boot from."""
    try:
        return IMAGE.path()
    except NotMade as error:
        not_tested(str(error), *error.takes)


@pytest.fixture(scope="session")
def arm64(isolated) -> Path:
    """The binary for arm64, of today's sources."""
    sources = [ROOT / "Cargo.toml", ROOT / "Cargo.lock"]
    sources += [*ROOT.glob("src/**/*.rs"), *ROOT.glob("core/**/*.rs")]
    binary = ROOT / f"target/{ARM64}/release/hanat"
    if not binary.exists() or newest(sources) > newest([binary]):
        not_tested(f"the binary for arm64 is not there or is old (make build TARGET={ARM64})", DIST)
    return binary


def newest(files: list[Path]) -> float:
    return max(file.stat().st_mtime for file in files)


@pytest.fixture
def scene(isolated, world) -> Scene:
    """A VPC of two zones with a tagged, empty route table in each, and no NAT yet."""
    return two_zone_vpc(world, nats_in_group=False)


@pytest.fixture
def network(world) -> Scene:
    """The same for tests of stacks, which run nothing: time stands still."""
    world.clock.freeze()
    return two_zone_vpc(world, nats_in_group=False)


@pytest.fixture
def nat(scene) -> Nat:
    """A NAT instance of the first zone, launched by its group and waiting for its hook."""
    return Nat(scene, scene.launch_group(ZONES[0]))


def pytest_configure(config):
    config.pluginmanager.register(Comparison())
    # The workers of xdist are in the namespace of the process that starts them.
    if not hasattr(config, "workerinput"):
        isolate(config.pluginmanager.getplugin("capturemanager").stop_global_capturing)


def pytest_report_header():
    return f"binary under test: {binary_path()}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """After all the rest."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    if line := not_tested_in_all(report.longrepr[2] for report in skipped):
        terminalreporter.write_line(line, yellow=True)
