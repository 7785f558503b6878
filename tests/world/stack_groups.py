"""CloudFormation's types for groups: launch templates and Auto Scaling groups."""

from typing import Any

from .stack_resources import Kind, Properties, Resource, call, kind


@kind("EC2::LaunchTemplate")
class LaunchTemplate(Kind):
    in_place = ("LaunchTemplateData",)

    def create(self, resource: Resource) -> None:
        data = resource.properties["LaunchTemplateData"]
        answer = call(
            "ec2",
            "CreateLaunchTemplate",
            LaunchTemplateName=resource.name(limit=128),
            LaunchTemplateData=data,
        )["LaunchTemplate"]
        resource.id = answer["LaunchTemplateId"]
        resource.attributes = {"DefaultVersionNumber": "1", "LatestVersionNumber": "1"}

    def update(self, resource: Resource, old: Properties) -> None:
        # "AWS::EC2::LaunchTemplate": an update makes a new version, and the default one stays.
        version = call(
            "ec2",
            "CreateLaunchTemplateVersion",
            LaunchTemplateId=resource.id,
            LaunchTemplateData=resource.properties["LaunchTemplateData"],
        )["LaunchTemplateVersion"]
        resource.attributes["LatestVersionNumber"] = str(version["VersionNumber"])

    def delete(self, resource: Resource) -> bool:
        call("ec2", "DeleteLaunchTemplate", LaunchTemplateId=resource.id)
        return True


@kind("AutoScaling::AutoScalingGroup")
class Group(Kind):
    """Without an update policy an update leaves the group's instances alone (user guide,
    "UpdatePolicy attribute"), and without a creation policy nothing waits for them ("CreationPolicy
    attribute"; whether not even for those in Pending:Wait, no source says (?))."""

    known = ("AutoScalingGroupName",)
    in_place = (
        *("VPCZoneIdentifier", "MinSize", "MaxSize", "DesiredCapacity", "LaunchTemplate"),
        *("InstanceMaintenancePolicy", "CapacityRebalance", "MaxInstanceLifetime"),
        *("LifecycleHookSpecificationList", "Tags"),
    )

    def create(self, resource: Resource) -> None:
        resource.id = resource.properties.get("AutoScalingGroupName") or resource.name()
        hooks = resource.properties.get("LifecycleHookSpecificationList", [])
        call(
            "autoscaling",
            "CreateAutoScalingGroup",
            **_settings(resource),
            LifecycleHookSpecificationList=hooks,
            Tags=_tags(resource),
        )

    def update(self, resource: Resource, old: Properties) -> None:
        settings = _settings(resource)
        # What the template no longer has goes back to its default (?) (API reference,
        # UpdateAutoScalingGroup: 0 and -1 clear these).
        settings.setdefault("MaxInstanceLifetime", 0)
        settings.setdefault("CapacityRebalance", False)
        settings.setdefault(
            "InstanceMaintenancePolicy",
            {"MinHealthyPercentage": -1, "MaxHealthyPercentage": -1},
        )
        call("autoscaling", "UpdateAutoScalingGroup", **settings)
        self._hooks(resource, old)
        name = {"ResourceId": resource.id, "ResourceType": "auto-scaling-group"}
        tags = _tags(resource)
        kept = {tag["Key"] for tag in tags}
        if gone := [tag for tag in old.get("Tags", []) if tag["Key"] not in kept]:
            call("autoscaling", "DeleteTags", Tags=[tag | name for tag in gone])
        call("autoscaling", "CreateOrUpdateTags", Tags=[tag | name for tag in tags])

    def _hooks(self, resource: Resource, old: Properties) -> None:
        # "AWS::AutoScaling::AutoScalingGroup", LifecycleHookSpecificationList: no interruption;
        # that this goes by PutLifecycleHook and DeleteLifecycleHook is (?).
        before = old.get("LifecycleHookSpecificationList", [])
        after = resource.properties.get("LifecycleHookSpecificationList", [])
        kept = {hook["LifecycleHookName"] for hook in after}
        name = {"AutoScalingGroupName": resource.id}
        for hook in before:
            if hook["LifecycleHookName"] not in kept:
                which = {"LifecycleHookName": hook["LifecycleHookName"]}
                call("autoscaling", "DeleteLifecycleHook", **name, **which)
        for hook in after:
            if hook not in before:
                call("autoscaling", "PutLifecycleHook", **name, **hook)

    def delete(self, resource: Resource) -> bool:
        """Its instances go first, by scaling in, so that their hooks are waited for (?): no public
        source says it, but DeleteAutoScalingGroup refuses a group that has instances."""
        names = [resource.id]
        answer = call("autoscaling", "DescribeAutoScalingGroups", AutoScalingGroupNames=names)
        if not answer["AutoScalingGroups"]:
            return True
        name = {"AutoScalingGroupName": resource.id}
        if answer["AutoScalingGroups"][0]["DesiredCapacity"]:
            none = {"MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0}
            call("autoscaling", "UpdateAutoScalingGroup", **name, **none)
            answer = call("autoscaling", "DescribeAutoScalingGroups", AutoScalingGroupNames=names)
        if answer["AutoScalingGroups"][0]["Instances"]:
            return False
        call("autoscaling", "DeleteAutoScalingGroup", **name)
        return True


def _settings(resource: Resource) -> dict[str, Any]:
    """What CreateAutoScalingGroup and UpdateAutoScalingGroup take alike."""
    settings = {
        name: value
        for name, value in resource.properties.items()
        if name not in ("LifecycleHookSpecificationList", "Tags")
    }
    settings["AutoScalingGroupName"] = resource.id
    settings["VPCZoneIdentifier"] = ",".join(settings["VPCZoneIdentifier"])
    return settings


def _tags(resource: Resource) -> list[dict[str, Any]]:
    # CloudFormation's own go to instances, too (user guide, "Resource tags", Amazon EC2 Auto
    # Scaling (?): instances of such groups have them).
    own = [
        {"Key": key, "Value": value, "PropagateAtLaunch": True}
        for key, value in resource.tags.items()
    ]
    return [*resource.properties.get("Tags", []), *own]
