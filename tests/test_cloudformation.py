"""The CloudFormation templates as they deploy: what is there then, what is refused, what an update
changes, and that nothing is left."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import parliament
import pytest
import yaml
from botocore.exceptions import ClientError

from tests.nat import ROOT
from tests.world import World
from tests.world.authorization import granted, policies, role_of
from tests.world.deploy import Stack, deploy
from tests.world.images import NAMES, publish
from tests.world.scene import ZONES, Scene, two_zone_vpc

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
HOOKS = [("hanat-launching", 600, "ABANDON"), ("hanat-terminating", 60, "CONTINUE")]
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-"


@pytest.fixture
def scene(world: World) -> Scene:
    world.clock.freeze()
    return two_zone_vpc(world, nats_in_group=False)


def alone(scene: Scene, **parameters: str) -> Stack:
    """ha-nat.yaml in the scene's VPC."""
    return deploy(scene.world, ALONE, given(scene, **parameters))


def given(scene: Scene, **parameters: str) -> dict[str, str]:
    network = {
        "VpcId": scene.vpc,
        "PublicSubnetA": scene.public_subnets[A],
        "ClientCidr": "10.0.0.0/16",
    }
    return {**network, **HANAT, **parameters}


def third_subnet(scene: Scene) -> str:
    answer = scene.world.ec2.create_subnet(
        VpcId=scene.vpc, AvailabilityZone="us-east-1c", CidrBlock="10.0.8.0/24"
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


def served(scene: Scene, **parameters: str) -> tuple[Stack, str]:
    """A stack of one zone whose NAT is in service."""
    stack = alone(scene, **parameters)
    instance = launched(scene.world)["InstanceId"]
    complete(scene.world, "nat-a", instance)
    return stack, instance


# --- Deployed -------------------------------------------------------------------------------------


def test_with_a_vpc_of_its_own(world: World) -> None:
    stack = deploy(world, WITH_VPC, HANAT)
    out = stack.outputs
    assert stack.status == "CREATE_COMPLETE"
    assert set(groups(world)) == {out["NatGroupA"], out["NatGroupB"]}
    nested = stack.resources["Nats"].split("/")[1]
    assert re.fullmatch(r"nat-Nats-[0-9A-Z]{12}", nested)
    assert [out["NatGroupA"], out["NatGroupB"]] == [f"{nested}-a", f"{nested}-b"]
    for instance, zone, letter in zip(instances(world), ZONES, "AB", strict=True):
        assert instance["Placement"]["AvailabilityZone"] == zone
        assert instance["SubnetId"] == out[f"PublicSubnet{letter}"]
        assert instance["VpcId"] == out["Vpc"]
        table = out[f"PrivateRouteTable{letter}"]
        [described] = world.ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
        assert tags(described)["NATAZ"] == zone
        assert [a["SubnetId"] for a in described["Associations"]] == [out[f"PrivateSubnet{letter}"]]
        assert world.default_route(table) is None
        public = [{"Name": "association.subnet-id", "Values": [instance["SubnetId"]]}]
        [described] = world.ec2.describe_route_tables(Filters=public)["RouteTables"]
        way_out = world.default_route(described["RouteTableId"])
        assert way_out is not None
        assert way_out.target == stack.resources["InternetGateway"]


@pytest.mark.parametrize("zones", [1, 2, 3])
def test_zones(scene: Scene, zones: int) -> None:
    subnets = [*scene.public_subnets.values(), third_subnet(scene)][:zones]
    names = dict(zip(["PublicSubnetA", "PublicSubnetB", "PublicSubnetC"], subnets, strict=False))
    stack = alone(scene, **names)
    found = groups(scene.world)
    assert list(found) == ["nat-a", "nat-b", "nat-c"][:zones]
    assert [group["VPCZoneIdentifier"] for group in found.values()] == subnets
    outputs = [value for name, value in stack.outputs.items() if name.startswith("NatGroup")]
    assert outputs == list(found)


def test_a_group(scene: Scene) -> None:
    stack = alone(scene, PublicSubnetB=scene.public_subnets[B])
    for name, group in groups(scene.world).items():
        assert [group[size] for size in ("MinSize", "DesiredCapacity", "MaxSize")] == [1, 1, 2]
        policy = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200}
        assert group["InstanceMaintenancePolicy"] == policy
        assert "MaxInstanceLifetime" not in group
        assert group["LaunchTemplate"]["LaunchTemplateId"] == stack.outputs["LaunchTemplate"]
        assert group["LaunchTemplate"]["Version"] == "1"
        assert {tag["Key"]: tag["Value"] for tag in group["Tags"]} == {
            "Name": name,
            "aws:cloudformation:stack-name": "nat",
            "aws:cloudformation:stack-id": stack.id,
            "aws:cloudformation:logical-id": f"NatGroup{name[-1].upper()}",
        }
        answer = scene.world.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=name)
        hooks = sorted(answer["LifecycleHooks"], key=lambda hook: hook["LifecycleHookName"])
        assert [
            (hook["LifecycleHookName"], hook["HeartbeatTimeout"], hook["DefaultResult"])
            for hook in hooks
        ] == HOOKS
        assert [hook["LifecycleTransition"].rpartition("_")[2] for hook in hooks] == [
            "LAUNCHING",
            "TERMINATING",
        ]


def test_an_instance(scene: Scene) -> None:
    stack = alone(scene)
    world, instance = scene.world, launched(scene.world)
    assert world.lifecycle(instance["InstanceId"]) == "Pending:Wait"
    options = instance["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    assert "PublicIpAddress" in instance
    [interface] = instance["NetworkInterfaces"]
    for groups_of in (instance["SecurityGroups"], interface["Groups"]):
        assert [group["GroupId"] for group in groups_of] == [stack.outputs["SecurityGroup"]]
    assert interface["Attachment"]["DeleteOnTermination"]
    [mapping] = instance["BlockDeviceMappings"]
    assert mapping["DeviceName"] == instance["RootDeviceName"]
    [volume] = world.ec2.describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Encrypted"], volume["VolumeType"]) == (True, "gp3")
    assert mapping["Ebs"]["DeleteOnTermination"]
    [described] = world.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[interface["NetworkInterfaceId"]]
    )["NetworkInterfaces"]
    assert tags(volume)["Name"] == "nat"
    assert {tag["Key"]: tag["Value"] for tag in described["TagSet"]}["Name"] == "nat"
    assert tags(instance)["Name"] == "nat-a"
    assert tags(instance)["aws:cloudformation:stack-name"] == "nat"
    assert role_of(instance["InstanceId"]) == stack.outputs["Role"]
    assert "/nat-InstanceProfile-" in instance["IamInstanceProfile"]["Arn"]


@pytest.mark.parametrize("spot", ["true", "false"])
def test_spot(scene: Scene, spot: str) -> None:
    alone(scene, Spot=spot)
    assert groups(scene.world)["nat-a"]["CapacityRebalance"] == (spot == "true")
    assert (launched(scene.world).get("InstanceLifecycle") == "spot") == (spot == "true")


@pytest.mark.parametrize(
    ("parameters", "name", "architecture"),
    [
        ({}, "minimal-kernel-default-arm64", "arm64"),
        ({"SessionManager": "true"}, "kernel-default-arm64", "arm64"),
        ({"InstanceType": "c7gn.large"}, "minimal-kernel-default-arm64", "arm64"),
        ({"InstanceType": "t3.nano"}, "minimal-kernel-default-x86_64", "x86_64"),
        (
            {"InstanceType": "c6in.large", "SessionManager": "true"},
            "kernel-default-x86_64",
            "x86_64",
        ),
    ],
)
def test_amazon_linux(
    scene: Scene, parameters: dict[str, str], name: str, architecture: str
) -> None:
    alone(scene, **parameters)
    instance = launched(scene.world)
    assert instance["ImageId"] == newest(name, scene.world)
    assert instance["Architecture"] == architecture
    wanted = "Arm64" if architecture == "arm64" else "X86"
    assert HANAT[f"HanatUrl{wanted}"] in cloud_config(scene.world, instance)
    assert HANAT[f"HanatSha256{wanted}"] in cloud_config(scene.world, instance)


def test_the_images_differ(world: World) -> None:
    assert len({newest(name.removeprefix(IMAGE), world) for name in NAMES}) == 4


def test_an_image_of_ones_own(scene: Scene) -> None:
    own = dict.fromkeys(HANAT, "")
    alone(scene, ImageId="ami-0123456789abcdef0", RootDevice="/dev/sda1", **own)
    instance = launched(scene.world)
    assert instance["ImageId"] == "ami-0123456789abcdef0"
    assert [device["DeviceName"] for device in instance["BlockDeviceMappings"]] == ["/dev/sda1"]
    assert 'url=""' in cloud_config(scene.world, instance)


def test_user_data(scene: Scene) -> None:
    alone(scene, Settings="HANAT_LOG_FORMAT=json HANAT_SOURCE=10.0.0.0/16")
    text = cloud_config(scene.world, launched(scene.world))
    assert text.startswith("#cloud-config\n")
    files = {file["path"]: file["content"] for file in yaml.safe_load(text)["write_files"]}
    assert files["/etc/hanat/hanat.env"].splitlines() == [
        "HANAT_LOG_FORMAT=json",
        "HANAT_SOURCE=10.0.0.0/16",
    ]
    filled = {
        "HanatUrl": HANAT["HanatUrlArm64"],
        "HanatSha256": HANAT["HanatSha256Arm64"],
        "Settings": "HANAT_LOG_FORMAT=json\n      HANAT_SOURCE=10.0.0.0/16",
    }
    expected = USER_DATA.read_text()
    for name, value in filled.items():
        expected = expected.replace(f"${{{name}}}", value)
    assert text == expected


def test_security_group(scene: Scene) -> None:
    more = {"ClientCidr2": "10.1.0.0/16", "ClientCidr3": "192.168.0.0/24"}
    group = alone(scene, **more).outputs["SecurityGroup"]
    [described] = scene.world.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    rules = {rule["IpProtocol"]: rule for rule in described["IpPermissions"]}
    assert {block["CidrIp"] for block in rules["-1"]["IpRanges"]} == {
        "10.0.0.0/16",
        *more.values(),
    }
    assert [pair["GroupId"] for pair in rules["icmp"]["UserIdGroupPairs"]] == [group]
    assert (rules["icmp"]["FromPort"], rules["icmp"]["ToPort"]) == (-1, -1)
    assert set(rules) == {"-1", "icmp"}
    [out] = described["IpPermissionsEgress"]
    assert (out["IpProtocol"], out["IpRanges"][0]["CidrIp"]) == ("-1", "0.0.0.0/0")


@pytest.mark.parametrize("parameter", ["ClientCidr2", "ClientCidr3"])
def test_another_block_of_clients(scene: Scene, parameter: str) -> None:
    group = alone(scene, **{parameter: "10.1.0.0/16"}).outputs["SecurityGroup"]
    [described] = scene.world.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    blocks = [b["CidrIp"] for rule in described["IpPermissions"] for b in rule["IpRanges"]]
    assert blocks == ["10.0.0.0/16", "10.1.0.0/16"]


@pytest.mark.parametrize(
    ("parameters", "services"),
    [
        ({}, {"autoscaling", "ec2"}),
        ({"SessionManager": "true"}, {"autoscaling", "ec2", "ssm", "ssmmessages"}),
        ({"HanatUrlArm64": "s3://bucket/hanat.tar.gz"}, {"autoscaling", "ec2", "s3"}),
        ({"HanatUrlX86": "s3://bucket/hanat.tar.gz"}, {"autoscaling", "ec2"}),
    ],
)
def test_what_the_role_is_for(scene: Scene, parameters: dict[str, str], services: set[str]) -> None:
    documents = policies(alone(scene, **parameters).outputs["Role"])
    assert {action.partition(":")[0] for action in granted(documents)} == services
    for document in documents:
        assert parliament.analyze_policy_string(json.dumps(document)).findings == []


def test_max_instance_lifetime(scene: Scene) -> None:
    served(scene, MaxInstanceLifetime="86400")
    world = scene.world
    assert groups(world)["nat-a"]["MaxInstanceLifetime"] == 86400
    world.clock.advance(86399)
    assert len(instances(world)) == 1
    world.clock.advance(1)
    assert {state for _, state in world.lifecycles().values()} == {"InService", "Pending:Wait"}


# --- Refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "parameters", "why"),
    [
        (ALONE, {"PublicSubnetB": "subnet-x"}, "PublicSubnetB"),
        (ALONE, {"PublicSubnetA": "subnet-0123456789abcdef0"}, "does not exist"),
        (ALONE, {"VpcId": "vpc-0123456789abcdef0"}, "does not exist"),
        (ALONE, {"ClientCidr": "10.0.0.0/33"}, "ClientCidr"),
        (ALONE, {"ClientCidr": "10.0.0.256/24"}, "ClientCidr"),
        (ALONE, {"InstanceType": "m5.large"}, "InstanceType"),
        (ALONE, {"MaxInstanceLifetime": "60"}, "MaxInstanceLifetime"),
        (ALONE, {"ImageId": "debian"}, "ImageId"),
        (ALONE, {"HanatUrlArm64": "http://example.com/hanat"}, "HanatUrlArm64"),
        (ALONE, {"HanatSha256Arm64": "A" * 64}, "HanatSha256Arm64"),
        (ALONE, {"Settings": "HANAT_SOURCE=a  HANAT_B=c"}, "Settings"),
        (ALONE, {"Settings": "PATH=/tmp"}, "Settings"),
        (ALONE, {"HanatSha256Arm64": ""}, "HanatUrlArm64 needs HanatSha256Arm64"),
        (ALONE, {"HanatSha256X86": ""}, "HanatUrlX86 needs HanatSha256X86"),
        (ALONE, {"HanatUrlArm64": "", "HanatUrlX86": ""}, "Amazon Linux does not have hanat"),
        (ALONE, {"HanatUrlX86": "", "InstanceType": "t3.nano"}, "x86_64"),
        (ALONE, {"Nonsense": "1"}, "do not exist in the template"),
        (WITH_VPC, {"VpcCidr": "10.0.0.0/8"}, "VpcCidr"),
        (WITH_VPC, {"PublicCidrA": "10.0.0.0"}, "PublicCidrA"),
    ],
)
def test_wrong_parameters(
    scene: Scene, template: Path, parameters: dict[str, str], why: str
) -> None:
    whole = given(scene, **parameters) if template == ALONE else HANAT | parameters
    with pytest.raises(ClientError, match=f"ValidationError.*{why}"):
        deploy(scene.world, template, whole)
    assert scene.world.client("cloudformation").describe_stacks()["Stacks"] == []


def test_a_missing_parameter(scene: Scene) -> None:
    parameters = given(scene)
    del parameters["ClientCidr"]
    with pytest.raises(ClientError, match=r"ValidationError.*\[ClientCidr\] must have values"):
        deploy(scene.world, ALONE, parameters)


def test_an_update_is_checked_too(scene: Scene) -> None:
    stack = alone(scene)
    with pytest.raises(ClientError, match=r"ValidationError.*needs HanatSha256Arm64"):
        stack.update({"HanatSha256Arm64": ""})
    assert stack.status == "CREATE_COMPLETE"


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"VpcId": {"Ref": "Nobody"}}, "Unresolved resource dependencies"),
        ({"VpcId": {"Ref": "Table"}}, "Circular dependency"),
        ({"VpcId": {"Fn::Select": [1, ["vpc-1"]]}}, "Fn::Select cannot select"),
        ({"VpcId": {"Fn::Sub": "${x:-y}"}}, "variable names in Fn::Sub"),
        ({"VpcId": {"Fn::GetAtt": "Vpc.Colour"}}, "does not support attribute type Colour"),
    ],
)
def test_wrong_templates(world: World, properties: dict[str, Any], why: str) -> None:
    """The world's own engine, on what the templates do not do."""
    resources = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
        "Table": {"Type": "AWS::EC2::RouteTable", "Properties": properties},
    }
    client = world.client("cloudformation")
    try:
        client.create_stack(StackName="wrong", TemplateBody=json.dumps({"Resources": resources}))
    except ClientError as error:
        said = str(error)
    else:
        # What shows only when the resource's turn comes.
        [stack] = client.describe_stacks()["Stacks"]
        assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
        said = stack["StackStatusReason"]
    assert why in said


def test_substitutions(world: World) -> None:
    text = {"Fn::Sub": ["$x ${!kept} ${a} ${AWS::StackName}", {"a": {"Fn::Join": ["-", [1, 2]]}}]}
    outputs = {
        "Text": {"Value": text},
        "List": {"Value": {"Fn::Join": [",", ["a", {"Ref": "AWS::NoValue"}, "b"]]}},
    }
    vpc = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}}
    client = world.client("cloudformation")
    body = {"Resources": {"Vpc": vpc}, "Outputs": outputs}
    client.create_stack(StackName="said", TemplateBody=json.dumps(body))
    [stack] = client.describe_stacks()["Stacks"]
    said = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    assert said == {"Text": "$x ${kept} 1-2 said", "List": "a,b"}


def test_it_takes_the_capability(scene: Scene) -> None:
    with pytest.raises(ClientError, match="InsufficientCapabilities"):
        scene.world.client("cloudformation").create_stack(
            StackName="nat",
            TemplateBody=ALONE.read_text(),
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in given(scene).items()
            ],
        )


def test_what_fails_half_way_is_rolled_back(scene: Scene) -> None:
    stack = alone(scene, PublicSubnetB="subnet-0123456789abcdef0")
    assert stack.status == "ROLLBACK_IN_PROGRESS", "the first zone's NAT waits for its hook"
    scene.world.clock.advance(60)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "subnet-0123456789abcdef0" in stack.reason
    assert stack.resources == {}
    nothing_left(scene.world)


# --- Updated --------------------------------------------------------------------------------------


def test_an_update_leaves_the_instances(scene: Scene) -> None:
    stack, nat = served(scene)
    world, role = scene.world, stack.outputs["Role"]
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


def test_an_update_of_a_group_and_its_role(scene: Scene) -> None:
    stack, nat = served(scene)
    world, role = scene.world, stack.outputs["Role"]
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


def test_an_update_of_a_hook_and_a_tag(scene: Scene, tmp_path: Path) -> None:
    stack, nat = served(scene)
    text = ALONE.read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("HeartbeatTimeout: 60\n", "HeartbeatTimeout: 90\n"))
    stack.update(template=changed)
    answer = scene.world.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="nat-a")
    timeouts = {h["LifecycleHookName"]: h["HeartbeatTimeout"] for h in answer["LifecycleHooks"]}
    assert timeouts == {"hanat-launching": 600, "hanat-terminating": 90}
    changed.write_text(
        text.replace("- Key: Name\n          Value: !Sub", "- Key: Is\n          Value: !Sub")
    )
    stack.update(template=changed)
    group = groups(scene.world)["nat-a"]
    assert {tag["Key"] for tag in group["Tags"] if ":" not in tag["Key"]} == {"Is"}
    assert [member["InstanceId"] for member in group["Instances"]] == [nat]


def test_a_zone_comes_and_goes(scene: Scene) -> None:
    stack, nat = served(scene)
    world = scene.world
    stack.update({"PublicSubnetB": scene.public_subnets[B]})
    assert set(groups(world)) == {"nat-a", "nat-b"}
    assert stack.outputs["NatGroupB"] == "nat-b"
    complete(world, "nat-b", groups(world)["nat-b"]["Instances"][0]["InstanceId"])
    stack.update({"PublicSubnetB": ""})
    assert stack.status == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
    assert "NatGroupB" not in stack.outputs
    world.clock.advance(59)
    [member] = groups(world)["nat-b"]["Instances"]
    assert member["LifecycleState"] == "Terminating:Wait"
    with pytest.raises(ClientError, match="can not be updated"):
        stack.update({"Spot": "true"})
    world.clock.advance(1)
    assert stack.status == "UPDATE_COMPLETE"
    assert set(groups(world)) == {"nat-a"}
    assert world.lifecycle(nat) == "InService"


def test_nothing_to_update(scene: Scene) -> None:
    stack = alone(scene)
    with pytest.raises(ClientError, match=r"ValidationError.*No updates are to be performed\."):
        stack.update()


def test_an_update_that_fails_is_rolled_back(scene: Scene) -> None:
    stack, nat = served(scene)
    stack.update({"PublicSubnetB": "subnet-0123456789abcdef0", "InstanceType": "t4g.micro"})
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    assert set(groups(scene.world)) == {"nat-a"}
    current = versions(scene.world, stack)[-1]
    assert current["LaunchTemplateData"]["InstanceType"] == "t4g.nano"
    version = groups(scene.world)["nat-a"]["LaunchTemplate"]["Version"]
    assert version == str(current["VersionNumber"])
    assert scene.world.lifecycle(nat) == "InService"


def refresh(world: World, group: str) -> None:
    world.autoscaling.start_instance_refresh(
        AutoScalingGroupName=group, Preferences={"SkipMatching": True}
    )


def progress(world: World, group: str) -> str:
    answer = world.autoscaling.describe_instance_refreshes(AutoScalingGroupName=group)
    return answer["InstanceRefreshes"][0]["Status"]


def test_a_newer_image_and_a_refresh(scene: Scene) -> None:
    stack, old = served(scene)
    world = scene.world
    image = publish(f"{IMAGE}minimal-kernel-default-arm64")
    stack.update()
    refresh(world, "nat-a")
    [new] = set(world.lifecycles()) - {old}
    assert {world.lifecycle(old), world.lifecycle(new)} == {"InService", "Pending:Wait"}
    assert {i["InstanceId"]: i["ImageId"] for i in instances(world)}[new] == image
    complete(world, "nat-a", new)
    assert world.lifecycle(old) == "Terminating:Wait"
    world.clock.advance(60)
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


def nothing_left(world: World) -> None:
    """But for the scene's own VPC."""
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


def hooks_of(world: World, group: str) -> list[dict[str, Any]]:
    answer = world.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=group)
    return answer["LifecycleHooks"]


def test_delete(scene: Scene) -> None:
    stack, nat = served(scene)
    world = scene.world
    stack.delete()
    assert stack.status == "DELETE_IN_PROGRESS"
    assert world.lifecycle(nat) == "Terminating:Wait"
    world.clock.advance(60)
    assert stack.status == "DELETE_COMPLETE"
    nothing_left(world)
    with pytest.raises(ClientError, match="does not exist"):
        world.client("cloudformation").describe_stacks(StackName="nat")
    alone(scene)
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
    world.clock.advance(60)
    assert stack.status == "DELETE_COMPLETE"
    nothing_left(world)
    assert {vpc["VpcId"] for vpc in world.ec2.describe_vpcs()["Vpcs"]} == before
