"""What tests deploy templates with, and ask about what is there then."""

import base64
from typing import Any

from tests.nat import ROOT
from tests.world import World
from tests.world.deploy import Stack, deploy
from tests.world.scene import ZONES, Scene

ALONE = ROOT / "cloudformation" / "ha-nat.yaml"
WITH_VPC = ROOT / "cloudformation" / "ha-nat-vpc.yaml"
USER_DATA = ROOT / "userdata" / "user-data.yaml"

HANAT = {
    "HanatUrlArm64": "https://downloads.example.com/hanat-arm64.tar.gz",
    "HanatSha256Arm64": "a" * 64,
    "HanatUrlX86": "https://downloads.example.com/hanat-x86_64.tar.gz",
    "HanatSha256X86": "b" * 64,
}
A, B = ZONES
HELD = 120  # seconds, by the terminating hook where nobody keeps it
HOOKS = [("hanat-launching", 600, "ABANDON"), ("hanat-terminating", HELD, "CONTINUE")]
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-"


def alone(network: Scene, **parameters: str) -> Stack:
    """ha-nat.yaml in the network's VPC."""
    return deploy(network.world, ALONE, given(network, **parameters))


def given(network: Scene, **parameters: str) -> dict[str, str]:
    needed = {
        "VpcId": network.vpc,
        "PublicSubnetA": network.public_subnets[A],
        "ClientCidr": "10.0.0.0/16",
    }
    return {**needed, **HANAT, **parameters}


def third_subnet(network: Scene) -> str:
    answer = network.world.ec2.create_subnet(
        VpcId=network.vpc, AvailabilityZone="us-east-1c", CidrBlock="10.0.8.0/24"
    )
    return answer["Subnet"]["SubnetId"]


def groups(world: World) -> dict[str, dict[str, Any]]:
    found = world.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    return {group["AutoScalingGroupName"]: group for group in found}


def instances(world: World) -> list[dict[str, Any]]:
    """Those that run, in the order of their groups' names."""
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    reservations = world.ec2.describe_instances(Filters=running)["Reservations"]
    found = [instance for each in reservations for instance in each["Instances"]]
    return sorted(found, key=lambda instance: tags(instance)["aws:autoscaling:groupName"])


def tags(described: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in described["Tags"]}


def launched(world: World) -> dict[str, Any]:
    [instance] = instances(world)
    return instance


def cloud_config(world: World, instance: dict[str, Any]) -> str:
    answer = world.ec2.describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="userData"
    )
    return base64.b64decode(answer["UserData"]["Value"]).decode()


def versions(world: World, stack: Stack) -> list[dict[str, Any]]:
    """Of the launch template, the oldest first."""
    answer = world.ec2.describe_launch_template_versions(
        LaunchTemplateId=stack.outputs["LaunchTemplate"]
    )
    return sorted(answer["LaunchTemplateVersions"], key=lambda version: version["VersionNumber"])


def newest(name: str, world: World) -> str:
    return world.client("ssm").get_parameter(Name=IMAGE + name)["Parameter"]["Value"]


def complete(world: World, group: str, instance: str, hook: str = "hanat-launching") -> None:
    world.autoscaling.complete_lifecycle_action(
        AutoScalingGroupName=group,
        LifecycleHookName=hook,
        LifecycleActionResult="CONTINUE",
        InstanceId=instance,
    )


def served(network: Scene, **parameters: str) -> tuple[Stack, str]:
    """A stack of one zone whose NAT is in service."""
    stack = alone(network, **parameters)
    instance = launched(network.world)["InstanceId"]
    complete(network.world, "nat-a", instance)
    return stack, instance


def hooks_of(world: World, group: str) -> list[dict[str, Any]]:
    answer = world.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=group)
    return answer["LifecycleHooks"]


def nothing_left(world: World) -> None:
    """But for the network's own VPC."""
    assert groups(world) == {}
    assert instances(world) == []
    iam = world.client("iam")
    assert iam.list_roles()["Roles"] == []
    assert iam.list_instance_profiles()["InstanceProfiles"] == []
    templates = world.ec2.describe_launch_templates()["LaunchTemplates"]
    assert [each["LaunchTemplateName"] for each in templates if "nat-Launch" in str(each)] == []
    found = world.ec2.describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in found} == {"default"}
    hooks = [h for name in ("nat-a", "nat-b") for h in hooks_of(world, name)]
    assert hooks == []
