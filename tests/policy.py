"""Compares the NATs' policy with what the binary calls, both ways, over the whole suite: what it
calls is allowed, and what is allowed is called.

Every process notes the calls that it sees; the first one compares when all tests have run.
"""

from collections.abc import Iterable
from typing import Any

import pytest
from cfnlint import decode

from tests.nat import ROOT
from tests.world import authorization
from tests.world.record import Call

_SUITE = ["tests"]
# How the AWS SDK for Rust introduces itself.
_BINARY = "aws-sdk-rust/"
_called: set[str] = set()


def note(calls: Iterable[Call]) -> None:
    """What a test has seen."""
    _called.update(
        f"{call.service}:{call.action}" for call in calls if call.agent.startswith(_BINARY)
    )


def granted() -> set[str]:
    """The actions of the policy named hanat-claim."""
    template, _ = decode.decode(str(ROOT / "cloudformation" / "ha-nat.yaml"))
    policies = template["Resources"]["Role"]["Properties"]["Policies"]
    [policy] = [policy for policy in policies if policy.get("PolicyName") == "hanat-claim"]
    return authorization.granted([policy["PolicyDocument"]])


def difference(called: set[str], everything: bool) -> list[str]:
    """What is wrong; `everything`: all calls that there are were seen."""
    said = [f"hanat calls {name}, which its policy does not allow" for name in called - granted()]
    if everything:
        said += [f"the policy allows {name}, which nobody calls" for name in granted() - called]
    return sorted(said)


class Comparison:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self._wrong: list[str] = []
        self._left_out = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        _called.update(getattr(node, "workeroutput", {}).get("called", []))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        config = session.config
        if hasattr(config, "workeroutput"):
            config.workeroutput["called"] = sorted(_called)
            return
        stats = config.pluginmanager.getplugin("terminalreporter").stats
        self._left_out = config.args != _SUITE or any(
            stats.get(what) for what in ("deselected", "skipped", "failed", "error")
        )
        self._wrong = difference(_called, everything=not self._left_out)
        if self._wrong and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self._wrong:
            terminalreporter.write_line(f"POLICY: {line}", red=True)
        if self._left_out:
            terminalreporter.write_line(
                "NOT TESTED: whether all that the policy allows is called (not all tests were run)"
            )
