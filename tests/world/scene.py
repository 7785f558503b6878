"""Lays out what tests start from, through the API as a user would."""

import base64
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from .world import World

ZONES = ("us-east-1a", "us-east-1b")
OWNER_TAG = "NATAZ"
HOOK = "hanat-launching"
_IMAGE = "ami-0123456789abcdef0"
_INSTANCE_TYPE = "t4g.nano"


@dataclass
class Scene:
    """A VPC of two zones, each with a public and a private subnet."""

    world: World
    vpc: str
    internet_gateway: str
    launch_template: str
    public_table: str
    public_subnets: dict[str, str] = field(default_factory=dict)
    private_subnets: dict[str, str] = field(default_factory=dict)
    private_tables: dict[str, str] = field(default_factory=dict)
    # Of the groups that launch_group made, by zone.
    groups: dict[str, str] = field(default_factory=dict)
    nats: dict[str, str] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1), repr=False)

    def launch_group(
        self,
        zone: str,
        hook: bool = True,
        terminating_hook: bool = False,
        timeout: int = 300,
        default_result: str = "ABANDON",
        name: str | None = None,
        maintenance: tuple[int, int] | None = None,
    ) -> str:
        """A group of one in the zone's public subnet; returns its instance. `maintenance` are the
        minimum and maximum healthy percentages of its maintenance policy."""
        name = name or f"nat-{zone}-{next(self._numbers)}"
        specs = []
        for wanted, hook_name, transition in (
            (hook, HOOK, "LAUNCHING"),
            (terminating_hook, "hanat-terminating", "TERMINATING"),
        ):
            if wanted:
                specs.append(
                    {
                        "LifecycleHookName": hook_name,
                        "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{transition}",
                        "HeartbeatTimeout": timeout,
                        "DefaultResult": default_result,
                    }
                )
        policy: dict[str, Any] = {}
        if maintenance:
            least, most = maintenance
            policy["InstanceMaintenancePolicy"] = {
                "MinHealthyPercentage": least,
                "MaxHealthyPercentage": most,
            }
        self.world.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=1,
            MaxSize=1,
            DesiredCapacity=1,
            VPCZoneIdentifier=self.public_subnets[zone],
            LaunchTemplate={"LaunchTemplateId": self.launch_template, "Version": "$Latest"},
            LifecycleHookSpecificationList=specs,
            **policy,
        )
        self.groups[zone] = name
        self.nats[zone] = self.members(zone)[0]
        return self.nats[zone]

    def group_by_template(self, zone: str, **properties: Any) -> None:
        """A group of one that CloudFormation makes, with these properties, too."""
        group = {
            "Type": "AWS::AutoScaling::AutoScalingGroup",
            "Properties": {
                "MinSize": "1",
                "MaxSize": "1",
                "VPCZoneIdentifier": [self.public_subnets[zone]],
                "LaunchTemplate": {"LaunchTemplateId": self.launch_template, "Version": "1"},
                **properties,
            },
        }
        template = json.dumps({"Resources": {"Group": group}})
        self.world.client("cloudformation").create_stack(StackName="stack", TemplateBody=template)

    def members(self, zone: str) -> list[str]:
        """The instances of the zone's group, oldest first."""
        groups = self.world.autoscaling.describe_auto_scaling_groups(
            AutoScalingGroupNames=[self.groups[zone]]
        )["AutoScalingGroups"]
        return [member["InstanceId"] for member in groups[0]["Instances"]]

    def add_tables(
        self, n: int, owner: str | None = "any", default: str | None = None, vpc: str | None = None
    ) -> list[str]:
        """`n` tables with the owner tag. `default` is where 0.0.0.0/0 leads: None (no route), an
        interface's ID, "igw" or "natgw"."""
        target: dict[str, str] = {}
        if default == "igw":
            target = {"GatewayId": self.internet_gateway}
        elif default == "natgw":
            target = {"NatGatewayId": self.nat_gateway()}
        elif default:
            target = {"NetworkInterfaceId": default}
        return [self._table(owner, target, vpc or self.vpc) for _ in range(n)]

    def nat_gateway(self, zone: str = ZONES[0], owner: str | None = None) -> str:
        """A new managed NAT gateway in the zone's public subnet, with the owner tag if one is
        given."""
        address = self.world.ec2.allocate_address(Domain="vpc")["AllocationId"]
        tags = [{"Key": OWNER_TAG, "Value": owner}] if owner else []
        answer = self.world.ec2.create_nat_gateway(
            SubnetId=self.public_subnets[zone],
            AllocationId=address,
            TagSpecifications=[{"ResourceType": "natgateway", "Tags": tags}] if tags else [],
        )
        return answer["NatGateway"]["NatGatewayId"]

    def regional_nat_gateway(self, owner: str) -> str:
        """A new managed NAT gateway that stands in no subnet."""
        tags = [{"Key": OWNER_TAG, "Value": owner}]
        answer = self.world.ec2.create_nat_gateway(
            AvailabilityMode="regional",
            VpcId=self.vpc,
            TagSpecifications=[{"ResourceType": "natgateway", "Tags": tags}],
        )
        return answer["NatGateway"]["NatGatewayId"]

    def launch_instance(self, subnet: str, **how: Any) -> str:
        """An instance in no group; `how` is for RunInstances."""
        answer = self.world.ec2.run_instances(
            ImageId=_IMAGE,
            InstanceType=_INSTANCE_TYPE,
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            **how,
        )
        return answer["Instances"][0]["InstanceId"]

    def interface(self, instance: str, index: int = 0) -> str:
        """The ID of one of an instance's interfaces."""
        answer = self.world.ec2.describe_instances(InstanceIds=[instance])
        for interface in answer["Reservations"][0]["Instances"][0]["NetworkInterfaces"]:
            if interface["Attachment"]["DeviceIndex"] == index:
                return interface["NetworkInterfaceId"]
        raise LookupError(f"{instance} has no interface {index}")

    def attach_interface(self, instance: str, subnet: str, index: int = 1) -> str:
        """Give an instance one more interface."""
        ec2 = self.world.ec2
        interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        ec2.attach_network_interface(
            NetworkInterfaceId=interface["NetworkInterfaceId"],
            InstanceId=instance,
            DeviceIndex=index,
        )
        return interface["NetworkInterfaceId"]

    def _table(self, owner: str | None, target: dict[str, str], vpc: str) -> str:
        ec2 = self.world.ec2
        tags = [{"Key": OWNER_TAG, "Value": owner}] if owner else []
        specs = [{"ResourceType": "route-table", "Tags": tags}] if tags else []
        table = ec2.create_route_table(VpcId=vpc, TagSpecifications=specs)["RouteTable"]
        if target:
            ec2.create_route(
                RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", **target
            )
        return table["RouteTableId"]


def two_zone_vpc(
    world: World, nats_in_group: bool = True, hook: bool = True, user_data: str | None = None
) -> Scene:
    """The VPC, and with `nats_in_group` one group of one NAT instance in each zone. NATs boot by
    the user data."""
    ec2 = world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    data = {"ImageId": _IMAGE, "InstanceType": _INSTANCE_TYPE}
    if user_data is not None:
        data["UserData"] = base64.b64encode(user_data.encode()).decode()
    template = ec2.create_launch_template(LaunchTemplateName="hanat-nat", LaunchTemplateData=data)[
        "LaunchTemplate"
    ]["LaunchTemplateId"]
    scene = Scene(world, vpc, gateway, template, public_table="")
    [scene.public_table] = scene.add_tables(1, owner=None, default="igw")
    for number, zone in enumerate(ZONES):
        public = _subnet(world, vpc, zone, f"10.0.{2 * number}.0/24")
        private = _subnet(world, vpc, zone, f"10.0.{2 * number + 1}.0/24")
        [table] = scene.add_tables(1, owner=zone)
        ec2.associate_route_table(RouteTableId=scene.public_table, SubnetId=public)
        ec2.associate_route_table(RouteTableId=table, SubnetId=private)
        ec2.modify_subnet_attribute(SubnetId=public, MapPublicIpOnLaunch={"Value": True})
        scene.public_subnets[zone] = public
        scene.private_subnets[zone] = private
        scene.private_tables[zone] = table
    if nats_in_group:
        for zone in ZONES:
            scene.launch_group(zone, hook=hook)
    return scene


def _subnet(world: World, vpc: str, zone: str, block: str) -> str:
    answer = world.ec2.create_subnet(VpcId=vpc, AvailabilityZone=zone, CidrBlock=block)
    return answer["Subnet"]["SubnetId"]
