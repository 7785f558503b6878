"""What clients lose in a VPC made of network namespaces: with NATs that run hanat, and with NATs
that run what people write by hand."""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.stages.two_zones import CLAIM, LAUNCH_FIRST, TwoZones
from tests.world.scene import HOOK, ZONES
from tests.world.vpc.instance import Boot
from tests.world.vpc.probe import Report
from tests.world.vpc.prober_program import TICK
from tests.world.world import World

from .stage import LATENCY, SCRIPT, JobNotDone
from .text import heading, seconds

KERNEL_PART = Path(__file__).with_name("boot.sh")
ZONE = ZONES[0]
RUNS = 3
# Seconds.
BOOT, DETECTION = 1.0, 1.0
ROUTE_CHANGES = 50

# What was measured, the target, whether it is met.
Target = tuple[str, str, bool]


def user_data() -> str:
    """The script's, whole. Instances share files with whoever runs this: no one's own profile."""
    settings = {
        "LIFECYCLE_HOOK": HOOK,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    exports = "".join(f"export {name}={value}\n" for name, value in settings.items())
    return KERNEL_PART.read_text() + exports + SCRIPT.read_text()


@dataclass(frozen=True)
class Program:
    """`code_at_reboot` is its exit code when no hook waits for it."""

    name: str
    user_data: str
    code_at_reboot: int


HANAT = Program("hanat", CLAIM, 0)
# The AWS CLI's, for a lifecycle action that is not there.
BY_HAND = Program("script", user_data(), 255)


@dataclass(frozen=True)
class Life:
    """What one group went through. Times in seconds; `_own` is from the start of the user data to
    the end of the outage, which is the claim's share."""

    launch: float
    launch_own: float
    reboot: Report
    reboot_own: float
    refresh: Report
    refresh_took: float
    death: Report
    death_own: float


# --- What is printed ------------------------------------------------------------------------------


def _count(counts: Sequence[float]) -> str:
    few, most = min(counts), max(counts)
    middle = f"{statistics.median(counts):g}"
    return middle if few == most else f"{middle} ({few} to {most})"


_ROWS: list[tuple[str, Callable[[Life], float], Callable[[Sequence[float]], str]]] = [
    ("first launch: group created to first answer", lambda life: life.launch, seconds),
    ("  of it since the user data started", lambda life: life.launch_own, seconds),
    ("reboot: longest outage", lambda life: life.reboot.outage, seconds),
    ("  of it since the user data started", lambda life: life.reboot_own, seconds),
    ("refresh, launch before terminate: took", lambda life: life.refresh_took, seconds),
    ("  exchanges failed", lambda life: life.refresh.failed, _count),
    ("  datagrams lost", lambda life: life.refresh.lost, _count),
    ("  exchanges cut short", lambda life: life.refresh.cut, _count),
    ("  connections broken", lambda life: life.refresh.broken, _count),
    ("  longest outage", lambda life: life.refresh.outage, seconds),
    ("sudden death: longest outage", lambda life: life.death.outage, seconds),
    ("  of it since the user data started", lambda life: life.death_own, seconds),
    ("  connections broken", lambda life: life.death.broken, _count),
]


def what_clients_lose(world: World) -> list[Target]:
    heading(f"What clients lose (a VPC made of network namespaces, one zone, {RUNS} runs)")
    print(f"A boot takes {BOOT:g} s, and a group notices a death after {DETECTION:g} s. The user")
    print("data runs at every boot: hanat, or a script (tests/bench/boot.sh and claim.sh) that")
    print("ends in an error at a reboot, for want of a hook to complete.")
    print("Outages are exact to 10 ms.")
    programs = [HANAT]
    if all(map(shutil.which, ("nft", "sysctl"))):
        programs.append(BY_HAND)
    else:
        print("nft and sysctl, which the script needs, are not both installed: hanat alone")
    lives = {program: [live(world, program) for _ in range(RUNS)] for program in programs}
    print(f"{'':<45}" + "".join(f"{program.name:<28}" for program in programs).rstrip())
    for label, figure, text in _ROWS:
        columns = (text([figure(life) for life in of_one]) for of_one in lives.values())
        print(f"{label:<45}" + "".join(f"{column:<28}" for column in columns).rstrip())
    later = _in_force_after(world)
    in_force = f"{later * 1e3:.1f} ms until a replaced route is in force"
    return [*_targets(lives[HANAT]), (in_force, "≤ 10 ms", later <= 0.01)]


def _targets(lives: Sequence[Life]) -> list[Target]:
    own = statistics.median(life.death_own for life in lives)
    # Of all runs: a loss is no less of one for not being the median.
    failed = sum(life.refresh.failed for life in lives)
    lost = sum(life.refresh.lost for life in lives)
    # No shorter than what the probe itself may have missed.
    outage = max(max(life.refresh.outage, life.refresh.pause - TICK) for life in lives)
    return [
        (f"{own:.2f} s of a sudden death's outage are the claim's", "≤ 0.5 s", own <= 0.5),
        (f"{failed} exchanges failed during refreshes", "0", failed == 0),
        (f"{lost} datagrams lost during refreshes", "0", lost == 0),
        (f"{outage * 1e3:.0f} ms of outage at most during refreshes", "≤ 50 ms", outage <= 0.05),
    ]


# --- One group's life -----------------------------------------------------------------------------


def live(world: World, program: Program) -> Life:
    world.reset()
    with TwoZones(world, program.user_data, LATENCY, [ZONE], boot_time=BOOT) as stage:
        play = _Play(stage, program)
        try:
            return play.run()
        except TimeoutError as error:
            raise JobNotDone(f"{program.name}: {error}") from error


class _Play:
    def __init__(self, stage: TwoZones, program: Program) -> None:
        self._stage = stage
        self._program = program

    def run(self) -> Life:
        nat, launch, launch_own = self._launch()
        reboot, reboot_own = self._reboot(nat)
        successor, refresh, refresh_took = self._refresh(nat)
        death, death_own = self._die(successor)
        if self._stage.world.faults:
            raise JobNotDone("the world could not do its part")
        return Life(launch, launch_own, reboot, reboot_own, refresh, refresh_took, death, death_own)

    def _launch(self) -> tuple[str, float, float]:
        with self._stage.probes() as probes:
            created = time.monotonic()
            [nat] = self._stage.launch(maintenance=LAUNCH_FIRST)
            probes[ZONE].wait_connected()
            over = _over(probes[ZONE].stop())
        return nat, over - created, over - self._booted(nat).started

    def _reboot(self, nat: str) -> tuple[Report, float]:
        with self._stage.connected_probe() as probe:
            self._stage.world.ec2.reboot_instances(InstanceIds=[nat])
            boot = self._booted(nat, self._program.code_at_reboot)
            probe.wait_connected()
            report = probe.stop()
        return report, _over(report) - boot.started

    def _refresh(self, nat: str) -> tuple[str, Report, float]:
        with self._stage.connected_probe() as probe:
            started = time.monotonic()
            self._stage.refresh(ZONE)
            successor = self._stage.serving(ZONE, other_than=nat)
            self._stage.wait_off(nat)
            took = time.monotonic() - started
            probe.wait_connected()
            report = probe.stop()
        self._booted(successor)
        return successor, report, took

    def _die(self, nat: str) -> tuple[Report, float]:
        with self._stage.connected_probe() as probe:
            self._stage.vpc.kill(nat, noticed_after=DETECTION)
            successor = self._stage.serving(ZONE, other_than=nat)
            probe.wait_connected()
            report = probe.stop()
        boot = self._booted(successor)
        return report, _over(report) - boot.started

    def _booted(self, nat: str, code: int = 0) -> Boot:
        """Waits for the end of its user data, which must have done its job."""
        boot = self._stage.vpc.wait_booted(nat)
        state = self._stage.world.lifecycle(nat)
        target = self._stage.routed_to(ZONE)
        if (boot.code, state, target) != (code, "InService", nat):
            raise JobNotDone(
                f"{self._program.name}: {nat} is {state}, the route leads to {target}, "
                f"exit code {boot.code}; it said:\n{self._stage.vpc.log(nat)}"
            )
        return boot


def _over(report: Report) -> float:
    """When the last outage was over."""
    return max(outage.end for outage in report.outages)


# --- How soon a replaced route is in force --------------------------------------------------------


def _in_force_after(world: World) -> float:
    """Seconds. A change is in force before the call that makes it is answered, which
    tests/world/tests/test_vpc.py sees to: so it is what a call takes longer with a VPC that follows
    it than without."""
    world.reset()
    with TwoZones(world, zones=[ZONE]) as stage:
        stage.launch()
        alone = stage.scene.launch_instance(stage.scene.public_subnets[ZONE])
        stage.vpc.instance(alone)
        interfaces = [stage.scene.interface(i) for i in (stage.scene.nats[ZONE], alone)]
        world.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=interfaces[1], SourceDestCheck={"Value": False}
        )
        followed = _replace_routes(stage, interfaces)
    unfollowed = _replace_routes(stage, interfaces)
    print(
        f"\nReplaceRoute takes {followed * 1e3:.1f} ms with the VPC that follows it, "
        f"{unfollowed * 1e3:.1f} ms without"
    )
    return followed - unfollowed


def _replace_routes(stage: TwoZones, interfaces: Sequence[str]) -> float:
    """Each leads elsewhere than the one before. Median, in seconds."""
    took = []
    for number in range(ROUTE_CHANGES):
        started = time.monotonic()
        stage.world.ec2.replace_route(
            RouteTableId=stage.scene.private_tables[ZONE],
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=interfaces[(number + 1) % len(interfaces)],
        )
        took.append(time.monotonic() - started)
    return statistics.median(took)
