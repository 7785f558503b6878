"""Instance refreshes: every instance that a group has is replaced.

The facts are those of the EC2 Auto Scaling user guide, "How an instance refresh works", and of the
API reference. Groups of any size are replaced one by one, whatever the percentages would allow.
Other limits: instances in Standby and in the warm pool stay, scale-in protection does not count,
there is no warmup, and `Pending` is never seen, since the first look at a refresh starts it. What
the world does not know (checkpoints, rollback, …) is refused. Importing this module patches moto.
"""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import FakeAutoScalingGroup
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult

from .autoscaling import LIFECYCLE, Part, backend, group_named
from .clock import CLOCK
from .launch import is_current
from .replacement import REPLACEMENTS, Percentages, in_service, policy_of

_ACTIVE = ("InProgress", "Cancelling")
# User guide, Limitations: a refresh that cannot go on is tried for an hour.
_PATIENCE = 3600.0
_KNOWN = {"MinHealthyPercentage", "MaxHealthyPercentage", "SkipMatching"}


@dataclass
class Refresh:
    group: str
    percentages: Percentages
    preferences: dict[str, Any]
    # Instances still to replace, the one under way included.
    left: list[str]
    # CLOCK when an instance was last replaced.
    advanced: float
    status: str = "InProgress"
    ended: datetime | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    total: int = 0

    def __post_init__(self) -> None:
        self.total = len(self.left)

    def end(self, status: str) -> None:
        self.status = status
        self.ended = datetime.now(UTC)

    def described(self) -> dict[str, Any]:
        done = self.total - len(self.left)
        answer = {
            "InstanceRefreshId": self.id,
            "AutoScalingGroupName": self.group,
            "Status": self.status,
            "StartTime": self.started,
            "PercentageComplete": 100 * done // self.total if self.total else 100,
            "InstancesToUpdate": len(self.left),
            "Preferences": self.preferences,
        }
        return answer | ({"EndTime": self.ended} if self.ended else {})


class Refreshes(Part):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # By group, the newest first, as DescribeInstanceRefreshes sorts them.
        self._of: dict[str, list[Refresh]] = {}

    def of(self, group: str) -> list[Refresh]:
        return self._of.get(group, [])

    def active(self, group: str) -> Refresh | None:
        return next((refresh for refresh in self.of(group) if refresh.status in _ACTIVE), None)

    def start(self, group: FakeAutoScalingGroup, preferences: dict[str, Any]) -> Refresh:
        members = LIFECYCLE.counted(group.instance_states)
        if preferences.get("SkipMatching"):
            members = [member for member in members if not is_current(member)]
        left = [member.instance_id for member in members]
        percentages = _percentages(preferences, policy_of(group))
        refresh = Refresh(group.name, percentages, preferences, left, CLOCK.now())
        self._of[group.name] = [refresh, *self.of(group.name)]
        return refresh

    def act(self) -> bool:
        groups = backend().autoscaling_groups
        # A group takes its refreshes along.
        self._of = {name: refreshes for name, refreshes in self._of.items() if name in groups}
        active = [(groups[name], refresh) for name in self._of if (refresh := self.active(name))]
        return any(_advance(group, refresh) for group, refresh in active)


def _advance(group: FakeAutoScalingGroup, refresh: Refresh) -> bool:
    serving = [member for member in in_service(group) if not REPLACEMENTS.waits(member)]
    if len(serving) < group.desired_capacity:
        if CLOCK.now() - refresh.advanced <= _PATIENCE:
            return False
        # What is under way goes on (no public source says what becomes of it).
        refresh.end("Failed")
        return True
    # The group is whole: what is no longer in service was replaced.
    remaining = [member for member in serving if member.instance_id in refresh.left]
    if len(remaining) < len(refresh.left):
        refresh.advanced = CLOCK.now()
    refresh.left = [member.instance_id for member in remaining]
    if refresh.status == "Cancelling":
        refresh.end("Cancelled")
    elif not remaining:
        refresh.end("Successful")
    else:
        REPLACEMENTS.replace(remaining[0], refresh.percentages)
    return True


def _percentages(preferences: dict[str, Any], policy: Percentages | None) -> Percentages:
    """API reference, RefreshPreferences: what is not given comes from the maintenance policy, or
    is 90 and 100 percent."""
    default = policy or Percentages(90, None)
    least = preferences.get("MinHealthyPercentage")
    most = preferences.get("MaxHealthyPercentage")
    if most is not None:
        if least is None:
            raise ValidationError("MaxHealthyPercentage needs MinHealthyPercentage")
        if not 100 <= most <= 200 or most - least > 100:
            raise ValidationError(
                f"MaxHealthyPercentage {most} must be 100 to 200 and at most 100 above the minimum"
            )
    return Percentages(
        default.least if least is None else least, default.most if most is None else most
    )


# --- moto -----------------------------------------------------------------------------------------


def _start_instance_refresh(response: AutoScalingResponse) -> ActionResult:
    group = _group(response)
    preferences = response._get_param("Preferences", {})
    unknown = set(preferences) - _KNOWN
    if response._get_param("Strategy", "Rolling") != "Rolling":
        unknown.add("Strategy")
    if response._get_param("DesiredConfiguration"):
        unknown.add("DesiredConfiguration")
    if unknown:
        raise NotImplementedError(f"the world's instance refresh knows no {sorted(unknown)}")
    if REFRESHES.active(group.name):
        raise AutoscalingClientError(
            "InstanceRefreshInProgress", "An instance refresh is already in progress"
        )
    refresh = REFRESHES.start(group, preferences)
    LIFECYCLE.tick()
    return ActionResult({"InstanceRefreshId": refresh.id})


def _describe_instance_refreshes(response: AutoScalingResponse) -> ActionResult:
    wanted = response._get_param("InstanceRefreshIds", [])
    refreshes = [
        refresh.described()
        for refresh in REFRESHES.of(_group(response).name)
        if not wanted or refresh.id in wanted
    ]
    return ActionResult({"InstanceRefreshes": refreshes})


def _cancel_instance_refresh(response: AutoScalingResponse) -> ActionResult:
    """API reference: what is replaced right now goes on, and unless WaitForTransitioningInstances
    is false the refresh is `Cancelling` until then."""
    refresh = REFRESHES.active(_group(response).name)
    if refresh is None:
        raise AutoscalingClientError(
            "ActiveInstanceRefreshNotFound", "No instance refresh is in progress"
        )
    if response._get_bool_param("WaitForTransitioningInstances", True):
        refresh.status = "Cancelling"
    else:
        refresh.end("Cancelled")
    LIFECYCLE.tick()
    return ActionResult({"InstanceRefreshId": refresh.id})


def _group(response: AutoScalingResponse) -> FakeAutoScalingGroup:
    return group_named(response._get_param("AutoScalingGroupName"))


AutoScalingResponse.start_instance_refresh = _start_instance_refresh
AutoScalingResponse.describe_instance_refreshes = _describe_instance_refreshes
AutoScalingResponse.cancel_instance_refresh = _cancel_instance_refresh

REFRESHES = Refreshes()
LIFECYCLE.add(REFRESHES)
