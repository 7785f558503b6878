"""`HANAT_BIN=… python -m tests.bench`: measures, and says whether the targets are met.

A missed target is no failure, since a busy machine misses them too; a run that did not do its job
is one.
"""

import os
import statistics
import sys
from collections.abc import Callable, Sequence

from tests.isolate import isolate_or_exit
from tests.nat import Nat, binary_path
from tests.world.world import World

from .forwarding import what_forwarding_costs
from .kernel import set_up
from .launch import Measured, measure
from .leaving import what_clients_lose_to_leaving, what_watching_costs
from .limit import TABLES, against_the_limit
from .outages import what_clients_lose
from .ports import what_ports_cost
from .stage import LATENCY, JobNotDone, Stage, hanat, script
from .text import heading, seconds

MIB = 1024 * 1024
# Tables → runs of hanat, runs of the script (which takes a minute or more at 100).
COMPARED = {1: (5, 3), TABLES: (5, 3), 100: (3, 1)}
# EC2's bucket for ReplaceRoute (EC2 API reference, "Request throttling").
BURST, REFILL = 50, 5


def main() -> int:
    isolate_or_exit()
    binary = binary_path()
    before = binary.stat()
    size = before.st_size
    print(f"hanat: {size} bytes, on {os.cpu_count()} CPUs")
    print(f"{LATENCY * 1e3:.0f} ms are added to every EC2 and Auto Scaling call, none to IMDS.")
    print("Every run starts from a fresh world and is checked: all tables lead to the NAT, the")
    print("hook is completed with CONTINUE. Times are medians (fastest to slowest).")
    try:
        with World() as world:
            # Unmeasured: fills caches and has Python compile the AWS CLI.
            for program in (hanat, script):
                Stage(world, 1).run(program)
            faster = against_the_script(world)
            ratio, ran = against_the_limit(world)
            kernel_wall, kernel_cpu = set_up(world)
            on_packets = [*what_forwarding_costs(world), *what_ports_cost(world)]
            on_packets += [*what_clients_lose(world), *what_watching_costs(world)]
        on_packets += what_clients_lose_to_leaving()
        after = binary.stat()
        if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
            # As a build meanwhile does: the figures would be of two programs.
            raise JobNotDone(f"{binary.name} was replaced while it was measured")
    except JobNotDone as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    cpu, peak = resources(ran, size)
    heading("Targets")
    target(f"{faster:.0f} times as fast as the script at {TABLES} tables", "≥ 20", faster >= 20)
    target(f"{ratio:.2f} times the limit at {TABLES} tables", "≤ 1.3", ratio <= 1.3)
    target(f"{cpu * 1e3:.1f} ms of CPU", "≤ 20 ms", cpu <= 0.02)
    target(f"{kernel_wall * 1e3:.1f} ms for the kernel", "≤ 20 ms", kernel_wall <= 0.02)
    target(f"{kernel_cpu * 1e3:.2f} ms of CPU for the kernel", "≤ 5 ms", kernel_cpu <= 0.005)
    target(f"{peak / MIB:.1f} MiB of memory", "≤ 16 MiB", peak <= 16 * MIB)
    target(f"{size / MIB:.2f} MiB of binary", "≤ 6 MiB", size <= 6 * MIB)
    for measured in on_packets:
        target(*measured)
    return 0


def against_the_script(world: World) -> float:
    """How many times as fast hanat is at `TABLES` tables."""
    heading("Against a shell script (curl, AWS CLI in a loop: tests/bench/claim.sh)")
    print(f"{'tables':>6}  {'hanat':<28}{'script':<28}{'faster':>6}  throttled (hanat, script)")
    ratios = {}
    for tables, (runs_of_hanat, runs_of_script) in COMPARED.items():
        ours, ours_throttled = walls(world, tables, hanat, runs_of_hanat)
        theirs, theirs_throttled = walls(world, tables, script, runs_of_script)
        ratios[tables] = statistics.median(theirs) / statistics.median(ours)
        print(
            f"{tables:>6}  {seconds(ours):<28}{seconds(theirs):<28}{ratios[tables]:>5.0f}x"
            f"  {ours_throttled}, {theirs_throttled}",
            flush=True,
        )
    most = max(COMPARED)
    floor = (most - BURST) / REFILL
    print(f"EC2 takes {BURST} ReplaceRoute at once, then {REFILL} a second:")
    print(
        f"{most} tables take {floor:.0f} s or more. hanat paces itself to that, a little below; the"
    )
    print("script is slower than that by itself.")
    print("'throttled' is how many calls of one run EC2 refused at first, at most. hanat also")
    print("probes egress, looks the hook's name up and reads the routes back; the script does not.")
    return ratios[TABLES]


def walls(
    world: World, tables: int, program: Callable[[Nat], Measured], repeats: int
) -> tuple[list[float], int]:
    """Wall times, and how many calls of a run were throttled, at most."""
    took, throttled = [], 0
    for _ in range(repeats):
        stage = Stage(world, tables)
        took.append(stage.run(program).wall)
        throttled = max(throttled, stage.throttled)
    return took, throttled


def resources(ran: Sequence[Measured], size: int) -> tuple[float, int]:
    """CPU in seconds, peak memory in bytes."""
    heading(f"CPU, memory, size ({TABLES} tables, first boot, {len(ran)} runs)")
    cpu = statistics.median(run.cpu for run in ran)
    peak = int(statistics.median(run.peak for run in ran))
    # What the launcher weighs when it forks, below which nothing can be measured.
    floor = measure(["/bin/true"], {}).peak
    print(f"  CPU     {cpu * 1e3:.1f} ms, user and system")
    at_most = " at most" if peak <= floor * 1.05 else ""
    print(f"  memory {at_most} {peak / MIB:.1f} MiB at its peak")
    print("          (ru_maxrss of a child begins with its parent's memory, so a small process")
    print(f"          starts it; less than that one's {floor / MIB:.1f} MiB would not show)")
    print(f"  binary  {size} bytes = {size / MIB:.2f} MiB")
    return cpu, peak


def target(what: str, wanted: str, met: bool) -> None:
    print(f"  {'met   ' if met else 'missed'}  {what} (target {wanted})")


if __name__ == "__main__":
    sys.exit(main())
