"""What to do about a test that cannot be run here."""

import os
from typing import NoReturn

import pytest


def not_tested(why: str) -> NoReturn:
    """Skip, loudly. In CI it is a failure: what CI leaves out, nobody tests."""
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    give_up(f"NOT TESTED: {why}")
