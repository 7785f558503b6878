"""`make demo`: NATs come and go in a VPC of two zones, made of network namespaces around an
emulated AWS, and clients measure what they lose of it."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests import api_demo
from tests.isolate import isolate, refusal
from tests.stages.two_zones import LAUNCH_FIRST, TwoZones, stop_all, wait_for_all
from tests.view import View, plain_table, shown
from tests.world import World
from tests.world.scene import ZONES
from tests.world.vpc.probe import Report

# Seconds, and shorter than on EC2.
API_LATENCY, BOOT, DETECTION = 0.05, 2.0, 2.0
ZONE_A, ZONE_B = ZONES
# The scene in which nothing is to be lost.
REFRESH = 1


@dataclass(frozen=True)
class Outcome:
    """Of a scene. Times by time.monotonic()."""

    name: str
    started: float
    ended: float
    reports: Mapping[str, Report]


class Demo:
    def __init__(self, stage: TwoZones, view: View, console: Console) -> None:
        self._stage = stage
        self._view = view
        self._console = console
        self.outcome: list[Outcome] = []

    def play(self) -> None:
        stage = self._stage
        with self._scene("first launch", "two groups launch a NAT each", connected=False):
            nats = dict(zip(ZONES, stage.launch(maintenance=LAUNCH_FIRST), strict=True))
        with self._scene(
            "refresh in zone a",
            "the group of zone a replaces its NAT, and launches before it terminates",
        ):
            stage.refresh(ZONE_A)
            stage.serving(ZONE_A, other_than=nats[ZONE_A])
            stage.wait_off(nats[ZONE_A])
        with self._scene("death in zone b", "the NAT of zone b dies without notice"):
            stage.vpc.kill(nats[ZONE_B], noticed_after=DETECTION)
            stage.serving(ZONE_B, other_than=nats[ZONE_B])

    @contextmanager
    def _scene(self, name: str, what: str, connected: bool = True) -> Iterator[None]:
        """Measured from when all clients get through, if they do, until they do (again)."""
        with self._stage.probes() as probes:
            if connected:
                wait_for_all(probes)
            self._view.probes = probes
            self._console.print(f"[bold]== {what}[/bold]")
            started = time.monotonic()
            yield
            wait_for_all(probes)
            self._view.wait_shown()
            self._view.probes = {}
            self.outcome.append(Outcome(name, started, time.monotonic(), stop_all(probes)))


def measured(outcome: Sequence[Outcome]) -> Table:
    table = plain_table("what happened", "client")
    for column in (
        "longest outage",
        "new connections failed",
        "datagrams lost",
        "connections broken",
    ):
        table.add_column(column)
    for scene in outcome:
        name = scene.name
        for zone, report in scene.reports.items():
            table.add_row(
                name,
                f"client-{zone[-1]}",
                f"{report.outage:.2f} s" if report.outages else "none",
                f"{report.failed} of {report.exchanges}",
                f"{report.lost} of {report.datagrams}",
                f"{report.broken}",
            )
            name = ""
    return table


def timeline(scene: Outcome, view: View) -> Iterator[Text]:
    """What happened to NATs and routes, from the beginning of the scene."""
    for event in view.stage.vpc.events:
        if scene.started <= event.at <= scene.ended:
            yield view.line(event, since=scene.started)


def main() -> int:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    if not isolate():
        console.print(f"Packets take network namespaces, which are not to be had: {refusal()}.")
        console.print("Run it as root to see them. Without, this is what the API shows:")
        return api_demo.main(console)
    console.print("== a VPC of two zones comes up; the private subnets' tables are tagged NATAZ")
    with World() as world, TwoZones(world, api_latency=API_LATENCY, boot_time=BOOT) as stage:
        view = View(stage)
        demo = Demo(stage, view, console)
        with shown(view, console):
            demo.play()
        for scene in demo.outcome if console.is_terminal else ():
            console.print(f"[bold]== {scene.name}[/bold]")
            console.print(*timeline(scene, view), sep="\n")
    console.print("\n[bold]== what the clients measured[/bold]")
    console.print(measured(demo.outcome))
    console.print(
        f"   A boot takes {BOOT:g} s here, its group notices a death after {DETECTION:g} s, an API "
        f"call takes {API_LATENCY * 1000:.0f} ms."
    )
    refreshed = Report.of_all(demo.outcome[REFRESH].reports.values())
    if refreshed.failed or refreshed.lost:
        console.print("== the demo FAILED: a refresh is to lose nothing")
        return 1
    console.print("   `make lab` is such a VPC to play with.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
