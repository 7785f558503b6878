"""Replaces running instances: maintenance policies, and health checks that fail.

The facts are those of the EC2 Auto Scaling user guide, "Instance maintenance policy for Auto
Scaling group", and of the API reference, InstanceMaintenancePolicy and RefreshPreferences. Limits:
new instances count as soon as they are InService (no instance warmup), health checks respect no
grace period, and `CapacityRebalance` is not known.
"""

import math
from dataclasses import dataclass

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import FakeAutoScalingGroup, InstanceState

from .autoscaling import IN_SERVICE, LIFECYCLE, Part, backend, refill
from .clock import CLOCK
from .warm_pool import is_warm


@dataclass(frozen=True)
class Percentages:
    """How far a group may leave its desired capacity while it replaces instances."""

    least: int
    # None is 100 percent that nobody asked for, which is not the same (see launches_first).
    most: int | None

    def launches_first(self, desired: int) -> bool:
        """User guide, "How an instance refresh works": new instances launch first if the minimum
        is 100 percent. API reference, RefreshPreferences, MaxHealthyPercentage: they also do where
        both percentages are given and no instance can go within them, as in a group of one;
        without a maximum the two happen at the same time. (No public source says whether that
        holds for a maintenance policy outside a refresh; here it does.)"""
        if self.least == 100:
            return True
        return self.most is not None and math.ceil(desired * self.least / 100) >= desired

    def extra(self, desired: int) -> int:
        """How many instances may be on top of the desired capacity."""
        return max(1, desired * (self.most or 100) // 100 - desired)


def policy_from(settings: dict[str, int | str] | None) -> dict[str, int] | None:
    """An InstanceMaintenancePolicy as a request or a template gives it; None clears it. The rules
    are the API reference's."""
    if not settings:
        return None
    given = [settings.get(f"{bound}HealthyPercentage") for bound in ("Min", "Max")]
    if None in given:
        raise ValidationError("MinHealthyPercentage and MaxHealthyPercentage must both be given")
    least, most = (int(value) for value in given)
    if least == most == -1:
        return None
    if not (0 <= least <= 100 <= most <= 200 and most - least <= 100):
        raise ValidationError(
            f"{least} and {most} are not valid as MinHealthyPercentage (0 to 100) and "
            "MaxHealthyPercentage (100 to 200), which differ by 100 at most"
        )
    return {"MinHealthyPercentage": least, "MaxHealthyPercentage": most}


def policy_of(group: FakeAutoScalingGroup) -> Percentages | None:
    policy = group.instance_maintenance_policy
    if policy is None:
        return None
    return Percentages(policy["MinHealthyPercentage"], policy["MaxHealthyPercentage"])


def in_service(group: FakeAutoScalingGroup) -> list[InstanceState]:
    return [member for member in group.instance_states if member.lifecycle_state == IN_SERVICE]


class Replacements(Part):
    """Instances whose successors launch before they go. Such a one stays InService and counts no
    longer (`LIFECYCLE.uncounted`), so that its group lacks an instance and launches one, again
    and again if need be; once the group has one too many in service, it goes.

    That is one more than the desired capacity, and may be more than the group's maximum size: the
    percentages are of the desired capacity, and the user guide names no other limit for them (its
    10 percent of the maximum are for rebalancing). It could not be otherwise in a group whose
    maximum is its desired capacity."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._outgoing: list[str] = []
        # When the group notices that an instance's status checks fail.
        self._impaired: dict[str, float] = {}

    def replace(self, member: InstanceState, percentages: Percentages | None) -> None:
        """The group replaces an instance, the way that these percentages ask for."""
        desired = member.auto_scaling_group.desired_capacity
        first = percentages is not None and percentages.launches_first(desired)
        # One that does not serve yet, or is in the warm pool, keeps nothing up.
        if not first or member.lifecycle_state != IN_SERVICE:
            # User guide, "View the reason for health check failures": the default is to terminate,
            # and to launch while the old instance terminates.
            LIFECYCLE.terminate(member, replace=True)
        elif member.instance_id not in self._outgoing:
            self._outgoing.append(member.instance_id)
        LIFECYCLE.tick()

    def unhealthy(self, member: InstanceState) -> None:
        """A health check failed, the group's or a user's (SetInstanceHealth)."""
        member.health_status = "Unhealthy"
        self.replace(member, policy_of(member.auto_scaling_group))

    def waits(self, member: InstanceState) -> bool:
        """Does it wait for its successor?"""
        return member.instance_id in self._outgoing

    def impair(self, instance_id: str, noticed_after: float) -> None:
        self._impaired[instance_id] = CLOCK.now() + noticed_after

    def act(self) -> bool:
        groups = backend().autoscaling_groups.values()
        return self._notice() or any(self._advance(group) for group in groups)

    def _notice(self) -> bool:
        # Health checks are of instances in service and of those in a warm pool (user guide,
        # "Health checks for instances in an Auto Scaling group"; "View health check status").
        due = [i for i, when in self._impaired.items() if when <= CLOCK.now()]
        members = [member for i in due if (member := LIFECYCLE.find(i)) and _is_checked(member)]
        for member in members:
            del self._impaired[member.instance_id]
            self.unhealthy(member)
        return bool(members)

    def _advance(self, group: FakeAutoScalingGroup) -> bool:
        serving = in_service(group)
        outgoing = [member for member in serving if self.waits(member)]
        if not outgoing:
            return False
        percentages = policy_of(group) or Percentages(100, None)
        successors = outgoing[: percentages.extra(group.desired_capacity)]
        surplus = len(serving) - group.desired_capacity
        changed = False
        for member in successors:
            if surplus > 0:
                surplus -= 1
                self._outgoing.remove(member.instance_id)
                LIFECYCLE.terminate(member, replace=False)
                changed = True
            elif member.instance_id not in LIFECYCLE.uncounted:
                LIFECYCLE.uncounted.add(member.instance_id)
                refill(group)
                changed = True
        return changed


def _is_checked(member: InstanceState) -> bool:
    state = member.lifecycle_state
    return state == IN_SERVICE or (is_warm(member) and "Terminating" not in state)


FakeAutoScalingGroup.instance_maintenance_policy = None
REPLACEMENTS = Replacements()
LIFECYCLE.add(REPLACEMENTS)
