"""Warm pools: their size, the instances in them, and how a group draws on them.

moto stores a pool's configuration and launches nothing. The facts are those of the EC2 Auto
Scaling user guide, "Decrease latency for applications with long boot times using warm pools", and
"Use lifecycle hooks with a warm pool". A limit: instances never return to the pool on scale-in
(`ReuseOnScaleIn`). Importing this module patches moto.
"""

from typing import Any

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import (
    AutoScalingBackend,
    FakeAutoScalingGroup,
    FakeWarmPool,
    InstanceState,
)
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult, EmptyResult

from .autoscaling import LIFECYCLE, Part, backend, group_named
from .launch import launch
from .patching import wrap

_DELETING = "PendingDelete"
_READY = ("Warmed:Stopped", "Warmed:Running", "Warmed:Hibernated")


def is_warm(member: InstanceState) -> bool:
    return member.lifecycle_state.startswith("Warmed:")


def warm_members(group: FakeAutoScalingGroup) -> list[InstanceState]:
    """The instances in the group's pool, oldest first."""
    return [member for member in group.instance_states if is_warm(member)]


class WarmPools(Part):
    """Keeps every pool at its size."""

    def act(self) -> bool:
        return any(_resize(group) for group in backend().autoscaling_groups.values())


def _resize(group: FakeAutoScalingGroup) -> bool:
    pool = group.warm_pool
    if pool is None:
        return False
    members = warm_members(group)
    if pool.status == _DELETING and not members:
        group.warm_pool = None
        return True
    staying = [member for member in members if "Terminating" not in member.lifecycle_state]
    surplus = len(staying) - _size(group, pool)
    # User guide: a pool larger than its settings ask for loses instances.
    for member in staying[: max(surplus, 0)]:
        LIFECYCLE.terminate(member, replace=False)
    if surplus < 0:
        for member in launch(group, -surplus):
            LIFECYCLE.launched(member, warmed=True)
    return surplus != 0


def _size(group: FakeAutoScalingGroup, pool: FakeWarmPool) -> int:
    """API reference, PutWarmPool: what is missing from the desired capacity to
    MaxGroupPreparedCapacity, or to the group's maximum without that; at least MinSize. -1 stands
    for a MaxGroupPreparedCapacity that was removed."""
    if pool.status == _DELETING:
        return 0
    prepared = pool.max_group_prepared_capacity
    most = group.max_size if prepared in (None, -1) else prepared
    return max(pool.min_size, most - group.desired_capacity)


def _draw(group: FakeAutoScalingGroup, count: int) -> int:
    """Move up to `count` instances that are ready from the pool into the group."""
    # User guide, "Use lifecycle hooks with a warm pool": the launching hooks wait a second time,
    # in `Pending:Wait`, when the instance restarts; so they do for one that runs, or goes on from
    # hibernation, and does not boot.
    ready = [member for member in warm_members(group) if member.lifecycle_state in _READY][:count]
    for member in ready:
        group.ec2_backend.start_instances([member.instance_id])
        LIFECYCLE.launched(member)
    return len(ready)


# --- moto -----------------------------------------------------------------------------------------


@wrap(FakeAutoScalingGroup, "replace_autoscaling_group_instances")
def _fill(_original: Any, group: FakeAutoScalingGroup, count: int, _tags: dict[str, str]) -> None:
    # moto's constructor launches before it knows of a pool.
    pool = getattr(group, "warm_pool", None)
    drawn = _draw(group, count) if pool and pool.status != _DELETING else 0
    # User guide: once the pool is depleted, instances launch directly into the group.
    if count > drawn:
        for member in launch(group, count - drawn):
            LIFECYCLE.launched(member)


@wrap(AutoScalingBackend, "put_warm_pool")
def _put_warm_pool(original: Any, backend: AutoScalingBackend, **settings: Any) -> None:
    group_named(settings["group_name"])
    original(backend, **settings)
    LIFECYCLE.tick()


def _describe_warm_pool(response: AutoScalingResponse) -> ActionResult:
    group = group_named(response._get_param("AutoScalingGroupName"))
    return ActionResult(
        {"WarmPoolConfiguration": group.warm_pool, "Instances": warm_members(group)}
    )


def _delete_warm_pool(response: AutoScalingResponse) -> ActionResult:
    """API reference, DeleteWarmPool: ForceDelete ends the instances at once, their lifecycle
    actions with them. Without it the pool is `PendingDelete` until they went through their hooks
    (no public source says so of the hooks; WarmPoolConfiguration has the status)."""
    group = group_named(response._get_param("AutoScalingGroupName"))
    if group.warm_pool is None:
        raise ValidationError(f"There is no warm pool for the group {group.name}")
    group.warm_pool.status = _DELETING
    if response._get_bool_param("ForceDelete", False):
        for member in warm_members(group):
            LIFECYCLE.drop(member)
    LIFECYCLE.tick()
    return EmptyResult()


FakeWarmPool.status = None
# API reference, DescribeAutoScalingGroups: the instances in a warm pool are not among the group's,
# DescribeWarmPool has them. DescribeAutoScalingInstances knows their states, so it has them too
# (AutoScalingInstanceDetails, LifecycleState).
FakeAutoScalingGroup.instances = property(
    lambda group: [member for member in group.instance_states if not is_warm(member)]
)
FakeAutoScalingGroup.warm_pool_size = property(lambda group: len(warm_members(group)))
AutoScalingResponse.describe_warm_pool = _describe_warm_pool
AutoScalingResponse.delete_warm_pool = _delete_warm_pool

LIFECYCLE.add(WarmPools())
