"""Runs a program and measures it: wall time, CPU time, peak memory."""

import json
import subprocess
import sys
from dataclasses import dataclass

# Started in place of the program, to start it. On Linux a child's ru_maxrss begins with its
# parent's memory at the fork, and the bench, with the emulator in it, is ten times hanat's size: so
# a process that imports next to nothing forks. Its clock is the world's, too: CLOCK_MONOTONIC.
_LAUNCHER = """
import os, sys, time
started = time.monotonic()
child = os.fork()
if child == 0:
    os.dup2(2, 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
ended = time.monotonic()
import json
print(json.dumps({
    "code": os.waitstatus_to_exitcode(status),
    "started": started,
    "ended": ended,
    "cpu": usage.ru_utime + usage.ru_stime,
    "peak": usage.ru_maxrss * 1024,
}))
"""


@dataclass(frozen=True)
class Measured:
    """A finished program. Times in seconds, `started` and `ended` by time.monotonic, `peak` in
    bytes; `output` is its standard output and standard error."""

    code: int
    started: float
    ended: float
    cpu: float
    peak: int
    output: str

    @property
    def wall(self) -> float:
        return self.ended - self.started


def measure(argv: list[str], env: dict[str, str]) -> Measured:
    """Run `argv`, whose first word is an absolute path, with nothing but `env`."""
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *argv],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return Measured(**json.loads(ran.stdout), output=ran.stderr)
