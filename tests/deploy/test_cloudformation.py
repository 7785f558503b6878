"""The CloudFormation templates as they deploy: what is there then."""

import json
import re

import parliament
import pytest
import yaml

from tests.stages.stacks import (
    HANAT,
    HOOKS,
    IMAGE,
    USER_DATA,
    WITH_VPC,
    B,
    alone,
    cloud_config,
    groups,
    instances,
    launched,
    newest,
    served,
    tags,
    third_subnet,
    versions,
)
from tests.world import World, metadata
from tests.world.authorization import granted, policies
from tests.world.deploy import deploy
from tests.world.images import NAMES
from tests.world.scene import ZONES, Scene

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
def test_zones(network: Scene, zones: int) -> None:
    subnets = [*network.public_subnets.values(), third_subnet(network)][:zones]
    names = dict(zip(["PublicSubnetA", "PublicSubnetB", "PublicSubnetC"], subnets, strict=False))
    stack = alone(network, **names)
    found = groups(network.world)
    assert list(found) == ["nat-a", "nat-b", "nat-c"][:zones]
    assert [group["VPCZoneIdentifier"] for group in found.values()] == subnets
    outputs = [value for name, value in stack.outputs.items() if name.startswith("NatGroup")]
    assert outputs == list(found)


def test_a_group(network: Scene) -> None:
    stack = alone(network, PublicSubnetB=network.public_subnets[B])
    for name, group in groups(network.world).items():
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
        answer = network.world.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=name)
        hooks = sorted(answer["LifecycleHooks"], key=lambda hook: hook["LifecycleHookName"])
        assert [
            (hook["LifecycleHookName"], hook["HeartbeatTimeout"], hook["DefaultResult"])
            for hook in hooks
        ] == HOOKS
        assert [hook["LifecycleTransition"].rpartition("_")[2] for hook in hooks] == [
            "LAUNCHING",
            "TERMINATING",
        ]


def test_an_instance(network: Scene) -> None:
    stack = alone(network)
    world, instance = network.world, launched(network.world)
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
    assert metadata.role(instance["InstanceId"]) == stack.outputs["Role"]
    assert "/nat-InstanceProfile-" in instance["IamInstanceProfile"]["Arn"]


def test_ec2_remembers_connections_as_the_nat_does(network: Scene) -> None:
    stack = alone(network)
    times = {"TcpEstablishedTimeout": 7440, "UdpStreamTimeout": 180, "UdpTimeout": 60}
    [version] = versions(network.world, stack)
    [template] = version["LaunchTemplateData"]["NetworkInterfaces"]
    assert template["ConnectionTrackingSpecification"] == times
    [interface] = launched(network.world)["NetworkInterfaces"]
    ask = {"NetworkInterfaceIds": [interface["NetworkInterfaceId"]]}
    [described] = network.world.ec2.describe_network_interfaces(**ask)["NetworkInterfaces"]
    assert described["ConnectionTrackingConfiguration"] == times


@pytest.mark.parametrize("spot", ["true", "false"])
def test_spot(network: Scene, spot: str) -> None:
    alone(network, Spot=spot)
    assert groups(network.world)["nat-a"]["CapacityRebalance"] == (spot == "true")
    assert (launched(network.world).get("InstanceLifecycle") == "spot") == (spot == "true")


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
    network: Scene, parameters: dict[str, str], name: str, architecture: str
) -> None:
    alone(network, **parameters)
    instance = launched(network.world)
    assert instance["ImageId"] == newest(name, network.world)
    assert instance["Architecture"] == architecture
    wanted = "Arm64" if architecture == "arm64" else "X86"
    assert HANAT[f"HanatUrl{wanted}"] in cloud_config(network.world, instance)
    assert HANAT[f"HanatSha256{wanted}"] in cloud_config(network.world, instance)


def test_the_images_differ(world: World) -> None:
    assert len({newest(name.removeprefix(IMAGE), world) for name in NAMES}) == 4


def test_an_image_of_ones_own(network: Scene) -> None:
    own = dict.fromkeys(HANAT, "")
    alone(network, ImageId="ami-0123456789abcdef0", RootDevice="/dev/sda1", **own)
    instance = launched(network.world)
    assert instance["ImageId"] == "ami-0123456789abcdef0"
    assert [device["DeviceName"] for device in instance["BlockDeviceMappings"]] == ["/dev/sda1"]
    assert 'url=""' in cloud_config(network.world, instance)


def test_user_data(network: Scene) -> None:
    alone(network, Settings="HANAT_LOG_FORMAT=json HANAT_SOURCE=10.0.0.0/16")
    text = cloud_config(network.world, launched(network.world))
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


def test_security_group(network: Scene) -> None:
    more = {"ClientCidr2": "10.1.0.0/16", "ClientCidr3": "192.168.0.0/24"}
    group = alone(network, **more).outputs["SecurityGroup"]
    [described] = network.world.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
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
def test_another_block_of_clients(network: Scene, parameter: str) -> None:
    group = alone(network, **{parameter: "10.1.0.0/16"}).outputs["SecurityGroup"]
    [described] = network.world.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
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
def test_what_the_role_is_for(
    network: Scene, parameters: dict[str, str], services: set[str]
) -> None:
    documents = policies(alone(network, **parameters).outputs["Role"])
    assert {action.partition(":")[0] for action in granted(documents)} == services
    for document in documents:
        assert parliament.analyze_policy_string(json.dumps(document)).findings == []


def test_max_instance_lifetime(network: Scene) -> None:
    served(network, MaxInstanceLifetime="86400")
    world = network.world
    assert groups(world)["nat-a"]["MaxInstanceLifetime"] == 86400
    world.clock.advance(86399)
    assert len(instances(world)) == 1
    world.clock.advance(1)
    assert {state for _, state in world.lifecycles().values()} == {"InService", "Pending:Wait"}
