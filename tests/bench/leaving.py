"""What clients lose when NATs leave that `hanat watch` watches over, and what watching costs.

A boot takes a minute here, so each scene is a process with a world of its own, and several go on at
the same time: `python -m tests.bench.leaving SCENE` plays one and prints what was lost.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.isolate import OUTSIDE, isolate_or_exit
from tests.nat import ROOT, Nat, binary_path
from tests.stages.two_zones import LAUNCH_FIRST, TwoZones
from tests.world.scene import ZONES, two_zone_vpc
from tests.world.spot import SPOT
from tests.world.vpc.probe import Outage, Report
from tests.world.vpc.prober_program import TICK
from tests.world.world import World

from .stage import JobNotDone
from .text import heading

OWN, OTHER = ZONES
RUNS = 5
AT_ONCE = 3
# Seconds. A NAT gives up waiting for its replacement after DRAIN_WAIT where that comes only once
# the NAT is gone.
LATENCY, BOOT, DRAIN_WAIT, NOTICE, DAY = 0.1, 60.0, 10.0, 120.0, 86400
# Longer than a boot, which the launching one waits for.
HOOKS = 120
PATIENCE = 240.0
# How many times the watch looks at the kernel and the check, which is what it calls EC2 for.
LOOKS = 2
MIB = 1024 * 1024

Target = tuple[str, str, bool]


@dataclass(frozen=True)
class Scene:
    """`leave` has the group, or EC2, take the first zone's NAT away."""

    name: str
    leave: Callable[[TwoZones, str], object]
    flags: str = ""
    group: dict[str, Any] = dataclasses.field(default_factory=dict)
    # Whether the group launches the replacement while the hook still holds the old NAT.
    meanwhile: bool = True
    # Whether that is waited for, where it comes at all.
    replaced: bool = True


def _scale_in(stage: TwoZones, _nat: str) -> None:
    stage.world.autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=stage.group(OWN), MinSize=0, DesiredCapacity=0
    )


def _grow_old(stage: TwoZones, _nat: str) -> None:
    stage.world.autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=stage.group(OWN), MaxInstanceLifetime=DAY
    )
    stage.world.clock.advance(DAY)


SCENES = [
    Scene(
        "refresh, launch before terminate",
        lambda stage, _nat: stage.refresh(OWN),
        group={"maintenance": LAUNCH_FIRST},
    ),
    Scene("terminate first, replacement launched meanwhile", lambda stage, _: stage.terminate(OWN)),
    Scene(
        "terminate first, replacement launched after the hook",
        lambda stage, _nat: stage.terminate(OWN),
        flags=f"--drain-wait {DRAIN_WAIT:g}s",
        meanwhile=False,
    ),
    Scene("maximum lifetime", _grow_old, group={"maintenance": LAUNCH_FIRST}),
    Scene("scale-in", _scale_in, flags=f"--drain-wait {DRAIN_WAIT:g}s", replaced=False),
    Scene("Spot notice", lambda _stage, nat: SPOT.reclaim(nat, NOTICE), replaced=False),
]


def play(scene: Scene) -> Report:
    """With a client in each zone; the report is of the first zone's."""
    user_data = f"#!/bin/sh\nhanat claim || exit\nhanat watch {scene.flags} &\n"
    with World() as world, TwoZones(world, user_data, LATENCY) as stage:
        nat, _ = stage.launch(terminating_hook=True, timeout=HOOKS, **scene.group)
        world.replace_while_terminating(scene.meanwhile)
        stage.vpc.boot_time = BOOT
        with stage.connected_probe() as probe:
            scene.leave(stage, nat)
            try:
                stage.vpc.wait_until(lambda: nat not in stage.vpc.picture.instances, PATIENCE)
            except TimeoutError as error:
                raise JobNotDone(f"{nat} does not leave:\n{stage.vpc.log(nat)}") from error
            if scene.replaced:
                stage.serving(OWN, other_than=nat, timeout=PATIENCE)
            probe.wait_connected()
            report = probe.stop()
        if world.faults:
            raise JobNotDone("the world could not do its part")
        if report.failed:
            _show(stage, report)
    return report


def _show(stage: TwoZones, report: Report) -> None:
    """What failed, and what else happened, in its order."""
    failed = [(outage.start, f"{outage.kind} failed") for outage in report.outages]
    happened = [(event.at, f"{event.subject} {event.text}") for event in stage.vpc.events]
    for at, text in sorted(failed + happened):
        print(f"{at:.3f} {text}", file=sys.stderr)


def what_clients_lose_to_leaving() -> list[Target]:
    heading(f"What clients lose when NATs leave (two zones, {RUNS} runs, hanat watch)")
    print(
        f"A boot takes {BOOT:g} s, a call {LATENCY * 1e3:.0f} ms; a Spot notice comes {NOTICE:g} s"
    )
    print(f"ahead. Where no replacement can come in time, --drain-wait is {DRAIN_WAIT:g} s.")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        plays = [scene for scene in SCENES for _ in range(RUNS)]
        reports = list(pool.map(_play_apart, plays))
    print(f"{'':<54}{'failed':>8}{'lost':>6}{'cut short':>11}{'outage':>9}{'at most':>10}")
    targets = []
    for scene in SCENES:
        of_one = [r for played, r in zip(plays, reports, strict=True) if played is scene]
        failed, lost = sum(r.failed for r in of_one), sum(r.lost for r in of_one)
        outages = [_outage(report) for report in of_one]
        print(
            f"{scene.name:<54}{failed:>8}{lost:>6}{sum(r.cut for r in of_one):>11}"
            f"{statistics.median(outages) * 1e3:>6.0f} ms{max(outages) * 1e3:>7.0f} ms"
        )
        most = max(outages)
        met = failed == 0 and most <= 0.05
        targets.append((f"{scene.name}: {failed} failed, {most * 1e3:.0f} ms", "0, ≤ 50 ms", met))
    return targets


def _outage(report: Report) -> float:
    """No shorter than what the probe itself may have missed."""
    return max(report.outage, report.pause - TICK)


def _play_apart(scene: Scene) -> Report:
    command = [sys.executable, "-m", "tests.bench.leaving", scene.name]
    # In a namespace of its own, like this process.
    env = {name: value for name, value in os.environ.items() if name != OUTSIDE}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise JobNotDone(f"{scene.name}: {done.stderr[-2000:]}")
    if done.stderr:
        print(f"{scene.name}:\n{done.stderr}", file=sys.stderr)
    figures = json.loads(done.stdout)
    outages = tuple(Outage(**outage) for outage in figures.pop("outages"))
    return Report(**figures, outages=outages)


def what_watching_costs(world: World) -> list[Target]:
    """Of one that has nothing to do, with its own intervals, from one look to another."""
    heading("What watching costs (a NAT that nothing happens to)")
    world.reset()
    scene = two_zone_vpc(world, nats_in_group=False)
    nat = Nat(scene, scene.launch_group(OWN))
    if nat.claim().code:
        raise JobNotDone("the claim failed")
    look = "DescribeNetworkInterfaces"
    looked = nat.called.get(look, 0)
    with nat.machine.entered():
        watching = subprocess.Popen([binary_path(), "watch"], env=nat.env, stderr=subprocess.PIPE)
    try:
        world.wait_for(look, looked + 1, PATIENCE)
        begun, cpu, called = time.monotonic(), _cpu(watching.pid), sum(nat.called.values())
        world.wait_for(look, looked + 1 + LOOKS, PATIENCE)
        minutes = (time.monotonic() - begun) / 60
        share = (_cpu(watching.pid) - cpu) / (minutes * 60)
        [line] = _lines(watching.pid, "status", "VmHWM:")
        peak = int(line.split()[1]) * 1024
    finally:
        watching.kill()
        watching.communicate()
    calls = (sum(nat.called.values()) - called) / minutes
    print(
        f"In {minutes:.1f} minutes: {calls:.2f} API calls a minute, {share * 100:.3f} % of a CPU,"
    )
    print(f"{peak / MIB:.1f} MiB of memory at most")
    return [
        (f"{calls:.2f} API calls a minute", "≤ 2", calls <= 2),
        (f"{share * 100:.3f} % of a CPU for watching", "≤ 0.1 %", share <= 0.001),
        (f"{peak / MIB:.1f} MiB for watching", "≤ 16 MiB", peak <= 16 * MIB),
    ]


def _cpu(pid: int) -> float:
    """Seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _lines(pid: int, file: str, beginning: str) -> list[str]:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return [line for line in lines if line.startswith(beginning)]


def main() -> int:
    isolate_or_exit()
    [name] = sys.argv[1:]
    [scene] = (scene for scene in SCENES if scene.name == name)
    print(json.dumps(dataclasses.asdict(play(scene))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
