"""Ties the lifecycle state machine to moto: its groups and its API.

Importing it patches moto, with all that happens to groups (launch, warm_pool, replacement, refresh,
spot).
"""

from typing import Any

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import (
    AutoScalingBackend,
    FakeAutoScalingGroup,
    InstanceState,
    TerminateInstanceActivity,
)
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError

from . import lifetime, refresh, spot, warm_pool
from .autoscaling import LAUNCHING, LIFECYCLE, TERMINATING, Part, backend, group_named
from .lifetime import lifetime_from
from .patching import wrap
from .replacement import REPLACEMENTS, policy_from
from .warm_pool import is_warm

__all__ = ["lifetime", "refresh", "spot", "warm_pool"]

_DELETING = "Delete in progress"

# --- Groups ---------------------------------------------------------------------------------------


@wrap(FakeAutoScalingGroup, "active_instances")
def _active_instances(_original: Any, group: FakeAutoScalingGroup) -> list[InstanceState]:
    # moto counts `InService` alone, so that a pending instance would be launched again.
    return LIFECYCLE.counted(group.instance_states)


@wrap(FakeAutoScalingGroup, "set_desired_capacity")
def _set_desired_capacity(original: Any, group: FakeAutoScalingGroup, capacity: int | None) -> None:
    wanted = (group.min_size if capacity is None else capacity) or 0
    active = group.active_instances()
    if len(active) <= wanted:
        original(group, capacity)
    else:
        # moto terminates at once; the group's terminating hooks come first.
        group.desired_capacity = wanted
        unprotected = [member for member in active if not member.protected_from_scale_in]
        for member in unprotected[: len(active) - wanted]:
            LIFECYCLE.terminate(member, replace=False)
    LIFECYCLE.tick()


@wrap(FakeAutoScalingGroup, "update")
def _update(original: Any, group: FakeAutoScalingGroup, **settings: Any) -> None:
    # moto compares with all members it has: with those of a warm pool, and with one too many
    # while one is replaced. API reference, UpdateAutoScalingGroup: without a new desired capacity
    # the old one is kept within the new limits.
    if settings["desired_capacity"] is None:
        least, most = settings["min_size"], settings["max_size"]
        kept = group.desired_capacity
        kept = kept if least is None else max(kept, least)
        settings["desired_capacity"] = kept if most is None else min(kept, most)
    original(group, **settings)


@wrap(AutoScalingBackend, "terminate_instance")
def _terminate_instance(
    _original: Any, backend: AutoScalingBackend, instance_id: str, should_decrement: bool
) -> TerminateInstanceActivity:
    """The instance goes first and its successor comes after, whatever the group's maintenance
    policy: that is for health checks, refreshes, maximum lifetime and rebalancing, and not for
    what a human does (user guide, "Instance maintenance policy for Auto Scaling group"; so the API
    reference's example: "launches a replacement instance after the specified instance
    terminates")."""
    member = _member(instance_id)
    if is_warm(member):
        # API reference, TerminateInstanceInAutoScalingGroup: not for those in a warm pool.
        raise ValidationError(f"The instance {instance_id} is in a warm pool")
    group = member.auto_scaling_group
    capacity = group.desired_capacity
    if should_decrement:
        group.desired_capacity -= 1
    LIFECYCLE.terminate(member, replace=not should_decrement)
    LIFECYCLE.tick()
    return TerminateInstanceActivity(member.instance, capacity)


@wrap(AutoScalingBackend, "notify_terminate_instances")
def _notify_terminate_instances(
    original: Any, backend: AutoScalingBackend, instance_ids: list[str]
) -> None:
    members = [instance_id for instance_id in instance_ids if LIFECYCLE.find(instance_id)]
    original(backend, instance_ids)
    # Not before moto looked whose places are to be filled again.
    for instance_id in members:
        LIFECYCLE.forget(instance_id)
    LIFECYCLE.tick()


@wrap(AutoScalingBackend, "enter_standby_instances")
def _enter_standby(
    original: Any,
    backend: AutoScalingBackend,
    group_name: str,
    instance_ids: list[str],
    should_decrement: bool,
) -> Any:
    group = group_named(group_name)
    desired = group.desired_capacity - len(instance_ids)
    if should_decrement and desired < group.min_size:
        # API reference, EnterStandby: without decrementing, the group launches others instead.
        raise ValidationError(f"AutoScalingGroup {group_name} has min-size={group.min_size}")
    for member in _members_of(group, instance_ids):
        LIFECYCLE.set_aside(member)
    answer = original(backend, group_name, instance_ids, should_decrement)
    LIFECYCLE.tick()
    return answer


@wrap(AutoScalingBackend, "exit_standby_instances")
def _exit_standby(
    original: Any, backend: AutoScalingBackend, group_name: str, instance_ids: list[str]
) -> Any:
    group = group_named(group_name)
    if group.desired_capacity + len(instance_ids) > group.max_size:
        # API reference, ExitStandby: the desired capacity is incremented.
        raise ValidationError(f"AutoScalingGroup {group_name} has max-size={group.max_size}")
    for member in _members_of(group, instance_ids):
        LIFECYCLE.put_back(member)
    answer = original(backend, group_name, instance_ids)
    LIFECYCLE.tick()
    return answer


@wrap(AutoScalingBackend, "detach_instances")
def _detach_instances(
    original: Any,
    backend: AutoScalingBackend,
    group_name: str,
    instance_ids: list[str],
    should_decrement: bool,
) -> Any:
    group = group_named(group_name)
    members = _members_of(group, instance_ids)
    if should_decrement and group.desired_capacity - len(members) < group.min_size:
        raise ValidationError(f"AutoScalingGroup {group_name} has min-size={group.min_size}")
    answer = original(backend, group_name, instance_ids, should_decrement)
    for instance_id in instance_ids:
        LIFECYCLE.detached(instance_id)
    LIFECYCLE.tick()
    return answer


def _members_of(group: FakeAutoScalingGroup, instance_ids: list[str]) -> list[InstanceState]:
    members = [_member(instance_id) for instance_id in instance_ids]
    for member in members:
        if member.auto_scaling_group_name != group.name:
            raise ValidationError(f"The instance {member.instance_id} is not part of {group.name}")
    return members


@wrap(AutoScalingResponse, "delete_auto_scaling_group")
def _delete(original: Any, response: AutoScalingResponse) -> ActionResult:
    # API reference, DeleteAutoScalingGroup: without ForceDelete the group must have no instances.
    group = group_named(response._get_param("AutoScalingGroupName"))
    if group.instance_states and not response._get_bool_param("ForceDelete", False):
        raise AutoscalingClientError(
            "ResourceInUse", "You cannot delete an AutoScalingGroup while there are instances"
        )
    return original(response)


@wrap(AutoScalingBackend, "delete_auto_scaling_group")
def _delete_auto_scaling_group(original: Any, backend: AutoScalingBackend, group_name: str) -> None:
    if group := backend.autoscaling_groups.get(group_name):
        group.warm_pool = None
        members = list(group.instance_states)
        if LIFECYCLE.deletion_waits_for_hooks and members:
            # API reference, AutoScalingGroup, Status: while it is being deleted.
            group.status = _DELETING
            for member in members:
                LIFECYCLE.terminate(member, replace=False)
            return
        for member in members:
            LIFECYCLE.drop(member)
    original(backend, group_name)
    _drop_hooks(backend, group_name)


class Deletions(Part):
    """A group that is being deleted goes with its last instance."""

    def act(self) -> bool:
        groups = backend().autoscaling_groups.values()
        done = [g.name for g in groups if g.status == _DELETING and not g.instance_states]
        for name in done:
            backend().delete_auto_scaling_group(name)
        return bool(done)


FakeAutoScalingGroup.status = None
LIFECYCLE.add(Deletions())


def _member(instance_id: str) -> InstanceState:
    member = LIFECYCLE.find(instance_id)
    if member is None:
        raise ValidationError(
            f"Instance Id not found - No managed instance found for instance ID: {instance_id}"
        )
    return member


# --- Hooks ----------------------------------------------------------------------------------------


@wrap(AutoScalingBackend, "create_lifecycle_hook")
def _create_lifecycle_hook(
    original: Any,
    backend: AutoScalingBackend,
    name: str,
    as_name: str,
    transition: str | None,
    timeout: int | None,
    result: str | None,
) -> Any:
    if transition not in (LAUNCHING, TERMINATING):
        raise ValidationError(f"Lifecycle transition {transition!r} is not valid")
    # Auto Scaling API reference, PutLifecycleHook: 30 to 7200 s.
    if timeout is not None and not 30 <= timeout <= 7200:
        raise ValidationError("Heartbeat timeout must be between 30 and 7200 seconds")
    if result not in (None, "CONTINUE", "ABANDON"):
        raise ValidationError(f"Default result {result!r} is not valid")
    hook = original(backend, name, as_name, transition, timeout, result)
    # moto: always 48 h. API reference, LifecycleHook: or 100 times the timeout, if that is less.
    hook.global_timeout = min(100 * hook.heartbeat_timeout, 48 * 3600)
    return hook


def _put_hooks(backend: AutoScalingBackend, group: str, specs: list[dict[str, Any]]) -> None:
    """Hooks that come with the group exist before its first instance launches."""
    for spec in specs:
        timeout = spec.get("HeartbeatTimeout")
        backend.create_lifecycle_hook(
            spec["LifecycleHookName"],
            group,
            spec["LifecycleTransition"],
            None if timeout is None else int(timeout),
            spec.get("DefaultResult"),
        )


def _drop_hooks(backend: AutoScalingBackend, group: str) -> None:
    for hook in backend.describe_lifecycle_hooks(group):
        backend.delete_lifecycle_hook(group, hook.name)


@wrap(AutoScalingResponse, "create_auto_scaling_group")
def _create_auto_scaling_group(original: Any, response: AutoScalingResponse) -> ActionResult:
    name = response._get_param("AutoScalingGroupName")
    policy = policy_from(response._get_param("InstanceMaintenancePolicy"))
    lifetime = lifetime_from(response._get_int_param("MaxInstanceLifetime"))
    hooks = response._get_param("LifecycleHookSpecificationList", [])
    groups = response.autoscaling_backend
    if name not in groups.autoscaling_groups:
        _put_hooks(groups, name, hooks)
    try:
        answer = original(response)
    except ServiceException as error:
        if name not in groups.autoscaling_groups:
            _drop_hooks(groups, name)
        if isinstance(error, EC2ClientError):
            # Of a subnet or launch template that is not there Auto Scaling says so itself.
            raise ValidationError(error.message) from error
        raise
    group = group_named(name)
    group.instance_maintenance_policy = policy
    group.max_instance_lifetime = lifetime
    return answer


@wrap(AutoScalingResponse, "update_auto_scaling_group")
def _update_auto_scaling_group(original: Any, response: AutoScalingResponse) -> ActionResult:
    """moto knows of these settings only at creation, or not at all."""
    settings = response._get_param("InstanceMaintenancePolicy")
    policy = policy_from(settings)
    seconds = response._get_int_param("MaxInstanceLifetime")
    lifetime = lifetime_from(seconds)
    rebalance = response._get_bool_param("CapacityRebalance", None)
    group = group_named(response._get_param("AutoScalingGroupName"))
    if settings:
        group.instance_maintenance_policy = policy
    if seconds is not None:
        group.max_instance_lifetime = lifetime
    if rebalance is not None:
        group.capacity_rebalance = rebalance
    return original(response)


# --- Actions --------------------------------------------------------------------------------------


def _complete_lifecycle_action(response: AutoScalingResponse) -> ActionResult:
    LIFECYCLE.complete(
        response._get_param("AutoScalingGroupName"),
        response._get_param("LifecycleHookName"),
        response._get_param("LifecycleActionResult"),
        response._get_param("InstanceId"),
        response._get_param("LifecycleActionToken"),
    )
    return EmptyResult()


def _record_lifecycle_action_heartbeat(response: AutoScalingResponse) -> ActionResult:
    LIFECYCLE.heartbeat(
        response._get_param("AutoScalingGroupName"),
        response._get_param("LifecycleHookName"),
        response._get_param("InstanceId"),
        response._get_param("LifecycleActionToken"),
    )
    return EmptyResult()


def _set_instance_health(response: AutoScalingResponse) -> ActionResult:
    """moto only notes it. API reference, SetInstanceHealth: `Unhealthy` has the group replace the
    instance at once."""
    member = _member(response._get_param("InstanceId"))
    if response._get_param("HealthStatus") == "Unhealthy":
        REPLACEMENTS.unhealthy(member)
    else:
        member.health_status = "Healthy"
    return EmptyResult()


AutoScalingResponse.complete_lifecycle_action = _complete_lifecycle_action
AutoScalingResponse.record_lifecycle_action_heartbeat = _record_lifecycle_action_heartbeat
AutoScalingResponse.set_instance_health = _set_instance_health
