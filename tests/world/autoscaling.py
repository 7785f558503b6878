"""Extends moto's Auto Scaling by lifecycle hooks: states, actions, timeouts.

moto launches straight into `InService`, terminates at once and has no lifecycle actions. The
states are those of the EC2 Auto Scaling user guide, "Lifecycle hooks". `Lifecycle` is the state
machine; `autoscaling_api` ties it to moto. What else happens to groups by itself (warm pools,
replacements, refreshes, spot reclaims) is a `Part`, in a file of its own.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import (
    AutoScalingBackend,
    FakeAutoScalingGroup,
    InstanceState,
    LifecycleHook,
    autoscaling_backends,
)
from moto.core import DEFAULT_ACCOUNT_ID

from . import ec2
from .clock import CLOCK

REGION = "us-east-1"
LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"
_PENDING = ("Pending", "Pending:Wait", "Pending:Proceed")
IN_SERVICE = "InService"


class Completion(NamedTuple):
    instance_id: str
    hook: str
    result: str


@dataclass
class Waiting:
    """A lifecycle action that nobody has completed yet."""

    hook: LifecycleHook
    token: str
    deadline: float
    # No heartbeat moves the deadline beyond this.
    latest: float


class Part:
    """A behaviour of groups that follows from their state and from time."""

    def reset(self) -> None:
        """Forget everything."""

    def act(self) -> bool:
        """Do what is due now; True if that changed anything."""
        raise NotImplementedError


class Lifecycle:
    """Every method runs under the world's lock. What time brings is found by `tick`, which is
    called before each look at the state and after each change, so no thread is needed."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._ticking = False
        self.reset()

    def add(self, part: Part) -> None:
        self._parts.append(part)

    def reset(self) -> None:
        self.completions: list[Completion] = []
        self.timeouts: list[Completion] = []
        # Does a replacement launch while the old instance is in Terminating:Wait, or after it?
        # No public source says, so a test chooses.
        self.replace_while_terminating = True
        # EC2 user guide, "Hibernate your Amazon EC2 instance": what is in memory is written to the
        # disk first. How many seconds that takes; until then the instance runs on.
        self.hibernation_takes = 0.0
        self._falling_asleep: dict[str, float] = {}
        self._waiting: dict[str, dict[str, Waiting]] = {}
        # Does a group that is deleted by force wait for the terminating hooks of its instances?
        # API reference, DeleteAutoScalingGroup, ForceDelete: it "also deletes any outstanding
        # action associated with the group". Whether hooks that begin to wait because of the
        # deletion are among those, no public source says (?), so a test chooses.
        self.deletion_waits_for_hooks = False
        # Instances that a group let go of, and which of them run on.
        self._gone: set[str] = set()
        self._detached: set[str] = set()
        # Members that fill no place: it was given up, or it is filled again before they go.
        self.uncounted: set[str] = set()
        for part in self._parts:
            part.reset()

    # --- What is --------------------------------------------------------------------------------

    def find(self, instance_id: str) -> InstanceState | None:
        return next((m for m in self.members() if m.instance_id == instance_id), None)

    def members(self) -> list[InstanceState]:
        """All members of all groups, those of warm pools included."""
        groups = backend().autoscaling_groups.values()
        return [member for group in groups for member in group.instance_states]

    def state(self, instance_id: str) -> str | None:
        """The lifecycle state; `Terminated` once its group let it go, `Detached` where it runs on,
        None outside groups."""
        if member := self.find(instance_id):
            return member.lifecycle_state
        if instance_id in self._detached:
            return "Detached"
        return "Terminated" if instance_id in self._gone else None

    def target(self, instance_id: str) -> str | None:
        """What IMDS calls target-lifecycle-state (EC2 user guide, "Instance metadata")."""
        state = self.state(instance_id)
        if state is None or state in ("InService", "Terminated", "Detached", "Standby"):
            return state
        if state.startswith("Warmed:Pending"):
            return f"Warmed:{_pool_state(self.find(instance_id))}"
        if state.startswith("Warmed:"):
            return "Warmed:Terminated" if "Terminating" in state else state
        if state.startswith("Terminating"):
            return "Terminated"
        return {"EnteringStandby": "Standby", "Detaching": "Detached"}.get(state, "InService")

    def counted(self, members: Iterable[InstanceState]) -> list[InstanceState]:
        """Those that fill a place of the group's desired capacity."""
        return [member for member in members if self._counts(member)]

    def _counts(self, member: InstanceState) -> bool:
        if member.instance_id in self.uncounted:
            return False
        state = member.lifecycle_state
        if state.startswith("Terminating"):
            return not self.replace_while_terminating
        return state in _PENDING or state == IN_SERVICE

    # --- What happens ---------------------------------------------------------------------------

    def launched(self, member: InstanceState, warmed: bool = False) -> None:
        """An instance was launched (or started) into its group, or `warmed` into its pool."""
        prefix = "Warmed:" if warmed else ""
        member.lifecycle_state = f"{prefix}Pending"
        hooks = self._hooks(member, LAUNCHING)
        if hooks:
            self._wait(member, f"{prefix}Pending:Wait", hooks)
        else:
            self._in_service(member)

    def terminate(self, member: InstanceState, replace: bool) -> None:
        """The group lets an instance go, through the terminating hooks it has."""
        if "Terminat" in member.lifecycle_state:
            return
        if not replace:
            self.uncounted.add(member.instance_id)
        warmed = "Warmed:" if member.lifecycle_state.startswith("Warmed:") else ""
        hooks = self._hooks(member, TERMINATING)
        if hooks:
            self._wait(member, f"{warmed}Terminating:Wait", hooks)
            refill(member.auto_scaling_group)
        else:
            self._finish(member)

    def set_aside(self, member: InstanceState) -> None:
        """User guide, "Temporarily remove instances from your Auto Scaling group": in Standby it is
        the group's and does not count. `EnteringStandby` passes before anybody can see it."""
        if member.lifecycle_state != IN_SERVICE:
            raise ValidationError(f"The instance {member.instance_id} is not in InService.")
        member.lifecycle_state = "Standby"

    def put_back(self, member: InstanceState) -> None:
        """Out of Standby: `Pending` and then `InService`, which no launching hook delays; here the
        former passes before anybody can see it."""
        if member.lifecycle_state != "Standby":
            raise ValidationError(f"The instance {member.instance_id} is not in Standby.")
        member.lifecycle_state = IN_SERVICE

    def detached(self, instance_id: str) -> None:
        """It left its group, whose list does not have it any more, and runs on. `Detaching` passes
        before anybody can see it."""
        self.forget(instance_id)
        self._detached.add(instance_id)

    def drop(self, member: InstanceState) -> None:
        """The group loses an instance at once, without its hooks."""
        member.lifecycle_state = "Terminated"
        group = member.auto_scaling_group
        group.instance_states = [other for other in group.instance_states if other is not member]
        self.forget(member.instance_id)
        backend().ec2_backend.terminate_instances([member.instance_id])

    def forget(self, instance_id: str) -> None:
        """The instance left its group (or never was in one)."""
        self._waiting.pop(instance_id, None)
        self.uncounted.discard(instance_id)
        self._gone.add(instance_id)

    def complete(
        self, group: str, hook: str, result: str, instance_id: str | None, token: str | None
    ) -> None:
        if result not in ("CONTINUE", "ABANDON"):
            raise ValidationError(
                f"Lifecycle action result {result!r} is not valid: use CONTINUE or ABANDON"
            )
        member, action = self._action(group, hook, instance_id, token)
        self.completions.append(Completion(member.instance_id, hook, result))
        self._end(member, action, result)
        self.tick()

    def heartbeat(self, group: str, hook: str, instance_id: str | None, token: str | None) -> None:
        _, action = self._action(group, hook, instance_id, token)
        action.deadline = min(CLOCK.now() + action.hook.heartbeat_timeout, action.latest)

    def tick(self) -> None:
        """Let everything happen that is due, and what follows from that."""
        if self._ticking:
            return  # whoever is at it looks again after each change
        self._ticking = True
        try:
            while (
                self._time_out() or self._fall_asleep() or any(part.act() for part in self._parts)
            ):
                pass
        finally:
            self._ticking = False

    def _time_out(self) -> bool:
        """Let the actions time out whose time has come, the oldest first."""
        now = CLOCK.now()
        due = [
            (action.deadline, instance_id, action)
            for instance_id, actions in self._waiting.items()
            for action in actions.values()
            if action.deadline <= now
        ]
        for _, instance_id, action in sorted(due, key=lambda entry: entry[0]):
            member = self.find(instance_id)
            if member is None:
                self._waiting.pop(instance_id, None)  # it was detached
            elif action.hook.name in self._waiting.get(instance_id, {}):
                result = action.hook.default_result
                self.timeouts.append(Completion(instance_id, action.hook.name, result))
                self._end(member, action, result)
        return bool(due)

    def _fall_asleep(self) -> bool:
        due = [i for i, when in self._falling_asleep.items() if when <= CLOCK.now()]
        for instance_id in due:
            del self._falling_asleep[instance_id]
            member = self.find(instance_id)
            if member and member.lifecycle_state == "Warmed:Hibernated":
                ec2.hibernate(member.instance)
        return bool(due)

    def put(self, instance_id: str, state: str) -> None:
        """Put an instance into a state; a waiting one waits for the hooks of its group."""
        member = self.find(instance_id)
        if member is None:
            raise ValueError(f"{instance_id} is in no group")
        self._waiting.pop(instance_id, None)
        if not state.endswith(":Wait"):
            member.lifecycle_state = state
            return
        transition = TERMINATING if "Terminating" in state else LAUNCHING
        hooks = self._hooks(member, transition)
        if not hooks:
            raise ValueError(f"{state} needs a hook for {transition}")
        self._wait(member, state, hooks)

    # --- How ------------------------------------------------------------------------------------

    def _hooks(self, member: InstanceState, transition: str) -> list[LifecycleHook]:
        hooks = backend().describe_lifecycle_hooks(member.auto_scaling_group_name)
        return [hook for hook in hooks if hook.lifecycle_transition == transition]

    def _wait(self, member: InstanceState, state: str, hooks: list[LifecycleHook]) -> None:
        member.lifecycle_state = state
        now = CLOCK.now()
        self._waiting[member.instance_id] = {
            hook.name: Waiting(
                hook,
                str(uuid.uuid4()),
                now + hook.heartbeat_timeout,
                # API reference, LifecycleHook, GlobalTimeout: the maximum in a wait state.
                now + hook.global_timeout,
            )
            for hook in hooks
        }

    def _action(
        self, group: str, hook: str, instance_id: str | None, token: str | None
    ) -> tuple[InstanceState, Waiting]:
        group_named(group)
        if not instance_id and not token:
            raise ValidationError("Either an instance ID or a lifecycle action token is needed")
        for waiting_id, actions in self._waiting.items():
            action = actions.get(hook)
            if action is None or (instance_id and waiting_id != instance_id):
                continue
            member = self.find(waiting_id)
            named = not token or action.token == token
            if member and named and member.auto_scaling_group_name == group:
                return member, action
        what = f"instance ID {instance_id}" if instance_id else f"token {token}"
        raise ValidationError(f"No active Lifecycle Action found with {what}")

    def _end(self, member: InstanceState, action: Waiting, result: str) -> None:
        waiting = self._waiting[member.instance_id]
        del waiting[action.hook.name]
        launching = action.hook.lifecycle_transition == LAUNCHING
        if launching and result == "ABANDON":
            self._finish(member)
        elif waiting and result == "CONTINUE":
            return  # another hook still holds the instance
        elif not launching:
            self._finish(member)
        else:
            del self._waiting[member.instance_id]
            self._in_service(member)

    def _in_service(self, member: InstanceState) -> None:
        if not member.lifecycle_state.startswith("Warmed:"):
            member.lifecycle_state = IN_SERVICE
            return
        pool = _pool_state(member)
        member.lifecycle_state = f"Warmed:{pool}"
        if pool == "Hibernated":
            self._falling_asleep[member.instance_id] = CLOCK.now() + self.hibernation_takes
        elif pool != "Running":
            backend().ec2_backend.stop_instances([member.instance_id])

    def _finish(self, member: InstanceState) -> None:
        """Terminate, remove, and fill the place again unless it was given up."""
        self.drop(member)
        refill(member.auto_scaling_group)


def backend() -> AutoScalingBackend:
    return autoscaling_backends[DEFAULT_ACCOUNT_ID][REGION]


def group_named(name: str) -> FakeAutoScalingGroup:
    if group := backend().autoscaling_groups.get(name):
        return group
    raise ValidationError(f"AutoScalingGroup name not found - no such group: {name}")


def _pool_state(member: InstanceState | None) -> str:
    pool = member.auto_scaling_group.warm_pool if member else None
    return pool.pool_state if pool else "Stopped"


def refill(group: FakeAutoScalingGroup) -> None:
    """Launch what the group lacks, unless it is being deleted."""
    if group.status is None:
        group.set_desired_capacity(group.desired_capacity)


LIFECYCLE = Lifecycle()
