"""What an update of a stack changes and what it leaves, and that a deleted one leaves nothing."""

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.stages.stacks import (
    ALONE,
    HANAT,
    HELD,
    IMAGE,
    WITH_VPC,
    B,
    alone,
    complete,
    groups,
    instances,
    nothing_left,
    served,
    versions,
)
from tests.world import World
from tests.world.authorization import granted, policies
from tests.world.deploy import deploy
from tests.world.images import publish
from tests.world.scene import Scene

# --- Updated --------------------------------------------------------------------------------------


def test_an_update_leaves_the_instances(network: Scene) -> None:
    stack, nat = served(network)
    world, role = network.world, stack.outputs["Role"]
    stack.update({"InstanceType": "t4g.micro", "Settings": "HANAT_LOG_FORMAT=json"})
    assert stack.status == "UPDATE_COMPLETE"
    first, second = versions(world, stack)
    assert [first["DefaultVersion"], second["DefaultVersion"]] == [True, False]
    data = [version["LaunchTemplateData"]["InstanceType"] for version in (first, second)]
    assert data == ["t4g.nano", "t4g.micro"]
    group = groups(world)["nat-a"]
    assert group["LaunchTemplate"]["Version"] == "2"
    [member] = group["Instances"]
    assert (member["InstanceId"], member["LaunchTemplate"]["Version"]) == (nat, "1")
    assert stack.outputs["Role"] == role


def test_an_update_of_a_group_and_its_role(network: Scene) -> None:
    stack, nat = served(network)
    world, role = network.world, stack.outputs["Role"]
    stack.update({"Spot": "true", "MaxInstanceLifetime": "604800", "SessionManager": "true"})
    group = groups(world)["nat-a"]
    assert (group["CapacityRebalance"], group["MaxInstanceLifetime"]) == (True, 604800)
    assert "ssm:UpdateInstanceInformation" in granted(policies(role))
    stack.update({"Spot": "false", "MaxInstanceLifetime": "0", "SessionManager": "false"})
    group = groups(world)["nat-a"]
    assert not group["CapacityRebalance"]
    assert "MaxInstanceLifetime" not in group
    assert "ssm:UpdateInstanceInformation" not in granted(policies(role))
    assert [member["InstanceId"] for member in group["Instances"]] == [nat]


def test_an_update_of_a_hook_and_a_tag(network: Scene, tmp_path: Path) -> None:
    stack, nat = served(network)
    text = ALONE.read_text()
    changed = tmp_path / "changed.yaml"
    assert "HeartbeatTimeout: 120\n" in text
    changed.write_text(text.replace("HeartbeatTimeout: 120\n", "HeartbeatTimeout: 90\n"))
    stack.update(template=changed)
    answer = network.world.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="nat-a")
    timeouts = {h["LifecycleHookName"]: h["HeartbeatTimeout"] for h in answer["LifecycleHooks"]}
    assert timeouts == {"hanat-launching": 600, "hanat-terminating": 90}
    changed.write_text(
        text.replace("- Key: Name\n          Value: !Sub", "- Key: Is\n          Value: !Sub")
    )
    stack.update(template=changed)
    group = groups(network.world)["nat-a"]
    assert {tag["Key"] for tag in group["Tags"] if ":" not in tag["Key"]} == {"Is"}
    assert [member["InstanceId"] for member in group["Instances"]] == [nat]


def test_a_zone_comes_and_goes(network: Scene) -> None:
    stack, nat = served(network)
    world = network.world
    stack.update({"PublicSubnetB": network.public_subnets[B]})
    assert set(groups(world)) == {"nat-a", "nat-b"}
    assert stack.outputs["NatGroupB"] == "nat-b"
    complete(world, "nat-b", groups(world)["nat-b"]["Instances"][0]["InstanceId"])
    stack.update({"PublicSubnetB": ""})
    assert stack.status == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
    assert "NatGroupB" not in stack.outputs
    world.clock.advance(HELD - 1)
    [member] = groups(world)["nat-b"]["Instances"]
    assert member["LifecycleState"] == "Terminating:Wait"
    with pytest.raises(ClientError, match="can not be updated"):
        stack.update({"Spot": "true"})
    world.clock.advance(1)
    assert stack.status == "UPDATE_COMPLETE"
    assert set(groups(world)) == {"nat-a"}
    assert world.lifecycle(nat) == "InService"


def test_nothing_to_update(network: Scene) -> None:
    stack = alone(network)
    with pytest.raises(ClientError, match=r"ValidationError.*No updates are to be performed\."):
        stack.update()


def test_an_update_that_fails_is_rolled_back(network: Scene) -> None:
    stack, nat = served(network)
    stack.update({"PublicSubnetB": "subnet-0123456789abcdef0", "InstanceType": "t4g.micro"})
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    assert set(groups(network.world)) == {"nat-a"}
    current = versions(network.world, stack)[-1]
    assert current["LaunchTemplateData"]["InstanceType"] == "t4g.nano"
    version = groups(network.world)["nat-a"]["LaunchTemplate"]["Version"]
    assert version == str(current["VersionNumber"])
    assert network.world.lifecycle(nat) == "InService"


def refresh(world: World, group: str) -> None:
    world.autoscaling.start_instance_refresh(
        AutoScalingGroupName=group, Preferences={"SkipMatching": True}
    )


def progress(world: World, group: str) -> str:
    answer = world.autoscaling.describe_instance_refreshes(AutoScalingGroupName=group)
    return answer["InstanceRefreshes"][0]["Status"]


def test_a_newer_image_and_a_refresh(network: Scene) -> None:
    stack, old = served(network)
    world = network.world
    image = publish(f"{IMAGE}minimal-kernel-default-arm64")
    stack.update()
    refresh(world, "nat-a")
    [new] = set(world.lifecycles()) - {old}
    assert {world.lifecycle(old), world.lifecycle(new)} == {"InService", "Pending:Wait"}
    assert {i["InstanceId"]: i["ImageId"] for i in instances(world)}[new] == image
    complete(world, "nat-a", new)
    assert world.lifecycle(old) == "Terminating:Wait"
    world.clock.advance(HELD)
    assert world.lifecycles() == {new: ("nat-a", "InService")}
    assert progress(world, "nat-a") == "Successful"
    refresh(world, "nat-a")
    assert world.lifecycles() == {new: ("nat-a", "InService")}, "it matches"


def test_a_newer_image_in_the_nested_stack(world: World) -> None:
    stack = deploy(world, WITH_VPC, HANAT)
    names = [stack.outputs["NatGroupA"], stack.outputs["NatGroupB"]]
    stack.update()
    assert {groups(world)[name]["LaunchTemplate"]["Version"] for name in names} == {"1"}
    publish(f"{IMAGE}minimal-kernel-default-arm64")
    stack.update()
    assert stack.status == "UPDATE_COMPLETE"
    assert {groups(world)[name]["LaunchTemplate"]["Version"] for name in names} == {"2"}
    stack.update({"MaxInstanceLifetime": "86400"})
    assert {groups(world)[name]["MaxInstanceLifetime"] for name in names} == {86400}
    assert [stack.outputs["NatGroupA"], stack.outputs["NatGroupB"]] == names


# --- Deleted --------------------------------------------------------------------------------------


def test_delete(network: Scene) -> None:
    stack, nat = served(network)
    world = network.world
    stack.delete()
    assert stack.status == "DELETE_IN_PROGRESS"
    assert world.lifecycle(nat) == "Terminating:Wait"
    world.clock.advance(HELD)
    assert stack.status == "DELETE_COMPLETE"
    nothing_left(world)
    with pytest.raises(ClientError, match="does not exist"):
        world.client("cloudformation").describe_stacks(StackName="nat")
    alone(network)
    assert set(groups(world)) == {"nat-a"}, "its name is free again"


def test_delete_with_its_vpc(world: World) -> None:
    before = {vpc["VpcId"] for vpc in world.ec2.describe_vpcs()["Vpcs"]}
    world.clock.freeze()
    stack = deploy(world, WITH_VPC, HANAT)
    [first, _] = instances(world)
    table = stack.outputs["PrivateRouteTableA"]
    interface = first["NetworkInterfaces"][0]["NetworkInterfaceId"]
    world.ec2.create_route(
        RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NetworkInterfaceId=interface
    )
    stack.delete()
    assert stack.status == "DELETE_IN_PROGRESS"
    world.clock.advance(HELD)
    assert stack.status == "DELETE_COMPLETE"
    nothing_left(world)
    assert {vpc["VpcId"] for vpc in world.ec2.describe_vpcs()["Vpcs"]} == before
