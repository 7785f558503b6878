"""What an instance's role may do: IAM's evaluation of identity policies, for the calls that a NAT
makes (IAM user guide, "Policy evaluation logic"; "Service Authorization Reference" for the actions'
resources and condition keys).

Only what the world's policies use is known. Anything else raises, so that it is a fault of the
world and never an allow. Limits: no resource policies and boundaries, no session and organization
policies, and what an instance asks after it was terminated is allowed.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends

from . import ec2
from .autoscaling import REGION, backend
from .imds import access_key_id

_KEYS = {"ec2:Attribute", "ec2:Subnet", "ec2:Vpc"}
_TAG = "aws:ResourceTag/"
_PREFIX = f"arn:aws:ec2:{REGION}:{DEFAULT_ACCOUNT_ID}"
# Parameters of ModifyNetworkInterfaceAttribute.
_NO_ATTRIBUTES = {"Action", "DryRun", "NetworkInterfaceId", "Version"}
_STATEMENT = {"Sid", "Effect", "Action", "Resource", "Condition"}

Params = dict[str, str]


@dataclass(frozen=True)
class Target:
    """What an action is done to, and what conditions can ask of it."""

    arn: str = "*"
    context: dict[str, str] = field(default_factory=dict)


# --- Who ------------------------------------------------------------------------------------------


def instance_of(source: str) -> str | None:
    """The instance, launched with an instance profile, whose access key ID this is."""
    profiles = ec2.backend().iam_instance_profile_associations
    return next((instance for instance in profiles if access_key_id(instance) == source), None)


def policies(role: str) -> list[dict[str, Any]]:
    """A role's inline and attached policies."""
    found = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].get_role(role)
    attached = [
        version.document
        for policy in found.managed_policies.values()
        for version in policy.versions
        if version.is_default
    ]
    return [json.loads(document) for document in (*found.policies.values(), *attached)]


# --- What -----------------------------------------------------------------------------------------


def _anything(_params: Params) -> Target:
    """Of actions without resource types: "*" alone matches them."""
    return Target()


def _route_table(params: Params) -> Target | None:
    table = ec2.backend().route_tables.get(params["RouteTableId"])
    return table and _in_vpc(f"route-table/{table.id}", table.vpc_id, table.get_tags())


def _interface(params: Params) -> Target | None:
    interface = ec2.backend().enis.get(params["NetworkInterfaceId"])
    if interface is None:
        return None
    subnet = interface.subnet
    target = _in_vpc(f"network-interface/{interface.id}", subnet.vpc_id, interface.get_tags())
    # "Actions, resources, and condition keys for Amazon EC2": an interface has both keys.
    context = {"ec2:Subnet": f"{_PREFIX}:subnet/{subnet.id}", "ec2:Attribute": _attribute(params)}
    return Target(target.arn, target.context | context)


def _attribute(params: Params) -> str:
    """The attribute that a request changes, as its parameter is called (EC2 user guide, "Condition
    keys for Amazon EC2"). So AWS's own policies have it: that named
    AWS-SSM-RemediationAutomation-ExecutionRolePolicy for `EnableDnsSupport` of ModifyVpcAttribute,
    a boolean like `SourceDestCheck`."""
    names = {name.partition(".")[0] for name in params} - _NO_ATTRIBUTES
    # EC2 API reference, ModifyNetworkInterfaceAttribute: "only one attribute at a time".
    if len(names) != 1:
        raise NotImplementedError(f"the world knows no change of {sorted(names)} at a time")
    return names.pop()


def _in_vpc(path: str, vpc: str, tags: list[dict[str, str]]) -> Target:
    context = {f"{_TAG}{tag['key']}": tag["value"] for tag in tags}
    return Target(f"{_PREFIX}:{path}", context | {"ec2:Vpc": f"{_PREFIX}:vpc/{vpc}"})


def _group(params: Params) -> Target | None:
    group = backend().autoscaling_groups.get(params["AutoScalingGroupName"])
    if group is None:
        return None
    context = {f"{_TAG}{tag['Key']}": tag["Value"] for tag in group.tags}
    return Target(group.arn, context)


def _object(params: Params) -> Target:
    return Target(f"arn:aws:s3:::{params['Bucket']}/{params['Key']}")


_TARGETS: dict[str, Callable[[Params], Target | None]] = {
    "autoscaling:CompleteLifecycleAction": _group,
    "autoscaling:DescribeAutoScalingGroups": _anything,
    "autoscaling:DescribeAutoScalingInstances": _anything,
    "autoscaling:DescribeLifecycleHooks": _anything,
    "autoscaling:RecordLifecycleActionHeartbeat": _group,
    "ec2:CreateRoute": _route_table,
    "ec2:DescribeInstanceStatus": _anything,
    "ec2:DescribeNatGateways": _anything,
    "ec2:DescribeNetworkInterfaces": _anything,
    "ec2:DescribeRouteTables": _anything,
    "ec2:DescribeSubnets": _anything,
    "ec2:ModifyNetworkInterfaceAttribute": _interface,
    "ec2:ReplaceRoute": _route_table,
    "s3:GetObject": _object,
}


# --- Whether --------------------------------------------------------------------------------------


def allowed(role: str, service: str, action: str, params: Params) -> bool:
    """Whether the role may call this with these parameters."""
    name = f"{service}:{action}"
    if name not in _TARGETS:
        raise NotImplementedError(f"the world does not know what {name} is done to")
    target = _TARGETS[name](params)
    if target is None:
        # What is not there is answered as such (?): EC2 may as well say that it is not allowed.
        return True
    return decide(policies(role), name, target)


def decide(documents: list[dict[str, Any]], action: str, target: Target) -> bool:
    """Something allows it and nothing denies it."""
    effects = set()
    for statement in _statements(documents):
        if unknown := set(statement) - _STATEMENT:
            raise NotImplementedError(f"the world knows no {sorted(unknown)} in policies")
        # Conditions first: what the world does not know of them shows whatever is asked.
        holds = _holds(statement.get("Condition", {}), target.context)
        # Names of actions are compared without case, ARNs are not.
        named = any(_like(p.lower(), action.lower()) for p in _listed(statement["Action"]))
        covered = any(_arn_like(p, target.arn) for p in _listed(statement["Resource"]))
        if holds and named and covered:
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def granted(documents: list[dict[str, Any]]) -> set[str]:
    """The actions that policies allow, as they are written there."""
    return {
        action
        for statement in _statements(documents)
        if statement["Effect"] == "Allow"
        for action in _listed(statement["Action"])
    }


def _statements(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        yield from _listed(document["Statement"])


def _holds(conditions: dict[str, dict[str, Any]], context: dict[str, str]) -> bool:
    """All operators, all of their keys, and of a key's values any."""
    results = []
    for operator, keys in conditions.items():
        if operator not in _OPERATORS:
            raise NotImplementedError(f"the world knows no condition operator {operator}")
        for key, values in keys.items():
            if key not in _KEYS and not key.startswith(_TAG):
                raise NotImplementedError(f"the world knows no condition key {key}")
            test = _OPERATORS[operator]
            results.append(any(test(str(value), context.get(key)) for value in _listed(values)))
    return all(results)


def _like(pattern: str, value: str | None) -> bool:
    if value is None:
        return False
    wildcards = {"*": ".*", "?": "."}
    expression = "".join(wildcards.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _arn_like(pattern: str, value: str | None) -> bool:
    """IAM user guide, "ARN condition operators": each of the six parts is compared for itself; so
    it is in the element Resource."""
    if pattern == "*":
        return True
    if value is None:
        return False
    patterns, parts = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(parts) and all(map(_like, patterns, parts))


_OPERATORS: dict[str, Callable[[str, str | None], bool]] = {
    # The two of ARNs "behave identically".
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Null": lambda absent, value: (value is None) == (absent.lower() == "true"),
    "StringEquals": lambda wanted, value: wanted == value,
    "StringLike": _like,
}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
