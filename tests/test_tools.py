"""What a newcomer starts by hand: the demo, and the world. Both isolate themselves."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.isolate import OUTSIDE
from tests.nat import ROOT, binary_path

# As from a shell, which is in no namespace of tests.
SHELL_ENV = {name: value for name, value in os.environ.items() if name != OUTSIDE}

pytestmark = pytest.mark.usefixtures("isolated")


def test_the_demo():
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=ROOT,
        env={**SHELL_ENV, "HANAT_BIN": str(binary_path())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 claimed" in done.stdout
    assert "is InService" in done.stdout
    assert "nothing to do: 2 of 2 route tables" in done.stdout


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
