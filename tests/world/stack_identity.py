"""CloudFormation's types for what an instance may do: security groups, roles, their profiles."""

import json
from typing import Any

from .stack_resources import Kind, Properties, Resource, call, kind, retag

_EVERYTHING = {"CidrIp": "0.0.0.0/0", "IpProtocol": "-1"}

# --- Security groups ------------------------------------------------------------------------------


@kind("EC2::SecurityGroup")
class SecurityGroup(Kind):
    known = ("GroupDescription", "VpcId")
    in_place = ("SecurityGroupIngress", "SecurityGroupEgress", "Tags")

    def create(self, resource: Resource) -> None:
        answer = call(
            "ec2",
            "CreateSecurityGroup",
            GroupName=resource.name(),
            Description=resource.properties["GroupDescription"],
            VpcId=resource.properties["VpcId"],
        )
        resource.id = resource.attributes["GroupId"] = answer["GroupId"]
        self.update(resource, {})

    def update(self, resource: Resource, old: Properties) -> None:
        for way in ("Ingress", "Egress"):
            before, after = (
                [_permission(rule) for rule in rules]
                for rules in (_rules(old, way), _rules(resource.properties, way))
            )
            for verb, rules, others in (("Revoke", before, after), ("Authorize", after, before)):
                if changed := [rule for rule in rules if rule not in others]:
                    _change(verb, way, resource.id, changed)
        retag(resource, old)

    def delete(self, resource: Resource) -> bool:
        call("ec2", "DeleteSecurityGroup", GroupId=resource.id)
        return True


@kind("EC2::SecurityGroupIngress")
class Ingress(Kind):
    known = ("GroupId", "SourceSecurityGroupId", "IpProtocol", "FromPort", "ToPort", "Description")

    def create(self, resource: Resource) -> None:
        rules = self._ingress("Authorize", resource)["SecurityGroupRules"]
        resource.id = rules[0]["SecurityGroupRuleId"]

    def delete(self, resource: Resource) -> bool:
        self._ingress("Revoke", resource)
        return True

    def _ingress(self, verb: str, resource: Resource) -> dict[str, Any]:
        rule = dict(resource.properties)
        return _change(verb, "Ingress", rule.pop("GroupId"), [_permission(rule)])


def _rules(properties: Properties, way: str) -> list[Properties]:
    # "AWS::EC2::SecurityGroup": a group lets everything out as long as no egress rule is given.
    default = [_EVERYTHING] if way == "Egress" else []
    return properties.get(f"SecurityGroup{way}", default)


def _change(verb: str, way: str, group: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return call("ec2", f"{verb}SecurityGroup{way}", GroupId=group, IpPermissions=rules)


def _permission(rule: Properties) -> dict[str, Any]:
    """A rule as EC2's API writes it."""
    rule = dict(rule)
    described = {"Description": rule.pop("Description")} if "Description" in rule else {}
    if block := rule.pop("CidrIp", None):
        rule["IpRanges"] = [{"CidrIp": block, **described}]
    if source := rule.pop("SourceSecurityGroupId", None):
        rule["UserIdGroupPairs"] = [{"GroupId": source, **described}]
    return rule


# --- IAM ------------------------------------------------------------------------------------------


@kind("IAM::Role")
class Role(Kind):
    in_place = ("AssumeRolePolicyDocument", "Policies")

    def create(self, resource: Resource) -> None:
        trust = json.dumps(resource.properties["AssumeRolePolicyDocument"])
        name = resource.name(limit=64)
        role = call("iam", "CreateRole", RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
        resource.id, resource.attributes = name, {"Arn": role["Arn"], "RoleId": role["RoleId"]}
        self._put(resource)

    def update(self, resource: Resource, old: Properties) -> None:
        trust = json.dumps(resource.properties["AssumeRolePolicyDocument"])
        call("iam", "UpdateAssumeRolePolicy", RoleName=resource.id, PolicyDocument=trust)
        kept = {policy["PolicyName"] for policy in resource.properties.get("Policies", [])}
        for policy in old.get("Policies", []):
            if policy["PolicyName"] not in kept:
                self._drop(resource.id, policy["PolicyName"])
        self._put(resource)

    def delete(self, resource: Resource) -> bool:
        for policy in resource.properties.get("Policies", []):
            self._drop(resource.id, policy["PolicyName"])
        call("iam", "DeleteRole", RoleName=resource.id)
        return True

    def _put(self, resource: Resource) -> None:
        for policy in resource.properties.get("Policies", []):
            document = json.dumps(policy["PolicyDocument"])
            name = policy["PolicyName"]
            call(
                "iam",
                "PutRolePolicy",
                RoleName=resource.id,
                PolicyName=name,
                PolicyDocument=document,
            )

    def _drop(self, role: str, policy: str) -> None:
        call("iam", "DeleteRolePolicy", RoleName=role, PolicyName=policy)


@kind("IAM::InstanceProfile")
class InstanceProfile(Kind):
    in_place = ("Roles",)

    def create(self, resource: Resource) -> None:
        name = resource.name(limit=128)
        answer = call("iam", "CreateInstanceProfile", InstanceProfileName=name)
        resource.id = name
        resource.attributes["Arn"] = answer["InstanceProfile"]["Arn"]
        self.update(resource, {})

    def update(self, resource: Resource, old: Properties) -> None:
        self._each("RemoveRoleFromInstanceProfile", resource, old)
        self._each("AddRoleToInstanceProfile", resource, resource.properties)

    def delete(self, resource: Resource) -> bool:
        self._each("RemoveRoleFromInstanceProfile", resource, resource.properties)
        call("iam", "DeleteInstanceProfile", InstanceProfileName=resource.id)
        return True

    def _each(self, operation: str, resource: Resource, properties: Properties) -> None:
        for role in properties.get("Roles", []):
            call("iam", operation, InstanceProfileName=resource.id, RoleName=role)
