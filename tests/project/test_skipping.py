"""What a run leaves out is summed up in one line that says what it takes."""

import os
import subprocess
import sys

import pytest

from tests.nat import ROOT, binary_path
from tests.skipping import DIST, IMAGE, PACKAGES, ROOT_RIGHTS, not_tested_in_all, with_takes


def skipped(why: str, *takes: str) -> str:
    """As pytest has it."""
    return f"Skipped: NOT TESTED: {with_takes(why, *takes)}"


def test_nothing_is_said_where_nothing_is_left_out():
    assert not_tested_in_all([]) == ""
    assert not_tested_in_all(["Skipped: for another reason"]) == ""


def test_each_thing_that_it_takes_is_said_once_and_in_order():
    reasons = [
        skipped("the image: it has not been made", PACKAGES, IMAGE),
        skipped("no dist", DIST),
        skipped("man is not installed", PACKAGES),
    ]
    assert not_tested_in_all(reasons) == (
        f"NOT TESTED: 3 tests; it takes: {PACKAGES}, {DIST}, {IMAGE}"
    )


def test_those_that_nothing_helps_are_counted():
    helpless = skipped("no /proc can be mounted here")
    assert not_tested_in_all([helpless]) == (
        "NOT TESTED: 1 test (1 of them cannot be run on this machine)"
    )
    reasons = [helpless, helpless, skipped("the image: this takes root", ROOT_RIGHTS)]
    assert not_tested_in_all(reasons) == (
        f"NOT TESTED: 3 tests (2 of them cannot be run on this machine); it takes: {ROOT_RIGHTS}"
    )


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_it_is_pytests_last_line_but_one(workers, tmp_path):
    """On a machine that has no program at all."""
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *workers,
            "tests/deploy/test_units.py",
        ],
        cwd=ROOT,
        env={**env, "PATH": str(tmp_path), "HANAT_BIN": str(binary_path())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    *before, line, closing = done.stdout.splitlines()
    assert line.endswith(f" tests; it takes: {PACKAGES}")
    count = int(line.removeprefix("NOT TESTED: ").split()[0])
    assert f" {count} skipped" in closing
    each = [reason for reason in before if reason.startswith("SKIPPED")]
    assert each
    assert all(reason.endswith(f"is not installed; it takes: {PACKAGES}") for reason in each)
