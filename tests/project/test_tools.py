"""What a newcomer starts by hand: the demo, the lab, the world. They isolate themselves."""

import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.isolate import OUTSIDE
from tests.nat import ROOT, binary_path
from tests.skipping import not_tested

# As from a shell, which is in no namespace of tests.
SHELL_ENV = {name: value for name, value in os.environ.items() if name != OUTSIDE}

pytestmark = pytest.mark.usefixtures("isolated")


def run(*words: str, typed: str = "", within: Sequence[str] = ()) -> CompletedProcess[str]:
    return subprocess.run(
        [*within, sys.executable, "-m", *words],
        cwd=ROOT,
        env={**SHELL_ENV, "HANAT_BIN": str(binary_path())},
        input=typed,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_demo():
    done = run("tests.demo")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    # As they happen: each of these in its order, and what clients see after what makes it so.
    for story in (
        (
            "nat-a Pending:Wait",
            "private-a default route leads to nat-a",
            "nat-a InService",
            "private-a default route leads to nat-a2",
            "nat-a is off",
            "nat-b dies without notice",
            "private-b default route leads to nat-b2",
        ),
        ("private-a default route leads to nat-a", "client-a gets through"),
        (
            "nat-b dies without notice",
            "client-b does not get through any more",
            "private-b default route leads to nat-b2",
            "client-b gets through",
        ),
    ):
        happened = iter(lines)
        for event in story:
            assert any(line.endswith(event) for line in happened), f"{event}: {done.stdout}"
    # And what was measured.
    assert any(re.match(r"refresh in zone a client-a none 0 of \d+ 0 of \d+ 1$", x) for x in lines)
    assert any(re.match(r"client-b [2-9]\.\d\d s [1-9]", line) for line in happened), done.stdout


def test_the_demo_on_a_terminal():
    """It shows where things are now, and in the end a timeline."""
    here, there = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.demo"],
        cwd=ROOT,
        env={**SHELL_ENV, "HANAT_BIN": str(binary_path()), "TERM": "xterm", "COLUMNS": "80"},
        stdin=there,
        stdout=there,
        stderr=there,
    ) as demo:
        os.close(there)
        shown = b""
        with contextlib.suppress(OSError):  # that is how its end shows
            while data := os.read(here, 1 << 16):
                shown += data
        os.close(here)
    assert demo.returncode == 0, shown.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"client-a +yes +198\.18\.0\.1 +░*█", text), "the live view"
    assert re.search(r"== death in zone b\s+0\.00 s +nat-b +dies without notice", text)


AT_ONCE = ["--boot-time", "0", "--api-latency", "0"]
FAILOVER = """
kill nat-a 0.2
wait
status
"""


def assert_failed_over(done: CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = done.stdout.split("help lists the commands")
    assert re.search(r"private-a +nat-a *$", before, re.MULTILINE), done.stdout
    assert re.search(r"private-a +nat-a2 *$", after, re.MULTILINE), done.stdout
    assert re.search(r"^client-a +yes ", after, re.MULTILINE), done.stdout


def test_the_lab():
    assert_failed_over(run("tests.lab", *AT_ONCE, typed=FAILOVER))


def test_labs_side_by_side():
    with ThreadPoolExecutor() as pool:
        for done in pool.map(lambda _: run("tests.lab", *AT_ONCE, typed=FAILOVER), range(2)):
            assert_failed_over(done)


def test_the_lab_without_root():
    """In a user namespace, with the rights that one has there and no others."""
    within = ["unshare", "--user", "--map-root-user", "--"]
    allowed = subprocess.run([*within, "true"], capture_output=True, text=True)
    if allowed.returncode:
        not_tested(f"user namespaces are not allowed here: {allowed.stderr.strip()}")
    assert_failed_over(run("tests.lab", *AT_ONCE, typed=FAILOVER, within=within))


def test_mistakes_in_the_lab():
    """Each is told of, and it goes on."""
    mistakes = {
        "kill nat-z": "there is no nat-z; there are: client-a",
        "kill private-a": "there is no private-a",
        "reboot client-a": "client-a is no NAT",
        "lose nat-a -5": "-5 is no percentage",
        "kill": "wrong number of words",
        "kill nat-a soon": "could not convert string to float: 'soon'",
        "refresh z": "which zone? a, b",
        "cut nat-a everything": "cut what? uplink or peers",
        "jump": "no such command: jump",
        "run nat-a exit 7": "exit code 7",
    }
    done = run("tests.lab", *AT_ONCE, typed="\n".join([*mistakes, "status", ""]))
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(said) == len(mistakes), said
    for line, expected in zip(said, mistakes.values(), strict=True):
        assert line.startswith(f"error: {expected}")
    assert "private-a" in done.stdout.rpartition("error: ")[2], "the status"


def test_a_lab_that_is_killed_leaves_nothing():
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lab", *AT_ONCE],
        cwd=ROOT,
        env={**SHELL_ENV, "HANAT_BIN": str(binary_path())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as lab:
        lab.stdin.write("run nat-a sleep 1000 >/dev/null &\n")
        lab.stdin.write("run router sleep 1000 & echo sleeps; sleep 1000\n")
        lab.stdin.flush()
        assert any(line == "sleeps\n" for line in lab.stdout)
        left = descendants(lab.pid)
        [folder] = Path(tempfile.gettempdir()).glob(f"hanat-vpc-{lab.pid}-*")
        assert {"sleep", "cat"} <= {name for _, name in left}
        lab.kill()
    deadline = time.monotonic() + 10
    while alive := left & processes().keys() or folder.exists():
        assert time.monotonic() < deadline, alive
        time.sleep(0.01)


def processes() -> dict[tuple[int, str], int]:
    """Every process's ID and name, and its parent's ID."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().partition(" (")[2].rpartition(") ")
            state, parent = rest.split()[:2]
            # A zombie is only not waited for yet.
            if state != "Z":
                found[int(stat.parent.name), name] = int(parent)
    return found


def descendants(pid: int) -> set[tuple[int, str]]:
    every, family = processes(), {pid}
    found: set[tuple[int, str]] = set()
    while more := {key for key, parent in every.items() if parent in family} - found:
        found |= more
        family |= {child for child, _ in more}
    return found


def test_the_world_by_hand():
    """What it prints is enough to run the binary on its instance."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.world"],
        cwd=ROOT,
        env=SHELL_ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as world:
        try:
            env = {}
            for line in world.stdout:
                if export := re.fullmatch(r"export (\w+)=(\S+)\n", line):
                    env[export[1]] = export[2].strip("'\"")
                elif line.startswith("# a shell on "):
                    way_in = shlex.split(line.partition(": ")[2])
                    break
            ran = subprocess.run(
                [*way_in, binary_path(), "claim"],
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            world.terminate()
    assert ran.returncode == 0, ran.stderr
    assert "1 claimed" in ran.stdout
