"""A NAT instance that `hanat watch` stays with: what its tests share."""

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest

from tests.nat import Nat
from tests.stages.handover import OWN, Handover
from tests.stages.two_zones import TwoZones
from tests.world.scene import HOOK
from tests.world.vpc.instance import Instance
from tests.world.weather import Body, Rule
from tests.world.world import World

TERMINATING_HOOK = "hanat-terminating"
NOTICES = (
    "autoscaling/target-lifecycle-state",
    "spot/instance-action",
    "events/recommendations/rebalance",
)
# What it asks when it begins: whether a launch still waits.
BEGUN = {"DescribeAutoScalingInstances"}
AWAITS_SERVICE = "no route table is to lead here until it is in service"
LEADS_HERE_NO_MORE = "no route table leads here any more"


def group(**parameters: Any) -> pytest.MarkDecorator:
    """A test's `stage` is Watching with these parameters of the NAT's group."""
    return pytest.mark.parametrize("stage", [parameters], indirect=True)


def boots_and_watches(**flags: str) -> str:
    """User data of a NAT that claims and then watches."""
    flags = {"interval": "500ms", "linger": "1s", **flags}
    return f"#!/bin/sh\nhanat claim || exit\nhanat watch {' '.join(_arguments(flags))} &\n"


class Watch:
    """A run under way, and its log."""

    def __init__(self, world: World, instance: Instance, log: Path, *arguments: str) -> None:
        self._world = world
        self._instance = instance
        self._log = log
        command = ["hanat", "watch", *arguments]
        with log.open("ab") as output:
            self.process = instance.start(command, stdout=output, stderr=output)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def said(self, text: str) -> list[str]:
        """The lines of the log that have it."""
        return [line for line in self.log.splitlines() if text in line]

    def wait_said(self, text: str, n: int = 1, timeout: float = 30.0) -> str:
        """Waits for the n-th line that has it, which it returns."""
        try:
            self._world.wait_until(lambda: len(self.said(text)) >= n, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"not {n} x {text!r} in the log:\n{self.log}") from error
        return self.said(text)[n - 1]

    def signal(self, name: str) -> int:
        """To what runs on the NAT; it does not reach it through what started it there. Returns the
        exit code."""
        self._instance.run("sh", "-c", f"kill -{name} -1")
        return self.process.wait(30)


class Watching(Handover):
    """`nat` is in a group of one in the first zone, and holds that zone's table. `third` is
    somebody who could forward and holds none."""

    def __init__(self, world: World, **group: Any) -> None:
        """`group` is for Scene.launch_group; with a launching hook the NAT is in service, too."""
        super().__init__(world)
        self._group = {"hook": False, "terminating_hook": True, "timeout": 300, **group}

    def __enter__(self) -> Self:
        super().__enter__()
        self.third = self.nat
        self.nat = self.member(self.scene.launch_group(OWN, **self._group))
        if self._group["hook"]:
            self.complete(HOOK)
        self.give(self.table, self.nat)
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._folder.cleanup()

    def member(self, instance: str) -> Nat:
        """An instance that the group launched, able to forward."""
        self.vpc.instance(instance)
        return self._ready(instance)

    def replacement(self) -> Nat:
        """What the group launched in the place of the NAT."""
        others = [one for one in self.scene.members(OWN) if one != self.nat.instance]
        return self.member(others[-1])

    def watch(self, **flags: str) -> Watch:
        """Under way."""
        watch = self.start(**flags)
        watch.wait_said(f"watching over {self.nat.instance}")
        return watch

    def start(self, **flags: str) -> Watch:
        """Flags without their dashes. By default it looks often, waits for nobody and does not
        linger."""
        flags = {"interval": "100ms", "drain_wait": "0s", "linger": "0s", **flags}
        log = Path(self._folder.name) / "log"
        instance = self.vpc.instance(self.nat.instance)
        return Watch(self.world, instance, log, *_arguments(flags))

    def leave(self) -> None:
        """Has the group terminate the NAT, and replace it."""
        self.world.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId=self.nat.instance, ShouldDecrementDesiredCapacity=False
        )

    def enter_standby(self) -> None:
        """A person takes the NAT out of service for a while; nobody comes in its place."""
        self._update_group(MinSize=0)
        self.world.autoscaling.enter_standby(
            InstanceIds=[self.nat.instance], ShouldDecrementDesiredCapacity=True, **self._named
        )

    def exit_standby(self) -> None:
        self.world.autoscaling.exit_standby(InstanceIds=[self.nat.instance], **self._named)

    def detach(self) -> None:
        """Its group lets the NAT go, which runs on; nobody comes in its place."""
        self._update_group(MinSize=0)
        self.world.autoscaling.detach_instances(
            InstanceIds=[self.nat.instance], ShouldDecrementDesiredCapacity=True, **self._named
        )

    def scale_in(self) -> None:
        """The group is to hold nobody any more."""
        self._update_group(MinSize=0, DesiredCapacity=0)

    def _update_group(self, **settings: Any) -> None:
        self.world.autoscaling.update_auto_scaling_group(**self._named, **settings)

    @property
    def _named(self) -> dict[str, str]:
        return {"AutoScalingGroupName": self.scene.groups[OWN]}

    def put_pool(self, state: str) -> Nat:
        """Gives the group a warm pool of one, which gets as far into it as it gets by itself; that
        is the NAT from then on."""
        self.world.autoscaling.put_warm_pool(MinSize=1, PoolState=state, **self._named)
        pooled = self.world.lifecycles().items()
        [warm] = [one for one, (_, state) in pooled if state.startswith("Warmed:")]
        self.nat = self.member(warm)
        return self.nat

    def add_hook(self, name: str, timeout: int = 300) -> None:
        """Another terminating one."""
        self.world.autoscaling.put_lifecycle_hook(
            AutoScalingGroupName=self.scene.groups[OWN],
            LifecycleHookName=name,
            LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
            HeartbeatTimeout=timeout,
        )

    def complete(self, hook: str) -> None:
        """By somebody else."""
        self.world.autoscaling.complete_lifecycle_action(
            AutoScalingGroupName=self.scene.groups[OWN],
            LifecycleHookName=hook,
            InstanceId=self.nat.instance,
            LifecycleActionResult="CONTINUE",
        )

    def wait_completed(self) -> None:
        """Until the NAT completed its hook; what it said of that may be lost with it."""
        ours = (TERMINATING_HOOK, "CONTINUE")
        self.world.wait_until(lambda: ours in completed(self.world, self.nat.instance), 30)

    def wait_looked(self, times: int = 5) -> None:
        """Until IMDS was asked for notices so often from now on, the whole of each time."""
        before = self.looks()
        self.world.wait_until(lambda: self.looks() >= before + times + 1, 30)

    def looks(self) -> int:
        path = f"/latest/meta-data/{NOTICES[1]}"
        return sum(call.path == path for call in self.world.imds_calls(self.nat.instance))

    def say(self, notice: str, text: str) -> Rule:
        """What IMDS says at that path from now on."""
        return self.imds_weather(Body(text), notice)

    def imds_weather(self, effect: Any, path: str = "*", **how: Any) -> Rule:
        path = f"/latest/meta-data/{path}" if path != "*" else path
        instance = self.nat.instance
        rule = Rule(None, effect, service="imds", path=path, instance_id=instance, **how)
        return self.world.weather(rule)


def completed(world: World, instance: str) -> list[tuple[str, str]]:
    """The hooks and results that anybody completed for it with."""
    return [(c.hook, c.result) for c in world.completions if c.instance_id == instance]


def called(world: World, instance: str, action: str) -> list[float]:
    """When the instance called it with success."""
    calls = world.calls(action)
    return [call.at for call in calls if call.source == world.source(instance) and not call.error]


def left_at(stage: TwoZones, zone: str, instance: str) -> float:
    """When the default route of the zone's private subnet was last turned away from it."""
    subnet = stage.scene.private_subnets[zone]
    turns = [event for event in stage.vpc.events if event.subject == subnet]
    here = f"default route leads to {instance}"
    return max(after.at for before, after in pairwise(turns) if before.text == here)


def _arguments(flags: dict[str, str]) -> list[str]:
    """A flag that is given "" has no value."""
    names = {name: f"--{name.replace('_', '-')}" for name in flags}
    return [f"{names[name]}={value}" if value else names[name] for name, value in flags.items()]
