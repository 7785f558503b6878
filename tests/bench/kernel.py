"""The kernel's set-up alone, beside the same by `nft` and `sysctl`."""

import os
import re
import shutil
import statistics
from pathlib import Path

from tests.nat import Nat
from tests.world.world import World

from .launch import Measured, measure
from .stage import JobNotDone, Stage
from .text import heading

RULES = Path(__file__).parent.parent / "kernel/expected/plain.nft"
SCRIPT = Path(__file__).with_name("kernel.sh")
RUNS = 11
_LOGGED = re.compile(r"forwards and masquerades, (\d+) changes in ([0-9.]+) ms")


def set_up(world: World) -> tuple[float, float]:
    """Wall and CPU time of setting up and verifying, in seconds."""
    heading("The kernel's set-up (a machine as it boots: rules, settings, both read back)")
    ours = [_by_hanat(Stage(world, 1).nat) for _ in range(RUNS)]
    _line("hanat", ours)
    own_wall, own_cpu = _medians(ours)
    if all(map(shutil.which, ("nft", "sysctl"))):
        programs = [_by_programs(Stage(world, 1).nat) for _ in range(RUNS)]
        theirs = [(ran.wall, ran.cpu) for ran in programs]
        _line("nft, sysctl", theirs)
        wall, cpu = _medians(theirs)
        print(f"  {wall / own_wall:.1f} times as fast, with {own_cpu / cpu:.2f} of the CPU")
    else:
        print("  nft and sysctl are not both installed: nothing to measure it beside")
    print("Both leave out the connection table's size, which no network namespace can set.")
    return own_wall, own_cpu


def _medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    wall, cpu = zip(*times, strict=True)
    return statistics.median(wall), statistics.median(cpu)


def _line(name: str, times: list[tuple[float, float]]) -> None:
    wall, cpu = ([1e3 * time for time in column] for column in zip(*times, strict=True))
    print(
        f"  {name:<12} {statistics.median(wall):5.1f} ms ({min(wall):.1f} to {max(wall):.1f}), "
        f"{statistics.median(cpu):5.2f} ms of CPU ({min(cpu):.2f} to {max(cpu):.2f})",
        flush=True,
    )


def _by_hanat(nat: Nat) -> tuple[float, float]:
    """The wall time as the log has it; the CPU time of the thread that does it and nothing else,
    as the kernel has it while the run waits for the last answer."""
    with nat.start() as running:
        nat.world.wait_for("CompleteLifecycleAction")
        cpu = _cpu_of_other_threads(running.process.pid)
        ran = running.wait()
    logged = _LOGGED.search(ran.stderr)
    if ran.code or not logged or logged[1] == "0":
        raise JobNotDone(f"the kernel was not set up: {ran}")
    return float(logged[2]) / 1e3, cpu


def _cpu_of_other_threads(pid: int) -> float:
    # Its first number is the time on the CPU in nanoseconds: Documentation/scheduler/sched-stats.
    threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
    others = [thread for thread in threads if thread != pid]
    if not others:
        raise JobNotDone("no thread but the first one is there to be measured")
    stats = [Path(f"/proc/{pid}/task/{thread}/schedstat").read_text() for thread in others]
    return sum(int(stat.split()[0]) for stat in stats) / 1e9


def _by_programs(nat: Nat) -> Measured:
    with nat.machine.entered():
        ran = measure(["/bin/sh", str(SCRIPT)], {"PATH": os.environ["PATH"], "RULES": str(RULES)})
    if ran.code:
        raise JobNotDone(f"the kernel was not set up: {ran.output}")
    return ran
