"""Measures against the limit: calls that must follow each other, times the latency."""

import socket
import statistics
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from tests.world.world import World

from .launch import Measured
from .stage import LATENCY, JobNotDone, Stage, hanat
from .text import heading, seconds
from .timeline import Phases, critical_path, made_in_order

TABLES = 10
REPEATS = 9
# Each needs the answer to the one before: no route is taken before the instance can forward, nor
# before it is known which hook will have to be answered. All other calls fit beside these.
CHECK_OFF = (
    "DescribeAutoScalingInstances",
    "DescribeLifecycleHooks",
    "ReplaceRoute",
    "DescribeRouteTables",
    "CompleteLifecycleAction",
)
CHECK_ON = (
    "DescribeNetworkInterfaces",
    "ModifyNetworkInterfaceAttribute",
    "ReplaceRoute",
    "DescribeRouteTables",
    "CompleteLifecycleAction",
)


def against_the_limit(world: World) -> tuple[float, list[Measured]]:
    """The ratio of a first boot, and its runs."""
    heading(f"Against the limit ({TABLES} tables, {REPEATS} runs)")
    print("The limit is the longest chain of calls that must follow each other, times the latency.")
    one_limit(world, "check off already", CHECK_OFF, check_off=True)
    ratio, ran = one_limit(world, "first boot, check still on", CHECK_ON, check_off=False)
    exchange = empty_exchange(world) * 1e3
    print(
        f"\nAn empty exchange with the world takes {exchange:.2f} ms: 'between' holds one a call."
    )
    return ratio, ran


def one_limit(
    world: World, title: str, chain: Sequence[str], check_off: bool
) -> tuple[float, list[Measured]]:
    runs, phases, requests = [], [], 0
    for _ in range(REPEATS):
        stage = Stage(world, TABLES, check_off)
        ran = stage.run(hanat)
        if not made_in_order(stage.calls, chain):
            raise JobNotDone(f"not called one after the other: {', '.join(chain)}")
        path = critical_path(stage.calls)
        imds = world.imds_calls(stage.nat.instance)
        requests = len(imds)
        phases.append(Phases.of(ran, imds, path, LATENCY))
        runs.append(ran)
    limit = len(chain) * LATENCY
    wall = [ran.wall for ran in runs]
    ratio = statistics.median(wall) / limit
    print(f"\n{title}: {' → '.join(chain)}")
    worlds = statistics.median(phase.world for phase in phases)
    print(f"  limit {limit * 1e3:.0f} ms, hanat {seconds(wall)}: {ratio:.2f} times the limit")
    less = (statistics.median(wall) - worlds) / limit
    print(f"  without the world's own time in its calls: {less:.2f} times the limit")
    if len(path) > len(chain):
        print(f"  hanat waited for more: {' → '.join(call.action for call in path)}")
    for what, name in (
        ("process start to its first IMDS request", "start"),
        (f"IMDS ({requests} requests, credentials too) to the chain's first call", "imds"),
        (f"latency added to the chain's {len(path)} calls", "added"),
        ("the world's own time in these calls (emulator, sleep's slack)", "world"),
        ("between these calls", "between"),
        ("last answer to the process's end", "exit"),
    ):
        part = statistics.median(getattr(phase, name) for phase in phases)
        print(f"  {part * 1e3:>7.1f} ms  {what}")
    return ratio, runs


def empty_exchange(world: World) -> float:
    """What a request costs that asks the world for nothing, on a kept-alive connection."""
    url = urlsplit(world.probe_url)
    took = []
    with socket.create_connection((url.hostname, url.port)) as connection:
        for _ in range(100):
            started = time.monotonic()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: world\r\n\r\n")
            if not connection.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise ConnectionError("the world gave no whole answer")
            took.append(time.monotonic() - started)
    return statistics.median(took)
