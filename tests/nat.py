"""A NAT instance as tests see it: runs the shipped binary as that instance would."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.world.machine import Machine
from tests.world.scene import Scene
from tests.world.world import DefaultRoute

ROOT = Path(__file__).resolve().parent.parent


def binary_path() -> Path:
    """The binary that `make` names, by default the newest one that cargo built."""
    if named := os.environ.get("HANAT_BIN"):
        return Path(named).resolve()
    built = sorted(ROOT.glob("target/*-linux-*/*/hanat"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise FileNotFoundError("no binary to test: run `make build` first")
    return built[-1]


@dataclass(frozen=True)
class Ran:
    """What a finished run left for its user."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The last line on standard error, which says the cause."""
        last = self.stderr.rstrip().rpartition("\n")[2]
        assert " ERROR " in last, f"the last line is no error:\n{self.stderr}"
        return last.partition(" ERROR ")[2]

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


class Running:
    """A run under way; killed when the test leaves without having waited for it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 60) -> Ran:
        stdout, stderr = self.process.communicate(timeout=timeout)
        return Ran(self.process.returncode, stdout, stderr)


class Nat:
    def __init__(self, scene: Scene, instance: str) -> None:
        self.scene = scene
        self.world = scene.world
        self.instance = instance
        self.interface = scene.interface(instance)

    @property
    def private_address(self) -> str:
        """The primary interface's first address."""
        interfaces = self.world.ec2.describe_network_interfaces(
            NetworkInterfaceIds=[self.interface]
        )
        return interfaces["NetworkInterfaces"][0]["PrivateIpAddress"]

    @property
    def env(self) -> dict[str, str]:
        """The way into the world, and nothing else."""
        return {**self.world.env(self.instance), "HANAT_PROBE_URL": self.world.probe_url}

    @property
    def machine(self) -> Machine:
        """The instance's network namespace: where everything runs that runs on this NAT."""
        return self.world.machine(self.instance)

    def start(
        self,
        *flags: str,
        env: dict[str, str] | None = None,
        within: Sequence[str] = (),
        preexec: Callable[[], None] | None = None,
    ) -> Running:
        """`hanat claim` on the instance, with nothing in its environment but the way into the
        world. `within` is a program that starts it, with its arguments; `preexec` is called in the
        new process."""
        with self.machine.entered():
            process = subprocess.Popen(
                [*within, binary_path(), "claim", *flags],
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=preexec,
            )
        return Running(process)

    def claim(self, *flags: str, timeout: float = 150, **how: Any) -> Ran:
        with self.start(*flags, **how) as running:
            return running.wait(timeout)

    def owns(self, table: str) -> bool:
        """Whether a table's default route leads here and works."""
        route = self.route(table)
        return route is not None and (route.target, route.state) == (self.interface, "active")

    def route(self, table: str) -> DefaultRoute | None:
        return self.world.default_route(table)

    @property
    def state(self) -> str | None:
        """The lifecycle state."""
        return self.world.lifecycle(self.instance)

    @property
    def answers(self) -> list[str]:
        """How this instance's hooks were completed."""
        return [c.result for c in self.world.completions if c.instance_id == self.instance]

    @property
    def called(self) -> dict[str, int]:
        """How often each action was called by this instance."""
        counts: dict[str, int] = {}
        for call in self.world.calls():
            if call.source == self.world.source(self.instance):
                counts[call.action] = counts.get(call.action, 0) + 1
        return counts

    @property
    def changes(self) -> dict[str, int]:
        """How often each action that changes something was called by this instance."""
        return {a: n for a, n in self.called.items() if not a.startswith("Describe")}
