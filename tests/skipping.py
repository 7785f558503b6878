"""What to do about a test that cannot be run here, and what it takes to run all of them."""

import os
import shutil
from collections.abc import Iterable
from typing import NoReturn

import pytest

# What it takes, in the order in which to do it. The last is to be said of a run.
PACKAGES = "make debian-packages (as root)"
DIST = "make tools dist (with rustup after: rustup target add aarch64-unknown-linux-gnu)"
IMAGE = "make image (as root)"
ROOT_RIGHTS = "running them as root"
_ORDER = (PACKAGES, DIST, IMAGE, ROOT_RIGHTS)
_NOT_TESTED = "NOT TESTED: "
_TAKES = "; it takes: "


def with_takes(why: str, *takes: str) -> str:
    """`takes` is of the above; nothing, where this machine cannot be helped."""
    return why + (_TAKES + ", ".join(takes) if takes else "")


def not_tested(why: str, *takes: str) -> NoReturn:
    """Skip, loudly. In CI it is a failure: what CI leaves out, nobody tests."""
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    give_up(_NOT_TESTED + with_takes(why, *takes))


def program(name: str) -> str:
    """The path of a program that hanat does without. Tests that need it are skipped where it is not
    installed."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        not_tested(f"{name} is not installed", PACKAGES)
    return path


def not_tested_in_all(reasons: Iterable[str]) -> str:
    """One line on what a run has skipped for these reasons; empty when it is nothing."""
    left_out = [reason for reason in reasons if _NOT_TESTED in reason]
    if not left_out:
        return ""
    takes = [reason.partition(_TAKES)[2] for reason in left_out]
    helps = [thing for thing in _ORDER if any(thing in each for each in takes)]
    line = f"{len(left_out)} test{'' if len(left_out) == 1 else 's'}"
    if helpless := takes.count(""):
        line += f" ({helpless} of them cannot be run on this machine)"
    return _NOT_TESTED + with_takes(line, *helps)
