"""The status checks of instances, and DescribeInstanceStatus.

EC2 user guide, "Status checks for your instances". Importing it patches moto, where every running
instance is well. Limits: nothing is `initializing` after its launch, and what is impaired shows at
once, where EC2 checks every minute.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, FilterNotImplementedError
from moto.ec2.models.instances import Instance
from moto.ec2.responses.instances import InstanceResponse

from . import ec2
from .patching import wrap
from .reads import filtered, page

_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")


class Checks:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # Since when, and at which boot of it: another one is well again.
        self._impaired: dict[str, tuple[datetime, int]] = {}

    def impair(self, instance_id: str) -> None:
        boot = ec2.boots(ec2.backend().get_instance(instance_id))
        self._impaired[instance_id] = (datetime.now(UTC), boot)

    def impaired_since(self, instance: Instance) -> datetime | None:
        since, boot = self._impaired.get(instance.id, (None, 0))
        return since if boot == ec2.boots(instance) else None


CHECKS = Checks()
_moto_status = Instance.instance_status


def _instance_status(instance: Instance) -> dict[str, Any]:
    """User guide: the instance's own check asks for an answer of its network interface, the
    system's is of the machine below it, which is well here. API reference, InstanceStatusSummary
    and InstanceStatusDetails; `not-applicable` is what moto says of those that do not run (?)."""
    since = CHECKS.impaired_since(instance)
    if since is None or not instance.is_running():
        return _moto_status.fget(instance)
    detail = {"Name": "reachability", "Status": "failed", "ImpairedSince": since}
    return {"Details": [detail], "Status": "impaired"}


Instance.instance_status = property(_instance_status)


def _reachability(status: dict[str, Any]) -> str | None:
    return next((detail["Status"] for detail in status.get("Details", [])), None)


# API reference, DescribeInstanceStatus, without the filters by events.
_FILTERS: dict[str, Callable[[Instance], Any]] = {
    "availability-zone": lambda instance: instance.availability_zone,
    "instance-state-code": lambda instance: instance.state_code,
    "instance-state-name": lambda instance: instance.state,
    "instance-status.reachability": lambda instance: _reachability(instance.instance_status),
    "instance-status.status": lambda instance: instance.instance_status["Status"],
    "system-status.reachability": lambda instance: _reachability(instance.system_status),
    "system-status.status": lambda instance: instance.system_status["Status"],
}


@dataclass(frozen=True)
class _Checked:
    """An instance as these filters see it; those of DescribeInstances are others."""

    instance: Instance

    def get_filter_value(self, name: str) -> Any:
        if name not in _FILTERS:
            raise FilterNotImplementedError(name, "DescribeInstanceStatus")
        return _FILTERS[name](self.instance)


@wrap(InstanceResponse, "describe_instance_status")
def _describe_instance_status(_original: Any, response: InstanceResponse) -> ActionResult:
    """moto knows no filter by status, no page and no malformed ID."""
    ids = response._get_param("InstanceIds", [])
    if malformed := [i for i in ids if not _ID.fullmatch(i)]:
        # API reference, "Error codes".
        raise EC2ClientError("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
    everything = response._get_bool_param("IncludeAllInstances", False)
    instances = response.ec2_backend.describe_instance_status(ids, everything, None)
    rows = filtered(response._filters_from_querystring(), [_Checked(i) for i in instances])
    # API reference: 5 to 1000, and not together with IDs.
    shown, following = page(response, rows, 1000, "InstanceIds")
    statuses = [row.instance for row in shown]
    return ActionResult({"InstanceStatuses": statuses, "NextToken": following})
