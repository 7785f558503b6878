"""What a newcomer starts by hand: the demo, and the world."""

import os
import re
import subprocess
import sys

from tests.nat import ROOT, binary_path


def test_the_demo():
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=ROOT,
        env={**os.environ, "HANAT_BIN": str(binary_path())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 claimed" in done.stdout
    assert "is InService" in done.stdout
    assert "nothing to do: 2 of 2 route tables" in done.stdout


def test_the_world_by_hand():
    """What it prints is enough for the binary to talk to it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.world"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as world:
        try:
            env = {}
            for line in world.stdout:
                if export := re.fullmatch(r"export (\w+)=(\S+)\n", line):
                    env[export[1]] = export[2].strip("'\"")
                elif env and line.strip():
                    break
            ran = subprocess.run(
                [binary_path(), "claim"], env=env, capture_output=True, text=True, timeout=60
            )
        finally:
            world.terminate()
    assert ran.returncode == 0, ran.stderr
    assert "1 claimed" in ran.stdout
